//! The accept loop and its clocks, on in-memory pipes and a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bonafide::attestation::kernel::Process;
use bonafide::endpoints::transport::accept;
use bonafide::endpoints::transport::http2::Http2;
use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use bonafide::endpoints::workload_socket::WorkloadServices;
use bonafide::evidence::Credentials;
use bonafide::fairness::Budgets;
use bonafide::readiness::Readiness;
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::asking::asking;
use crate::callers::FakeCallers;
use crate::callers::FakeProcess;
use crate::callers::PANICS;
use crate::callers::update;
use crate::door;
use crate::http2;
use crate::pipes::Connected;
use crate::pipes::PipeDialer;
use crate::pipes::pipe_acceptor;

const WEB: &str = "spiffe://example.org/web";

/// How long a connection stays after GOAWAY when its client does not acknowledge PING.
const GRACE: u64 = 1;

/// A served acceptor, and the dialer to it. It ends with the runtime.
fn dialer() -> PipeDialer {
    dialer_of(FakeCallers::holding(&[WEB]))
}

fn dialer_of(callers: FakeCallers) -> PipeDialer {
    let (acceptor, dialer) = pipe_acceptor();
    let idle = door::limits().idle;
    let services = Arc::new(WorkloadServices::new(&Readiness::default(), move || idle).unwrap());
    let protocol = Http2 { connections: Arc::new(callers), services };
    tokio::spawn(accept::serve(acceptor, Budgets::new(door::limits()), CancellationToken::new(), protocol));
    dialer
}

fn process() -> Arc<dyn Process> {
    process_of(1000)
}

fn process_of(uid: u32) -> Arc<dyn Process> {
    Arc::new(FakeProcess(Credentials { pid: 7, uid, gid: 1000 }))
}

async fn client(dialer: &PipeDialer) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(dialer.connect(process()).channel().await)
}

/// How long the other side keeps the connection.
async fn kept(mut connected: Connected) -> Duration {
    let start = Instant::now();
    let _ = connected.bytes.read_to_end(&mut Vec::new()).await; // a broken pipe is an end, too
    start.elapsed()
}

fn about(expected: u64, measured: Duration) -> bool {
    (Duration::from_secs(expected)..Duration::from_secs(expected) + Duration::from_millis(100)).contains(&measured)
}

/// Attack 72.
#[tokio::test(start_paused = true)]
async fn the_accept_loop_rests_without_descriptors_and_serves_again_with_some() {
    let (dialer, start) = (dialer(), Instant::now());
    (0..100).for_each(|_| dialer.fail(libc::EMFILE));
    client(&dialer).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(5), "100 failures in {:?}: it spins", start.elapsed());
}

/// Attack 73.
#[tokio::test(start_paused = true)]
async fn a_connection_has_five_seconds_for_its_first_request() {
    let dialer = dialer();
    assert!(about(5, kept(dialer.connect(process())).await));
    let mut halfway = dialer.connect(process());
    halfway.bytes.write_all(&http2::hello()).await.unwrap();
    assert!(about(5, kept(halfway).await));
}

/// A connection whose only stream its client has cancelled.
async fn idle(dialer: &PipeDialer) -> Connected {
    let mut idle = dialer.connect(process());
    let request = http2::request(1, None, &[]);
    let cancel = http2::frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    idle.bytes.write_all(&[http2::hello(), request, cancel].concat()).await.unwrap();
    idle
}

#[tokio::test(start_paused = true)]
async fn a_connection_stays_for_two_minutes_without_a_stream() {
    assert!(about(120 + GRACE, kept(idle(&dialer()).await).await));
}

async fn in_time<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), waited_for).await.expect("it never ends")
}

