//! Parser for `/proc/PID/cgroup`: the cgroup of a process, and the unit or container that its path names.
//!
//! SECURITY: the owner of a subtree chooses every name below it. So only the *outermost* unit counts, in a chain of
//! slices that starts at the root of the system manager; no unit is searched for in the middle of a path. The name of a
//! container is recognised anywhere, because it only takes facts away.

use std::borrow::Cow;

use crate::attestation::host::MAX_FILE;
use crate::attestation::host::NotKernelText;

/// The kind of a cgroup, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupKind {
    /// Neither a unit nor a container.
    Plain,
    /// A unit of the system manager, and its slice.
    Unit {
        /// The full name, for example `web.service`.
        id: String,
        /// The slice, for example `system.slice`; `-.slice` for the root.
        slice: String,
    },
    /// A container or another machine of systemd-machined, and its pod.
    Container {
        /// The id of the container or, without one, of the pod; else the path of the cgroup.
        id: String,
        /// The pod's UID, with dashes.
        pod: Option<String>,
    },
}

/// One line: a hierarchy and a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CgroupLine<'a> {
    hierarchy: HierarchyKind,
    path: Cow<'a, str>,
}

/// The kind of a hierarchy: cgroup v2, systemd's own of cgroup v1, or one with controllers of cgroup v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HierarchyKind {
    Unified,
    Systemd,
    Controllers,
}

/// The cgroup lines of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups<'a> {
    lines: Vec<CgroupLine<'a>>,
}

/// Why the cgroup lines prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradictory {
    /// A cgroup was removed, or lies outside the daemon's view of the hierarchy.
    #[error("the group was removed")]
    Removed,
    /// The lines name different containers, pods or units.
    #[error("the lines name different containers, pods or units")]
    Disagree,
}

impl<'a> Cgroups<'a> {
    /// Splits every line at its first two colons. The path after them can contain colons and any other character.
    ///
    /// # Errors
    /// [`NotKernelText`]
    pub fn parse(text: &'a [u8]) -> Result<Self, NotKernelText> {
        let body = text.strip_suffix(b"\n").filter(|_| text.len() <= MAX_FILE).ok_or(NotKernelText)?;
        let lines = body.split(|byte| *byte == b'\n').map(CgroupLine::parse).collect::<Result<Vec<_>, _>>()?;
        let unified = lines.iter().filter(|line| line.hierarchy == HierarchyKind::Unified).count();
        if unified > 1 { Err(NotKernelText) } else { Ok(Self { lines }) }
    }

    /// The path in the unified hierarchy; `None` where there is no such line.
    #[must_use]
    pub fn unified(&self) -> Option<&str> {
        self.path_in(HierarchyKind::Unified)
    }

    /// The deciding path: that of `0::` if it is not the root, else of `name=systemd`, else the only other path that is
    /// not the root. `None` when the other hierarchies have different paths. The flag is true for the unified
    /// hierarchy.
    #[must_use]
    pub fn deciding(&self) -> Option<(&str, bool)> {
        let below_root = |hierarchy| self.path_in(hierarchy).filter(|path| *path != "/");
        if let Some(path) = below_root(HierarchyKind::Unified) {
            return Some((path, true));
        }
        if let Some(path) = below_root(HierarchyKind::Systemd) {
            return Some((path, false));
        }
        let mut others = self.lines.iter().map(|line| &*line.path).filter(|path| *path != "/");
        let Some(first) = others.next() else { return Some(("/", self.unified().is_some())) };
        others.all(|path| path == first).then_some((first, false))
    }

