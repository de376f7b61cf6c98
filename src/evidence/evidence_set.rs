//! Facts about one process, each with its source and its grade.

use std::borrow::Cow;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::provider::Answer;
use crate::evidence::provider::Provider;
use crate::evidence::selector::Selector;
use crate::evidence::selector::kind::SelectorKind;

/// How much a fact proves: the authority that vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// The kernel.
    Kernel,
    /// A daemon that runs as root, such as a container runtime.
    Runtime,
    /// A signed statement from another machine.
    Remote,
    /// The user who started the workload: chosen, not proven.
    Claimed,
}

/// Where a fact was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The credentials of the socket, the pidfd and `/proc/PID/status`, which must agree.
    Credentials,
    /// `/proc/PID/status`.
    Status,
    /// `/proc/PID/exe`, resolved again from the root of PID 1.
    Executable,
    /// The bytes of the running executable.
    ExecutableBytes,
    /// An earlier proof about the same program image, which cannot be repeated: the file has been replaced.
    EarlierProof,
    /// `/proc/PID/cgroup`, anchored at the root of the hierarchy.
    Cgroup,
    /// The namespaces of the process.
    Namespaces,
    /// A daemon that runs workloads as root.
    Runtime,
}

/// One proven fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fact {
    /// The fact.
    pub selector: Selector,
    /// Who vouches for it.
    pub grade: Grade,
    /// Where it was read.
    pub source: Source,
}

/// Why facts of a kind do not count, although the process may have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum WithheldBecause {
    /// The process is not in the host's user namespace, where it could forge this fact.
    #[error("the process is in a user namespace of its own, where it could forge this")]
    ForeignUserNamespace,
    /// The path, resolved from PID 1's root, is not the running file.
    #[error("this path on the host is not the file that is running")]
    PathIsAnotherFile,
    /// The daemon may not search a directory on the path, so it cannot tell which file the host has there.
    #[error(
        "the daemon may not search a directory on this path; let others search it (chmod o+x), or put the program \
         elsewhere"
    )]
    PathNotSearchable,
    /// The running file has been deleted.
    #[error("the running file has been deleted")]
    Deleted,
    /// The running file never had a name (memfd).
    #[error("the running file never had a name")]
    Anonymous,
    /// The file system can return other bytes than the kernel runs: for example NFS, FUSE, overlay, a loop device.
    #[error("the file is on a file system that can return other bytes than the kernel runs")]
    ForeignFileSystem,
    /// The caller's user owns the file, or its mode lets a group or all others write to it.
    #[error("the caller's own user could change the file")]
    WritableByCaller,
    /// The daemon may not read the file.
    #[error("the daemon may not read the file; let others read it (chmod o+r)")]
    NotReadable,
    /// The file is larger than the limit for hashing.
    #[error("the file is larger than the limit for hashing")]
    TooLarge,
    /// No attestor for such facts is configured.
    #[error("no attestor is configured for it")]
    NoAttestor,
    /// The process is in a container, and no attestor for containers is configured.
    #[error("in a container; no attestor is configured")]
    Container,
    /// The cgroup names no unit of the system manager.
    #[error("the cgroup is not that of a unit of the system manager")]
    NotAUnit,
    /// The cgroup could not be anchored at the root of the hierarchy.
    #[error("the cgroup could not be anchored at the root of the hierarchy")]
    CgroupNotAnchored,
    /// Not in the host's user, PID and cgroup namespaces.
    #[error("not in the host's own namespaces")]
    NotHostNamespaces,
    /// The daemon cannot read whose names count on this host.
    #[error("the daemon cannot read the names of PID 1's root; give it CAP_SYS_PTRACE, or use unix:uid and unix:gid")]
    NamesNotReadable,
    /// The text has characters that a selector must not have.
    #[error("it has a control character or bytes that are not UTF-8 (U+FFFD), so it can look like another value")]
    NotPrintable,
}

/// A kind of fact that was withheld.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Withheld {
    /// The kind.
    pub kind: SelectorKind,
    /// The value that was found and does not count; `None` where there is none to show.
    pub seen: Option<String>,
    /// Why it does not count.
    pub because: WithheldBecause,
}

/// All evidence about one process: sorted, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceSet {
    facts: Vec<Fact>,
    withheld: Vec<Withheld>,
    /// By provider, without the kernel. A provider that is not listed was not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    answers: Vec<(Provider, Answer)>,
    /// How many supplementary groups of the process are not among the facts.
    #[serde(default, skip_serializing_if = "is_zero")]
    further_groups: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// So many supplementary groups are kept that no entry can use.
const MOST_UNUSED_GROUPS: usize = 32;

