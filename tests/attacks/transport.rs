//! Attacks on the workload socket's name and on its transport.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::Daemon;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn me() -> String {
    let uid = nix::unistd::getuid();
    format!("[[workload]]\nid = \"/me\"\nselectors = [\"unix:uid:{uid}\"]\n")
}

/// The honest caller: the daemon's own client, which asks as any other.
pub(crate) fn is_served(daemon: &Daemon) {
    let fetched = daemon.ask(&["fetch", "x509"]);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
}

/// Runs a daemon that is expected to end at once.
fn run(folder: &TempDir, socket: &Path) -> Output {
    let at = |name: &str| folder.path().join(name).display().to_string();
    let configuration = format!(
        "trust_domain = \"example.org\"\n[workload_api]\nsocket = {socket:?}\n[admin]\nsocket = {:?}\n\
         [authority]\nkind = \"embedded\"\ndata_dir = {:?}\n{}",
        at("admin/admin.sock"),
        at("data"),
        me(),
    );
    fs::write(at("bonafide.toml"), configuration).unwrap();
    let program = env!("CARGO_BIN_EXE_bonafide");
    Command::new("timeout").args(["10", program, "run", "--config", &at("bonafide.toml")]).output().unwrap()
}

/// The daemon ended, and said why.
pub(crate) fn refuses(output: &Output, because: &str) {
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {said}", output.status);
    assert!(said.contains(because), "{said}");
}

/// Says `bytes` and reads until the daemon closes the connection.
pub(crate) fn answer_to(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = client.write_all(bytes); // the daemon may have cut already
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the connection stays open"),
        _ => answer, // a reset is an end, too
    }
}

/// Defence: `listener::check_name`. With it returning early the squatter's file is replaced and the daemon serves.
#[test]
fn attack_63_a_squatted_name_refuses_the_start_and_stays_what_it_is() {
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    let socket = folder.path().join("workload.sock");
    fs::write(&socket, "squatted").unwrap();
    refuses(&run(&folder, &socket), "is not the daemon's own socket");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "squatted");
    is_served(&Daemon::start(&me()));
}

/// Defence: `listener::open_parents`. With plain opens in place of `openat2` the daemon serves below the symlink.
#[test]
fn attack_64_a_symlinked_or_writable_directory_refuses_the_start() {
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    let real = folder.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, folder.path().join("link")).unwrap();
    refuses(&run(&folder, &folder.path().join("link/workload.sock")), "is a symlink");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
    refuses(&run(&folder, &real.join("workload.sock")), "can be written by others");
    is_served(&Daemon::start(&me()));
}

/// Defence: `listener::probe`. With it answering "refused" the second daemon takes the first one's clients.
#[test]
fn attack_65_a_second_daemon_is_refused_and_a_dead_one_s_socket_is_taken_over() {
    let mut daemon = Daemon::start(&me());
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    refuses(&run(&folder, &daemon.socket()), "another daemon listens");
    is_served(&daemon);
    daemon.kill_and_restart();
    is_served(&daemon);
}

/// Defence: `listener::check_path`. There is no other way to a socket.
#[test]
fn attack_67_and_70_neither_an_abstract_socket_nor_tcp_is_offered() {
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    for socket in ["@bonafide", "tcp://127.0.0.1:8081", "workload.sock"] {
        let refused = run(&folder, Path::new(socket));
        assert_eq!(refused.status.code(), Some(2), "{socket}");
    }
}

/// Defence: `AuthorityFilter::preface`, and `require_security_header` behind it.
#[test]
fn attack_69_a_tricked_http_client_learns_nothing() {
    let daemon = Daemon::start(&me());
    let answer = answer_to(&daemon.socket(), b"POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!answer.starts_with(b"HTTP/") && answer.len() < 100, "{answer:?}");
    is_served(&daemon);
}

/// Defence: `connection::fell_silent`. Without it the connection stays for as long as its client likes.
#[test]
fn attack_73_a_client_that_never_asks_is_closed_within_its_five_seconds() {
    let daemon = Daemon::start(&me());
    assert!(answer_to(&daemon.socket(), b"PRI * HTTP/2.0\r\n").len() < 100);
    is_served(&daemon);
}

/// Defence: `listener::probe`, as for attack 65.
#[test]
fn attack_63_a_listener_of_the_same_user_is_not_replaced() {
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    let socket: PathBuf = folder.path().join("workload.sock");
    let _living = UnixListener::bind(&socket).unwrap();
    refuses(&run(&folder, &socket), "another daemon listens");
}
