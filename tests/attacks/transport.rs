//! Attacks on the workload socket's path, and by clients of another protocol, slow clients and silent ones.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::lchown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use rustix::fs::CWD;
use rustix::fs::RenameFlags;
use tokio::time::Instant;
use tonic::Code;
use tonic::Request;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::http2::PING;
use crate::http2::PREFACE;
use crate::http2::frame;
use crate::http2::hello;
use crate::http2::request;
use crate::requests::client;
use crate::requests::x509;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// The exit code of timeout(1) when the time is up.
const STILL_RUNNING: i32 = 124;
const LYING_RECVMSG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/lying_recvmsg.c");

pub(crate) fn me() -> String {
    let uid = nix::unistd::getuid();
    format!("[[workload]]\nid = \"/me\"\nselectors = [\"unix:uid:{uid}\"]\n")
}

/// Asserts that an honest caller, `bonafide fetch`, gets an SVID.
pub(crate) fn is_served(daemon: &Daemon) {
    let fetched = daemon.ask(&["fetch", "x509"]);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
}

/// Starts a second daemon with this configuration of `daemon`, but its own data directory and admin socket. It must end
/// at once.
pub(crate) fn one_more(daemon: &Daemon, configuration: &str) -> Output {
    let file = daemon.folder().join("one_more.toml");
    fs::write(&file, configuration.replace("admin.sock", "other.sock").replace("/data\"", "/other\"")).unwrap();
    let program = env!("CARGO_BIN_EXE_bonafide");
    Command::new("timeout").args(["10", program, "run", "--config"]).arg(file).output().unwrap()
}

/// Asserts that the program failed with this message, wherever its lines are broken.
pub(crate) fn refuses(output: &Output, because: &str) {
    let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {printed}", output.status);
    let unwrapped = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains(because), "{printed}");
}

/// Sends `bytes` and reads until the daemon closes the connection.
pub(crate) fn answer_to(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let _ = client.write_all(bytes); // the daemon may have closed already
    let (begun, mut answer) = (Instant::now(), Vec::new());
    let mut part = [0; 4096];
    while begun.elapsed() < TIMEOUT {
        match client.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Ok(0) | Err(_) => return answer, // a reset is an end, too
            Ok(bytes) => answer.extend_from_slice(&part[..bytes]),
        }
    }
    panic!("the connection stays open");
}

fn configuration(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.configuration()).unwrap()
}

/// Defence: `listener::check_name`. If it returns early, the daemon replaces the file and serves.
#[test]
fn attack_63_a_foreign_file_at_the_socket_path_stays_and_refuses_start() {
    const TEST: &str = "attack_63_a_foreign_file_at_the_socket_path_stays_and_refuses_start";
    let mut daemon = Daemon::start(&me());
    daemon.kill();
    let (name, elsewhere) = (daemon.socket(), daemon.folder().join("elsewhere"));
    let stays = |because| {
        let squatter = name.symlink_metadata().unwrap().ino();
        refuses(&one_more(&daemon, &configuration(&daemon)), because);
        assert_eq!(name.symlink_metadata().unwrap().ino(), squatter);
    };
    fs::remove_file(&name).unwrap();
    fs::write(&name, "squatted").unwrap();
    stays("is not the daemon's own socket");
    fs::remove_file(&name).unwrap();
    fs::create_dir(&name).unwrap();
    stays("is not the daemon's own socket");
    fs::remove_dir(&name).unwrap();
    symlink(&elsewhere, &name).unwrap();
    stays("is not the daemon's own socket");
    assert!(!elsewhere.exists());
    fs::remove_file(&name).unwrap();
    let living = UnixListener::bind(&name).unwrap();
    stays("another daemon listens");
    match lchown(&name, Some(41000), None) {
        Ok(()) => stays("is not the daemon's own socket"),
        Err(_) => eprintln!("skipped: {TEST}: another user's socket: only root can give a file away"),
    }
    drop(living);
    fs::remove_file(&name).unwrap();
    daemon.restart();
    is_served(&daemon);
}

/// Defence: `trusted_path::Walk` opens each directory below the one before, and judges each and every link. If `judge`
/// returns early, the daemon serves in a directory of mode 0777. If `judge_owner` does, it follows the link of another.
#[test]
fn attack_64_a_writable_directory_or_a_link_of_another_refuses_the_start() {
    const TEST: &str = "attack_64_a_writable_directory_or_a_link_of_another_refuses_the_start";
    let mut daemon = Daemon::start(&me());
    daemon.kill();
    let directory = daemon.socket().parent().unwrap().to_owned();
    let real = directory.with_file_name("real");
    fs::rename(&directory, &real).unwrap();
    symlink(&real, &directory).unwrap();
    match lchown(&directory, Some(41000), None) {
        Ok(()) => refuses(&one_more(&daemon, &configuration(&daemon)), "belongs to uid 41000"),
        Err(_) => eprintln!("skipped: {TEST}: a link of another user: only root can give a file away"),
    }
    fs::remove_file(&directory).unwrap();
    symlink(&real, &directory).unwrap();
    daemon.restart();
    is_served(&daemon);
    let checked = daemon.ask(&["config", "check", daemon.configuration().to_str().unwrap()]);
    assert!(checked.status.success(), "check refuses what run takes: {checked:?}");
    daemon.kill();
    fs::remove_file(&directory).unwrap();
    fs::rename(&real, &directory).unwrap();
    let open_to = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o775, 0o1777] {
        open_to(mode);
        refuses(&one_more(&daemon, &configuration(&daemon)), "could be replaced by others");
    }
    open_to(0o755);
    daemon.restart();
    is_served(&daemon);
}

