//! Who is charged for real processes.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use super::*;

use crate::evidence::Principal;
use crate::evidence::RangeOwner;
use crate::evidence::SubordinateUids;

/// Alice is 41000, and has the uids from 500000.
const ALICE: u32 = 41_000;
const HERS: u32 = 500_007;
/// Python code of a process that enters a user namespace of its own, as root of it.
const UNSHARE_USER: &str = "ids = (os.geteuid(), os.getegid()); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n\
                            if ctypes.CDLL(None).unshare(0x10000000): os._exit(1)\n\
                            open('/proc/self/setgroups', 'w').write('deny')\n\
                            for name, id in zip('ug', ids): open(f'/proc/self/{name}id_map', 'w').write(f'0 {id} 1')";
/// The same, where another process writes the maps.
const UNSHARE_UNMAPPED: &str = "if ctypes.CDLL(None).unshare(0x10000000): os._exit(1)";

fn become_user(uid: u32) -> String {
    format!("os.setgroups([]); os.setgid({uid}); os.setuid({uid})")
}

/// `None` where this machine lets nobody make user namespaces, or the test does not run as root.
fn namespace_host(test: &str) -> Option<TestHost> {
    let host = test_host(test).filter(|_| is_root(test))?;
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let makes = |uid: &str| {
        let made = Command::new("setpriv").args(["--reuid", uid, "--clear-groups", "unshare", "-U", "true"]).output();
        made.is_ok_and(|made| made.status.success())
    };
    if most.trim() == "0" || !makes("0") || !makes("41000") {
        eprintln!("skipped: {test}: no user namespaces for users here");
        return None;
    }
    let mut ranges = SubordinateUids::default();
    ranges.add(500_000..=565_535, RangeOwner::Uid(ALICE));
    host.linux.replace_subordinate_uids(ranges);
    Some(host)
}

impl TestHost {
    fn principal_after(&self, before: &str) -> Principal {
        self.connect(&[], before, "").pinned.principal()
    }
}