    /// The kind of the deciding cgroup. `decided` is its path from the root of the hierarchy, and `manager` the path of
    /// the system manager's own root, empty for the root.
    ///
    /// # Errors
    /// [`Contradictory`] when a cgroup was removed, or another line names another container, pod or unit.
    pub fn group(&self, decided: &str, manager: &str) -> Result<CgroupKind, Contradictory> {
        let removed = |path: &str| path.ends_with(" (deleted)") || path.split('/').any(|part| part == "..");
        if removed(decided) || self.lines.iter().any(|line| line.path.ends_with(" (deleted)")) {
            return Err(Contradictory::Removed);
        }
        let kind = CgroupKind::of(decided, manager);
        let deciding = self.deciding().map(|(path, _)| path);
        for line in self.lines.iter().filter(|line| Some(&*line.path) != deciding) {
            if !CgroupKind::of(&line.path, manager).agrees_with(&kind) {
                return Err(Contradictory::Disagree);
            }
        }
        Ok(kind)
    }

    fn path_in(&self, hierarchy: HierarchyKind) -> Option<&str> {
        self.lines.iter().find(|line| line.hierarchy == hierarchy).map(|line| &*line.path)
    }
}

impl<'a> CgroupLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, NotKernelText> {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotKernelText);
        };
        let id: u32 = super::number(id)?;
        let hierarchy = match controllers {
            b"" if id == 0 => HierarchyKind::Unified,
            b"" => return Err(NotKernelText),
            b"name=systemd" => HierarchyKind::Systemd,
            _ => HierarchyKind::Controllers,
        };
        if path.first() != Some(&b'/') {
            return Err(NotKernelText);
        }
        // SECURITY: bytes that are not UTF-8 become U+FFFD. No name of a unit, container or pod has it, and a fact with it
        // is withheld (`EvidenceSet::prove`), so paths that differ in such bytes alone give nothing.
        Ok(Self { hierarchy, path: String::from_utf8_lossy(path) })
    }
}

impl CgroupKind {
    /// The kind of the cgroup at a path from the root of the hierarchy.
    #[must_use]
    pub fn of(path: &str, manager: &str) -> Self {
        let below = path.strip_prefix(manager).filter(|below| below.is_empty() || below.starts_with('/'));
        let parts: Vec<&str> = below.unwrap_or(path).split('/').filter(|part| !part.is_empty()).collect();
        if let Some(container) = container(&parts) {
            return container;
        }
        below.and_then(|_| unit(&parts)).unwrap_or(Self::Plain)
    }

    /// Whether a line of kind `self` is consistent with the deciding line.
    fn agrees_with(&self, decided: &Self) -> bool {
        match (self, decided) {
            (Self::Plain, _) => true,
            // A controller may have one cgroup for a whole pod, which the deciding hierarchy divides into containers.
            (Self::Container { id, pod }, Self::Container { id: other, pod: other_pod }) => {
                pod == other_pod && (id == other || pod.as_ref().is_some_and(|pod| pod == id))
            }
            (Self::Unit { id, .. }, Self::Unit { id: other, .. }) => id == other,
            _ => false,
        }
    }
}

/// Cgroups at the root that container runtimes and machine managers create for themselves.
const RUNTIME_ROOTS: [&str; 9] =
    ["docker", "garden", "k8s.io", "kubepods", "kubepods.slice", "libpod_parent", "lxc", "machine.slice", "payload"];

/// The container, pod or machine that a path names.
fn container(parts: &[&str]) -> Option<CgroupKind> {
    let pod_of = |parts: &[&str]| parts.iter().find_map(|part| pod_uid(part));
    if let Some((at, id)) = parts.iter().enumerate().find_map(|(at, part)| Some((at, container_id(part)?))) {
        // SECURITY: a process in a container can create a cgroup with the name of a pod, so only the part above counts.
        return Some(CgroupKind::Container { id: id.to_owned(), pod: pod_of(parts.get(..at).unwrap_or_default()) });
    }
    if let Some(pod) = pod_of(parts) {
        return Some(CgroupKind::Container { id: pod.clone(), pod: Some(pod) });
    }
    // SPEC: systemd-nspawn(1): the container's processes are in `payload` below the unit that runs it.
    let nspawn = parts.windows(2).any(|pair| matches!(pair, [unit, "payload"] if is_unit(unit)));
    let first = parts.first()?;
    let lxc = parts.iter().any(|part| part.starts_with("lxc.payload") || part.starts_with("lxc.monitor"));
    let runtime = RUNTIME_ROOTS.contains(first) && (*first != "machine.slice" || parts.len() > 1);
    (nspawn || lxc || runtime).then(|| CgroupKind::Container { id: parts.join("/"), pod: None })
}

