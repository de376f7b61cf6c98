//! Processes that change during attestation, and system calls that fail, on a model of the kernel.

use std::path::Path;

use bonafide::attestation::Attestation;
use bonafide::attestation::Attested;
use bonafide::attestation::Attestor;
use bonafide::attestation::Contradiction;
use bonafide::attestation::NotAttested;
use bonafide::attestation::PinnedProcess;
use bonafide::attestation::kernel::AtPath;
use bonafide::attestation::kernel::MayBlock;
use bonafide::attestation::kernel::Namespace;
use bonafide::evidence::Accounts;
use bonafide::evidence::Answer;
use bonafide::evidence::EpochPart;
use bonafide::evidence::EpochParts;
use bonafide::evidence::EvidenceSet;
use bonafide::evidence::Level;
use bonafide::evidence::Provider;
use bonafide::evidence::Providers;
use bonafide::evidence::SelectorKind;
use bonafide::evidence::Undecided;
use bonafide::evidence::WithheldBecause;

use futures_util::future::select_all;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::kernel::faults::Question;

const LEVELS: [Level; 3] = [Level::Reduced, Level::Pinned, Level::Full];

struct Node {
    kernel: FakeKernel,
    attestor: Attestor,
}

impl Node {
    fn at(level: Level) -> Self {
        let kernel = FakeKernel::at(level);
        Self { attestor: Attestor::new(kernel.host(), Vec::new()), kernel }
    }

    fn web(&self) -> (FakePid, PinnedProcess) {
        let web = self.kernel.spawn(FakeProcess::default());
        let pinned = self.attestor.by_peer(self.kernel.connect(&web)).unwrap();
        (web, pinned)
    }

    async fn attest(&self, pinned: &PinnedProcess) -> Result<Attested, NotAttested> {
        loop {
            let Attestation { proof, changes } = self.attestor.attest(pinned, &everything, &Accounts::default())?;
            if proof.evidence().answers().iter().all(|(_, answer)| *answer != Answer::Pending) {
                return Ok(proof);
            }
            select_all(changes).await;
        }
    }
}

/// Every part of a process that a fact can rest on.
const EVERYTHING: EpochParts = SelectorKind::Other.rests_on();

/// The providers of the executable's facts that have no answer yet.
fn everything(evidence: &EvidenceSet) -> Providers {
    let all = [Provider::PATH, Provider::SHA256];
    all.into_iter().filter(|provider| evidence.answer_of(provider).is_none()).collect()
}

fn texts(attested: &Attested) -> Vec<String> {
    attested.evidence().facts().iter().map(|fact| fact.selector.to_string()).collect()
}

#[tokio::test]
async fn a_unit_of_the_host_has_every_fact_at_every_level() {
    for level in LEVELS {
        let node = Node::at(level);
        let (_, pinned) = node.web();
        let attested = node.attest(&pinned).await.unwrap();
        let mut texts = texts(&attested);
        texts.retain(|text| !text.starts_with("unix:sha256:"));
        assert_eq!(
            texts,
            [
                "unix:uid:1000",
                "unix:gid:1000",
                "unix:supplementary_gid:1000",
                "unix:path:/usr/bin/web",
                "systemd:id:web.service",
                "systemd:slice:system.slice",
                "cgroup:/system.slice/web.service",
                "host:true"
            ]
        );
        assert_eq!(pinned.unchanged(&attested.epoch(), EVERYTHING), Ok(()));
    }
}

#[tokio::test]
async fn every_change_of_a_process_is_detected_before_the_next_secret() {
    type Change = fn(&FakePid);
    let changes: [(Change, Contradiction); 9] = [
        (|web| web.exec("/usr/bin/other"), Contradiction::ImageChanged),
        (|web| web.exec("/usr/bin/web"), Contradiction::ImageChanged),
        (|web| web.unshare(Namespace::User), Contradiction::NamespaceChanged),
        (|web| web.unshare(Namespace::Mount), Contradiction::NamespaceChanged),
        (|web| web.unshare(Namespace::Cgroup), Contradiction::NamespaceChanged),
        (|web| web.setgroups(&[]), Contradiction::GroupsChanged),
        (|web| web.setuid(0), Contradiction::CredentialsDisagree),
        (|web| web.move_to("/system.slice/other.service"), Contradiction::Moved),
        (FakePid::exit, Contradiction::ProcessGone),
    ];
    for level in LEVELS {
        for (change, contradiction) in changes {
            let node = Node::at(level);
            let (web, pinned) = node.web();
            let before = node.attest(&pinned).await.unwrap();
            change(&web);
            assert_eq!(pinned.unchanged(&before.epoch(), EVERYTHING), Err(NotAttested::No(contradiction)), "{level:?}");
        }
    }
}

