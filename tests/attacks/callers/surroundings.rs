//! Attacks by the environment of the daemon and its callers: namespaces, `/proc`, cgroups, the user database.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::daemon::Daemon;
use crate::levels::OLDER_KERNEL;
use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;
use crate::transport::refuses;

/// A launcher that runs its command as this user.
fn user(uid: &str) -> [&str; 6] {
    ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
}

/// A launcher that runs this shell command and then the daemon, in their own mount namespace.
fn after(prepare: &str) -> [String; 6] {
    ["unshare", "-m", "sh", "-c", &format!("{prepare} \"$@\""), "sh"].map(str::to_owned)
}

/// The launcher gives the daemon its folder, its own user and the capabilities of the shipped unit, and denies
/// `openat2`, as `RestrictSUIDSGID=` does.
#[test]
fn the_daemon_reads_every_fact_with_the_capabilities_of_the_unit() {
    const AS_THE_UNIT: &str = "for file do :; done; folder=${file%/*}; cp \"$1\" \"$folder/bonafide\"; shift
        chown -R 41999:41999 \"$folder\"
        exec setpriv --reuid 41999 --regid 41999 --clear-groups --no-new-privs \\
            --bounding-set=-all,$0 --inh-caps=-all,$0 --ambient-caps=-all,$0 \"$folder/bonafide\" \"$@\"";
    let unit = include_str!("../../../systemd/bonafide.service");
    let ambient = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=CAP_")).unwrap();
    let capabilities = ambient.to_lowercase().replace(" cap_", ",+");
    let launcher = [PYTHON, OLDER_KERNEL, "without-openat2", "sh", "-c", AS_THE_UNIT, &format!("+{capabilities}")];
    let Some(node) = Node::start_behind("the_capabilities_of_the_unit", &launcher, "") else { return };
    for (program, uid) in [(Path::new(PYTHON), 41000), (&node.trusted, 41001), (&node.trusted, 41004)] {
        assert_eq!(node.honest_gets(program, uid), "identity", "{uid}");
        assert_eq!(node.honest_gets(program, 41002), "nothing");
    }
    assert_eq!(node.gets(HONEST), "identity", "root on the host");
    fs::set_permissions(&node.trusted, PermissionsExt::from_mode(0o711)).unwrap();
    let program = node.trusted.display().to_string();
    assert_eq!(node.withheld_from(&[&program], 41004, "UnixSha256"), "not_readable");
}

/// Defence: `reference::find` checks the daemon's own id maps. Without it, `reference::check_namespaces` refuses the
/// namespace.
#[test]
fn attack_17_a_daemon_in_a_user_namespace_refuses_to_start() {
    let Some(node) = Node::start("attack_17") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    refuses(&Daemon::end_behind(&["unshare", "-Ur"], ""), "maps ids");
}

/// Enters a user namespace with an identity map, and execs its command.
const SAME_IDS: &str = "import ctypes, os, sys\nentered, enters = os.pipe()\n\
                        if os.fork() == 0:\n os.read(entered, 1)\n \
                        for ids in 'ug': open(f'/proc/{os.getppid()}/{ids}id_map', 'w').write('0 0 4294967295')\n \
                        os._exit(0)\n\
                        assert ctypes.CDLL(None).unshare(0x10000000) == 0; os.write(enters, b'.')\n\
                        assert os.wait()[1] == 0; os.execvp(sys.argv[1], sys.argv[1:])";

/// Defence: `reference::check_namespaces` compares the namespace's inode; the id maps equal the host's. If it returns
/// early, the daemon starts.
#[test]
fn attack_17_a_user_namespace_with_an_identity_map_refuses_the_start() {
    let Some(node) = Node::start("attack_17_same_ids") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    refuses(&Daemon::end_behind(&[PYTHON, "-c", SAME_IDS], ""), "not that of PID 1 or of the host");
}

/// Defences: `reference::proc_directory` at the start, and `Attestor::by_peer` for a caller whose PID is 0. Without the
/// second, the caller gets nothing, because there is no `/proc/0`.
#[test]
fn attack_18_a_daemon_in_a_pid_namespace_serves_no_caller_outside_of_it() {
    let namespace = ["unshare", "-pf", "--kill-child", "--mount-proc"];
    let Some(node) = Node::start_behind("attack_18", &namespace, "") else { return };
    let children = format!("/proc/{pid}/task/{pid}/children", pid = node.daemon.pid());
    let daemon = fs::read_to_string(children).unwrap();
    let inside = ["nsenter", "-t", daemon.trim(), "-p", "-m", PYTHON];
    assert_eq!(node.gets_by(&inside, &format!("become(41000); {HONEST}")), "identity");
    assert_eq!(node.honest_gets(PYTHON, 41000), "nothing");
    refuses(&Daemon::end_behind(&["unshare", "-pf"], ""), "another PID namespace");
}