/// The id of a container, 64 hexadecimal digits: alone, or as in `docker-<id>.scope`, `libpod-<id>` and
/// `<slice>:cri-containerd:<id>`.
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

/// The outermost unit: a chain of slices, each within the one above it, and then the unit (SPEC: systemd.slice(5)).
fn unit(parts: &[&str]) -> Option<CgroupKind> {
    let mut slice = "-.slice";
    for part in parts {
        let name = part.strip_prefix('_').unwrap_or(part);
        if !is_unit_name(name) {
            return None;
        }
        match name.strip_suffix(".slice") {
            Some(stem) if is_inside(stem, slice.strip_suffix(".slice")?) => slice = name,
            Some(_) => return None,
            None if is_unit(name) => return Some(CgroupKind::Unit { id: name.to_owned(), slice: slice.to_owned() }),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "11111111-2222-3333-4444-555555555555";
    const POD_: &str = "11111111_2222_3333_4444_555555555555";

    fn unit(id: &str, slice: &str) -> CgroupKind {
        CgroupKind::Unit { id: id.to_owned(), slice: slice.to_owned() }
    }

    fn container(id: &str, pod: Option<&str>) -> CgroupKind {
        CgroupKind::Container { id: id.to_owned(), pod: pod.map(str::to_owned) }
    }

    /// The kind of the cgroup that decides, where paths begin at the root of the hierarchy.
    fn decide(text: &str) -> Result<CgroupKind, Contradictory> {
        let lines = Cgroups::parse(text.as_bytes()).unwrap();
        let (path, _) = lines.deciding().unwrap();
        lines.group(path, "")
    }

    #[test]
    fn a_unit_is_found_below_a_chain_of_slices_from_the_root() {
        for (path, expected) in [
            ("/system.slice/probe.service", unit("probe.service", "system.slice")),
            ("/system.slice/system-tpl.slice/tpl@blue.service", unit("tpl@blue.service", "system-tpl.slice")),
            ("/team.slice/team-web.slice/probe-dyn.service", unit("probe-dyn.service", "team-web.slice")),
            ("/system.slice/run-p176-i205326.service", unit("run-p176-i205326.service", "system.slice")),
            ("/system.slice/scope-y.scope", unit("scope-y.scope", "system.slice")),
            ("/system.slice/dbus.socket", unit("dbus.socket", "system.slice")),
            ("/init.scope", unit("init.scope", "-.slice")),
            ("/user.slice/user-1000.slice/session-3.scope", unit("session-3.scope", "user-1000.slice")),
            ("/system.slice/_cpu.service", unit("cpu.service", "system.slice")),
            (
                r"/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service",
                unit("serial-getty@ttyS0.service", r"system-serial\x2dgetty.slice"),
            ),
            // The unit manages the names below it: a delegated cgroup, or a user manager.
            ("/system.slice/web.service/worker", unit("web.service", "system.slice")),
            ("/system.slice/web.service/system.slice/sshd.service", unit("web.service", "system.slice")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                unit("user@1000.service", "user-1000.slice"),
            ),
        ] {
            assert_eq!(CgroupKind::of(path, ""), expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_only_looks_like_a_unit_is_plain() {
        for path in [
            "/",
            "/system.slice",
            "/team/system.slice/web.service",
            "/team-web.slice/web.service",
            "/system.slice/team-web.slice/web.service",
            "/system.slice/.service",
            "/system.slice/web.service\u{fffd}",
            "/system.slice/we b.service",
            "/process_api/dbc85efffa8f5fe2d02600d38d7a548f",
            "/user-1000.slice/x.service",
            "/-.slice/x.service",
            "/a-.slice/x.service",
        ] {
            assert_eq!(CgroupKind::of(path, ""), CgroupKind::Plain, "{path}");
        }
    }

    #[test]
    fn containers_of_every_runtime_are_recognised() {
        for (path, id, pod) in [
            (format!("/libpod_parent/libpod-{ID}"), ID, None),
            (format!("/machine.slice/team-a/libpod-{ID}"), ID, None),
            (format!("/machine.slice/libpod-{ID}.scope"), ID, None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), ID, None),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), ID, None),
            (format!("/docker/{ID}"), ID, None),
            (format!("/system.slice/docker-{ID}.scope"), ID, None),
            (format!("/team-a/{ID}"), ID, None),
            (format!("/k8s.io/{ID}"), ID, None),
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), ID, Some(POD)),
            (format!("/kubepods/burstable/pod{POD}/{ID}"), ID, Some(POD)),
            (format!("/kubepods/pod{POD}/{ID}"), ID, Some(POD)),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{POD_}.slice/cri-containerd-{ID}.scope"
                ),
                ID,
                Some(POD),
            ),
            (format!("/kubepods.slice/kubepods-pod{POD_}.slice/crio-{ID}.scope/container"), ID, Some(POD)),
            (format!("/kubepods.slice/kubepods-pod{POD_}.slice/crio-conmon-{ID}.scope"), ID, Some(POD)),
            (format!("/system.slice/containerd.service/kubepods-pod{POD_}.slice:cri-containerd:{ID}"), ID, Some(POD)),
            (format!("/kubepods/pod{POD}"), POD, Some(POD)),
            // The outermost container counts: a process in it can create cgroups below.
            (format!("/docker/{ID}/kubepods/pod{POD}"), ID, None),
            (format!("/docker/{ID}/docker/{}", ID.replace('0', "f")), ID, None),
        ] {
            let path = path.as_str();
            // A slice and its container in one name: the pod's UID is not read from there.
            let pod = pod.filter(|_| !path.contains(":cri-containerd:"));
            assert_eq!(CgroupKind::of(path, ""), container(id, pod), "{path}");
        }
    }

    #[test]
    fn machines_without_an_id_are_containers_by_their_path() {
        for path in [
            "/lxc/web",
            "/lxc.payload.web/system.slice/nginx.service",
            "/system.slice/lxc.payload.web/init.scope",
            "/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
            "/machine.slice/machine-web.scope",
            "/system.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
            "/docker/buildx",
        ] {
            assert!(matches!(CgroupKind::of(path, ""), CgroupKind::Container { .. }), "{path}");
        }
    }

    #[test]
    fn a_manager_below_the_root_has_its_units_below_its_own_root() {
        let web = unit("web.service", "system.slice");
        assert_eq!(CgroupKind::of("/payload/system.slice/web.service", "/payload"), web);
        assert_eq!(CgroupKind::of("/system.slice/web.service", "/payload"), CgroupKind::Plain);
        assert_eq!(CgroupKind::of("/payloads/system.slice/web.service", "/payload"), CgroupKind::Plain);
    }

    #[test]
    fn the_unified_line_decides_then_that_of_systemd_then_the_only_one() {
        for (text, expected) in [
            ("9:name=systemd:/a\n4:memory:/b\n0::/c\n", Some(("/c", true))),
            ("9:name=systemd:/a\n4:memory:/b\n0::/\n", Some(("/a", false))),
            ("9:name=systemd:/\n4:memory:/b\n3:cpu:/\n0::/\n", Some(("/b", false))),
            ("9:name=systemd:/\n4:memory:/b\n3:cpu:/b\n0::/\n", Some(("/b", false))),
            ("9:name=systemd:/\n4:memory:/b\n3:cpu:/c\n0::/\n", None),
            ("9:name=systemd:/\n4:memory:/\n0::/\n", Some(("/", true))),
            ("4:memory:/\n", Some(("/", false))),
            ("0::/a:b::c\n", Some(("/a:b::c", true))),
        ] {
            assert_eq!(Cgroups::parse(text.as_bytes()).unwrap().deciding(), expected, "{text}");
        }
    }

    #[test]
    fn a_line_with_another_unit_or_container_contradicts_the_deciding_one() {
        let other = ID.replace('0', "f");
        for (text, expected) in [
            (format!("4:memory:/docker/{ID}\n0::/docker/{ID}\n"), Ok(container(ID, None))),
            (format!("4:memory:/\n0::/docker/{ID}\n"), Ok(container(ID, None))),
            (format!("4:memory:/docker/{ID}\n0::/docker/{other}\n"), Err(Contradictory::Disagree)),
            (format!("4:memory:/docker/{ID}\n0::/user.slice/user-1000.slice/session-1.scope\n"),
             Err(Contradictory::Disagree)),
            (format!("4:memory:/system.slice/web.service\n0::/docker/{ID}\n"), Err(Contradictory::Disagree)),
            (format!("4:memory:/kubepods/pod{POD}\n0::/kubepods/pod{POD}/{ID}\n"), Ok(container(ID, Some(POD)))),
            (format!("4:memory:/kubepods/pod{}/{ID}\n0::/kubepods/pod{POD}/{ID}\n", POD.replace('1', "9")),
             Err(Contradictory::Disagree)),
            ("9:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n".to_owned(),
             Err(Contradictory::Disagree)),
            ("9:name=systemd:/system.slice/a.service\n4:memory:/system.slice\n3:cpu:/\n0::/system.slice/a.service/x\n"
                .to_owned(), Ok(unit("a.service", "system.slice"))),
            ("4:memory:/process_api/dbc85efffa8f5fe2d02600d38d7a548f\n0::/\n".to_owned(), Ok(CgroupKind::Plain)),
        ] {
            assert_eq!(decide(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_cgroup_that_was_removed_or_is_outside_the_view_proves_nothing() {
        for text in [
            "0::/gone2 (deleted)\n",
            "4:memory:/gone (deleted)\n0::/system.slice/a.service\n",
            "0::/../peerbox/inner\n",
            "0::/..\n",
            "0::/system.slice/../docker\n",
        ] {
            assert_eq!(decide(text), Err(Contradictory::Removed), "{text}");
        }
    }

    #[test]
    fn a_text_that_the_kernel_does_not_write_is_refused() {
        for text in
            ["", "\n", "0::/", "0::/\n\n", "0:/\n", "0::a\n", "x::/\n", "1::/\n", "0::/a\n0::/b\n", "-1:cpu:/\n"]
        {
            assert_eq!(Cgroups::parse(text.as_bytes()), Err(NotKernelText), "{text:?}");
        }
        let long = format!("0::/{}\n", "a".repeat(MAX_FILE));
        assert_eq!(Cgroups::parse(long.as_bytes()), Err(NotKernelText));
    }

    proptest! {
        #[test]
        fn no_name_below_a_unit_makes_it_another_unit(below in "[^\\n/]{1,40}(/[^\\n/]{1,40}){0,4}") {
            let kind = CgroupKind::of(&format!("/system.slice/web.service/{below}"), "");
            let lost = matches!(kind, CgroupKind::Container { .. });
            prop_assert!(lost || kind == unit("web.service", "system.slice"));
        }

        #[test]
        fn no_name_below_a_container_makes_it_anything_else(below in "[^\\n/]{1,40}(/[^\\n/]{1,40}){0,4}") {
            let kind = CgroupKind::of(&format!("/docker/{ID}/{below}"), "");
            prop_assert_eq!(kind, container(ID, None));
        }

        #[test]
        fn no_input_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(lines) = Cgroups::parse(&bytes) && let Some((path, _)) = lines.deciding() {
                let _ = lines.group(path, "");
            }
        }
    }
}