#[test]
fn connections_of_one_process_have_one_image_until_it_execs_or_changes_its_user() {
    let node = Node::at(Level::Full);
    let (web, first) = node.web();
    let pin = |process: &FakePid| node.attestor.by_peer(node.kernel.connect(process)).unwrap();
    assert!(first.is_pinned_again(&pin(&web)));
    web.move_to("/system.slice/other.service");
    assert!(first.is_pinned_again(&pin(&web)), "the cgroup is no part of the image");
    let child = node.kernel.spawn(FakeProcess::default());
    assert!(!first.is_pinned_again(&pin(&child)), "a child is another process");
    web.setuid(2000);
    assert!(!first.is_pinned_again(&pin(&web)));
    let (other, second) = node.web();
    other.exec("/usr/bin/web");
    assert!(!second.is_pinned_again(&pin(&other)));
    other.exit();
    let successor = node.kernel.reuse(&other, FakeProcess::default());
    assert!(!second.is_pinned_again(&pin(&successor)));
}

#[tokio::test]
async fn a_part_that_nothing_rests_on_may_change() {
    type Change = fn(&FakePid);
    let changes: [(Change, EpochPart); 3] = [
        (|web| web.setgroups(&[]), EpochPart::Groups),
        (|web| web.unshare(Namespace::User), EpochPart::Namespaces),
        (|web| web.unshare(Namespace::Cgroup), EpochPart::Namespaces),
    ];
    for (change, part) in changes {
        let node = Node::at(Level::Full);
        let (web, pinned) = node.web();
        let before = node.attest(&pinned).await.unwrap();
        change(&web);
        let others = EpochParts::of([EpochPart::Image, EpochPart::Credentials, EpochPart::Cgroup]);
        assert_eq!(pinned.unchanged(&before.epoch(), others), Ok(()), "{part:?}");
        assert!(pinned.unchanged(&before.epoch(), EpochParts::of([part])).is_err(), "{part:?}");
    }
}

#[tokio::test]
async fn a_process_moved_to_another_cgroup_is_attested_there() {
    let node = Node::at(Level::Full);
    let (web, pinned) = node.web();
    web.move_to("/system.slice/other.service");
    let attested = node.attest(&pinned).await.unwrap();
    assert!(texts(&attested).contains(&"systemd:id:other.service".to_owned()));
    assert_eq!(pinned.unchanged(&attested.epoch(), EVERYTHING), Ok(()));
}

#[tokio::test]
async fn a_process_that_gave_up_groups_or_namespaces_is_attested_as_it_is_now() {
    type Change = fn(&FakePid);
    let changes: [(Change, &str); 2] = [
        (|web| web.setgroups(&[]), "unix:supplementary_gid:1000"),
        (|web| web.unshare(Namespace::Cgroup), "host:true"),
    ];
    for (change, lost) in changes {
        let node = Node::at(Level::Full);
        let (web, pinned) = node.web();
        let before = texts(&node.attest(&pinned).await.unwrap());
        change(&web);
        let after = texts(&node.attest(&pinned).await.unwrap());
        let kept = before.iter().filter(|text| *text != lost).cloned().collect::<Vec<_>>();
        assert_eq!((before.len(), after), (kept.len() + 1, kept));
    }
}

