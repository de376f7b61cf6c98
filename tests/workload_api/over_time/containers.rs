//! What a process of a container gets on a whole node, and what its container takes from it.

use std::time::Duration;

use bonafide::attestation::Attestor;
use bonafide::attestation::kernel::Namespace;
use bonafide::evidence::Level;
use bonafide::evidence::Principal;
use bonafide::evidence::Undecided;
use tonic::Code;

use crate::kernel::FakeKernel;
use crate::kernel::FakeProcess;
use crate::kernel::faults::Question;
use crate::kernel::process::CONTAINER;
use crate::kernel::process::Root;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

const LEVELS: [Level; 3] = [Level::Reduced, Level::Pinned, Level::Full];

/// An entry for each kind of fact about the process, each with the uid beside it.
fn entries(process: &FakeProcess) -> String {
    let unit = process.cgroup.rsplit('/').find(|name| name.contains('.')).unwrap_or("web.service");
    let beside_the_uid = |id: &str, fact: String| workload(id, &["unix:uid:1000", &fact]);
    [
        workload("/uid", &["unix:uid:1000"]),
        beside_the_uid("/gid", "unix:gid:1000".to_owned()),
        beside_the_uid("/group", "unix:supplementary_gid:1000".to_owned()),
        beside_the_uid("/path", format!("unix:path:{}", process.exe)),
        beside_the_uid("/unit", format!("systemd:id:{unit}")),
        beside_the_uid("/cgroup", format!("cgroup:{}", process.cgroup)),
        beside_the_uid("/host", "host:true".to_owned()),
    ]
    .concat()
}

/// The paths of the identities that a process gets from [`entries`].
async fn granted(kernel: FakeKernel, process: FakeProcess) -> Vec<String> {
    let node = TestNode::on(kernel, &entries(&process));
    let process = node.kernel.spawn(process);
    let ids = node.workload(&process).await.ids().await;
    ids.iter().map(|id| id.strip_prefix("spiffe://example.org").unwrap().to_owned()).collect()
}

/// What no container and no namespace takes away.
const NUMBERS: [&str; 3] = ["/uid", "/gid", "/group"];

