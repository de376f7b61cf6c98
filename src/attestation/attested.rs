//! The proof that attestation returns, and the two kinds of failure: a denial, or undecided.

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::host::stat::MemoryLayout;
use crate::attestation::kernel::Unanswered;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Undecided;

/// The program image of a process: another one after every `exec`.
///
/// A changed ctime or link count is not a new image: every package upgrade changes them. Where the kernel places programs
/// at random (it does so by default), an `exec` of the same file is seen by the addresses. Where a process has switched that
/// off for itself it goes unnoticed: the evidence is the same. A handle of the process's memory would tell both apart, but
/// whoever opens one waits for an `exec` that is under way, and the process can make that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image {
    /// Device of the executable.
    pub device: u64,
    /// Inode of the executable.
    pub inode: u64,
    /// The addresses at which the kernel placed it.
    pub layout: MemoryLayout,
}

/// Everything that facts about a process rest on (SPEC: product contract §5, rule 4), but for its user and group ids, which
/// are those of its socket as long as it is attested at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The image.
    pub image: Image,
    /// The cgroup.
    pub cgroup: CgroupMark,
    /// Inodes of the user, mount, PID and cgroup namespaces.
    pub namespaces: [u64; 4],
    /// SHA-256 of the supplementary groups.
    pub groups: [u8; 32],
}

/// Identifies the cgroup of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CgroupMark {
    /// The id of the cgroup in the unified hierarchy.
    Unified(u64),
    /// SHA-256 of `/proc/PID/cgroup`, with the lines of all hierarchies.
    Lines([u8; 32]),
}

/// The proof that a process was alive before *and after* its facts were read, and ran the image of the accept.
///
/// Only attestation creates it, from a pinned process. Path and digest are facts about the executable of
/// [`Self::epoch`]; `PinnedProcess::unchanged` detects a later `exec`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Attested {
    pub(in crate::attestation) peer: Credentials,
    pub(in crate::attestation) level: Level,
    pub(in crate::attestation) epoch: Epoch,
    pub(in crate::attestation) evidence: EvidenceSet,
}

impl Attested {
    /// The credentials of the process.
    #[must_use]
    pub fn peer(&self) -> Credentials {
        self.peer
    }

    /// The level at which it is pinned.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The image that was running, and what else the facts rest on.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The evidence about it.
    #[must_use]
    pub fn evidence(&self) -> &EvidenceSet {
        &self.evidence
    }
}

/// Why a process could not be attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAttested {
    /// The check was completed, and refuses the caller.
    #[error(transparent)]
    No(#[from] Contradiction),
    /// The check could not be completed.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

impl From<Unanswered> for NotAttested {
    /// A live process has everything that attestation reads, so one without it is exiting.
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Gone | Unanswered::Absent => Self::No(Contradiction::ProcessGone),
            Unanswered::Undecided(undecided) => Self::Undecided(undecided),
        }
    }
}

/// Why attestation refuses a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Contradiction {
    /// The process has exited, or its first thread has.
    #[error("the process has exited")]
    ProcessGone,
    /// The process is outside the daemon's PID namespace, so `/proc` does not show it.
    #[error("the process is outside the daemon's PID namespace")]
    OutsidePidNamespace,
    /// Socket, pidfd and `/proc` name different users or groups.
    #[error("the process changed its user or group after it connected; connect after dropping privileges")]
    CredentialsDisagree,
    /// The process has called `exec` since the accept.
    #[error("the process became another program after it connected")]
    ImageChanged,
    /// The process is in another cgroup than at the time of the decision.
    #[error("the process was moved to another cgroup")]
    Moved,
    /// The process is in another namespace than at the time of the decision.
    #[error("the process moved to another namespace")]
    NamespaceChanged,
    /// The process has other supplementary groups than at the time of the decision.
    #[error("the process changed its supplementary groups")]
    GroupsChanged,
    /// A process other than the connected one wrote to the connection.
    #[error("another process wrote to the connection")]
    ForeignWriter,
    /// A file of `/proc` has a form that the kernel does not write, or its facts contradict each other.
    #[error("the facts about the process contradict each other")]
    Malformed,
    /// The cgroup lines name different containers, pods or units, or a removed cgroup.
    #[error("the process's cgroups contradict each other")]
    CgroupsDisagree,
}

impl Contradiction {
    /// Whether it is the same program of the same user in other circumstances: that takes nothing away by itself, for a new
    /// decision may give the same.
    #[must_use]
    pub const fn leaves_the_image(self) -> bool {
        matches!(self, Self::Moved | Self::NamespaceChanged | Self::GroupsChanged)
    }
}

#[cfg(test)]
impl Attested {
    /// A proof without a process, for tests of modules that take one.
    pub(crate) fn example(level: Level, evidence: EvidenceSet) -> Self {
        Self {
            peer: Credentials { pid: 4121, uid: 1000, gid: 1000 },
            level,
            epoch: Epoch {
                image: Image { device: 1, inode: 2, layout: MemoryLayout { code: 3, stack: 4, heap: 5 } },
                cgroup: CgroupMark::Unified(8),
                namespaces: [5, 6, 7, 8],
                groups: [9; 32],
            },
            evidence,
        }
    }
}