/// Defence: `host::facts::host` compares the namespaces in `/proc` and ignores the PID that the caller sees. If it does
/// not compare them, the caller gets the identity of the host's root.
#[test]
fn attack_19_pid_1_of_another_pid_namespace_is_not_root_of_the_host() {
    let Some(node) = Node::start("attack_19") else { return };
    let first = format!("assert os.getpid() == 1; {HONEST}");
    assert_eq!(node.gets(HONEST), "identity");
    assert_eq!(node.gets_by(&["unshare", "-pf", PYTHON], &first), "nothing", "root, but not the host's");
    for (uid, verdict) in [("41000", "identity"), ("41002", "nothing")] {
        let nested = [&user(uid)[..], &["unshare", "-Urpf", PYTHON]].concat();
        assert_eq!(node.gets_by(&nested, &first), verdict, "{uid}");
    }
}

/// Defence: `reference::first_process`. Without it, the start fails with an error that does not name the cause.
#[test]
fn attack_21_a_daemon_that_hidepid_blinds_refuses_to_start() {
    let hidden = "mount -t proc -o hidepid=invisible proc /proc && exec";
    let launcher = after(hidden);
    let Some(node) = Node::start_behind("attack_21", &launcher.each_ref().map(String::as_str), "") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity", "with the right to see them");
    let without = after(&format!("{hidden} setpriv --regid 41009 --clear-groups --bounding-set -sys_ptrace"));
    refuses(&Daemon::end_behind(&without.each_ref().map(String::as_str), ""), "mounted with hidepid=invisible");
}

/// Defence: `reference::proc_directory`. Without its check of the file system type, its check of `/proc/self` refuses.
#[test]
fn attack_22_a_daemon_without_procfs_on_proc_refuses_to_start() {
    let Some(node) = Node::start("attack_22") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let fake = after("mount -t tmpfs tmpfs /proc && exec");
    refuses(&Daemon::end_behind(&fake.each_ref().map(String::as_str), ""), "not the kernel's process file system");
}

/// Defences: `host::facts::not_on_the_host` and `host::facts::path`. If both return early, the attacker gets the
/// identity; if only the second does, nothing.
#[test]
fn attack_24_a_caller_with_another_root_directory_has_no_path() {
    let Some(node) = Node::start("attack_24") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let trusted = node.trusted.display().to_string();
    let pivot = format!(
        "set -e; mount -t tmpfs none /mnt; cd /mnt; mkdir -p usr old .{folder} .{run}; ln -s usr/lib usr/lib64 .\n\
         mount --rbind /usr usr; mount --rbind {run} .{run}; cp {PYTHON} .{trusted}; pivot_root . old; exec \"$@\"",
        folder = node.trusted.parent().unwrap().display(),
        run = node.daemon.socket().parent().unwrap().display(),
    );
    let lie = [&user("41001")[..], &["unshare", "-Urm", "sh", "-c", &pivot, "sh", &trusted]].concat();
    assert_eq!(node.gets_by(&lie, HONEST), "nothing");
}

/// Defence: `attestation::linux::process` reads the status of the thread group leader. If it reads another thread's,
/// the caller gets the identity.
#[test]
fn attack_36_a_group_of_another_thread_or_namespace_does_not_count() {
    let table = "[[workload]]\nid = \"/grouped\"\nselectors = [\"unix:uid:41007\", \"unix:supplementary_gid:41042\"]\n";
    let Some(node) = Node::start_behind("attack_36", &[], table) else { return };
    let become_alone = "libc.syscall(119, 41007, 41007, 41007); libc.syscall(117, 41007, 41007, 41007)";
    let group = "libc.syscall(116, 1, (ctypes.c_uint * 1)(41042))";
    assert_eq!(node.gets(&format!("{group}; {become_alone}; {HONEST}")), "identity");
    let one_thread = format!(
        "os.setgroups([])\nready = threading.Event()\ndef other():\n {group}; {become_alone}; ready.wait(); {HONEST}\n\
         t = threading.Thread(target=other); t.start(); {become_alone}; ready.set(); t.join()"
    );
    assert_eq!(node.gets(&one_thread), "nothing");
    let own_namespace = [&user("41007")[..], &["unshare", "-Ur", PYTHON]].concat();
    assert_eq!(node.gets_by(&own_namespace, HONEST), "nothing");
}

