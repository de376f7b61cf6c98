//! What is on its way: from the moment when a codec opens it to the moment when its last byte has left.

use std::sync::Arc;
use std::time::Duration;

use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::entitlement::door::Connections as _;
use bonafide::entitlement::door::Secret;
use bonafide::entitlement::door::SecretGate;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::asking::asking;
use crate::callers::FakeCallers;
use crate::callers::update;
use crate::door;
use crate::http2::PING;
use crate::http2::calling;
use crate::http2::frame;
use crate::http2::hello;
use crate::kernel::FakeKernel;
use crate::kernel::FakeProcess;

const WEB: &str = "spiffe://example.org/web";
const SOON: Duration = Duration::from_secs(10);

fn token_request() -> JwtsvidRequest {
    JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: String::new() }
}

/// Waits until `callers` have made so many secrets, and none is on its way any more.
async fn sent(callers: &FakeCallers, secrets: usize) {
    let sent = async {
        while callers.secrets_made() < secrets || callers.secrets_on_their_way() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, sent).await.expect("a secret stays on its way");
}

#[tokio::test]
async fn a_secret_that_was_read_is_not_on_its_way_while_its_connection_lives_on() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut client = door.client().await;
    let mut stream = client.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    sent(&callers, 1).await;
    client.fetch_jwtsvid(asking(token_request())).await.unwrap();
    sent(&callers, 2).await;
    callers.change(Ok(update(&[WEB], 20 * 1024))); // more than one frame holds
    stream.message().await.unwrap().unwrap();
    sent(&callers, 3).await;
    assert_eq!(door.budgets.usage().connections, 1);
}

#[tokio::test]
async fn a_token_of_a_call_that_was_reset_is_not_on_its_way() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut client = UnixStream::connect(&door.path).await.unwrap();
    let call = calling("FetchJWTSVID", 1, None, &[], &token_request().encode_to_vec());
    let reset = frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    client.write_all(&[hello(), call, reset].concat()).await.unwrap();
    sent(&callers, 1).await;
    client.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"12345678") {
        assert_ne!(timeout(SOON, client.read_buf(&mut read)).await.unwrap().unwrap(), 0, "the connection was cut");
    }
}

#[tokio::test]
async fn what_is_opened_for_one_answer_does_not_leave_with_another() {
    let kernel = FakeKernel::new();
    let process = kernel.connect(&kernel.spawn(FakeProcess::default()));
    let gate = SecretGate::new(FakeCallers::holding(&[WEB]).admit(process).unwrap());
    let (first, second) = (gate.for_next_answer(), gate.for_next_answer());
    let secret = Arc::new(());
    Secret::new((), Box::new(Arc::clone(&secret))).open(&first);
    drop((gate.take_opened(), second.take_opened()));
    assert_eq!(Arc::strong_count(&secret), 2);
    drop(first.take_opened());
    assert_eq!(Arc::strong_count(&secret), 1);
}
