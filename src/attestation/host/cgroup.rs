//! `/proc/PID/cgroup`: which group of processes the caller is in, and what that group's name stands for.
//!
//! SECURITY: who owns a subtree chooses every name below it. So a unit is the *outermost* one, in a chain of slices that
//! starts at the root of the system manager, and nothing is searched for in the middle of a path. A container's name is
//! recognised anywhere, because it only ever takes facts away.

use std::borrow::Cow;

use crate::attestation::host::MAX_FILE;
use crate::attestation::host::NotKernelText;

/// What the name of a cgroup stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// Nothing that we know.
    Plain,
    /// A unit of the system manager, by its whole name, and the slice that holds it.
    Unit {
        /// For example `web.service`.
        id: String,
        /// For example `system.slice`; `-.slice` for the root.
        slice: String,
    },
    /// A container or a machine: what its group is called, and the pod it belongs to.
    Container {
        /// The runtime's id where there is one, else the name of the group.
        id: String,
        /// The pod's UID, with dashes.
        pod: Option<String>,
    },
}

/// One line: a hierarchy and a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'a> {
    hierarchy: Hierarchy,
    path: Cow<'a, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hierarchy {
    Unified,
    Systemd,
    Controllers,
}

/// The lines of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups<'a> {
    lines: Vec<Line<'a>>,
}

/// Why the lines prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradictory {
    /// The group was removed under the process.
    #[error("the group was removed")]
    Removed,
    /// The lines name different containers, pods or units.
    #[error("the lines name different containers, pods or units")]
    Disagree,
}

impl<'a> Cgroups<'a> {
    /// Splits every line at its first two colons; what follows may hold more of them, and anything else.
    ///
    /// # Errors
    /// [`NotKernelText`]
    pub fn parse(text: &'a [u8]) -> Result<Self, NotKernelText> {
        let body = text.strip_suffix(b"\n").filter(|_| text.len() <= MAX_FILE).ok_or(NotKernelText)?;
        let lines = body.split(|byte| *byte == b'\n').map(Line::parse).collect::<Result<Vec<_>, _>>()?;
        let unified = lines.iter().filter(|line| line.hierarchy == Hierarchy::Unified).count();
        if unified > 1 { Err(NotKernelText) } else { Ok(Self { lines }) }
    }

    /// The path in the unified hierarchy; `None` where the machine has none.
    #[must_use]
    pub fn unified(&self) -> Option<&str> {
        self.path_in(Hierarchy::Unified)
    }

    /// The path that decides: `0::` when it is not the root, else that of `name=systemd`, else the one path that is not
    /// the root. `None` when other hierarchies show several. `true` beside it when it is that of the unified hierarchy.
    #[must_use]
    pub fn deciding(&self) -> Option<(&str, bool)> {
        let below_root = |hierarchy| self.path_in(hierarchy).filter(|path| *path != "/");
        if let Some(path) = below_root(Hierarchy::Unified) {
            return Some((path, true));
        }
        if let Some(path) = below_root(Hierarchy::Systemd) {
            return Some((path, false));
        }
        let mut others = self.lines.iter().map(|line| &*line.path).filter(|path| *path != "/");
        let Some(first) = others.next() else { return Some(("/", self.unified().is_some())) };
        others.all(|path| path == first).then_some((first, false))
    }

    /// What the group of the deciding path stands for, if no line says otherwise. `decided` is that path from the root of
    /// the hierarchy; `manager` the path of the system manager's own root, empty for the root.
    ///
    /// # Errors
    /// [`Contradictory`]
    pub fn group(&self, decided: &str, manager: &str) -> Result<Group, Contradictory> {
        let removed = |path: &str| path.ends_with(" (deleted)") || path.split('/').any(|part| part == "..");
        if removed(decided) || self.lines.iter().any(|line| line.path.ends_with(" (deleted)")) {
            return Err(Contradictory::Removed);
        }
        let group = Group::of(decided, manager);
        let deciding = self.deciding().map(|(path, _)| path);
        for line in self.lines.iter().filter(|line| Some(&*line.path) != deciding) {
            if !Group::of(&line.path, manager).agrees_with(&group) {
                return Err(Contradictory::Disagree);
            }
        }
        Ok(group)
    }

    fn path_in(&self, hierarchy: Hierarchy) -> Option<&str> {
        self.lines.iter().find(|line| line.hierarchy == hierarchy).map(|line| &*line.path)
    }
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, NotKernelText> {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotKernelText);
        };
        let id: u32 = super::number(id)?;
        let hierarchy = match controllers {
            b"" if id == 0 => Hierarchy::Unified,
            b"" => return Err(NotKernelText),
            b"name=systemd" => Hierarchy::Systemd,
            _ => Hierarchy::Controllers,
        };
        if path.first() != Some(&b'/') {
            return Err(NotKernelText);
        }
        // What is not UTF-8 becomes U+FFFD, which no grammar below and no selector accepts.
        Ok(Self { hierarchy, path: String::from_utf8_lossy(path) })
    }
}

