//! Access control of the admin socket, with real processes of real users as clients.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bonafide::attestation::linux::Linux;
use bonafide::authority::NotRotated;
use bonafide::authority::RotationOrder;
use bonafide::endpoints::admin::doorkeeper::Doorkeeper;
use bonafide::endpoints::admin::operations::NotExplained;
use bonafide::endpoints::admin::operations::Operations;
use bonafide::endpoints::admin::operators::Operators;
use bonafide::endpoints::admin::reports::AuthorityReport;
use bonafide::endpoints::admin::reports::ExplainReport;
use bonafide::endpoints::admin::reports::ReloadReport;
use bonafide::endpoints::admin::reports::ReplacedStatus;
use bonafide::endpoints::admin::reports::RotationReport;
use bonafide::endpoints::admin::reports::StatusReport;
use bonafide::endpoints::admin::server;
use bonafide::endpoints::transport::listener::Listener;
use bonafide::endpoints::transport::listener::SocketAccess;
use bonafide::evidence::Level;
use futures_util::future::BoxFuture;
use serde_json::json;
use tempfile::TempDir;

use crate::daemon::Daemon;

const OWN_UID: u32 = 41_001;
const GROUP: u32 = 42_000;
const SHOW: [&str; 2] = ["authority", "show"];
const ROTATE: [&str; 4] = ["authority", "rotate", "--taint", "--yes"];

/// Counts the requests that it gets.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Operations for Counting {
    fn status(&self) -> StatusReport {
        self.0.fetch_add(1, Ordering::SeqCst);
        serde_json::from_value(json!({
            "state": "healthy", "version": "0.1.0", "trust_domain": "example.org", "sampled_at": 0.0,
            "uptime_seconds": 0, "level": "full", "authority": { "kind": "embedded", "not_after": 0.0 }, "bundles": [],
            "identities": { "entries": 0, "connections": 0, "live": 0, "renewals_failed": 0 }, "attestors": [],
            "last_hour": { "denials": 0, "undecided": {} }, "sockets": [], "reasons": [], "notes": [],
            "configuration": { "file": "", "state": "current", "accepted_at": 0.0 },
            "log": { "dropped_lines": 0, "suppressed_records": 0 }
        }))
        .unwrap()
    }

    fn replaced(&self) -> Vec<ReplacedStatus> {
        Vec::new()
    }

    fn explain_pid(&self, pid: u32) -> BoxFuture<'static, Result<ExplainReport, NotExplained>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Err(NotExplained::NoSuchProcess { pid })))
    }

    fn explain_denial(&self, _: &str) -> Option<ExplainReport> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }

    fn reload(&self) -> BoxFuture<'static, ReloadReport> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(ReloadReport { swapped: true, ..ReloadReport::default() }))
    }

    fn authority(&self) -> AuthorityReport {
        self.0.fetch_add(1, Ordering::SeqCst);
        serde_json::from_value(json!({
            "kind": "spire", "sequence": null, "sampled_at": 0.0, "keys": [], "orphaned_svids": 0, "rotations": false,
            "reasons": []
        }))
        .unwrap()
    }

    fn rotate(&self, _: RotationOrder) -> BoxFuture<'static, Result<RotationReport, NotRotated>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Err(NotRotated::KeptElsewhere)))
    }
}

/// An admin socket with a copy of the binary beside it, in a directory that every user can enter.
struct Door {
    folder: TempDir,
    operations: Arc<Counting>,
    runtime: tokio::runtime::Runtime,
}

impl Door {
    /// The socket of a daemon that runs as [`OWN_UID`].
    fn open(group: Option<u32>, access: impl Into<SocketAccess>) -> Self {
        let folder = TempDir::with_prefix("bonafide-").unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_bonafide"), folder.path().join("bonafide")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let operations = Arc::new(Counting::default());
        let door = Self { folder, operations, runtime };
        let listener = door.runtime.block_on(async { Listener::bind(&door.socket(), access) }).unwrap();
        std::os::unix::fs::chown(door.socket(), Some(OWN_UID), None).unwrap();
        let linux = Arc::new(Linux::open(Level::Reduced).unwrap());
        let operators = Operators::new(Doorkeeper { own_uid: OWN_UID, group }, &linux);
        door.runtime.spawn(server::serve(listener, operators, door.operations.clone()));
        door
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The exit code of a command of the binary, run with these credentials.
    fn ask(&self, credentials: &[&str], command: &[&str]) -> Option<i32> {
        Command::new("setpriv")
            .args(credentials)
            .arg(self.folder.path().join("bonafide"))
            .args(command)
            .arg("--admin-socket")
            .arg(self.socket())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
    }

    fn questions(&self) -> usize {
        self.operations.0.load(Ordering::SeqCst)
    }
}

fn only_as_root(test: &str) -> bool {
    let root = nix::unistd::getuid().is_root();
    if !root {
        eprintln!("skipped: {test}: only root can become other users");
    }
    root
}

#[test]
fn only_root_the_own_user_and_the_admin_group_are_admitted() {
    if !only_as_root("only_root_the_own_user_and_the_admin_group_are_admitted") {
        return;
    }
    let door = Door::open(Some(GROUP), Doorkeeper { own_uid: OWN_UID, group: Some(GROUP) }.access());
    let socket = fs::metadata(door.socket()).unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.gid()), (0o660, GROUP));
    for inside in [
        &["--reuid=0", "--regid=0", "--clear-groups"][..],
        &["--reuid=0", "--regid=41000", "--clear-groups"],
        &["--reuid=41001", "--regid=41001", "--clear-groups"],
        &["--reuid=41000", "--regid=42000", "--clear-groups"],
        &["--reuid=41000", "--regid=41000", "--groups=5,42000"],
    ] {
        assert_eq!(door.ask(inside, &["status"]), Some(0), "{inside:?}");
    }
    let asked = door.questions();
    for outside in [
        &["--reuid=41000", "--regid=41000", "--clear-groups"][..],
        &["--reuid=41000", "--regid=0", "--clear-groups"],
        &["--reuid=41000", "--regid=41000", "--groups=0,5"],
        &["--reuid=42000", "--regid=41000", "--clear-groups"],
    ] {
        for command in
            [&["status"][..], &["explain", "1"], &["explain", "--denial", "d-00"], &["reload"], &SHOW, &ROTATE]
        {
            assert_eq!(door.ask(outside, command), Some(4), "{outside:?} {command:?}");
        }
    }
    assert_eq!(door.questions(), asked, "a request of a user without access was read");
}

