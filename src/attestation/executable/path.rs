//! The executable's path, resolved from the root of PID 1: at once where the kernel has it cached, else on a thread. A path
//! that was proven of the same image before is proven still, whatever the host has there by now.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::attestation::executable::lookups::Lookups;
use crate::attestation::executable::lookups::Progress;
use crate::attestation::executable::proven::KeptPath;
use crate::attestation::host::facts;
use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::Host;
use crate::attestation::kernel::MayBlock;
use crate::attestation::kernel::Unanswered;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::attestation::source::Asked;
use crate::attestation::source::EvidenceSource;
use crate::attestation::source::Known;
use crate::evidence::Answer;
use crate::evidence::Fact;
use crate::evidence::Grade;
use crate::evidence::Provider;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::Undecided;
use crate::evidence::Withheld;

/// The source of `unix:path`.
#[derive(Debug)]
pub(in crate::attestation) struct PathSource {
    host: Arc<dyn Host>,
    lookups: Lookups<(PinId, Wanted), Found>,
}

/// What a look-up is to find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// The file that PID 1 has at this path.
    AtPath(PathBuf),
    /// The file system of the running file.
    FileSystem,
}

#[derive(Debug, Clone, Copy)]
enum Found {
    AtPath(AtPath),
    /// The type of the file system, which the image keeps.
    FileSystem,
    /// The process has exited or runs another file.
    Gone,
}

impl PathSource {
    pub(in crate::attestation) fn new(host: Arc<dyn Host>) -> Self {
        Self { host, lookups: Lookups::default() }
    }

    /// What the link and the host's file at its text prove now.
    fn now(&self, asked: &Asked<'_>) -> Known {
        let link = match asked.directory().executable_link() {
            Ok(link) => link,
            Err(Unanswered::Undecided(why)) => return Known::undecided(why),
            Err(Unanswered::Gone | Unanswered::Absent) => return nothing(),
        };
        let at_path = match self.host.file_at(&link, MayBlock::No) {
            Ok(at_path) => at_path,
            Err(Undecided::TimedOut) => match self.look_up_path(asked, &link) {
                Progress::Done(Ok(Found::AtPath(at_path))) => at_path,
                progress => return unfinished(progress),
            },
            Err(why) => return Known::undecided(why),
        };
        let text = link.to_string_lossy();
        match facts::path(&text, asked.executable(), at_path) {
            Ok(selector) => {
                asked.proven().keep_path(asked.executable(), &selector);
                Known::settled(vec![fact(selector, Source::Executable)], Vec::new())
            }
            Err(because) => {
                let seen = Some(text.into_owned());
                Known::settled(Vec::new(), vec![Withheld { kind: SelectorKind::UnixPath, seen, because }])
            }
        }
    }

    fn look_up_path(&self, asked: &Asked<'_>, link: &Path) -> Progress<Found> {
        let (host, path) = (Arc::clone(&self.host), link.to_owned());
        let work = move |_: &_| host.file_at(&path, MayBlock::Yes).map(Found::AtPath);
        self.lookups.look_up((asked.id(), Wanted::AtPath(link.to_owned())), asked.principal(), work)
    }

    fn look_up_file_system(&self, asked: &Asked<'_>) -> Progress<Found> {
        let (directory, proven) = (Arc::clone(asked.directory()), Arc::clone(asked.proven()));
        let running = *asked.executable();
        let file_system = move || {
            let file_system = directory.executable_file_system()?;
            // RACE: an `exec` in between makes this the file system of another file.
            Ok(directory.executable()?.is_same_file(&running).then_some(file_system))
        };
        let work = move |_: &_| match file_system() {
            Ok(Some(file_system)) => {
                proven.on_file_system(file_system);
                Ok(Found::FileSystem)
            }
            Ok(None) => Ok(Found::Gone),
            Err(Unanswered::Gone | Unanswered::Absent) => Ok(Found::Gone),
            Err(Unanswered::Undecided(why)) => Err(why),
        };
        self.lookups.look_up((asked.id(), Wanted::FileSystem), asked.principal(), work)
    }
}

impl EvidenceSource for PathSource {
    fn provider(&self) -> Provider {
        Provider::PATH
    }

    /// What is proven now, and what was proven of the same image before. An open answer stays open beside an earlier proof:
    /// the file may have got another path.
    fn ask(&self, asked: &Asked<'_>) -> Known {
        let mut known = self.now(asked);
        let nothing_now = known.facts.is_empty() && known.answer == Answer::Settled;
        let kept = match asked.proven().path(asked.executable()) {
            KeptPath::DependsOnFileSystem if nothing_now => match self.look_up_file_system(asked) {
                Progress::Done(Ok(_)) => asked.proven().path(asked.executable()),
                progress => return Known { withheld: known.withheld, ..unfinished(progress) },
            },
            kept => kept,
        };
        if let KeptPath::Counts(path) = kept
            && known.facts.iter().all(|fact| fact.selector != path)
        {
            known.facts.push(fact(path, Source::EarlierProof));
        }
        known
    }

    fn gave_up(&self, process: &PinnedProcess) {
        self.lookups.gave_up(process.principal());
    }
}

fn fact(selector: Selector, source: Source) -> Fact {
    Fact { selector, grade: Grade::Claimed, source }
}

fn nothing() -> Known {
    Known::settled(Vec::new(), Vec::new())
}

/// The answer while a look-up runs, or after it has failed.
fn unfinished(progress: Progress<Found>) -> Known {
    match progress {
        Progress::Done(Ok(_)) => nothing(),
        Progress::Done(Err(why)) => Known::undecided(why),
        Progress::Running(end) => Known::pending(end),
        Progress::Late(end) => Known::undecided(Undecided::TimedOut).until(end),
    }
}