impl EvidenceSet {
    /// What is kept of it after a decision: of the supplementary groups those that `is_used` names, the first 32 of the
    /// others, and how many more there were.
    ///
    /// SECURITY: a process has up to 65,536 groups, and a user chooses those of a namespace of its own. Every live stream
    /// and every refusal keeps its evidence.
    #[must_use]
    pub fn to_keep(&self, is_used: impl Fn(u32) -> bool) -> Self {
        let mut unused = 0;
        let is_kept = |fact: &&Fact| match fact.selector {
            Selector::UnixSupplementaryGid(gid) if !is_used(gid) => {
                unused += 1;
                unused <= MOST_UNUSED_GROUPS
            }
            _ => true,
        };
        let mut facts: Vec<_> = self.facts.iter().filter(is_kept).cloned().collect();
        facts.shrink_to_fit();
        let further_groups = self.further_groups + unused.saturating_sub(MOST_UNUSED_GROUPS);
        Self { facts, withheld: self.withheld.clone(), answers: self.answers.clone(), further_groups }
    }

    /// How many supplementary groups of the process are not among the facts. No entry could use them.
    #[must_use]
    pub fn further_groups(&self) -> usize {
        self.further_groups
    }

    /// Records that there are so many more supplementary groups than the facts name.
    pub fn leave_out_groups(&mut self, groups: usize) {
        self.further_groups = groups;
    }

    /// How many bytes of the heap it takes; texts that it shares with others are counted as its own.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let facts = self.facts.capacity() * size_of::<Fact>();
        let selectors: usize = self.facts.iter().map(|fact| fact.selector.heap_bytes()).sum();
        let withheld = self.withheld.capacity() * size_of::<Withheld>();
        let seen: usize =
            self.withheld.iter().filter_map(|withheld| withheld.seen.as_ref()).map(String::capacity).sum();
        facts + selectors + withheld + seen + self.answers.capacity() * size_of::<(Provider, Answer)>()
    }

    /// Adds a proven fact.
    ///
    /// SECURITY: one whose text can stand for other values is withheld, whatever its source. A value that was not UTF-8
    /// has U+FFFD, as every other value that differs from it in those bytes alone.
    pub fn prove(&mut self, selector: Selector, grade: Grade, source: Source) {
        // SPEC: product contract §5, rule 5: whatever finds it, the program is the choice of the user who starts it.
        let grade = if selector.is_of_executable() { Grade::Claimed } else { grade };
        if !selector.is_printable() {
            return self.withhold(selector.kind(), Some(selector.value().into_owned()), WithheldBecause::NotPrintable);
        }
        if let Err(at) = self.facts.binary_search_by(|fact| fact.selector.cmp(&selector)) {
            self.facts.insert(at, Fact { selector, grade, source });
        }
    }

    /// Records that facts of a kind do not count.
    pub fn withhold(&mut self, kind: SelectorKind, seen: Option<String>, because: WithheldBecause) {
        let withheld = Withheld { kind, seen, because };
        if let Err(at) = self.withheld.binary_search(&withheld) {
            self.withheld.insert(at, withheld);
        }
    }

    /// Removes a proven fact.
    pub fn disprove(&mut self, selector: &Selector) {
        self.facts.retain(|fact| fact.selector != *selector);
    }

    /// Records the answer of a provider. It replaces an earlier answer.
    pub fn answered(&mut self, provider: Provider, answer: Answer) {
        match self.answers.binary_search_by(|(known, _)| known.cmp(&provider)) {
            Ok(at) => {
                if let Some((_, known)) = self.answers.get_mut(at) {
                    *known = answer;
                }
            }
            Err(at) => self.answers.insert(at, (provider, answer)),
        }
    }

    /// The answer of a provider; `None` where it was not asked. The kernel has always answered.
    #[must_use]
    pub fn answer_of(&self, provider: &Provider) -> Option<Answer> {
        if *provider == Provider::KERNEL {
            return Some(Answer::Settled);
        }
        self.answers
            .binary_search_by(|(known, _)| known.cmp(provider))
            .ok()
            .and_then(|at| self.answers.get(at))
            .map(|(_, answer)| *answer)
    }

    /// The answers, sorted by provider, without the kernel.
    #[must_use]
    pub fn answers(&self) -> &[(Provider, Answer)] {
        &self.answers
    }

    /// Whether an answer is open: pending or undecided.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.answers.iter().any(|(_, answer)| answer.is_open())
    }

    /// Whether this fact is proven.
    #[must_use]
    pub fn holds(&self, selector: &Selector) -> bool {
        self.facts.binary_search_by(|fact| fact.selector.cmp(selector)).is_ok()
    }

    /// The proven facts, sorted by selector.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The kinds that were withheld, sorted.
    #[must_use]
    pub fn withheld(&self) -> &[Withheld] {
        &self.withheld
    }

    /// The value of this kind that was found, whether it is proven or withheld.
    #[must_use]
    pub fn found(&self, kind: SelectorKind) -> Option<Cow<'_, str>> {
        let proven = self.facts.iter().find(|fact| fact.selector.kind() == kind).map(|fact| fact.selector.value());
        let withheld = || self.withheld.iter().find(|withheld| withheld.kind == kind)?.seen.as_deref();
        proven.or_else(|| withheld().map(Cow::Borrowed))
    }

    /// Why facts of `kind` were withheld, if they were.
    #[must_use]
    pub fn withheld_because(&self, kind: SelectorKind) -> Option<WithheldBecause> {
        self.withheld.iter().find(|withheld| withheld.kind == kind).map(|withheld| withheld.because)
    }
}