#[test]
fn a_taint_of_keys_that_are_kept_elsewhere_is_refused_before_it_is_explained() {
    if !only_as_root("a_taint_of_keys_that_are_kept_elsewhere_is_refused_before_it_is_explained") {
        return;
    }
    let door = Door::open(None, Doorkeeper { own_uid: OWN_UID, group: None }.access());
    let root = ["--reuid=0", "--regid=0", "--clear-groups"];
    assert_eq!(door.ask(&root, &SHOW), Some(0));
    for rotate in [&["authority", "rotate"][..], &["authority", "rotate", "--taint"], &ROTATE] {
        assert_eq!(door.ask(&root, rotate), Some(1), "{rotate:?}");
    }
}

/// The mode keeps most of them out; a group that was changed since does not.
#[test]
fn a_stranger_who_can_connect_is_closed_unread() {
    if !only_as_root("a_stranger_who_can_connect_is_closed_unread") {
        return;
    }
    let door = Door::open(Some(GROUP), 0o666);
    for outside in
        [&["--reuid=41000", "--regid=41000", "--clear-groups"][..], &["--reuid=41000", "--regid=0", "--groups=0"]]
    {
        for command in [&["status"][..], &["explain", "1"], &["reload"], &SHOW, &ROTATE] {
            assert_eq!(door.ask(outside, command), Some(4), "{outside:?} {command:?}");
        }
    }
    assert_eq!(door.questions(), 0, "a request of a user without access was read");
}

#[test]
fn a_socket_closed_by_its_mode_ends_the_command_with_4() {
    if !only_as_root("a_socket_closed_by_its_mode_ends_the_command_with_4") {
        return;
    }
    let door = Door::open(None, Doorkeeper { own_uid: OWN_UID, group: None }.access());
    assert_eq!(door.ask(&["--reuid=0", "--regid=0", "--clear-groups"], &["status"]), Some(0));
    assert_eq!(door.ask(&["--reuid=41000", "--regid=0", "--clear-groups"], &["status"]), Some(4));
}

#[test]
fn idle_connections_of_strangers_do_not_keep_root_out() {
    if !only_as_root("idle_connections_of_strangers_do_not_keep_root_out") {
        return;
    }
    let door = Door::open(Some(GROUP), 0o666);
    let connect = "import os,socket,sys\nos.setgroups([]); os.setgid(41000); os.setuid(41000)\nheld=[]\n\
                   for _ in range(200):\n s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n\
                   print('held', flush=True)\nsys.stdin.read()\n";
    let mut stranger = Command::new("python3")
        .args(["-c", connect])
        .arg(door.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = [0; 5];
    std::io::Read::read_exact(stranger.stdout.as_mut().unwrap(), &mut printed).unwrap();
    assert_eq!(door.ask(&["--reuid=0", "--regid=0", "--clear-groups"], &["status"]), Some(0));
    drop(stranger.stdin.take());
    assert!(stranger.wait().unwrap().success());
}

#[test]
fn a_group_that_the_daemon_may_not_give_the_socket_to_degrades_it_and_keeps_root() {
    const TEST: &str = "a_group_that_the_daemon_may_not_give_the_socket_to_degrades_it_and_keeps_root";
    let group = nix::unistd::Group::from_name("adm").unwrap();
    let Some(group) = group.filter(|_| only_as_root(TEST)) else {
        return eprintln!("skipped: {TEST}: needs root and the group adm");
    };
    let mut daemon = Daemon::start_behind(&["setpriv", "--bounding-set", "-chown", "--clear-groups"], "");
    daemon.kill();
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), text.replace("[admin]\n", "[admin]\ngroup = \"adm\"\n")).unwrap();
    let access = |daemon: &Daemon| {
        let socket = fs::metadata(daemon.admin_socket()).unwrap();
        (socket.mode() & 0o7777, socket.gid())
    };
    daemon.restart();
    let status = daemon.ask(&["status", "-o", "json"]);
    let printed = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(5), "{printed}");
    assert!(printed.contains("cannot be given to the group") && printed.contains("SupplementaryGroups="), "{printed}");
    assert_eq!(access(&daemon).0, 0o600);
    drop(daemon);
    let mut daemon = Daemon::start("");
    daemon.kill();
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), text.replace("[admin]\n", "[admin]\ngroup = \"adm\"\n")).unwrap();
    daemon.restart();
    assert_eq!(daemon.ask(&["status"]).status.code(), Some(0));
    assert_eq!(access(&daemon), (0o660, group.gid.as_raw()));
}
