//! Requests that ask for more than they may, or cost more than they should, over the shipped daemon's socket.

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
use crate::transport::PATIENCE;
use crate::transport::is_served;
use crate::transport::me;
use crate::transport::refuses;

pub(crate) async fn client(daemon: &Daemon) -> SpiffeWorkloadApiClient<Channel> {
    let endpoint = Endpoint::try_from(format!("unix:{}", daemon.socket().display())).unwrap();
    SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap())
}

/// The first answer to a request for X.509 SVIDs.
pub(crate) async fn x509(daemon: &Daemon, request: Request<X509svidRequest>) -> Result<X509svidResponse, Status> {
    let mut stream = client(daemon).await.fetch_x509svid(request).await?.into_inner();
    stream.message().await.map(Option::unwrap)
}

/// The tokens for `audience` and `id`, which may be none in particular.
pub(crate) async fn tokens(daemon: &Daemon, audience: Vec<String>, id: &str) -> Result<Vec<[String; 2]>, Status> {
    let request = asking(JwtsvidRequest { audience, spiffe_id: id.to_owned() });
    let response = client(daemon).await.fetch_jwtsvid(request).await?;
    Ok(response.into_inner().svids.into_iter().map(|svid| [svid.spiffe_id, svid.svid]).collect())
}

/// On which stream the first data comes, when `attack` is said on stream 1 and an honest request on stream 3.
pub(crate) fn asked_first(daemon: &Daemon, attack: &[u8]) -> u32 {
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
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

/// Defences: `routes`, by `MAX_REQUEST`, without which the four MiB are decoded before they are refused;
/// `JwtQuestion::try_from`, without which there is a token for nine audiences; `AuthorityFilter::begin` and the
/// engine's header list, of which one is enough, and without both 64 KiB of metadata are served; prost's own depth,
/// which cannot be switched off.
#[tokio::test(flavor = "multi_thread")]
async fn attack_80_messages_and_metadata_that_are_too_large_or_too_deep_are_refused() {
    let daemon = Daemon::start(&me());
    let four_mebibytes = tokens(&daemon, vec!["a".repeat(200); (4 << 20) / 200], "").await;
    assert_eq!(four_mebibytes.unwrap_err().code(), Code::OutOfRange, "before anything is decoded");
    let nine = tokens(&daemon, vec!["a".to_owned(); 9], "").await.unwrap_err();
    assert_eq!(nine.code(), Code::InvalidArgument);
    let mut bomb = asking(X509svidRequest {});
    bomb.metadata_mut().insert("x", "a".repeat(64 * 1024).parse().unwrap());
    assert!(x509(&daemon, bomb).await.is_err());
    let groups_in_groups = [0x0b; 10_000];
    let answered = asked_first(&daemon, &request_with(1, None, &[], &groups_in_groups));
    assert_eq!(answered, 3, "the stream of a message ten thousand deep was answered");
    is_served(&daemon);
}

/// Defences: `passed_descriptors::refuse`, by which Linux 6.16 and later refuse the sender, and
/// `passcred::CredentialsOnly`. With the first returning early the second holds; with room for them, too, 2,500 descriptors
/// arrive.
#[test]
fn attack_81_descriptors_sent_along_never_reach_the_daemon() {
    let daemon = Daemon::start(&me());
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count);
    let Ok(before) = open() else {
        return eprintln!(
            "skipped: attack_81_descriptors_sent_along_never_reach_the_daemon: the daemon is closed to all but root"
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

/// Defence: no `accept_compressed` anywhere, and no decompressor in the binary: there is nothing to switch off.
#[tokio::test(flavor = "multi_thread")]
async fn attack_82_a_compressed_request_is_unimplemented() {
    let daemon = Daemon::start(&me());
    let mut compressed = asking(X509svidRequest {});
    compressed.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    assert_eq!(x509(&daemon, compressed).await.unwrap_err().code(), Code::Unimplemented);
    x509(&daemon, asking(X509svidRequest {})).await.unwrap();
}

/// Defence: `permits_for_tokens`, to which the id asked for is a filter. Without the filter whoever asks for another's
/// identity gets a token for its own.
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

/// Defence: `SpiffeId::from_str`, which decodes nothing. With any path passing, each is an id that nobody holds, and is
/// denied as one: nothing reads it as `/me`.
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

/// Defence: `policy::decide`, which gives a hint once and in the order of the entries. Without it two SVIDs are called
/// "internal".
#[tokio::test(flavor = "multi_thread")]
async fn attack_89_two_entries_with_one_hint_cannot_change_which_svid_it_names() {
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

/// Defences: `LeafWriter`, which knows one form, and `LintingKey::sign`, which reads every certificate with another's
/// parser before it signs. With a writer that says `CA:TRUE` nobody gets anything; with the lint returning early, too,
/// the leaf is an authority.
#[tokio::test(flavor = "multi_thread")]
async fn attack_97_a_leaf_is_no_authority_and_has_one_spiffe_id() {
    let daemon = Daemon::start(&format!("{}dns = [\"db.example.org\"]\n", me()));
    let given = x509(&daemon, asking(X509svidRequest {})).await.unwrap();
    let (rest, leaf) = X509Certificate::from_der(&given.svids[0].x509_svid).unwrap();
    assert!(rest.is_empty(), "more than the leaf");
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "{usage:?}");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let expected = [GeneralName::URI("spiffe://example.org/me"), GeneralName::DNSName("db.example.org")];
    assert!(names.critical && names.value.general_names == expected, "{names:?}");
    for name in ["spiffe://example.org/other", "db.example.org/", "a b", "b\\u0000", ""] {
        let ended = Daemon::end_behind(&[], &format!("{}dns = [\"{name}\"]\n", me()));
        refuses(&ended, "bonafide.toml:");
    }
}