/// Defences as above. The attacker owns a directory, as any user may in `/tmp`, and swaps it with a symlink to a
/// directory that would pass. If `judge_owner` returns early, a start takes the attacker's link or directory, and serves.
#[test]
fn attack_64_a_directory_swapped_with_a_symlink_never_gets_the_socket() {
    const TEST: &str = "attack_64_a_directory_swapped_with_a_symlink_never_gets_the_socket";
    let mut daemon = Daemon::start(&me());
    daemon.kill();
    let [theirs, link, target] = ["theirs", "link", "target"].map(|name| daemon.folder().join(name));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&target).unwrap();
    symlink(&target, &link).unwrap();
    if [&theirs, &link].into_iter().any(|name| lchown(name, Some(41000), None).is_err()) {
        return eprintln!("skipped: {TEST}: only root can give a directory away");
    }
    let there = configuration(&daemon).replace("run/agent/workload.sock", "theirs/workload.sock");
    let done = AtomicBool::new(false);
    let ended: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &theirs, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut ended = Vec::new();
        while ended.len() < 20 && ended.last().is_none_or(|last: &Output| last.status.code() != Some(STILL_RUNNING)) {
            ended.push(one_more(&daemon, &there));
        }
        done.store(true, Ordering::Relaxed);
        ended
    });
    ended.iter().for_each(|output| refuses(output, "theirs"));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "the socket was made behind the link");
    daemon.restart();
    is_served(&daemon);
}

/// Defence: `listener::probe`. If it returns "refused", the second daemon takes over the clients of the first.
#[test]
fn attack_65_a_second_daemon_is_refused_and_a_stale_socket_is_replaced() {
    let mut daemon = Daemon::start(&me());
    refuses(&one_more(&daemon, &configuration(&daemon)), "another daemon listens");
    is_served(&daemon);
    daemon.kill_and_restart();
    is_served(&daemon);
}

/// The inodes of the daemon's open sockets; `None` where only root can read them.
fn sockets_of(daemon: &Daemon, test: &str) -> Option<HashSet<String>> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", daemon.pid())) else {
        eprintln!("skipped: {test}: the running daemon: it is closed to all but root");
        return None;
    };
    let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    let inode = |link: &str| link.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned);
    Some(links.filter_map(|link| inode(&link.to_string_lossy())).collect())
}

/// The fields of each line of a socket table in `/proc/PID/net`.
fn table(daemon: &Daemon, name: &str) -> Vec<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{}/net/{name}", daemon.pid())).unwrap_or_default();
    table.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn no_socket_can_be_named(daemon: &Daemon, names: &[&str]) {
    for name in names {
        let named = configuration(daemon).replace(&daemon.socket().display().to_string(), name);
        refuses(&one_more(daemon, &named), "write an absolute path");
    }
}

/// Defences: `socket_name` in the configuration reader, and `listener::check_path` behind it. If the first returns
/// early, the second refuses with another message. If both do, a socket `.@bonafide` appears in the working directory.
#[test]
fn attack_67_no_abstract_socket_is_offered() {
    let daemon = Daemon::start(&me());
    no_socket_can_be_named(&daemon, &["@bonafide", "\\u0000bonafide", "unix-abstract:bonafide"]);
    is_served(&daemon);
    let Some(own) = sockets_of(&daemon, "attack_67_no_abstract_socket_is_offered") else { return };
    const LISTENS: &str = "00010000";
    let listening = table(&daemon, "unix").into_iter().filter(|line| own.contains(&line[6]) && line[3] == LISTENS);
    let paths: Vec<_> = listening.map(|line| line.get(7).cloned().unwrap_or_default()).collect();
    assert_eq!(paths.len(), 2, "{paths:?}");
    assert!(paths.iter().all(|path| path.starts_with('/')), "{paths:?}");
}

/// Defences as for attack 67. If both return early, the daemon tries to bind a file whose name is the address.
#[test]
fn attack_70_no_tcp_is_offered() {
    let daemon = Daemon::start(&me());
    no_socket_can_be_named(&daemon, &["tcp://127.0.0.1:8081", "127.0.0.1:8081", "localhost:8081"]);
    is_served(&daemon);
    let Some(own) = sockets_of(&daemon, "attack_70_no_tcp_is_offered") else { return };
    for protocol in ["tcp", "tcp6", "udp", "udp6"] {
        let ours = table(&daemon, protocol).into_iter().find(|line| own.contains(&line[9]));
        assert_eq!(ours, None, "{protocol}");
    }
}

