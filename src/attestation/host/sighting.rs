//! What `/proc` shows of a process at the time of its refusal: for records and operators. It proves nothing.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::host::cgroup::CgroupKind;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::status::Status;
use crate::attestation::kernel::Ids;
use crate::evidence::Credentials;

/// The most bytes of a path. The last refusals are kept, and their callers choose these texts.
const MAX_PATH: usize = 1024;
/// The most bytes of all cgroup lines.
const MAX_LINES: usize = 2048;

/// What `/proc` shows of a process. A part that could not be read is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sighting {
    /// The text of the link to its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The lines of `/proc/PID/cgroup`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    /// The path in the line that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The unit that this path names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its user ids, where one of them is not that of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uids: Option<Ids>,
    /// Its group ids, where one of them is not that of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gids: Option<Ids>,
    /// The process that wrote to its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<Credentials>,
}

impl Sighting {
    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many bytes of the heap it takes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let texts = [&self.program, &self.cgroup, &self.unit].into_iter().flatten().chain(&self.cgroups);
        texts.map(String::capacity).sum::<usize>() + self.cgroups.capacity() * size_of::<String>()
    }

    /// Adds the executable.
    #[must_use]
    pub fn with_program(self, link: &Path) -> Self {
        Self { program: Some(cut(&link.to_string_lossy(), MAX_PATH)), ..self }
    }

    /// Adds what `/proc/PID/cgroup` says. `manager` is the path of the system manager's own root.
    #[must_use]
    pub fn with_cgroups(self, text: &[u8], manager: &str) -> Self {
        let mut left = MAX_LINES;
        let mut lines = Vec::new();
        for line in String::from_utf8_lossy(text).lines() {
            lines.push(cut(line, left));
            left = left.saturating_sub(line.len());
            if left == 0 {
                break;
            }
        }
        let parsed = Cgroups::parse(text).ok();
        let deciding = parsed.as_ref().and_then(Cgroups::deciding).map_or("", |(path, _)| path);
        Self { cgroups: lines, ..self }.with_cgroup(deciding, manager)
    }

    /// Adds the path of the cgroup, unless it is empty or there is one.
    #[must_use]
    pub fn with_cgroup(self, path: &str, manager: &str) -> Self {
        if path.is_empty() || self.cgroup.is_some() {
            return self;
        }
        let unit = match CgroupKind::of(path, manager) {
            CgroupKind::Unit { id, .. } => Some(id),
            CgroupKind::Plain | CgroupKind::Container { .. } => None,
        };
        Self { cgroup: Some(cut(path, MAX_PATH)), unit, ..self }
    }

    /// Adds the ids of `/proc/PID/status` that are not those of the socket.
    #[must_use]
    pub fn with_status(self, text: &[u8], peer: Credentials) -> Self {
        let Ok(status) = Status::parse(text) else { return self };
        let uids = Some(status.uids).filter(|uids| !uids.all_are(peer.uid));
        let gids = Some(status.gids).filter(|gids| !gids.all_are(peer.gid));
        Self { uids, gids, ..self }
    }
}

/// The beginning of a text, and a mark where the rest is missing.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_has_all_lines_and_the_unit_of_the_deciding_one() {
        let text = b"1:name=systemd:/system.slice/other.service\n0::/system.slice/web.service/worker\n";
        let seen = Sighting::default().with_cgroups(text, "").with_program(Path::new("/usr/bin/web (deleted)"));
        assert_eq!(seen.cgroups, ["1:name=systemd:/system.slice/other.service", "0::/system.slice/web.service/worker"]);
        assert_eq!(seen.cgroup.as_deref(), Some("/system.slice/web.service/worker"));
        assert_eq!(seen.unit.as_deref(), Some("web.service"));
        assert_eq!(seen.program.as_deref(), Some("/usr/bin/web (deleted)"));
        assert_eq!(Sighting::default().with_cgroups(b"0::/team/web\n", "").unit, None);
    }

    #[test]
    fn a_sighting_of_hostile_texts_is_bounded() {
        let path = format!("/{}", "ü".repeat(2000));
        let lines: String = (1..4).map(|n| format!("{n}:cpu{n}:{path}\n")).collect();
        let seen = Sighting::default().with_program(Path::new(&path)).with_cgroups(lines.as_bytes(), "");
        assert!(seen.program.unwrap().len() <= MAX_PATH + "…".len());
        assert!(seen.cgroups.iter().map(String::len).sum::<usize>() <= MAX_LINES + "…".len());
        assert!(seen.cgroup.unwrap().len() <= MAX_PATH + "…".len());
        assert_eq!(Sighting::default().with_cgroups(b"\xff", "").cgroup, None);
    }
}
