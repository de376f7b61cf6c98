//! The executable's path, resolved from the root of PID 1: at once where the kernel has it cached, else on a thread.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::attestation::host::facts;
use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::Host;
use crate::attestation::kernel::MayBlock;
use crate::attestation::kernel::Unanswered;
use crate::attestation::lookups::Lookups;
use crate::attestation::lookups::Progress;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::attestation::source::Asked;
use crate::attestation::source::EvidenceSource;
use crate::attestation::source::Known;
use crate::evidence::Fact;
use crate::evidence::Grade;
use crate::evidence::Provider;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::Undecided;
use crate::evidence::Withheld;

/// The source of `unix:path`.
#[derive(Debug)]
pub(super) struct PathSource {
    host: Arc<dyn Host>,
    lookups: Lookups<(PinId, PathBuf), AtPath>,
}

impl PathSource {
    pub(super) fn new(host: Arc<dyn Host>) -> Self {
        Self { host, lookups: Lookups::default() }
    }

    /// The file that PID 1 has at this path, or the progress of the look-up.
    fn at_path(&self, asked: &Asked<'_>, link: &Path) -> Progress<AtPath> {
        match self.host.file_at(link, MayBlock::No) {
            Err(Undecided::TimedOut) => {
                let (host, path) = (Arc::clone(&self.host), link.to_owned());
                let work = move |_: &_| host.file_at(&path, MayBlock::Yes);
                self.lookups.look_up((asked.id(), link.to_owned()), asked.principal(), work)
            }
            answer => Progress::Done(answer),
        }
    }
}

impl EvidenceSource for PathSource {
    fn provider(&self) -> Provider {
        Provider::PATH
    }

    fn ask(&self, asked: &Asked<'_>) -> Known {
        let link = match asked.directory().executable_link() {
            Ok(link) => link,
            Err(Unanswered::Undecided(why)) => return Known::undecided(why),
            Err(Unanswered::Gone | Unanswered::Absent) => return Known::settled(Vec::new(), Vec::new()),
        };
        let at_path = match self.at_path(asked, &link) {
            Progress::Done(Ok(at_path)) => at_path,
            Progress::Done(Err(why)) => return Known::undecided(why),
            Progress::Running(end) => return Known::pending(end),
            Progress::Late(end) => return Known::undecided(Undecided::TimedOut).until(end),
        };
        let text = link.to_string_lossy();
        match facts::path(&text, asked.executable(), at_path) {
            Ok(selector) => {
                Known::settled(vec![Fact { selector, grade: Grade::Kernel, source: Source::Executable }], Vec::new())
            }
            Err(because) => {
                let seen = Some(text.into_owned());
                Known::settled(Vec::new(), vec![Withheld { kind: SelectorKind::UnixPath, seen, because }])
            }
        }
    }

    fn gave_up(&self, process: &PinnedProcess) {
        self.lookups.gave_up(process.principal());
    }
}
