//! The socket's name: who may have it, and what the daemon does when it is taken or lost (attacks 63 to 67).

use std::fs::Permissions;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bonafide::endpoints::transport::listener::Listener;
use bonafide::endpoints::transport::listener::NotBound;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::trusted_path::UntrustedPath;

use crate::asking::asking;
use crate::callers::FakeCallers;
use crate::door;

fn refused(path: &Path) -> NotBound {
    Listener::bind(path, 0o666).expect_err("the socket was bound")
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("workload.sock");
    (directory, socket)
}

fn open_to_others(directory: &Path) {
    std::fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
}

/// Attacks 67, 70: no abstract socket, nothing relative, nothing that is too long for a client.
#[tokio::test]
async fn only_an_absolute_path_of_at_most_107_bytes_is_a_socket() {
    for path in ["@bonafide", "workload.sock", "/run/../tmp/workload.sock", "/", "", "\0bonafide", "tcp://127.0.0.1:1"]
    {
        assert!(matches!(refused(Path::new(path)), NotBound::NotAbsolute { .. }), "{path:?}");
    }
    let (directory, _) = directory();
    let room = 107 - directory.path().as_os_str().len() - 1;
    assert!(matches!(refused(&directory.path().join("s".repeat(room + 1))), NotBound::PathTooLong { bytes: 108, .. }));
    drop(Listener::bind(&directory.path().join("s".repeat(room)), 0o666).unwrap());
}

#[tokio::test]
async fn the_mode_is_set_missing_directories_are_made_and_nothing_else_is_left() {
    let (directory, _) = directory();
    let path = directory.path().join("a/b/workload.sock");
    let listener = Listener::bind(&path, 0o600).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(directory.path().join("a/b").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    drop(listener);
    assert!(!path.exists());
}

/// Attack 63.
#[tokio::test]
async fn whatever_is_there_and_is_not_our_own_dead_socket_stays() {
    let (directory, path) = directory();
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(refused(&path), NotBound::NameTaken { .. }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    std::fs::remove_file(&path).unwrap();
    symlink(directory.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(refused(&path), NotBound::NameTaken { .. }));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(refused(&path), NotBound::NameTaken { .. }));
}

/// Attack 63, with a socket that another user made first.
#[tokio::test]
async fn a_socket_of_another_user_stays() {
    const TEST: &str = "a_socket_of_another_user_stays";
    let (_directory, path) = directory();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    if std::os::unix::fs::lchown(&path, Some(62_000), None).is_err() {
        return eprintln!("skipped: {TEST}: only root can give a file away");
    }
    assert!(matches!(refused(&path), NotBound::NameTaken { .. }));
}

fn refused_because(path: &Path) -> UntrustedPath {
    let NotBound::Replaceable { why, .. } = refused(path) else { panic!("refused for another reason") };
    why
}

/// Attack 64.
#[tokio::test]
async fn a_directory_that_others_could_exchange_refuses_the_start() {
    let (above, _) = directory();
    let real = above.path().join("real");
    std::fs::create_dir(&real).unwrap();
    open_to_others(&real);
    let UntrustedPath::WritableByOthers { mode, .. } = refused_because(&real.join("workload.sock")) else { panic!() };
    assert_eq!(mode, 0o777);
    assert!(matches!(refused_because(&real.join("below/workload.sock")), UntrustedPath::WritableByOthers { .. }));
    std::fs::set_permissions(&real, Permissions::from_mode(0o1777)).unwrap();
    let sticky = refused_because(&real.join("workload.sock"));
    assert!(matches!(sticky, UntrustedPath::WritableByOthers { .. }), "sticky, but not above: {sticky:?}");
}

/// Attack 64, with a link on the way, as `/var/run` is one.
#[tokio::test]
async fn a_socket_behind_a_link_of_root_or_the_daemon_is_bound_and_keeps_its_name() {
    let (above, _) = directory();
    let (real, link) = (above.path().join("real"), above.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let mut listener = Listener::bind(&link.join("below/workload.sock"), 0o666).unwrap();
    assert!(real.join("below/workload.sock").exists());
    std::fs::remove_dir_all(real.join("below")).unwrap();
    listener.keep_name().unwrap();
    assert!(real.join("below/workload.sock").exists());
    drop(listener);
    open_to_others(&real);
    let why = refused_because(&link.join("workload.sock"));
    assert!(matches!(why, UntrustedPath::WritableByOthers { .. }), "{why:?}");
}

/// Attack 64, with a link that another user can point elsewhere.
#[tokio::test]
async fn a_link_of_another_user_on_the_way_refuses_the_start() {
    const TEST: &str = "a_link_of_another_user_on_the_way_refuses_the_start";
    let (above, _) = directory();
    let link = above.path().join("link");
    std::fs::create_dir(above.path().join("real")).unwrap();
    symlink("real", &link).unwrap();
    if std::os::unix::fs::lchown(&link, Some(62_000), None).is_err() {
        return eprintln!("skipped: {TEST}: only root can give a file away");
    }
    let why = refused_because(&link.join("workload.sock"));
    assert!(matches!(why, UntrustedPath::ForeignOwner { owner: 62_000, .. }), "{why:?}");
}

/// Attack 65.
#[tokio::test]
async fn a_dead_socket_of_ours_is_replaced_and_a_living_one_is_not() {
    let (_directory, path) = directory();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Listener::bind(&path, 0o666).unwrap();
    assert!(matches!(refused(&path), NotBound::AlreadyServed { .. }));
    drop(first);
    drop(Listener::bind(&path, 0o666).unwrap());
}

#[tokio::test]
async fn only_the_inode_that_was_bound_is_removed_at_the_end() {
    let (_directory, path) = directory();
    let listener = Listener::bind(&path, 0o666).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another's").unwrap();
    drop(listener);
    assert!(path.exists());
}

#[tokio::test]
async fn a_socket_whose_name_was_deleted_is_bound_again_within_two_seconds() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    let mut open_since_before = door.client().await;
    std::fs::remove_dir_all(door.path.parent().unwrap()).unwrap();
    let back = async {
        while !door.path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::pause(); // a busy machine takes longer, and nothing here waits for it
    tokio::time::timeout(Duration::from_secs(2), back).await.expect("the name is gone");
    tokio::time::resume();
    for client in [&mut open_since_before, &mut door.client().await] {
        client.fetch_x509svid(asking(X509svidRequest {})).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_took_is_a_reason_not_to_be_ready() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    std::fs::remove_file(&door.path).unwrap();
    std::fs::write(&door.path, "another's").unwrap();
    let mut reasons = door.readiness.watch();
    let blocked =
        reasons.wait_for(|reasons| reasons.iter().any(|reason| reason.detail.contains("not the daemon's own")));
    tokio::time::timeout(Duration::from_secs(5), blocked).await.expect("no reason is given").unwrap();
    std::fs::remove_file(&door.path).unwrap();
    let cleared = reasons.wait_for(|reasons| reasons.is_empty());
    tokio::time::timeout(Duration::from_secs(5), cleared).await.expect("the name did not come back").unwrap();
}
