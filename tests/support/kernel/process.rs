//! How processes start, and what they do of themselves.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use bonafide::attestation::kernel::FileIdentity;
use bonafide::attestation::kernel::Namespace;
use bonafide::evidence::Credentials;
use bonafide::evidence::Undecided;
use tokio_util::sync::CancellationToken;

use crate::kernel::Machine;
use crate::kernel::faults::Hang;
use crate::kernel::faults::Question;

/// What a runtime calls a container.
pub(crate) const CONTAINER: &str = "209c513a8ec86c5fe8643c78db95a7bf34bb260e4cd7a0073a7f1b11fd0b42c6";

/// The root directory that a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Root {
    Host,
    /// That of a container image, on an overlay.
    Image(&'static str),
}

/// How a process starts.
#[derive(Debug, Clone)]
pub(crate) struct FakeProcess {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Path of its executable below `root`; made, owned by root, when it is not there yet.
    pub(crate) exe: &'static str,
    pub(crate) root: Root,
    /// Its path in the unified hierarchy.
    pub(crate) cgroup: String,
    /// Its path in the hierarchies of cgroup v1, where the machine has them.
    pub(crate) v1_cgroup: Option<String>,
    /// Those of its namespaces that are not the host's.
    pub(crate) own_namespaces: Vec<Namespace>,
    /// Who made its user namespace, where that is not the host's and it is another one than its user.
    pub(crate) user_namespace_of: Option<u32>,
}

impl Default for FakeProcess {
    fn default() -> Self {
        Self {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            exe: "/usr/bin/web",
            root: Root::Host,
            cgroup: "/system.slice/web.service".to_owned(),
            v1_cgroup: None,
            own_namespaces: Vec::new(),
            user_namespace_of: None,
        }
    }
}

impl FakeProcess {
    /// A process of a container on a machine of today: an image of its own, and every namespace but the host's user
    /// namespace.
    fn in_container(cgroup: String) -> Self {
        let own_namespaces = vec![Namespace::Mount, Namespace::Pid, Namespace::Cgroup];
        Self { root: Root::Image("web:1"), cgroup, own_namespaces, ..Self::default() }
    }

    /// As Docker starts it where systemd manages cgroups.
    pub(crate) fn in_docker() -> Self {
        Self::in_container(format!("/system.slice/docker-{CONTAINER}.scope"))
    }

    /// As Docker starts it where it manages cgroups itself, beside the hierarchies of cgroup v1. Its cgroup namespace is the
    /// host's, which is the default there.
    pub(crate) fn in_docker_on_v1() -> Self {
        let cgroup = format!("/docker/{CONTAINER}");
        let own_namespaces = vec![Namespace::Mount, Namespace::Pid];
        Self { v1_cgroup: Some(cgroup.clone()), own_namespaces, ..Self::in_container(cgroup) }
    }

    /// As the kubelet has containerd start it in a pod.
    pub(crate) fn in_pod() -> Self {
        Self::in_container(format!(
            "/kubepods.slice/kubepods-besteffort.slice/\
             kubepods-besteffort-pod4c2046b2_c7d9_42f2_be22_8020da45ebe6.slice/cri-containerd-{CONTAINER}.scope"
        ))
    }

    /// As Podman starts it for root.
    pub(crate) fn in_podman() -> Self {
        Self::in_container(format!("/machine.slice/libpod-{CONTAINER}.scope/container"))
    }

    /// As Podman starts it for the user 1000, in a user namespace of its own.
    pub(crate) fn in_rootless_podman() -> Self {
        let manager = "/user.slice/user-1000.slice/user@1000.service/user.slice";
        let mut process = Self::in_container(format!("{manager}/libpod-{CONTAINER}.scope/container"));
        process.own_namespaces.push(Namespace::User);
        process
    }
}

/// One process of a machine, whatever its number comes to mean later.
#[derive(Debug, Clone)]
pub(crate) struct FakePid {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) serial: usize,
}

impl FakePid {
    /// Its process id.
    pub(crate) fn number(&self) -> u32 {
        self.with(|process| process.pid)
    }

    /// The credentials that it would connect, or write, with now.
    pub(crate) fn credentials(&self) -> Credentials {
        self.with(|process| Credentials { pid: process.pid, uid: process.uid, gid: process.gid })
    }

    /// Becomes another program of its own root, or the same anew.
    pub(crate) fn exec(&self, path: &str) {
        let mut machine = self.machine.lock().unwrap();
        let root = machine.processes[self.serial].root;
        let file = machine.files.at(root, path);
        let image = machine.next_number();
        let process = &mut machine.processes[self.serial];
        (process.exe, process.file, process.image) = (path.into(), file, image);
    }

