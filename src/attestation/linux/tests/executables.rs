//! The path and the hash of real files, and how long they stay proven.

use std::os::unix::fs::chown;
use std::path::PathBuf;

use aws_lc_rs::digest;

use super::*;
use crate::evidence::Fact;
use crate::evidence::Grade;
use crate::evidence::Source;
use crate::evidence::WithheldBecause;
use crate::registration::Entry;
use crate::registration::EntryIndex;

#[tokio::test]
async fn path_and_hash_are_not_read_when_no_entry_wants_them() {
    let Some(host) = test_host("path_and_hash_are_not_read_when_no_entry_wants_them") else { return };
    let (_client, pinned) = host.connect_self();
    let attested = host.attestor.attest(&pinned, &|_| Providers::new(), &Accounts::default()).unwrap().proof;
    for provider in [Provider::PATH, Provider::SHA256] {
        assert_eq!(attested.evidence().answer_of(&provider), None);
    }
}

#[tokio::test]
async fn a_file_is_not_hashed_when_the_path_of_the_entry_differs() {
    let Some(host) = test_host("a_file_is_not_hashed_when_the_path_of_the_entry_differs") else { return };
    let (_client, pinned) = host.connect_self();
    let sha256 = format!("unix:sha256:{}", "ab".repeat(32));
    let beside_another_path = Entry::example(0, "/web", &["unix:path:/nowhere", &sha256]);
    let index = EntryIndex::new(vec![beside_another_path]);
    let attested = host.attestor.attest(&pinned, &|evidence| index.wants(evidence), &Accounts::default());
    let attested = attested.unwrap().proof;
    assert!(attested.evidence().answer_of(&Provider::PATH).is_some());
    assert_eq!(attested.evidence().answer_of(&Provider::SHA256), None);
}

#[tokio::test]
async fn a_bind_mount_over_the_executable_withholds_the_path() {
    const TEST: &str = "a_bind_mount_over_the_executable_withholds_the_path";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    let path = format!("unix:path:{}", python.display());
    let private = "mount --bind /etc /etc && mount -o remount,ro,bind /etc && exec \"$@\"";
    let private_mounts = host.connect(&["unshare", "-m", "sh", "-c", private, "sh"], "", "");
    assert!(host.selectors(&private_mounts).await.unwrap().contains(&path));
    let copy = host.folder.path().join("copy");
    std::fs::copy(&python, &copy).unwrap();
    let over = format!("mount --bind {} {} && exec \"$@\"", copy.display(), python.display());
    let bind_mounted = host.connect(&["unshare", "-m", "sh", "-c", &over, "sh"], "", "");
    let attested = host.attest(&bind_mounted.pinned).await.unwrap();
    let because = attested.evidence().withheld_because(SelectorKind::UnixPath);
    assert_eq!(because, Some(WithheldBecause::PathIsAnotherFile));
}

#[tokio::test]
async fn a_process_in_its_own_user_namespace_has_no_path_hash_or_host() {
    const TEST: &str = "a_process_in_its_own_user_namespace_has_no_path_hash_or_host";
    let Some(host) = test_host(TEST) else { return };
    let peer = host.connect(&["unshare", "-Ur"], "", "");
    let attested = host.attest(&peer.pinned).await.unwrap();
    for kind in [SelectorKind::UnixPath, SelectorKind::UnixSha256, SelectorKind::UnixUser] {
        let because = attested.evidence().withheld_because(kind);
        assert_eq!(because, Some(WithheldBecause::ForeignUserNamespace), "{kind:?}");
    }
    assert!(!attested.evidence().holds(&Selector::Host));
}

#[tokio::test]
async fn the_hash_of_a_file_that_the_caller_owns_is_withheld_except_for_root() {
    const TEST: &str = "the_hash_of_a_file_that_the_caller_owns_is_withheld_except_for_root";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    let own = host.folder.path().join("own");
    std::fs::copy(&python, &own).unwrap();
    std::os::unix::fs::chown(&own, Some(1000), None).unwrap();
    let owned = format!("exec -a python3 {} \"${{@:2}}\"", own.display());
    let caller = host.connect(&["bash", "-c", &owned, "bash"], AS_USER, "");
    let because = host.attest(&caller.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256);
    assert_eq!(because, Some(WithheldBecause::WritableByCaller));
    let root = host.connect(&["bash", "-c", &owned, "bash"], "", "");
    let bytes = digest::digest(&digest::SHA256, &std::fs::read(&own).unwrap());
    let hash = Selector::UnixSha256(bytes.as_ref().try_into().unwrap());
    assert!(host.attest(&root.pinned).await.unwrap().evidence().holds(&hash));
}