/// Attack 154.
#[tokio::test(start_paused = true)]
async fn a_stream_that_needs_no_identity_ends_after_two_minutes_and_a_workloads_stays() {
    let dialer = dialer();
    let mut svids = client(&dialer).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    svids.message().await.unwrap().unwrap();
    let start = Instant::now();
    for service in ["", "nobody's"] {
        let mut health = HealthClient::new(dialer.connect(process()).channel().await);
        let question = HealthCheckRequest { service: service.to_owned() };
        let mut watch = health.watch(question).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        let since = Instant::now();
        assert_eq!(in_time(watch.message()).await.unwrap_err().code(), Code::Unavailable);
        assert!(about(120, since.elapsed()), "{:?}", since.elapsed());
    }
    let mut reflection = ServerReflectionClient::new(dialer.connect(process()).channel().await);
    let unending = tokio_stream::pending::<ServerReflectionRequest>();
    let mut answers = reflection.server_reflection_info(unending).await.unwrap().into_inner();
    assert_eq!(in_time(answers.message()).await.unwrap_err().code(), Code::Unavailable);
    assert!(about(360, start.elapsed()), "{:?}", start.elapsed());
    assert!(svids.message().now_or_never().is_none(), "a stream of the Workload API ended");
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_streams_ended_after_idle_closes_as_any_other() {
    let dialer = dialer();
    let watch =
        [http2::beginning("/grpc.health.v1.Health/Watch", 1), http2::frame(kind::DATA, kind::END_STREAM, 1, &[0; 5])]
            .concat();
    let endless = http2::beginning("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 1);
    for call in [watch, endless] {
        let mut calling = dialer.connect(process());
        calling.bytes.write_all(&[http2::hello(), call].concat()).await.unwrap();
        let kept = in_time(kept(calling)).await;
        assert!(about(120 + 120 + GRACE, kept), "{kept:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_ended_after_idle_make_room_although_their_callers_never_end_them() {
    let channel = dialer().connect(process()).channel().await;
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut all = Vec::new();
    for _ in 0..door::limits().streams_per_connection {
        let unending = tokio_stream::pending::<ServerReflectionRequest>();
        all.push(reflection.server_reflection_info(unending).await.unwrap().into_inner());
    }
    for answers in &mut all {
        assert_eq!(in_time(answers.message()).await.unwrap_err().code(), Code::Unavailable);
    }
    in_time(HealthClient::new(channel).check(HealthCheckRequest::default())).await.unwrap();
}

/// The payload of the next frame of this kind.
async fn next(kind: u8, bytes: &mut DuplexStream) -> Vec<u8> {
    loop {
        let mut header = [0; 9];
        bytes.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        bytes.read_exact(&mut payload).await.unwrap();
        if header[3] == kind {
            return payload;
        }
    }
}

/// A connection that was idle for two minutes, and the acknowledgement of the PING that came with GOAWAY: not sent yet.
async fn going_away(dialer: &PipeDialer) -> (DuplexStream, Vec<u8>) {
    let (start, mut bytes) = (Instant::now(), idle(dialer).await.bytes);
    let goaway = next(http2::GOAWAY, &mut bytes).await;
    assert_eq!(goaway, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "every stream will be served, and there is no error");
    assert!(about(120, start.elapsed()));
    let ping = next(http2::PING, &mut bytes).await;
    (bytes, http2::frame(http2::PING, http2::ACK, 0, &ping))
}

/// SPEC: RFC 9113 §6.8.
#[tokio::test(start_paused = true)]
async fn a_request_that_crosses_goaway_on_the_wire_is_answered() {
    let (mut bytes, acknowledgement) = going_away(&dialer()).await;
    let sent = Instant::now();
    let message = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: String::new() }.encode_to_vec();
    let request = http2::calling("FetchJWTSVID", 3, None, &[], &message);
    bytes.write_all(&[request, acknowledgement].concat()).await.unwrap();
    let mut rest = Vec::new();
    bytes.read_to_end(&mut rest).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("token-for-ledger"), "{}", String::from_utf8_lossy(&rest));
    assert!(about(0, sent.elapsed()), "the connection stays after its last answer");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_crosses_goaway_on_the_wire_is_served_until_it_ends() {
    let callers = FakeCallers::holding(&[WEB]);
    let (mut bytes, acknowledgement) = going_away(&dialer_of(callers.clone())).await;
    bytes.write_all(&[http2::request(3, None, &[]), acknowledgement].concat()).await.unwrap();
    next(kind::DATA, &mut bytes).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    callers.change(Ok(update(&[WEB], 1)));
    next(kind::DATA, &mut bytes).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_message_never_comes_is_answered_after_half_a_minute() {
    let mut halfway = dialer().connect(process());
    let request = http2::request(1, None, &[]);
    let header_only = &request[..request.len() - 14];
    halfway.bytes.write_all(&[&http2::hello(), header_only].concat()).await.unwrap();
    assert!(about(30 + 120 + GRACE, kept(halfway).await), "answered, and then idle");
}

/// Attack 84.
#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_own_connection_and_no_other() {
    let dialer = dialer();
    let (mut theirs, mut ours) = (client(&dialer).await, client(&dialer).await);
    let mut stream = ours.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    let crafted = ValidateJwtsvidRequest { audience: "a".to_owned(), svid: PANICS.to_owned() };
    assert_ne!(theirs.validate_jwtsvid(asking(crafted)).await.unwrap_err().code(), Code::Ok);
    stream.message().await.unwrap().unwrap();
    client(&dialer).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_who_took_over_the_connection_is_cut() {
    let mut taken = dialer().connect(process());
    taken.bytes.write_all(&http2::hello()).await.unwrap();
    taken.bytes.read_u8().await.unwrap();
    taken.writer.lock().unwrap().pid = 8;
    taken.bytes.write_all(&http2::request(1, None, &[])).await.unwrap();
    assert_eq!(kept(taken).await, Duration::ZERO);
}

/// Attack 71.
#[tokio::test(start_paused = true)]
async fn a_flood_of_connections_by_one_user_leaves_another_user_served() {
    let dialer = dialer();
    let flood: Vec<_> = (0..2000).map(|_| dialer.connect(process_of(1000))).collect();
    let mut other = SpiffeWorkloadApiClient::new(dialer.connect(process_of(1001)).channel().await);
    other.fetch_x509svid(asking(X509svidRequest {})).await.unwrap();
    drop(flood);
}