#[tokio::test]
async fn a_process_with_a_reused_pid_gets_nothing_of_its_predecessor() {
    let node = Node::at(Level::Full);
    let (web, pinned) = node.web();
    web.exit();
    let successor = node.kernel.reuse(&web, FakeProcess { uid: 0, ..FakeProcess::default() });
    assert_eq!(node.attest(&pinned).await.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
    let honest = node.attestor.by_peer(node.kernel.connect(&successor)).unwrap();
    assert!(texts(&node.attest(&honest).await.unwrap()).contains(&"unix:uid:0".to_owned()));
}

#[tokio::test]
async fn a_failure_of_the_node_is_undecided_and_never_a_denial() {
    for cause in [Undecided::OutOfDescriptors, Undecided::OutOfMemory, Undecided::TimedOut, Undecided::NotPermitted] {
        let node = Node::at(Level::Full);
        let (web, pinned) = node.web();
        let epoch = node.attest(&pinned).await.unwrap().epoch();
        node.kernel.fail(cause);
        let undecided = NotAttested::Undecided(cause);
        assert_eq!(node.attest(&pinned).await.unwrap_err(), undecided);
        assert_eq!(pinned.unchanged(&epoch, EVERYTHING), Err(undecided));
        assert_eq!(node.attestor.by_peer(node.kernel.connect(&web)).unwrap_err(), undecided);
        node.kernel.heal();
        assert!(node.attest(&pinned).await.is_ok());
    }
}

#[tokio::test]
async fn a_fault_of_one_process_is_no_fault_of_another() {
    let node = Node::at(Level::Full);
    let ((web, pinned), (_, neighbour)) = (node.web(), node.web());
    for question in [Question::Pidfd, Question::Proc, Question::Namespaces, Question::Executable] {
        web.fail_at(question, Undecided::OutOfMemory);
        let undecided = NotAttested::Undecided(Undecided::OutOfMemory);
        assert_eq!(node.attest(&pinned).await.unwrap_err(), undecided, "{question:?}");
        assert!(node.attest(&neighbour).await.is_ok(), "{question:?}");
        node.kernel.heal();
        assert!(node.attest(&pinned).await.is_ok());
    }
}

#[test]
fn a_path_look_up_that_hangs_blocks_the_thread_that_lets_it() {
    let kernel = FakeKernel::new();
    let web = kernel.spawn(FakeProcess::default());
    kernel.spawn(FakeProcess { exe: "/usr/bin/db", ..FakeProcess::default() });
    let hang = web.hang(Question::AtPath);
    let (host, path) = (kernel.host(), Path::new("/usr/bin/web"));
    assert_eq!(host.file_at(path, MayBlock::No), Err(Undecided::TimedOut));
    assert!(matches!(host.file_at(Path::new("/usr/bin/db"), MayBlock::No), Ok(AtPath::File(_))));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.file_at(path, MayBlock::Yes));
        assert!(!waiting.is_finished() && kernel.connect(&web).alive().is_ok());
        drop(hang);
        assert!(matches!(waiting.join().unwrap(), Ok(AtPath::File(_))));
    });
    assert!(matches!(host.file_at(path, MayBlock::No), Ok(AtPath::File(_))));
}

#[tokio::test]
async fn a_package_upgrade_takes_no_fact_from_a_program_that_was_attested_before() {
    let node = Node::at(Level::Full);
    let (_, pinned) = node.web();
    let before = node.attest(&pinned).await.unwrap();
    node.kernel.replace("/usr/bin/web", b"the next version");
    assert_eq!(pinned.unchanged(&before.epoch(), EVERYTHING), Ok(()), "the process no longer counts as the same image");
    let after = node.attest(&pinned).await.unwrap();
    assert_eq!(texts(&after), texts(&before));
    let because = after.evidence().withheld().iter().map(|withheld| withheld.because).collect::<Vec<_>>();
    assert_eq!(because, [WithheldBecause::Deleted], "it is said that the path cannot be proven anew");
}

#[tokio::test]
async fn a_caller_in_a_user_namespace_has_no_path_hash_or_host_fact() {
    let node = Node::at(Level::Full);
    let rootless = node.kernel.spawn(FakeProcess { own_namespaces: vec![Namespace::User], ..FakeProcess::default() });
    let pinned = node.attestor.by_peer(node.kernel.connect(&rootless)).unwrap();
    let texts = texts(&node.attest(&pinned).await.unwrap());
    assert!(texts.contains(&"systemd:id:web.service".to_owned()));
    assert!(texts.iter().all(|text| !text.starts_with("unix:path") && !text.starts_with("unix:sha256")), "{texts:?}");
    assert!(!texts.contains(&"host:true".to_owned()));
}

#[test]
fn only_the_process_that_connected_may_write() {
    let node = Node::at(Level::Full);
    let (web, pinned) = node.web();
    let other = node.kernel.spawn(FakeProcess::default());
    assert_eq!(pinned.check_writer(web.credentials()), Ok(()));
    assert_eq!(pinned.check_writer(other.credentials()), Err(NotAttested::No(Contradiction::ForeignWriter)));
}