#[tokio::test]
async fn the_hash_of_a_file_on_an_overlay_counts_only_for_root() {
    const TEST: &str = "the_hash_of_a_file_on_an_overlay_counts_only_for_root";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    // A tmpfs can be the upper layer of an overlay on every machine.
    let mount = format!(
        "cd {} && mkdir -p m && mount -t tmpfs none m && cd m && mkdir l u w o && cp {} l/python3 && chmod -R a+rX . && \
         mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w o && cd / && exec -a python3 {}/m/o/python3 \"${{@:2}}\"",
        host.folder.path().display(),
        python.display(),
        host.folder.path().display(),
    );
    let through = ["unshare", "-m", "bash", "-c", &mount, "bash"];
    let user = host.connect(&through, AS_USER, "");
    let because = host.attest(&user.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256);
    assert_eq!(because, Some(WithheldBecause::ForeignFileSystem));
    drop(user);
    let root = host.connect(&through, "", "");
    assert_eq!(host.attest(&root.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256), None);
}

/// A copy of the interpreter, which runs as a user.
struct Program {
    path: PathBuf,
    caller: TestCaller,
}

/// The facts about an executable.
async fn of_executable(host: &TestHost, pinned: &PinnedProcess) -> Vec<Fact> {
    let attested = host.attest(pinned).await.unwrap();
    attested.evidence().facts().iter().filter(|fact| fact.selector.is_of_executable()).cloned().collect()
}

impl Program {
    /// Starts the program, whose file `owner` owns.
    fn start(host: &TestHost, owner: u32) -> Self {
        let path = host.folder.path().join("web");
        std::fs::copy(std::fs::canonicalize(PYTHON).unwrap(), &path).unwrap();
        chown(&path, Some(owner), None).unwrap();
        let exec = format!("exec -a python3 {} \"${{@:2}}\"", path.display());
        let caller = host.connect(&["bash", "-c", &exec, "bash"], AS_USER, "");
        Self { path, caller }
    }

    /// Unpacks another version beside the file and renames it over the file, as package managers do. The old file keeps a
    /// second name.
    fn unpack_new_version(&self) {
        std::fs::copy("/bin/sh", self.path.with_extension("new")).unwrap();
        std::fs::hard_link(&self.path, self.path.with_extension("old")).unwrap();
        std::fs::rename(self.path.with_extension("new"), &self.path).unwrap();
    }

    /// Removes the second name.
    fn remove_old_version(&self) {
        std::fs::remove_file(self.path.with_extension("old")).unwrap();
    }

    fn path(&self) -> Selector {
        Selector::path(self.path.to_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_program_that_is_replaced_keeps_its_path_and_hash_on_every_connection_of_its_image() {
    const TEST: &str = "a_program_that_is_replaced_keeps_its_path_and_hash_on_every_connection_of_its_image";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let program = Program::start(&host, 0);
    let first = &program.caller.pinned;
    let before = of_executable(&host, first).await;
    let grades: Vec<_> = before.iter().map(|fact| (fact.grade, fact.source)).collect();
    assert_eq!(grades, [(Grade::Claimed, Source::Executable), (Grade::Claimed, Source::ExecutableBytes)]);
    assert_eq!(before[0].selector, program.path());
    let kept = [Fact { source: Source::EarlierProof, ..before[0].clone() }, before[1].clone()];
    program.unpack_new_version();
    assert_eq!(of_executable(&host, first).await, kept, "the old file has another name");
    program.remove_old_version();
    assert_eq!(of_executable(&host, first).await, kept, "the old file has no name");
    let pinned_again = host.attestor.by_reference(first.process().peer().pid).unwrap();
    let other_connection = PinnedProcess { proven: Arc::clone(&first.proven), ..pinned_again.clone() };
    assert_eq!(of_executable(&host, &other_connection).await, kept);
    let anew = of_executable(&host, &pinned_again).await;
    assert_eq!(anew, [before[1].clone()], "without the earlier proof the bytes alone can be proven");
}

#[tokio::test]
async fn a_program_that_its_own_user_could_write_loses_its_path_when_it_is_replaced() {
    const TEST: &str = "a_program_that_its_own_user_could_write_loses_its_path_when_it_is_replaced";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let program = Program::start(&host, 1000);
    assert_eq!(of_executable(&host, &program.caller.pinned).await[0].selector, program.path());
    program.unpack_new_version();
    program.remove_old_version();
    let attested = host.attest(&program.caller.pinned).await.unwrap();
    assert_eq!(attested.evidence().withheld_because(SelectorKind::UnixPath), Some(WithheldBecause::Deleted));
    assert!(!attested.evidence().holds(&program.path()));
}

#[tokio::test]
async fn nothing_stays_proven_of_a_file_that_others_could_write_in_between() {
    const TEST: &str = "nothing_stays_proven_of_a_file_that_others_could_write_in_between";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let program = Program::start(&host, 0);
    let pinned = &program.caller.pinned;
    let before = of_executable(&host, pinned).await;
    let set_mode = |mode| std::fs::set_permissions(&program.path, PermissionsExt::from_mode(mode)).unwrap();
    set_mode(0o700);
    assert_eq!(of_executable(&host, pinned).await, before, "root may change the mode");
    set_mode(0o757);
    assert_eq!(of_executable(&host, pinned).await, before[..1], "the file still is at its path");
    set_mode(0o755);
    program.unpack_new_version();
    let after = of_executable(&host, pinned).await;
    assert_eq!(after, before[1..], "the bytes are proven anew, the path is not");
}
