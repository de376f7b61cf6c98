//! A node with a remote signer that has one key per entry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bonafide::audit::Event;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use tokio::time::Instant;
use tokio::time::sleep;
use tonic::Code;

use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::ids;
use crate::node::workload;
use crate::remote_signer::ROUND_TRIP;
use crate::remote_signer::RemoteSigner;

const MINUTE: Duration = Duration::from_secs(60);

/// A node with a remote signer. Its SVIDs live for an hour.
fn node(tables: &str) -> (TestNode, Arc<RemoteSigner>) {
    let signer = RemoteSigner::start();
    (TestNode::with_authority(tables, signer.clone()), signer)
}

/// Opens the streams of so many processes at once, and reads one update from each. Process `n` has the uid `1000 + uid(n)`.
async fn open(node: &TestNode, streams: u32, uid: impl Fn(u32) -> u32) -> (Vec<Updates>, Vec<X509svidResponse>) {
    let process = |n| FakeProcess { uid: 1000 + uid(n), gid: 1000, ..FakeProcess::default() };
    let processes: Vec<_> = (0..streams).map(|n| node.kernel.spawn(process(n))).collect();
    let mut opened: Vec<_> = processes.iter().map(|process| node.workload_later(process)).collect();
    let mut updates = Vec::new();
    for stream in &mut opened {
        match stream.next().await {
            Seen::Update(update) => updates.push(update),
            end => panic!("{end:?}"),
        }
    }
    (opened, updates)
}

fn chains(updates: &[X509svidResponse]) -> BTreeSet<&[u8]> {
    updates.iter().map(|update| update.svids[0].x509_svid.as_ref()).collect()
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_thousand_entries_at_once_are_signed_for_in_four_calls() {
    let tables: String = (0..1000).map(|n| workload(&format!("/w{n}"), &[&format!("unix:uid:{}", 1000 + n)])).collect();
    let (node, signer) = node(&tables);
    let begun = Instant::now();
    let (_streams, updates) = open(&node, 1000, |n| n).await;
    let waited = begun.elapsed();
    for (n, update) in updates.iter().enumerate() {
        assert_eq!(ids(update), [format!("spiffe://example.org/w{n}")]);
    }
    assert_eq!(chains(&updates).len(), 1000);
    let calls = signer.calls();
    assert_eq!(calls.iter().sum::<usize>(), 1000);
    assert!(calls.len() <= 4, "{calls:?}");
    assert!(waited <= 4 * ROUND_TRIP, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn eight_hundred_streams_of_one_entry_share_the_svid_of_one_call() {
    let limits = "[limits]\nconnections_per_caller = 800\n";
    let (node, signer) = node(&(limits.to_owned() + &workload("/web", &["unix:uid:1000"])));
    let (_streams, updates) = open(&node, 800, |_| 0).await;
    assert_eq!(signer.calls(), [1]);
    assert_eq!(chains(&updates).len(), 1);
    let handed_over = |event| node.records.of_certificates(event).into_values().collect::<Vec<_>>();
    assert_eq!((handed_over(Event::Issued), handed_over(Event::Delivered)), (vec![1], vec![799]));
}

#[tokio::test(start_paused = true)]
async fn a_shared_svid_is_renewed_once_for_all_of_its_streams() {
    let (node, signer) = node(&workload("/web", &["unix:uid:1000"]));
    let (mut streams, first) = open(&node, 100, |_| 0).await;
    sleep(34 * MINUTE).await;
    let mut renewed = Vec::new();
    for stream in &mut streams {
        match stream.within(MINUTE).await {
            Some(Seen::Update(update)) => renewed.push(update),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((chains(&renewed).len(), signer.calls()), (1, vec![1, 1]));
    assert_ne!(chains(&renewed), chains(&first));
    sleep(20 * MINUTE).await;
    for stream in &mut streams {
        assert_eq!(stream.within(Duration::ZERO).await, None, "it was pushed once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_comes_back_unchanged_is_pushed_to_no_stream() {
    let (node, signer) = node(&workload("/web", &["unix:uid:1000"]));
    let (mut streams, _) = open(&node, 10, |_| 0).await;
    signer.goes_down();
    sleep(59 * MINUTE).await;
    for stream in &mut streams {
        assert_eq!(stream.within(Duration::ZERO).await, None);
    }
    let calls = signer.calls().len();
    assert!((10..60).contains(&calls), "{calls} calls");
    let recorded = |event| node.records.of_certificates(event).into_values().sum::<usize>();
    assert_eq!([Event::Issued, Event::Delivered, Event::Ended].map(recorded), [1, 9, 0]);
    for stream in &mut streams {
        assert_eq!(stream.within(2 * MINUTE).await, Some(Seen::End(Code::Unavailable)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_comes_back_renews_what_was_served_meanwhile() {
    let (node, signer) = node(&workload("/web", &["unix:uid:1000"]));
    let (mut streams, first) = open(&node, 10, |_| 0).await;
    signer.goes_down();
    sleep(40 * MINUTE).await;
    let (newcomers, late) = open(&node, 10, |_| 0).await;
    assert_eq!(chains(&late), chains(&first), "what is held is served to newcomers, too");
    streams.extend(newcomers);
    signer.comes_back();
    let mut renewed = Vec::new();
    for stream in &mut streams {
        match stream.within(2 * MINUTE).await {
            Some(Seen::Update(update)) => renewed.push(update),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(chains(&renewed).len(), 1);
    assert_ne!(chains(&renewed), chains(&first));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_nobody_held_before_gets_nothing_while_the_signer_is_down() {
    let (node, signer) = node(&workload("/web", &["unix:uid:1000"]));
    signer.goes_down();
    let process = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
    assert_eq!(node.workload(&process).await.next().await, Seen::End(Code::Unavailable));
    signer.comes_back();
    assert_eq!(node.workload(&process).await.ids().await, ["spiffe://example.org/web"]);
}