#[tokio::test(start_paused = true)]
async fn a_process_of_the_host_gets_every_entry_that_names_it() {
    // SPEC: product contract §5, rule 1: at the lowest level a path counts only for an entry that accepts it as weak.
    for (level, path) in [(Level::Reduced, &[][..]), (Level::Pinned, &["/path"]), (Level::Full, &["/path"])] {
        let expected = [&NUMBERS, path, &["/unit", "/cgroup", "/host"]].concat();
        assert_eq!(granted(FakeKernel::at(level), FakeProcess::default()).await, expected, "{level:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_of_a_container_gets_the_entries_of_its_numbers_alone() {
    for process in [
        FakeProcess::in_docker(),
        FakeProcess::in_docker_on_v1(),
        FakeProcess::in_pod(),
        FakeProcess::in_podman(),
        FakeProcess::in_rootless_podman(),
    ] {
        for level in LEVELS {
            let cgroup = process.cgroup.clone();
            assert_eq!(granted(FakeKernel::at(level), process.clone()).await, NUMBERS, "{cgroup} {level:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_with_all_namespaces_and_files_of_the_host_is_a_container() {
    let lent = FakeProcess { root: Root::Host, own_namespaces: Vec::new(), ..FakeProcess::in_docker() };
    assert_eq!(granted(FakeKernel::new(), lent).await, NUMBERS);
}

#[tokio::test(start_paused = true)]
async fn a_process_with_a_namespace_of_its_own_is_not_on_the_host() {
    for (own, kept) in [
        (Namespace::User, vec!["/unit", "/cgroup"]),
        (Namespace::Pid, vec!["/path", "/unit", "/cgroup"]),
        (Namespace::Cgroup, vec!["/path", "/unit", "/cgroup"]),
        (Namespace::Mount, vec!["/path", "/unit", "/cgroup", "/host"]),
    ] {
        let process = FakeProcess { own_namespaces: vec![own], ..FakeProcess::default() };
        assert_eq!(granted(FakeKernel::new(), process).await, [&NUMBERS, kept.as_slice()].concat(), "{own:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_in_a_pod_tells_units_from_containers() {
    let agent = FakeProcess::in_pod().cgroup;
    let all = granted(FakeKernel::new().with_daemon_in(&agent), FakeProcess::default()).await;
    assert_eq!(all, ["/uid", "/gid", "/group", "/path", "/unit", "/cgroup", "/host"]);
    for neighbour in [FakeProcess::in_docker(), FakeProcess::in_podman(), FakeProcess::in_pod()] {
        assert_eq!(granted(FakeKernel::new().with_daemon_in(&agent), neighbour).await, NUMBERS);
    }
}

/// The group below its own looks like `/system.slice/web.service` to such a daemon.
#[tokio::test(start_paused = true)]
async fn a_group_below_the_daemons_own_is_not_taken_for_a_unit_of_the_host() {
    let agent = FakeProcess::in_pod().cgroup;
    let below = FakeProcess { cgroup: format!("{agent}/system.slice/web.service"), ..FakeProcess::default() };
    let host = FakeProcess::default().cgroup;
    let node = TestNode::on(
        FakeKernel::new().with_daemon_in(&agent),
        &[
            workload("/uid", &["unix:uid:1000"]),
            workload("/unit", &["systemd:id:web.service"]),
            workload("/cgroup", &[&format!("cgroup:{host}")]),
        ]
        .concat(),
    );
    let below = node.kernel.spawn(below);
    assert_eq!(node.workload(&below).await.ids().await, ["spiffe://example.org/uid"]);
    let honest = node.kernel.spawn(FakeProcess::default());
    let ids = ["uid", "unit", "cgroup"].map(|name| format!("spiffe://example.org/{name}"));
    assert_eq!(node.workload(&honest).await.ids().await, ids);
}

/// Without the cgroup id that the pidfd gives from Linux 6.13 on, nothing proves where such a path leads.
#[tokio::test(start_paused = true)]
async fn a_daemon_in_a_pod_of_an_older_kernel_proves_no_unit() {
    let agent = FakeProcess::in_pod().cgroup;
    let kernel = FakeKernel::at(Level::Pinned).with_daemon_in(&agent);
    assert_eq!(granted(kernel, FakeProcess::default()).await, ["/uid", "/gid", "/group", "/path"]);
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_hierarchies_name_two_containers_gets_nothing() {
    let other = format!("/docker/{}", CONTAINER.replace('2', "3"));
    let process = FakeProcess { v1_cgroup: Some(other), ..FakeProcess::in_docker_on_v1() };
    let node = TestNode::on(FakeKernel::new(), &entries(&process));
    let process = node.kernel.spawn(process);
    assert_eq!(node.workload(&process).await.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_moves_into_a_container_keeps_what_its_uid_gives() {
    let node = TestNode::on(FakeKernel::new(), &entries(&FakeProcess::default()));
    let process = node.kernel.spawn(FakeProcess::default());
    let mut stream = node.workload(&process).await;
    assert_eq!(stream.ids().await.len(), 7);
    process.move_to(&FakeProcess::in_docker().cgroup);
    let Some(Seen::Update(update)) = stream.within(Duration::from_secs(10)).await else { panic!("no update") };
    assert_eq!(crate::node::ids(&update), NUMBERS.map(|path| format!("spiffe://example.org{path}")));
}

#[test]
fn a_container_is_charged_to_whoever_made_its_user_namespace() {
    let kernel = FakeKernel::new();
    let attestor = Attestor::new(kernel.host(), Vec::new());
    let charged = |process: FakeProcess| {
        let process = kernel.spawn(process);
        attestor.by_peer(kernel.connect(&process)).unwrap().principal()
    };
    let alice = Principal::of_uid(1000);
    assert_eq!(charged(FakeProcess::in_rootless_podman()), alice);
    let hers = FakeProcess { uid: 100_007, user_namespace_of: Some(1000), ..FakeProcess::in_rootless_podman() };
    assert_eq!(charged(hers.clone()), alice);
    let outside = FakeProcess { own_namespaces: Vec::new(), ..hers };
    assert_eq!(charged(outside.clone()), Principal::of_uid(100_007), "nobody has the range yet");
    kernel.write_subuid(&[(100_000..=165_535, 1000)]);
    assert_eq!(charged(outside), alice);
    let [docker, pod] = [FakeProcess::in_docker(), FakeProcess::in_pod()].map(charged);
    assert!(docker.uid == 1000 && docker.cgroup != 0 && docker != pod && docker != alice, "{docker} {pod}");
    kernel.fail_at(Question::Namespaces, Undecided::NotPermitted);
    assert_eq!(charged(FakeProcess::default()), Principal::COMMON);
}