#[cfg(test)]
impl EvidenceSet {
    /// These selectors as proven facts; the provider of each has settled.
    pub(crate) fn example(selectors: &[&str]) -> Self {
        let mut evidence = Self::default();
        for text in selectors {
            let selector = Selector::try_from((*text).to_owned()).unwrap();
            let provider = selector.provider();
            if provider != Provider::KERNEL {
                evidence.answered(provider, Answer::Settled);
            }
            evidence.prove(selector, Grade::Kernel, Source::Credentials);
        }
        evidence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nine_thousand_groups_those_are_kept_that_are_used_and_a_few_more_and_the_rest_is_counted() {
        let mut evidence = EvidenceSet::example(&["unix:uid:1000", "unix:gid:7", "systemd:id:web.service"]);
        for gid in 0..9000 {
            evidence.prove(Selector::UnixSupplementaryGid(gid), Grade::Kernel, Source::Status);
        }
        let kept = evidence.to_keep(|gid| gid >= 8998);
        let groups = kept.facts().iter().filter(|fact| fact.selector.kind() == SelectorKind::UnixSupplementaryGid);
        assert_eq!((groups.count(), kept.further_groups()), (34, 8966));
        assert!(kept.holds(&Selector::UnixSupplementaryGid(8999)) && kept.holds(&Selector::UnixGid(7)));
        assert!(kept.heap_bytes() < 4096, "{} bytes", kept.heap_bytes());
        assert!(evidence.heap_bytes() > 9000 * size_of::<u32>(), "{} bytes", evidence.heap_bytes());
        assert_eq!(kept.to_keep(|gid| gid >= 8998), kept);
        let few = EvidenceSet::example(&["unix:uid:1000", "unix:supplementary_gid:5"]);
        assert_eq!(few.to_keep(|_| false), few);
    }

    #[test]
    fn a_path_or_a_hash_is_claimed_whatever_found_it() {
        let hash = format!("unix:sha256:{}", "ab".repeat(32));
        for grade in [Grade::Kernel, Grade::Runtime, Grade::Remote, Grade::Claimed] {
            let mut evidence = EvidenceSet::default();
            for text in ["unix:path:/usr/bin/web", &hash, "unix:uid:1000"] {
                evidence.prove(text.parse().unwrap(), grade, Source::Executable);
            }
            let grades: Vec<_> = evidence.facts().iter().map(|fact| (fact.selector.kind(), fact.grade)).collect();
            let expected = [
                (SelectorKind::UnixUid, grade),
                (SelectorKind::UnixPath, Grade::Claimed),
                (SelectorKind::UnixSha256, Grade::Claimed),
            ];
            assert_eq!(grades, expected);
        }
    }

    #[test]
    fn a_value_that_can_stand_for_another_is_withheld_whatever_its_kind() {
        let label = |value: &str| Selector::Other { kind: "docker".into(), value: value.into() };
        let mut evidence = EvidenceSet::default();
        for odd in ["a\u{fffd}", "a\nb", "\u{1b}[31m"] {
            for selector in [Selector::UnixUser(odd.into()), Selector::SystemdId(odd.into()), label(odd)] {
                evidence.prove(selector.clone(), Grade::Kernel, Source::Credentials);
                let withheld = Withheld {
                    kind: selector.kind(),
                    seen: Some(odd.to_owned()),
                    because: WithheldBecause::NotPrintable,
                };
                assert!(evidence.withheld().contains(&withheld), "{selector:?}");
            }
        }
        evidence.prove(label("\u{fc}mlaut and space"), Grade::Kernel, Source::Credentials);
        assert_eq!(evidence.facts().len(), 1);
    }
}
