//! Floods against the shipped daemon: more connections, streams and unread responses than one caller may have.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::X509svidRequest;
use rustix::process::Resource;
use rustix::process::Rlimit;
use tokio::time::Instant;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::http2::PING;
use crate::http2::PREFACE;
use crate::http2::SETTINGS;
use crate::http2::frame;
use crate::http2::hello;
use crate::http2::request;
use crate::node::HONEST;
use crate::node::Node;
use crate::requests::asked_first;
use crate::requests::client;
use crate::transport::TIMEOUT;
use crate::transport::answer_to;
use crate::transport::is_served;
use crate::transport::me;

/// Raises the descriptor limit of this process, which the daemon inherits.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Opens connections that send these bytes and never read. The daemon may have closed some of them already.
fn flood(daemon: &Daemon, connections: usize, says: &[u8]) -> Vec<UnixStream> {
    let connect = |_| {
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        let _ = client.write_all(says); // the daemon may have closed already
        client
    };
    (0..connections).map(connect).collect()
}

/// The processor time that the daemon has used.
fn used(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
}

/// The daemon's resident memory in KiB.
pub(crate) fn resident(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until `status` counts this many live X509-SVIDs.
fn until_live(daemon: &Daemon, count: u64) {
    let begun = Instant::now();
    loop {
        let status = daemon.ask(&["status", "-o", "json"]).stdout;
        let live = serde_json::from_slice::<serde_json::Value>(&status).unwrap()["identities"]["live"].as_u64();
        if live.unwrap() >= count {
            return;
        }
        assert!(begun.elapsed() < TIMEOUT * 3, "{live:?} of {count}");
    }
}

/// Defences: `Budgets::connection` and `ConnectionCharge::charge_to` give one user at most half of the connections.
/// If one returns early, the other holds. If both do, the other user gets nothing. Latency is not measured here.
#[test]
fn attack_71_two_thousand_connections_of_one_user_keep_no_other_out() {
    raise_descriptors();
    let less_than_the_flood_takes = ["/bin/sh", "-c", "ulimit -n 4000; exec \"$@\"", "sh"];
    let Some(node) = Node::start_behind(
        "attack_71_two_thousand_connections_of_one_user_keep_no_other_out",
        &less_than_the_flood_takes,
        "",
    ) else {
        return;
    };
    let flooded = flood(&node.daemon, 2000, &[hello(), request(1, None, &[])].concat());
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    drop(flooded);
    assert_eq!(node.gets(HONEST), "identity");
}

/// Waits until an honest caller is served again.
fn recovers(daemon: &Daemon) {
    let begun = Instant::now();
    while !daemon.ask(&["fetch", "x509"]).status.success() {
        assert!(begun.elapsed() < TIMEOUT, "the daemon does not recover");
    }
}

fn is_turned_away(daemon: &Daemon) {
    let answered = answer_to(&daemon.socket(), &[hello(), request(1, None, &[])].concat());
    assert!(!answered.windows(9).any(|bytes| bytes == b"spiffe://"), "a new connection got a descriptor");
}

/// Defence: `Limits::most_connections` reserves descriptors for the attestation of open connections and for the admin
/// socket. Without that limit an operator waits until the connection of another operator is closed.
#[tokio::test(flavor = "multi_thread")]
async fn attack_72_connections_leave_descriptors_for_streams_and_operators() {
    let few = ["/bin/sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    let limits = "[limits]\nconnections = 1000\nconnections_per_caller = 1000\nfirst_request = \"1m\"\n";
    let daemon = Daemon::start_behind(&few, &format!("{limits}{}", me()));
    let mut stream = client(&daemon).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let flooded = flood(&daemon, 200, &hello());
    is_turned_away(&daemon);
    let operators: Vec<_> = (0..8).map(|_| UnixStream::connect(daemon.admin_socket()).unwrap()).collect();
    let begun = Instant::now();
    assert!(daemon.ask(&["status"]).status.success());
    assert!(begun.elapsed() < TIMEOUT, "status waited for a descriptor");
    let renewed = tokio::time::timeout(TIMEOUT, stream.message()).await.expect("a renewal").unwrap().unwrap();
    assert_eq!(renewed.svids.len(), 1);
    drop((flooded, operators));
    recovers(&daemon);
}

/// Defences: `UnixAcceptor::turn_one_away` closes a connection that would wait in the backlog; `accept::accept` pauses
/// after an error. If the first returns early, a new connection stays open without an answer. If the second does, the
/// loop spins.
#[test]
fn attack_72_a_daemon_out_of_descriptors_closes_newcomers_and_rests() {
    // Nobody has connected yet: what closes later would leave descriptors below the limit.
    let daemon = Daemon::start(&me());
    let directory = format!("/proc/{}/fd", daemon.pid());
    if fs::read_dir(&directory).is_err() {
        return eprintln!(
            "skipped: attack_72_a_daemon_out_of_descriptors_closes_newcomers_and_rests: the daemon is closed to all but root"
        );
    }
    let open = || -> HashSet<u64> {
        let open = fs::read_dir(&directory).unwrap();
        open.map(|open| open.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    // The reserve is closed for a moment whenever somebody is turned away.
    let is_reserve = |descriptor: &u64| {
        let link = fs::read_link(format!("{directory}/{descriptor}"));
        *descriptor > 2 && link.is_ok_and(|link| link == Path::new("/dev/null"))
    };
    let reserve = open().into_iter().find(is_reserve);
    let first_free = || {
        let open = open();
        (0..).find(|descriptor| !open.contains(descriptor) && Some(*descriptor) != reserve)
    };
    let pid = rustix::process::Pid::from_raw(daemon.pid().try_into().unwrap());
    let limit_to = |current| {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap().current
    };
    let before = limit_to(first_free());
    while !daemon.log().contains("connections cannot be accepted") {
        drop(UnixStream::connect(daemon.socket()));
        limit_to(first_free());
    }
    is_turned_away(&daemon);
    let (begun, spent_before) = (Instant::now(), used(&daemon));
    while begun.elapsed() < Duration::from_secs(1) {
        is_turned_away(&daemon);
    }
    let (elapsed, spent) = (begun.elapsed(), used(&daemon) - spent_before);
    assert!(spent < elapsed / 2, "{spent:?} of {elapsed:?}"); // what spins takes all of it
    limit_to(before);
    recovers(&daemon);
}

/// Defence: `connection::engine` limits the open streams and the refused ones. Without the limit on open streams all
/// ten thousand are accepted.
#[test]
fn attack_74_a_connection_has_at_most_a_hundred_open_streams() {
    let daemon = Daemon::start(&me());
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let streams: Vec<u8> = (0..10_000).flat_map(|number| request(2 * number + 1, None, &[])).collect();
    let mut ours = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || ours.write_all(&[hello(), streams].concat()));
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer); // a reset is an end, too
    assert!(writer.join().unwrap().is_err(), "all ten thousand streams were accepted");
    assert!(answer.windows(6).any(|setting| setting == [0, 3, 0, 0, 0, 100]), "the limit is not announced");
    let id = b"spiffe://example.org/me";
    let given = answer.windows(id.len()).filter(|bytes| bytes == id).count();
    assert!(given <= 2 * 100, "each update has the SPIFFE ID twice, and {given} arrived");
    is_served(&daemon);
}

/// Defence: `stream::updates` makes an update when the connection asks for one, and so keeps no queue. If updates are
/// made at once and queued, the daemon holds 30 MiB after ten of them. Latency is not measured here.
#[tokio::test(flavor = "multi_thread")]
async fn attack_75_callers_that_never_read_cost_one_update_each() {
    const READERS: usize = 2000;
    raise_descriptors();
    let limits = "[limits]\nconnections = 4000\nconnections_per_caller = 4000\n[svid]\nx509_ttl = \"30m\"\n";
    let daemon = Daemon::start(&format!("{limits}{}", me()));
    // INITIAL_WINDOW_SIZE = 0: not a byte of an answer can be sent.
    let closed = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), &request(1, None, &[])].concat();
    let slow = flood(&daemon, READERS, &closed);
    until_live(&daemon, READERS as u64);
    let before = resident(&daemon);
    let configuration = fs::read_to_string(daemon.configuration()).unwrap();
    let mut stream = client(&daemon).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    for round in 0..10 {
        let hint = format!("{round:01000}");
        fs::write(daemon.configuration(), format!("{configuration}hint = {hint:?}\n")).unwrap();
        assert!(daemon.ask(&["reload"]).status.success());
        while stream.message().await.unwrap().unwrap().svids[0].hint != hint {}
    }
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < READERS * 4, "{grown} KiB more after ten updates of two KiB for {READERS} readers");
    drop(slow);
    is_served(&daemon);
}

