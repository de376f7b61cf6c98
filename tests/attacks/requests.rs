//! Requests for another's identity, and requests that are too expensive, over the shipped daemon's socket.

use std::fs;
use std::io::IoSlice;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use bonafide::endpoints::transport::http2::frames::FRAME_HEADER;
use bonafide::endpoints::transport::http2::frames::FrameHeader;
use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use nix::errno::Errno;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use tonic::Code;
use tonic::Request;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::http2::PREFACE;
use crate::http2::hello;
use crate::http2::request;
use crate::http2::request_with;
use crate::transport::TIMEOUT;
use crate::transport::is_served;
use crate::transport::me;
use crate::transport::refuses;

pub(crate) async fn client(daemon: &Daemon) -> SpiffeWorkloadApiClient<Channel> {
    let endpoint = Endpoint::try_from(format!("unix:{}", daemon.socket().display())).unwrap();
    SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap())
}

/// The first response to a FetchX509SVID request.
pub(crate) async fn x509(daemon: &Daemon, request: Request<X509svidRequest>) -> Result<X509svidResponse, Status> {
    let mut stream = client(daemon).await.fetch_x509svid(request).await?.into_inner();
    stream.message().await.map(Option::unwrap)
}

/// The JWT-SVIDs for `audience` and `id`; an empty `id` selects all.
pub(crate) async fn tokens(daemon: &Daemon, audience: Vec<String>, id: &str) -> Result<Vec<[String; 2]>, Status> {
    let request = asking(JwtsvidRequest { audience, spiffe_id: id.to_owned() });
    let response = client(daemon).await.fetch_jwtsvid(request).await?;
    Ok(response.into_inner().svids.into_iter().map(|svid| [svid.spiffe_id, svid.svid]).collect())
}

/// The stream of the first DATA frame, when `attack` is sent on stream 1 and an honest request on stream 3.
pub(crate) fn asked_first(daemon: &Daemon, attack: &[u8]) -> u32 {
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.write_all(&[&hello(), attack, &request(3, None, &[])].concat()).unwrap();
    loop {
        let mut header = [0; FRAME_HEADER];
        client.read_exact(&mut header).unwrap();
        let header = FrameHeader::parse(header);
        client.read_exact(&mut vec![0; header.length]).unwrap();
        if header.kind == kind::DATA {
            return header.stream;
        }
    }
}

/// Defences: `grpc::message` applies the limit of the call; without it the four MiB are decoded before they are refused.
/// `JwtQuestion::try_from` limits the audiences; without it there is a token for seventeen. `AuthorityFilter::begin` and the
/// HTTP/2 library's header list limit are each enough; without both 64 KiB of metadata are served. The recursion limit
/// of prost cannot be switched off.
#[tokio::test(flavor = "multi_thread")]
async fn attack_80_too_large_or_too_deep_messages_and_metadata_are_refused() {
    let daemon = Daemon::start(&me());
    let four_mebibytes = tokens(&daemon, vec!["a".repeat(200); (4 << 20) / 200], "").await;
    assert_eq!(four_mebibytes.unwrap_err().code(), Code::OutOfRange, "the message was decoded");
    let seventeen = tokens(&daemon, vec!["a".to_owned(); 17], "").await.unwrap_err();
    assert_eq!(seventeen.code(), Code::InvalidArgument);
    let mut bomb = asking(X509svidRequest {});
    bomb.metadata_mut().insert("x", "a".repeat(64 * 1024).parse().unwrap());
    assert!(x509(&daemon, bomb).await.is_err());
    let groups_in_groups = [0x0b; 10_000];
    let answered = asked_first(&daemon, &request_with(1, None, &[], &groups_in_groups));
    assert_eq!(answered, 3, "a message of ten thousand nested groups was answered");
    is_served(&daemon);
}

/// Defences: `passed_descriptors::refuse` makes Linux 6.16 and later refuse the `sendmsg`; `passcred::CredentialsOnly`
/// has no room for descriptors. If the first returns early, the second holds. If both fail, 2,500 descriptors arrive.
#[test]
fn attack_81_descriptors_passed_as_scm_rights_never_reach_the_daemon() {
    let daemon = Daemon::start(&me());
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count);
    let Ok(before) = open() else {
        return eprintln!(
            "skipped: attack_81_descriptors_passed_as_scm_rights_never_reach_the_daemon: the daemon is closed to all but root"
        );
    };
    let senders: Vec<_> = (0..10).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    for sender in &senders {
        let passed = [sender.as_raw_fd(); 253];
        let (rights, parts) = ([ControlMessage::ScmRights(&passed)], [IoSlice::new(PREFACE)]);
        let sent = nix::sys::socket::sendmsg::<()>(sender.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None);
        assert!(matches!(sent, Ok(_) | Err(Errno::EPERM)), "{sent:?}");
    }
    is_served(&daemon);
    let after = open().unwrap();
    assert!(after < before + 100, "{after} descriptors, {before} before");
}