/// Defences: the parts of `EpochParts` that `PinnedProcess::unchanged` reads again. Without `Groups` and `Namespaces` the
/// caller gets the identity that it was entitled to before.
#[test]
fn attack_156_an_answer_that_waits_does_not_outlive_the_group_or_namespace() {
    let table = "[[workload]]\nid = \"/grouped\"\nselectors = [\"unix:uid:41007\", \"unix:supplementary_gid:41042\"]\n\
                 [[workload]]\nid = \"/plain\"\nselectors = [\"unix:uid:41009\"]\n";
    let Some(node) = Node::start_behind("attack_156", &[], table) else { return };
    let waits = |begins: &str, changes: &str| node.gets(&format!("{begins}; s = held_back(); {changes}; opened(s)"));
    let in_group = "os.setgroups([41042]); become_with(41007, 6)";
    assert_eq!(waits(in_group, "pass"), "identity");
    assert_eq!(waits(in_group, "os.setgroups([])"), "nothing");
    assert_eq!(waits("pass", "pass"), "identity");
    assert_eq!(waits("pass", "assert libc.unshare(0x02000000) == 0"), "nothing");
    let without = "os.setgroups([41042]); become_with(41009, 6)";
    assert_eq!(waits(without, "os.setgroups([])"), "identity", "nothing of the entry rests on its groups");
}

/// A cgroup, removed on drop.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn make(hierarchy: &Path, path: &str) -> Self {
        let group = hierarchy.join(path);
        fs::create_dir_all(&group).unwrap();
        Self(group)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A launcher that enters these cgroups and execs its command.
    pub(crate) fn enter(groups: &[&Self]) -> Vec<String> {
        let moves: String =
            groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs && ", group.0.display())).collect();
        ["sh", "-c", &format!("{moves}exec \"$@\""), "sh"].map(str::to_owned).into()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

/// The mount point of the unified hierarchy.
pub(crate) fn unified() -> &'static Path {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.exists() { hybrid } else { Path::new("/sys/fs/cgroup") }
}

/// The outcome for uid 41008 in these cgroups.
fn gets_in(node: &Node, groups: &[&Group]) -> String {
    let enter = Group::enter(groups);
    let command: Vec<&str> = enter.iter().map(String::as_str).chain([PYTHON]).collect();
    node.gets_by(&command, &format!("become(41008); {HONEST}"))
}

/// The name of a unit for this test, and its entry.
fn unit(test: u32) -> (String, String) {
    let name = format!("bonafide-{test}-{}.service", std::process::id());
    let table = format!("[[workload]]\nid = \"/unit\"\nselectors = [\"systemd:id:{name}\"]\n");
    (name, table)
}

/// Defences: `Hierarchy::anchored` for the daemon's cgroup namespace, `host::facts::host` for the caller's. If the
/// first returns early, a cgroup below the daemon's gets the unit's identity. If the second does, the caller gets
/// root's.
#[test]
fn attack_42_a_cgroup_namespace_moves_no_caller_to_another_cgroup() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: attack_42: needs root");
    }
    let (name, table) = unit(42);
    let real = Group::make(unified(), &format!("system.slice/{name}"));
    let own = Group::make(unified(), &format!("bonafide-{}", std::process::id()));
    let below = Group::make(&own.0, &format!("system.slice/{name}"));
    let enter = Group::enter(&[&own]);
    let launcher: Vec<&str> = enter.iter().map(String::as_str).chain(["unshare", "-C"]).collect();
    let Some(node) = Node::start_behind("attack_42", &launcher, &table) else { return };
    if node.level() == "full" {
        assert_eq!(gets_in(&node, &[&real]), "identity");
    } else {
        eprintln!("skipped: attack_42: the daemon cannot learn its own cgroup, needs Linux 6.13");
    }
    assert_eq!(gets_in(&node, &[&below]), "nothing", "a cgroup that the daemon sees at /system.slice");
    let Some(node) = Node::start("attack_42") else { return };
    assert_eq!(node.gets(HONEST), "identity");
    assert_eq!(node.gets_by(&["unshare", "-C", PYTHON], HONEST), "nothing");
}

/// Defence: `host::cgroup::Cgroups::group`. If it accepts lines that disagree, the unit of the first line gets its
/// identity.
#[test]
fn attack_44_cgroup_hierarchies_that_disagree_prove_no_unit() {
    let systemd = Path::new("/sys/fs/cgroup/systemd");
    if !rustix::process::geteuid().is_root() || !systemd.exists() {
        return eprintln!("skipped: attack_44: needs root and a machine with both cgroup hierarchies");
    }
    let (name, table) = unit(44);
    let real = Group::make(unified(), &format!("system.slice/{name}"));
    let same = Group::make(systemd, &format!("system.slice/{name}"));
    let other = Group::make(systemd, &format!("system.slice/other-{name}"));
    let container = Group::make(systemd, &format!("docker/{}", "4".repeat(64)));
    let Some(node) = Node::start_behind("attack_44", &[], &table) else { return };
    assert_eq!(gets_in(&node, &[&real]), "identity");
    assert_eq!(gets_in(&node, &[&real, &same]), "identity");
    assert_eq!(gets_in(&node, &[&real, &other]), "nothing");
    assert_eq!(gets_in(&node, &[&real, &container]), "nothing");
}