impl Group {
    /// Reads a path from the root of the hierarchy.
    #[must_use]
    pub fn of(path: &str, manager: &str) -> Self {
        let below = path.strip_prefix(manager).filter(|below| below.is_empty() || below.starts_with('/'));
        let parts: Vec<&str> = below.unwrap_or(path).split('/').filter(|part| !part.is_empty()).collect();
        if let Some(container) = container(&parts) {
            return container;
        }
        below.and_then(|_| unit(&parts)).unwrap_or(Self::Plain)
    }

    /// Whether a line that says `self` can stand beside one that decided for `decided`.
    fn agrees_with(&self, decided: &Self) -> bool {
        match (self, decided) {
            (Self::Plain, _) => true,
            // A controller may hold a whole unit or pod together where the deciding hierarchy divides it further.
            (Self::Container { id, pod }, Self::Container { id: other, pod: other_pod }) => {
                pod == other_pod && (id == other || pod.as_ref().is_some_and(|pod| pod == id))
            }
            (Self::Unit { id, .. }, Self::Unit { id: other, .. }) => id == other,
            _ => false,
        }
    }
}

/// Groups at the root that container runtimes and machine managers keep for themselves.
const RUNTIME_ROOTS: [&str; 9] =
    ["docker", "garden", "k8s.io", "kubepods", "kubepods.slice", "libpod_parent", "lxc", "machine.slice", "payload"];

fn container(parts: &[&str]) -> Option<Group> {
    let pod = parts.iter().find_map(|part| pod_uid(part));
    if let Some(id) = parts.iter().find_map(|part| container_id(part)) {
        return Some(Group::Container { id: id.to_owned(), pod });
    }
    if let Some(pod) = pod {
        return Some(Group::Container { id: pod.clone(), pod: Some(pod) });
    }
    // SPEC: systemd-nspawn(1): the container's processes are in `payload` below the unit that runs it.
    let nspawn = parts.windows(2).any(|pair| matches!(pair, [unit, "payload"] if is_unit(unit)));
    let first = parts.first()?;
    let lxc = parts.iter().any(|part| part.starts_with("lxc.payload") || part.starts_with("lxc.monitor"));
    let runtime = RUNTIME_ROOTS.contains(first) && (*first != "machine.slice" || parts.len() > 1);
    (nspawn || lxc || runtime).then(|| Group::Container { id: parts.join("/"), pod: None })
}

/// The 64 hexadecimal digits that runtimes name containers by: alone, or as `docker-<id>.scope`, `libpod-<id>`,
/// `<slice>:cri-containerd:<id>` and their like.
fn container_id(part: &str) -> Option<&str> {
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    let (before, id) = stem.split_at_checked(stem.len().checked_sub(64)?)?;
    let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && (before.is_empty() || before.ends_with(['-', ':']))).then_some(id)
}

/// `pod<uid>` of the cgroupfs driver, or `kubepods-burstable-pod<uid with underscores>.slice` of the systemd driver.
fn pod_uid(part: &str) -> Option<String> {
    let stem = match part.strip_suffix(".slice") {
        Some(slice) => slice.strip_prefix("kubepods-").and_then(|rest| rest.rsplit('-').next())?,
        None => part,
    };
    let uid = stem.strip_prefix("pod")?.replace('_', "-");
    let groups = uid.split('-').map(str::len);
    let is_uid = groups.eq([8, 4, 4, 4, 12]) && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_uid.then_some(uid)
}

/// The outermost unit: slices, each named within the one above it, and then the unit (SPEC: systemd.slice(5)).
fn unit(parts: &[&str]) -> Option<Group> {
    let mut slice = "-.slice";
    for part in parts {
        let name = part.strip_prefix('_').unwrap_or(part);
        if !is_unit_name(name) {
            return None;
        }
        match name.strip_suffix(".slice") {
            Some(stem) if is_inside(stem, slice.strip_suffix(".slice")?) => slice = name,
            Some(_) => return None,
            None if is_unit(name) => return Some(Group::Unit { id: name.to_owned(), slice: slice.to_owned() }),
            None => return None,
        }
    }
    None
}

/// Whether the slice `stem.slice` lies directly in `parent.slice`.
fn is_inside(stem: &str, parent: &str) -> bool {
    match stem.rsplit_once('-') {
        None => parent == "-",
        Some((above, last)) => above == parent && !last.is_empty(),
    }
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap"]
        .iter()
        .any(|kind| name.len() > kind.len() && name.ends_with(kind))
}

fn is_unit_name(name: &str) -> bool {
    name.len() < 256 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}
