//! Who the clients are: another user, in a cgroup-v2 group of their own, as far as this program may arrange it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd::Gid;
use nix::unistd::Uid;

use crate::node;
use crate::node::NICENESS;

const ENTER: &str = "--enter=";
/// This program by a link that another user can exec, wherever the file lies.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// What a child becomes before it plays its role: a user, with groups, in a cgroup.
#[derive(Debug, Clone)]
pub(crate) struct Guise {
    uid: Uid,
    /// The number of supplementary groups.
    groups: u32,
    cgroup: Option<PathBuf>,
}

impl Guise {
    /// The child's first argument, which makes it [`put_on`] this.
    pub(crate) fn argument(&self) -> OsString {
        let cgroup = self.cgroup.as_deref().unwrap_or_else(|| Path::new("")).display();
        format!("{ENTER}{}:{}:{cgroup}", self.uid, self.groups).into()
    }

    pub(crate) fn with_groups(self, groups: u32) -> Self {
        Self { groups, ..self }
    }
}

/// The guise in a program's first argument.
pub(crate) fn guise_in(argument: &str) -> Option<&str> {
    argument.strip_prefix(ENTER)
}

/// Becomes what the argument says, and execs this program without it. Returns only an error.
pub(crate) fn put_on(guise: &str) -> io::Error {
    let become_it = || -> io::Result<()> {
        let mut parts = guise.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        let (uid, groups, cgroup) = (part(), part(), part());
        let number = |text: &str| text.parse::<u32>().map_err(io::Error::other);
        let (uid, groups) = (number(uid)?, number(groups)?);
        if !cgroup.is_empty() {
            fs::write(Path::new(cgroup).join("cgroup.procs"), "0")?;
        }
        if Uid::effective().is_root() {
            let groups: Vec<_> = (0..groups).map(|n| Gid::from_raw(100_000 + n)).collect();
            nix::unistd::setgroups(&groups)?;
            nix::unistd::setgid(Gid::from_raw(uid))?;
            nix::unistd::setuid(Uid::from_raw(uid))?;
        }
        Ok(())
    };
    match become_it() {
        Ok(()) => Command::new(THIS_PROGRAM).args(std::env::args_os().skip(2)).exec(),
        Err(error) => error,
    }
}

/// The cgroups of this run; drop removes them.
#[derive(Debug)]
pub(crate) struct Surroundings {
    ours: Option<PathBuf>,
    /// An external target has entries for this user alone.
    of_this_user: bool,
}

impl Surroundings {
    pub(crate) fn arrange(of_this_user: bool) -> Self {
        raise_descriptors();
        let ours = if of_this_user { None } else { make_groups().ok() };
        Self { ours, of_this_user }
    }

    /// The process that is measured, and its neighbours.
    pub(crate) fn client(&self) -> Guise {
        self.guise(node::client_uid(), "clients")
    }

    /// Another client, which has another identity.
    pub(crate) fn stranger(&self) -> Guise {
        self.guise(node::STRANGER, "stranger")
    }

    /// One of those who flood.
    pub(crate) fn flooder(&self, uid: u32) -> Guise {
        self.guise(uid, "flooders")
    }

    fn guise(&self, uid: u32, group: &str) -> Guise {
        let this_user = Uid::effective();
        let uid = if self.of_this_user || !this_user.is_root() { this_user } else { Uid::from_raw(uid) };
        Guise { uid, groups: 0, cgroup: self.ours.as_ref().map(|ours| ours.join(group)) }
    }

    /// One line that says how far these figures can be compared.
    pub(crate) fn describe(&self) -> String {
        let hybrid = fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines().count() > 1;
        let user = self.client().uid;
        let who = if user == Uid::effective() {
            format!("clients: uid {user}, the daemon's own (comparable figures need root)")
        } else {
            format!("clients: uid {user}, the daemon's is {}", Uid::effective())
        };
        let place = match &self.ours {
            Some(path) => format!("cgroups of their own below {}", path.display()),
            None => "in the cgroup of this program, so every attestation reads its lines (not comparable)".to_owned(),
        };
        let host = if hybrid { "; cgroup hybrid: the daemon reads the v1 lines of each process" } else { "" };
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
        format!(
            "{who}; {place}{host}; LimitNOFILE={descriptors} of {DESCRIPTORS}; the daemon of root has Nice={NICENESS}"
        )
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let Some(ours) = &self.ours else { return };
        for group in GROUPS {
            let _may_be_busy = fs::remove_dir(ours.join(group));
        }
        let _may_be_busy = fs::remove_dir(ours);
    }
}

const GROUPS: [&str; 3] = ["clients", "stranger", "flooders"];
/// As in the unit.
const DESCRIPTORS: u64 = 65_536;

/// The daemon inherits the unit's limit; a user who may not raise it gives what he has.
fn raise_descriptors() {
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a process has limits");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit up to the maximum");
    }
}

/// Below the cgroup of this program where that may have children, else below the root of the hierarchy.
fn make_groups() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let unified = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let root = unified.and_then(|line| line.split(' ').nth(4)).ok_or(io::ErrorKind::NotFound)?;
    let lines = fs::read_to_string("/proc/self/cgroup")?;
    let own = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let name = format!("bonafide-load-{}", std::process::id());
    let below = |parent: PathBuf| -> io::Result<PathBuf> {
        let ours = parent.join(&name);
        fs::create_dir(&ours)?;
        GROUPS.iter().try_for_each(|group| fs::create_dir(ours.join(group)))?;
        Ok(ours)
    };
    below(Path::new(root).join(own)).or_else(|_| below(PathBuf::from(root)))
}