#[test]
fn a_process_in_nested_user_namespaces_counts_for_the_owner_of_the_outermost() {
    let Some(host) = namespace_host("nested_user_namespaces") else { return };
    let alice = host.principal_after(&become_user(ALICE));
    assert_eq!(alice.uid, ALICE);
    for depth in [1, 2, 5] {
        let nested = format!("{}\n{}", become_user(ALICE), [UNSHARE_USER].repeat(depth).join("\n"));
        assert_eq!(host.principal_after(&nested), alice, "{depth} deep");
    }
    // In her namespace, as a uid that root gave her there, and that is in no range.
    let parent_maps = "r, w = os.pipe(); r2, w2 = os.pipe(); child = os.fork()\n\
                       if child:\n os.read(r, 1); open(f'/proc/{child}/uid_map', 'w').write('0 612345 1\\n1 41000 1')\n \
                       os.write(w2, b'.'); os._exit(os.waitpid(child, 0)[1])\n";
    let mapped = format!(
        "{parent_maps}os.setresuid({ALICE}, {ALICE}, 0); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n{UNSHARE_UNMAPPED}\n\
         os.write(w, b'.'); os.read(r2, 1)\n\
         if ctypes.CDLL(None).setresuid(0, 0, 0): os._exit(1)"
    );
    let (mut child, pinned) = {
        let child = host.start(&[], &mapped, "");
        (child, host.accept().1.unwrap())
    };
    assert_eq!(pinned.process().peer().uid, 612_345);
    assert_eq!(pinned.principal(), alice, "612345 in a namespace of 41000's");
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_process_in_a_user_namespace_of_roots_counts_for_itself() {
    let Some(host) = namespace_host("user_namespace_of_root") else { return };
    let root = host.principal_after("");
    assert_eq!(host.principal_after(UNSHARE_USER), root);
    // SPEC: user_namespaces(7): a process that enters a namespace has every capability there, the one to change its uid, too.
    let in_roots = |uid: u32| {
        let uids = format!("0 {uid} 1");
        let maps = format!(
            "r, w = os.pipe(); r2, w2 = os.pipe(); child = os.fork()\n\
             if child:\n os.read(r, 1); open(f'/proc/{{child}}/uid_map', 'w').write('{uids}')\n os.write(w2, b'.')\n \
             os._exit(os.waitpid(child, 0)[1])\n\
             {UNSHARE_UNMAPPED}\nos.write(w, b'.'); os.read(r2, 1); assert ctypes.CDLL(None).setresuid(0, 0, 0) == 0"
        );
        let mut child = host.start(&[], &maps, "");
        let pinned = host.accept().1.unwrap();
        assert_eq!(pinned.process().peer().uid, uid);
        drop(child.stdin.take());
        child.wait().unwrap();
        pinned.principal()
    };
    assert_eq!(in_roots(612_345), Principal { uid: 612_345, ..root });
    assert_eq!(in_roots(HERS), Principal { uid: ALICE, ..root }, "a uid of alice's range counts for her there, too");
}

#[test]
fn a_setuid_file_of_a_subordinate_uid_counts_for_the_owner_of_the_range() {
    let Some(host) = namespace_host("setuid_of_a_subordinate_uid") else { return };
    let program = host.folder.path().join("python");
    fs::copy(fs::canonicalize(PYTHON).unwrap(), &program).unwrap();
    chown(&program, Some(HERS), Some(HERS)).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let alice = host.principal_after(&become_user(ALICE));
    let bob = host.principal_after(&become_user(41_001));
    assert_ne!(alice, bob);
    // Alice runs it, and bob does: whoever does, it is a uid of hers. It sets all its uids, or it would not be attested.
    for runner in [ALICE, 41_001] {
        let exec = format!(
            "if os.geteuid() == 0:\n {}; os.execv({program:?}, [{program:?}, '-c', sys.orig_argv[2], sys.argv[1]])\n\
             os.setresuid({HERS}, {HERS}, {HERS})",
            become_user(runner)
        );
        let peer = host.connect(&[], &exec, "");
        assert_eq!(peer.pinned.process().peer().uid, HERS, "{runner}");
        assert_eq!(peer.pinned.principal(), alice, "{runner}");
    }
    let makes_one = format!("{}\n{UNSHARE_USER}", become_user(HERS));
    assert_eq!(host.principal_after(&makes_one), alice, "a namespace of a uid of hers is hers");
}

#[test]
fn a_process_whose_namespace_cannot_be_asked_counts_for_the_common_principal() {
    let Some(host) = namespace_host("namespace_that_cannot_be_asked") else { return };
    let known = Principal { cgroup: 0, ..host.principal_after(&become_user(ALICE)) };
    assert_eq!(known, Principal::of_uid(ALICE));
    let mut ranges = SubordinateUids::default();
    ranges.add(500_000..=565_535, RangeOwner::Unknown);
    host.linux.replace_subordinate_uids(ranges);
    assert_eq!(host.principal_after(&become_user(HERS)), Principal::COMMON);
    // The kernel answers nothing about namespaces that are not below the one that is asked from.
    let peer = host.connect(&[], &format!("{}\n{UNSHARE_USER}", become_user(ALICE)), "");
    let directory = peer.pinned.process().directory().unwrap();
    let own = directory.namespace(Namespace::User).unwrap();
    assert!(directory.user_namespace_owner(own).is_err(), "below none that is called the host's");
    let in_the_hosts = host.connect(&[], &become_user(ALICE), "");
    let host_user = host.linux.namespace(Namespace::User).unwrap();
    assert!(in_the_hosts.pinned.process().directory().unwrap().user_namespace_owner(host_user).is_err());
}

/// A cgroup of the unified hierarchy, removed with every one above it that the test made.
struct Session(Vec<PathBuf>);

impl Session {
    /// `None` where this machine lets nobody make cgroups.
    fn at(path: &str) -> Option<Self> {
        let mut mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter();
        let mount = mounts.find(|mount| rustix::fs::statfs(**mount).is_ok_and(|at| at.f_type == 0x6367_7270))?;
        let mut session = Self(Vec::new());
        let mut group = PathBuf::from(mount);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            group.push(name);
            if !group.exists() {
                fs::create_dir(&group).ok()?;
            }
            session.0.push(group.clone());
        }
        Some(session)
    }

    /// Python code that moves the process there.
    fn enter(&self) -> String {
        let group = self.0.last().unwrap().join("cgroup.procs");
        format!("open({:?}, 'w').write(str(os.getpid()))", group.display().to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|group| drop(fs::remove_dir(group)));
    }
}

#[test]
fn login_sessions_and_cron_scopes_of_a_user_are_one_principal_and_its_services_are_others() {
    let Some(host) = namespace_host("login_sessions_and_cron_scopes") else { return };
    let at = |path: &str| Session::at(&format!("{}/{path}", host.linux.manager_root()));
    let slice = "user.slice/user-41000.slice";
    let sessions = ["session-c41.scope", "cron-41.scope", "user@41000.service/app.slice/web.service"];
    for session in sessions.map(|session| format!("{slice}/{session}")) {
        let Some(group) = at(&session) else {
            eprintln!("skipped: login_sessions_and_cron_scopes: cannot make a cgroup");
            return;
        };
        let principal = host.principal_after(&format!("{}; {}", group.enter(), become_user(ALICE)));
        assert_eq!(principal, Principal::of_uid(ALICE), "{session}");
        let in_a_namespace = format!("{}; {}\n{UNSHARE_USER}", group.enter(), become_user(ALICE));
        assert_eq!(host.principal_after(&in_a_namespace), Principal::of_uid(ALICE), "{session}");
    }
    let services = ["bonafide-test.slice/a.service", "bonafide-test.slice/b.service"].map(|path| at(path).unwrap());
    let [one, other] = services.each_ref().map(|group| {
        for uid in [0, ALICE] {
            let principal = host.principal_after(&format!("{}; {}", group.enter(), become_user(uid)));
            assert_eq!(principal.uid, uid);
            assert_ne!(principal.cgroup, 0, "root and its services are told apart, too");
        }
        host.principal_after(&format!("{}; {}", group.enter(), become_user(ALICE)))
    });
    assert_ne!(one, other);
}
