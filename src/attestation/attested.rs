//! The proof that attestation ends in, and the two ways in which there is none.

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::host::stat::MemoryLayout;
use crate::attestation::kernel::Unanswered;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Undecided;

/// What tells one program image from the next one in the same process: changes with every exec, and with every move to
/// another user, mount or PID namespace.
///
/// A changed ctime or link count is no new image: every package upgrade makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageEpoch {
    /// Device of the executable.
    pub device: u64,
    /// Inode of the executable.
    pub inode: u64,
    /// Where the kernel put it, at random.
    pub layout: MemoryLayout,
    /// Inodes of the user, mount and PID namespaces.
    pub namespaces: [u64; 3],
    /// The cgroup it was in: not part of the image, but decided for all the same.
    pub cgroup: CgroupMark,
}

/// What tells one cgroup from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CgroupMark {
    /// The id of a group in the unified hierarchy.
    Unified(u64),
    /// SHA-256 of the lines of all hierarchies.
    Lines([u8; 32]),
}

impl ImageEpoch {
    /// Whether both are one image, wherever it was moved meanwhile.
    #[must_use]
    pub fn is_same_image(&self, other: &Self) -> bool {
        Self { cgroup: other.cgroup, ..*self } == *other
    }
}

/// The caller was alive, and the same process with the same image, before *and after* its facts were read.
///
/// Built only by attestation, from a pinned process: whoever holds one holds a proof.
#[derive(Debug, Clone)]
#[must_use]
pub struct Attested {
    pub(in crate::attestation) peer: Credentials,
    pub(in crate::attestation) level: Level,
    pub(in crate::attestation) epoch: ImageEpoch,
    pub(in crate::attestation) evidence: EvidenceSet,
}

impl Attested {
    /// With which credentials it connected.
    #[must_use]
    pub fn peer(&self) -> Credentials {
        self.peer
    }

    /// How it is pinned.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Which image was running.
    #[must_use]
    pub fn epoch(&self) -> ImageEpoch {
        self.epoch
    }

    /// What is proven of it.
    #[must_use]
    pub fn evidence(&self) -> &EvidenceSet {
        &self.evidence
    }
}

/// Why a process could not be attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAttested {
    /// A completed "no": something about the caller itself.
    #[error(transparent)]
    No(#[from] Contradiction),
    /// The check could not be completed.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

impl From<Unanswered> for NotAttested {
    /// A living process has each thing that attestation asks for, so that one without it is on its way out.
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Gone | Unanswered::Absent => Self::No(Contradiction::ProcessGone),
            Unanswered::Undecided(undecided) => Self::Undecided(undecided),
        }
    }
}

/// What about a caller makes it nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Contradiction {
    /// It has exited, or its first thread has.
    #[error("the process has gone")]
    ProcessGone,
    /// It is outside our PID namespace, so nothing can be known of it.
    #[error("the process is outside the daemon's PID namespace")]
    OutsidePidNamespace,
    /// Socket, pidfd and `/proc` name different users or groups.
    #[error("the process changed its user or group after it connected; connect after dropping privileges")]
    CredentialsDisagree,
    /// The process runs another program than when it connected.
    #[error("the process became another program after it connected")]
    ImageChanged,
    /// It is in another cgroup than when it was decided what it gets.
    #[error("the process was moved to another cgroup")]
    Moved,
    /// A message came from another process than the one that connected.
    #[error("another process wrote to the connection")]
    ForeignWriter,
    /// A file of `/proc` has a form that the kernel does not write, or facts exclude each other.
    #[error("the facts about the process contradict each other")]
    Malformed,
    /// Its cgroup lines name different containers, pods or units, or a cgroup that was removed.
    #[error("the process's cgroups contradict each other")]
    CgroupsDisagree,
}

#[cfg(test)]
impl Attested {
    /// A proof out of thin air, for tests of what proofs lead to.
    pub(crate) fn example(level: Level, evidence: EvidenceSet) -> Self {
        Self {
            peer: Credentials { pid: 4121, uid: 1000, gid: 1000 },
            level,
            epoch: ImageEpoch {
                device: 1,
                inode: 2,
                layout: MemoryLayout { code: 3, stack: 4, heap: 5 },
                namespaces: [5, 6, 7],
                cgroup: CgroupMark::Unified(8),
            },
            evidence,
        }
    }
}