/// Defences: `connection::engine` speaks HTTP/2 only, and `AuthorityFilter::preface` checks the preface before it. If
/// the filter accepts everything, the engine still refuses. `require_security_header`: if it returns early, a request
/// without the header gets an SVID.
#[tokio::test(flavor = "multi_thread")]
async fn attack_69_http_1_tls_and_a_missing_security_header_get_no_svid() {
    let daemon = Daemon::start(&me());
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for other in [&b"POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: x\r\n\r\n"[..], tls] {
        let answer = answer_to(&daemon.socket(), other);
        assert!(!answer.starts_with(b"HTTP/") && answer.len() < 100, "{answer:?}");
    }
    for values in [&[][..], &["True"], &["TRUE"], &["1"], &[""], &["true", "true"], &["true, true"]] {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        assert_eq!(x509(&daemon, request).await.unwrap_err().code(), Code::InvalidArgument, "{values:?}");
    }
    x509(&daemon, asking(X509svidRequest {})).await.unwrap();
}

/// How long the daemon keeps a connection that sends `at_once`, and then single bytes of `dripping`.
fn kept(daemon: &Daemon, at_once: &[u8], dripping: &[u8]) -> Duration {
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    client.write_all(at_once).unwrap();
    let mut dripping = dripping.iter().cycle();
    while begun.elapsed() < TIMEOUT {
        match client.read(&mut [0; 4096]) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let drop = dripping.next().map_or(&[][..], std::slice::from_ref);
                let _ = client.write_all(drop); // the daemon may have closed meanwhile
            }
            Ok(0) | Err(_) => return begun.elapsed(),
        }
    }
    panic!("the connection stays open");
}

/// Defence: `activity::idle_timeout`. A request must arrive within five seconds, whatever other frames do. If the
/// timeout never fires, each of these connections stays open.
#[tokio::test(flavor = "multi_thread")]
async fn attack_73_a_connection_without_a_request_is_closed_after_five_seconds() {
    let daemon = Daemon::start(&format!("[limits]\nidle = \"1s\"\n{}", me()));
    let endless_block = [&hello()[..], &frame(kind::HEADERS, 0, 1, &[0; 8000])[..9]].concat();
    let given_up = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let asked_once = [hello(), request(1, None, &[]), given_up].concat();
    let mut served = client(&daemon).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    let (second, fourth) = (Duration::from_secs(1), Duration::from_secs(4));
    let clients: [(&[u8], &[u8], Duration); 6] = [
        (b"", b"", fourth),
        (&PREFACE[..16], b"", fourth),
        (b"", &endless_block, fourth),
        (&endless_block, b"\x83", fourth),
        (&hello(), &frame(PING, 0, 0, b"a byte.."), fourth),
        (&asked_once, b"", second),
    ];
    std::thread::scope(|scope| {
        for (at_once, dripping, least) in clients {
            let daemon = &daemon;
            scope.spawn(move || {
                let kept = kept(daemon, at_once, dripping);
                assert!(kept >= least, "closed after {kept:?}, before the timeout of {least:?}");
            });
        }
    });
    for _ in ["the first", "a renewal after all that"] {
        served.message().await.unwrap().unwrap();
    }
}

/// Defences: `accept::accept` spawns a task for each connection; `accept::report` continues after a panic of one. The
/// panic is real: a preloaded library returns a wrong result from `recvmsg`. If `report` propagates the panic, the
/// daemon ends.
#[tokio::test(flavor = "multi_thread")]
async fn attack_84_a_panic_ends_its_own_connection_and_nothing_else() {
    let folder = tempfile::TempDir::with_prefix("bonafide-").unwrap();
    let library = folder.path().join("lying.so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(LYING_RECVMSG).output();
    assert!(compiled.as_ref().is_ok_and(|output| output.status.success()), "{compiled:?}");
    let lying = ["/usr/bin/env", &format!("LD_PRELOAD={}", library.display())];
    let daemon = Daemon::start_behind(&lying, &format!("[limits]\nconnections = 10\n{}", me()));
    let mut stream = client(&daemon).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let more_than_there_may_be_at_once = 20;
    for _ in 0..more_than_there_may_be_at_once {
        answer_to(&daemon.socket(), &[hello(), frame(PING, 0, 0, b"panic!!!")].concat());
    }
    let begun = Instant::now();
    let lines_of_one_cause = 10;
    while daemon.log().matches("a connection's task panicked").count() < lines_of_one_cause {
        assert!(begun.elapsed() < TIMEOUT, "the log lacks some of the panics");
    }
    stream.message().await.expect("the stream of another connection continues").unwrap();
    is_served(&daemon);
}