/// Defence: no service calls `accept_compressed`, and the binary contains no decompressor, so there is no check to
/// skip.
#[tokio::test(flavor = "multi_thread")]
async fn attack_82_a_compressed_request_is_unimplemented() {
    let daemon = Daemon::start(&me());
    let mut compressed = asking(X509svidRequest {});
    compressed.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    assert_eq!(x509(&daemon, compressed).await.unwrap_err().code(), Code::Unimplemented);
    x509(&daemon, asking(X509svidRequest {})).await.unwrap();
}

/// Defence: `permits_for_tokens` filters the permits by the requested SPIFFE ID. Without the filter the caller gets a
/// token for its own identity.
#[tokio::test(flavor = "multi_thread")]
async fn attack_85_asking_for_the_identity_of_another_gives_none() {
    let other = "[[workload]]\nid = \"/other\"\nselectors = [\"unix:uid:41000\"]\n";
    let daemon = Daemon::start(&(me() + other));
    let ledger = || vec!["ledger".to_owned()];
    for id in ["spiffe://example.org/other", "spiffe://example.org/none", "spiffe://partner.test/me"] {
        let refused = tokens(&daemon, ledger(), id).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{id}");
    }
    for id in ["", "spiffe://example.org/me"] {
        let given = tokens(&daemon, ledger(), id).await.unwrap();
        assert_eq!(given.iter().map(|[id, _]| id.as_str()).collect::<Vec<_>>(), ["spiffe://example.org/me"]);
    }
}

/// Defence: `SpiffeId::from_str` decodes nothing. If it accepts any path, each id is one without an entry and is
/// denied; no code reads it as `/me`.
#[tokio::test(flavor = "multi_thread")]
async fn attack_86_another_spelling_of_an_id_is_no_id() {
    let daemon = Daemon::start(&me());
    for path in ["/me/", "//me", "/./me", "/x/../me", "/%6de", "/m\u{e9}", "/me?x", "/me#x", ":80/me", "", "/me\0"] {
        let id = format!("spiffe://example.org{path}");
        let refused = tokens(&daemon, vec!["ledger".to_owned()], &id).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{id}");
    }
    for id in
        ["spiffe://EXAMPLE.org/me", "spiffe:/example.org/me", "https://example.org/me", "spiffe://u@example.org/me"]
    {
        let refused = tokens(&daemon, vec!["ledger".to_owned()], id).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{id}");
    }
    tokens(&daemon, vec!["ledger".to_owned()], "spiffe://example.org/me").await.unwrap();
}

/// Defence: `policy::decide` gives each hint once, to the first entry in order. Without it two SVIDs have the hint
/// "internal".
#[tokio::test(flavor = "multi_thread")]
async fn attack_89_a_hint_that_two_entries_share_names_the_first_svid() {
    let uid = nix::unistd::getuid();
    let entry =
        |id, hint| format!("[[workload]]\nid = \"/{id}\"\nselectors = [\"unix:uid:{uid}\"]\nhint = \"{hint}\"\n");
    let daemon = Daemon::start(&[entry("b", "internal"), entry("a", "internal"), entry("c", "external")].concat());
    for _ in 0..5 {
        let given = x509(&daemon, asking(X509svidRequest {})).await.unwrap().svids;
        let named: Vec<_> = given.iter().map(|svid| (&svid.spiffe_id[20..], &*svid.hint)).collect();
        assert_eq!(named, [("/b", "internal"), ("/a", ""), ("/c", "external")]);
    }
}

/// Defences: `LeafWriter` writes one form of certificate; `LintingKey::sign` parses each certificate with another
/// library before it signs. If the writer sets `CA:TRUE`, no SVID is issued. If the lint returns early, too, the leaf
/// is a CA.
#[tokio::test(flavor = "multi_thread")]
async fn attack_97_a_leaf_is_no_authority_and_has_one_spiffe_id() {
    let daemon = Daemon::start(&format!("{}dns = [\"db.example.org\"]\n", me()));
    let given = x509(&daemon, asking(X509svidRequest {})).await.unwrap();
    let (rest, leaf) = X509Certificate::from_der(&given.svids[0].x509_svid).unwrap();
    assert!(rest.is_empty(), "the chain is longer than the leaf");
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "{usage:?}");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let expected = [GeneralName::URI("spiffe://example.org/me"), GeneralName::DNSName("db.example.org")];
    assert!(!names.critical && names.value.general_names == expected, "{names:?}");
    assert_eq!(leaf.subject().to_string(), "CN=db.example.org");
    for name in ["spiffe://example.org/other", "db.example.org/", "a b", "b\\u0000", ""] {
        let ended = Daemon::end_behind(&[], &format!("{}dns = [\"{name}\"]\n", me()));
        refuses(&ended, "bonafide.toml:");
    }
}
