//! How connections end: by the caller, by the daemon, by a clock, by a limit.

use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::entitlement::door::Ended;
use bonafide::fairness::Limits;
use tokio::time::timeout;
use tonic::Code;
use tonic::Streaming;

use crate::asking::asking;
use crate::callers::DECISION;
use crate::callers::FakeCallers;
use crate::callers::update;
use crate::door;
use crate::door::Door;

const WEB: &str = "spiffe://example.org/web";
const SOON: Duration = Duration::from_secs(10);

async fn streaming(door: &Door) -> Streaming<X509svidResponse> {
    let mut stream = door.client().await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream
}

/// Waits until the door holds nothing any more.
async fn emptied(door: &Door) {
    let empty = async {
        while door.budgets.usage().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, empty).await.expect("a connection stays open");
    assert_eq!(door.budgets.usage().streams, 0);
}

/// Reads until the other side closes; what came before.
async fn until_closed(mut socket: UnixStream) -> Vec<u8> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes); // a reset is an end, too
        bytes
    });
    timeout(SOON, read).await.expect("the connection stays open").unwrap()
}

#[tokio::test]
async fn a_stop_ends_streams_with_unavailable_and_removes_the_name() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut stream = streaming(&door).await;
    callers.end(Ended::Stopping);
    door.stop.cancel();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    timeout(SOON, door.served).await.unwrap().unwrap();
    assert!(!door.path.exists());
}

#[tokio::test]
async fn a_stream_that_will_not_end_is_cut_at_the_drain_limit() {
    let door = door::open(&FakeCallers::holding(&[WEB]), Limits { drain: Duration::from_millis(20), ..door::limits() });
    let mut stream = streaming(&door).await;
    door.stop.cancel();
    timeout(SOON, door.served).await.expect("the drain limit holds").unwrap();
    assert!(stream.message().await.is_err());
}

#[tokio::test]
async fn the_exit_of_the_process_ends_its_connection() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut stream = streaming(&door).await;
    callers.end(Ended::Denied(DECISION));
    assert_eq!(stream.message().await.unwrap_err().code(), Code::PermissionDenied);
    emptied(&door).await;
}

#[tokio::test]
async fn no_key_leaves_for_a_process_that_became_another_program() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut stream = streaming(&door).await;
    callers.change_image();
    callers.change(Ok(update(&[WEB], 1)));
    let cut = stream.message().await.unwrap_err();
    assert_ne!(cut.code(), Code::Ok, "{cut:?}");
    emptied(&door).await;
    assert!(callers.writers_checked() > 0);
}

/// WEP-02, attack 69: whatever is not HTTP/2 is cut before the engine sees it.
#[tokio::test]
async fn http_1_and_tls_are_closed_without_an_answer() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    for hello in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut socket = UnixStream::connect(&door.path).unwrap();
        socket.write_all(hello).unwrap();
        let answer = until_closed(socket).await;
        assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
    }
    emptied(&door).await;
}

#[tokio::test]
async fn a_client_that_never_asks_is_closed() {
    let quick = Limits { first_request: Duration::from_millis(20), ..door::limits() };
    let door = door::open(&FakeCallers::holding(&[WEB]), quick);
    until_closed(UnixStream::connect(&door.path).unwrap()).await;
    let mut half = UnixStream::connect(&door.path).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    until_closed(half).await;
    emptied(&door).await;
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_and_one_with_a_stream_is_not() {
    let quick = Limits { idle: Duration::from_millis(20), ..door::limits() };
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, quick);
    let mut stays = streaming(&door).await;
    let mut idle = door.client().await; // held, so that it is not the client who closes
    drop(idle.fetch_x509svid(asking(X509svidRequest {})).await.unwrap());
    let one_left = async {
        while door.budgets.usage().connections > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, one_left).await.expect("the idle connection stays");
    callers.change(Ok(update(&[WEB], 1)));
    stays.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_over_its_budget_is_closed_at_once_and_served_later() {
    let door = door::open(
        &FakeCallers::holding(&[WEB]),
        Limits { connections: 8, connections_per_caller: 2, ..door::limits() },
    );
    let held = [streaming(&door).await, streaming(&door).await];
    assert_eq!(until_closed(UnixStream::connect(&door.path).unwrap()).await, b"");
    assert_eq!(door.budgets.usage().refused, 1);
    drop(held);
    emptied(&door).await;
    streaming(&door).await;
}