    /// Ends. Whoever waits for it is woken.
    pub(crate) fn exit(&self) {
        self.with(|process| process.exited.cancel());
    }

    /// Sets all four user ids.
    pub(crate) fn setuid(&self, uid: u32) {
        self.with(|process| process.uid = uid);
    }

    /// Sets its supplementary groups.
    pub(crate) fn setgroups(&self, groups: &[u32]) {
        self.with(|process| groups.clone_into(&mut process.groups));
    }

    /// Moves into a new namespace. SPEC: unshare(2): of a new PID namespace only its children are part.
    pub(crate) fn unshare(&self, kind: Namespace) {
        let mut machine = self.machine.lock().unwrap();
        let new = machine.new_namespace();
        let process = &mut machine.processes[self.serial];
        if kind != Namespace::Pid {
            process.namespaces.set(kind, new);
        }
        if kind == Namespace::User {
            process.user_namespace_owners.push(process.uid);
        }
    }

    /// Moves to another cgroup, in every hierarchy that the machine has.
    pub(crate) fn move_to(&self, cgroup: &str) {
        self.with(|process| {
            cgroup.clone_into(&mut process.cgroup);
            process.v1_cgroup.iter_mut().for_each(|v1| cgroup.clone_into(v1));
        });
    }

    /// From now on every question about it is answered with this.
    pub(crate) fn fail(&self, undecided: Undecided) {
        self.machine.lock().unwrap().faults.add(Some(self.serial), None, undecided);
    }

    /// From now on this question about it is answered with this.
    pub(crate) fn fail_at(&self, question: Question, undecided: Undecided) {
        self.machine.lock().unwrap().faults.add(Some(self.serial), Some(question), undecided);
    }

    /// From now on the thread that asks this about it waits, until the value is dropped.
    pub(crate) fn hang(&self, question: Question) -> Hang {
        self.machine.lock().unwrap().faults.hang(Some(self.serial), question)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Running) -> T) -> T {
        act(&mut self.machine.lock().unwrap().processes[self.serial])
    }
}

/// A file, its bytes and the `f_type` of its file system.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) identity: FileIdentity,
    pub(super) content: Vec<u8>,
    pub(super) file_system: i64,
}

/// A process as it is now, or was when it ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) exe: PathBuf,
    pub(super) root: Root,
    pub(super) file: File,
    pub(super) cgroup: String,
    pub(super) v1_cgroup: Option<String>,
    pub(super) namespaces: Namespaces,
    /// Of each user namespace that it is in below the host's, the outermost first.
    pub(super) user_namespace_owners: Vec<u32>,
    /// Changes with every exec.
    pub(super) image: u64,
    pub(super) exited: CancellationToken,
}

impl Running {
    pub(super) fn new(pid: u32, process: FakeProcess, file: File, namespaces: Namespaces, image: u64) -> Self {
        let FakeProcess { uid, gid, groups, exe, root, cgroup, v1_cgroup, own_namespaces, user_namespace_of } = process;
        let exe = Path::new(exe).to_owned();
        let exited = CancellationToken::new();
        let is_in_own = own_namespaces.contains(&Namespace::User);
        let user_namespace_owners = is_in_own.then(|| user_namespace_of.unwrap_or(uid)).into_iter().collect();
        Self {
            pid,
            uid,
            gid,
            groups,
            exe,
            root,
            file,
            cgroup,
            v1_cgroup,
            namespaces,
            user_namespace_owners,
            image,
            exited,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.exited.is_cancelled()
    }
}

/// Inodes of the namespaces of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespaces([(Namespace, u64); 4]);

impl Namespaces {
    /// Above every namespace of the host's.
    pub(super) const FIRST_OWN: u64 = 4_026_532_000;

    pub(super) const fn of_host() -> Self {
        Self([
            (Namespace::User, 4_026_531_837),
            (Namespace::Mount, 4_026_531_832),
            (Namespace::Pid, 4_026_531_836),
            (Namespace::Cgroup, 4_026_531_835),
        ])
    }

    pub(super) fn of(&self, kind: Namespace) -> u64 {
        self.0.iter().find(|(known, _)| *known == kind).unwrap().1
    }

    pub(super) fn set(&mut self, kind: Namespace, inode: u64) {
        self.0.iter_mut().find(|(known, _)| *known == kind).unwrap().1 = inode;
    }
}
