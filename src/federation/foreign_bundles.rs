//! What is believed of one foreign trust domain, and what a newly read document changes in it.

use std::fmt;
use std::sync::Arc;

use crate::federation::FederationSettings;
use crate::federation::UnusableFile;
use crate::identity::Bundle;
use crate::identity::bundle::Ignored;

/// A foreign trust domain, its bundle, and what is wrong with its file now.
#[derive(Debug)]
pub(super) struct Relationship {
    pub(super) settings: FederationSettings,
    /// The last good one.
    pub(super) bundle: Option<Arc<Bundle>>,
    pub(super) problem: Option<BundleProblem>,
    pub(super) ignored: Vec<Ignored>,
}

/// Why the file of a relationship is not in use as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleProblem {
    /// Whose bundle, and in which file.
    pub settings: FederationSettings,
    /// What is wrong with the file.
    pub why: String,
    /// Whether an earlier bundle stays in use meanwhile.
    pub keeps_last_good: bool,
}

impl Relationship {
    pub(super) fn new(settings: FederationSettings) -> Self {
        Self { settings, bundle: None, problem: None, ignored: Vec::new() }
    }

    /// Takes over what was read, or keeps what there is and says why.
    ///
    /// SPEC: Trust Domain and Bundle §4.1.1: the sequence only grows. An equal or an absent one is taken as the newer
    /// document, for a publisher may leave it out.
    pub(super) fn take(&mut self, read: Result<(Bundle, Vec<Ignored>), UnusableFile>) {
        let kept = self.bundle.as_ref().and_then(|bundle| bundle.sequence);
        match read {
            Err(unusable) => self.keep(unusable.to_string()),
            Ok((bundle, _)) if bundle.sequence.zip(kept).is_some_and(|(read, kept)| read < kept) => self.keep(format!(
                "its spiffe_sequence is {}, and {} was seen before: it may be an old copy; publish it with a higher one, \
                 or restart the daemon to take it as it is",
                bundle.sequence.unwrap_or_default(),
                kept.unwrap_or_default(),
            )),
            Ok((bundle, ignored)) => {
                (self.problem, self.ignored) = (None, ignored);
                if self.bundle.as_deref() != Some(&bundle) {
                    self.bundle = Some(Arc::new(bundle));
                }
            }
        }
    }

    fn keep(&mut self, why: String) {
        let (settings, keeps_last_good) = (self.settings.clone(), self.bundle.is_some());
        self.problem = Some(BundleProblem { settings, why, keeps_last_good });
    }
}

impl fmt::Display for BundleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FederationSettings { trust_domain, bundle_file } = &self.settings;
        let meanwhile = if self.keeps_last_good {
            "the bundle read before stays in use"
        } else {
            "nobody of that trust domain is believed"
        };
        let file = bundle_file.display();
        write!(
            f,
            "the bundle of {trust_domain} in {file} is not in use: {}; {meanwhile} until the file is right",
            self.why
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::bundle::NotABundle;

    fn relationship() -> Relationship {
        let settings =
            FederationSettings { trust_domain: "partner.test".parse().unwrap(), bundle_file: "/etc/p.json".into() };
        Relationship::new(settings)
    }

    fn offer(relationship: &mut Relationship, sequence: Option<u64>) -> Option<u64> {
        let empty = Bundle::empty(relationship.settings.trust_domain.clone());
        relationship.take(Ok((Bundle { sequence, ..empty }, vec![])));
        relationship.bundle.as_ref().unwrap().sequence
    }

    #[test]
    fn a_lower_sequence_is_kept_out_and_an_equal_higher_or_absent_one_is_taken() {
        let mut partner = relationship();
        assert_eq!(offer(&mut partner, Some(7)), Some(7));
        assert_eq!(offer(&mut partner, Some(6)), Some(7));
        assert!(partner.problem.as_ref().unwrap().keeps_last_good);
        assert_eq!(offer(&mut partner, Some(7)), Some(7));
        assert_eq!(partner.problem, None);
        assert_eq!(offer(&mut partner, Some(8)), Some(8));
        assert_eq!(offer(&mut partner, None), None);
        assert_eq!(offer(&mut partner, Some(1)), Some(1), "after one without, any is newer");
    }

    #[test]
    fn an_unusable_file_changes_nothing_but_what_is_said() {
        let mut partner = relationship();
        partner.take(Err(NotABundle::NoKeys.into()));
        assert!(partner.bundle.is_none());
        assert_eq!(
            partner.problem.as_ref().unwrap().to_string(),
            "the bundle of partner.test in /etc/p.json is not in use: it is no SPIFFE bundle: \"keys\" is missing or not an \
             array; nobody of that trust domain is believed until the file is right"
        );
        offer(&mut partner, Some(7));
        partner.take(Err(UnusableFile::NotAFile));
        assert_eq!(partner.bundle.as_ref().unwrap().sequence, Some(7));
        assert_eq!(
            partner.problem.as_ref().unwrap().to_string(),
            "the bundle of partner.test in /etc/p.json is not in use: it is not a regular file; the bundle read before \
             stays in use until the file is right"
        );
    }

    #[test]
    fn the_same_bundle_read_again_is_the_same_bundle() {
        let mut partner = relationship();
        offer(&mut partner, Some(7));
        let before = partner.bundle.clone().unwrap();
        offer(&mut partner, Some(7));
        assert!(Arc::ptr_eq(&before, partner.bundle.as_ref().unwrap()));
    }
}
