//! Floods: more connections, streams and unread answers than one caller may have, against the shipped daemon.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::X509svidRequest;
use rustix::process::Resource;
use rustix::process::Rlimit;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::http2::PREFACE;
use crate::http2::SETTINGS;
use crate::http2::frame;
use crate::http2::hello;
use crate::http2::request;
use crate::node::HONEST;
use crate::node::Node;
use crate::requests::client;
use crate::requests::with_header;
use crate::transport::PATIENCE;
use crate::transport::answer_to;
use crate::transport::is_served;
use crate::transport::me;

/// Room for thousands of connections, here and, by inheritance, in the daemon.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// As many connections of ours that say this and never read; those that the daemon has cut already are among them.
fn flood(daemon: &Daemon, connections: usize, says: &[u8]) -> Vec<UnixStream> {
    let connect = |_| {
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        let _ = client.write_all(says); // the daemon may have cut already
        client
    };
    (0..connections).map(connect).collect()
}

/// Processor time that the daemon has used.
fn used(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
}

/// The daemon's memory in KiB.
fn resident(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until the status counts this many X.509-SVIDs in workloads' hands.
fn until_live(daemon: &Daemon, count: u64) {
    let begun = Instant::now();
    loop {
        let status = daemon.ask(&["status", "-o", "json"]).stdout;
        let live = serde_json::from_slice::<serde_json::Value>(&status).unwrap()["identities"]["live"].as_u64();
        if live.unwrap() >= count {
            return;
        }
        assert!(begun.elapsed() < PATIENCE * 3, "{live:?} of {count}");
    }
}

/// Defence: `Budgets::connection`, by which one user has half of the door at most. Latency is not looked at here.
#[test]
fn attack_71_beside_two_thousand_connections_of_one_user_another_is_served() {
    raise_descriptors();
    let Some(node) = Node::start_behind("attack_71", &[], "[limits]\nconnections = 2000\n") else { return };
    let flooded = flood(&node.daemon, 2000, &[hello(), request(1, None, &[])].concat());
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    drop(flooded);
    assert_eq!(node.gets(HONEST), "identity");
}

/// Defence: `Limits::most_connections`, which keeps descriptors back, so that whoever is connected can be looked at again.
/// Behind it stand `accept::admit`, which closes a connection whose process finds no descriptor, and
/// `UnixDoor::turn_one_away` where there is none for the connection either.
#[tokio::test(flavor = "multi_thread")]
async fn attack_72_without_descriptors_streams_go_on_newcomers_are_turned_away_and_nothing_spins() {
    let few = ["/bin/sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    let limits = "[limits]\nconnections = 1000\nconnections_per_caller = 1000\n";
    let daemon = Daemon::start_behind(&few, &format!("{limits}{}", me()));
    let mut stream = client(&daemon).await.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let flooded = flood(&daemon, 200, &[hello(), request(1, None, &[])].concat());
    let turned_away = || {
        let answered = answer_to(&daemon.socket(), &[hello(), request(1, None, &[])].concat());
        assert!(!answered.windows(9).any(|bytes| bytes == b"spiffe://"), "a newcomer found a descriptor");
    };
    turned_away();
    let (begun, before) = (Instant::now(), used(&daemon));
    let renewed = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a renewal").unwrap().unwrap();
    let (elapsed, spent) = (begun.elapsed(), used(&daemon) - before);
    assert_eq!(renewed.svids.len(), 1);
    assert!(spent < elapsed.max(Duration::from_secs(1)) / 2, "{spent:?} of {elapsed:?}");
    drop(flooded);
    let begun = Instant::now();
    while !daemon.ask(&["fetch", "x509"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "it does not recover");
    }
}

/// Defence: `connection::engine`, by the limit on streams, and `FrameBudget`.
#[test]
fn attack_74_of_ten_thousand_streams_no_more_than_a_hundred_are_open() {
    let daemon = Daemon::start(&me());
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let streams: Vec<u8> = (0..10_000).flat_map(|number| request(2 * number + 1, None, &[])).collect();
    let mut ours = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || ours.write_all(&[hello(), streams].concat()));
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer); // a reset is an end, too
    assert!(writer.join().unwrap().is_err(), "all ten thousand were taken");
    assert!(answer.windows(28).filter(|bytes| bytes.starts_with(b"spiffe://example.org/me")).count() <= 200);
    is_served(&daemon);
}

/// Defence: the streams' updates are a latest value, never a queue. Latency is not looked at here.
#[tokio::test(flavor = "multi_thread")]
async fn attack_75_two_thousand_callers_that_never_read_cost_one_update_each() {
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
    let mut stream = client(&daemon).await.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
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