/// Defences: `EvidenceSet::to_keep` leaves out the groups that no entry can use; `Refusals` keeps at most 16 MiB. Without both,
/// these refusals take 50 MiB.
#[test]
fn attack_153_refusals_of_callers_with_nine_thousand_groups_take_little_memory() {
    let Some(node) = Node::start("attack_153_refusals_of_callers_with_nine_thousand_groups_take_little_memory") else {
        return;
    };
    let refused = |uid: u32| {
        let crowd = format!(
            "os.setgroups(range(100000, 109000)); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})\n\
             for _ in range(16):\n s = connect(); say(s, HELLO + request()); assert answered(s) == 'nothing'\n\
             print('refused', flush=True)"
        );
        assert_eq!(node.gets(&crowd), "refused");
    };
    refused(41_010);
    let before = resident(&node.daemon);
    (41_011..41_019).for_each(refused);
    let grown = resident(&node.daemon).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more");
    assert_eq!(node.gets(HONEST), "identity");
}

/// Defence: `DaemonLog::lets_through`. If it passes the HTTP/2 library's warnings, each of these frames is a log line.
#[test]
fn attack_79_no_http2_frame_of_a_client_writes_a_log_line() {
    let daemon = Daemon::start(&me());
    let answers_to_nothing = frame(PING, 1, 0, b"any text").repeat(400);
    assert_eq!(asked_first(&daemon, &answers_to_nothing), 3, "the honest request after them was not answered first");
    let log = daemon.log();
    assert!(log.contains("issued") && !log.contains("PING"), "{log}");
}
