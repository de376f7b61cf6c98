//! The state of one federation relationship, and the rules for replacing its bundle by a newly read one.

use std::fmt;
use std::sync::Arc;

use crate::federation::FederationSettings;
use crate::federation::UnusableFile;
use crate::identity::Bundle;
use crate::identity::bundle::Ignored;

/// A foreign trust domain, its bundle, and the current problem of its file.
#[derive(Debug)]
pub(super) struct Relationship {
    pub(super) settings: FederationSettings,
    /// The last usable bundle.
    pub(super) bundle: Option<Arc<Bundle>>,
    pub(super) problem: Option<BundleProblem>,
    pub(super) ignored: Vec<Ignored>,
}

/// Why the current bundle file of a relationship is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleProblem {
    /// The trust domain and its file.
    pub settings: FederationSettings,
    /// The problem of the file.
    pub why: String,
    /// Whether an earlier bundle stays in use.
    pub keeps_last_good: bool,
}

impl Relationship {
    pub(super) fn new(settings: FederationSettings) -> Self {
        Self { settings, bundle: None, problem: None, ignored: Vec::new() }
    }

    /// Replaces the bundle by one that was read, or keeps the present one and records the problem.
    ///
    /// SPEC: Trust Domain and Bundle §4.1.1: the sequence number only increases, and a publisher may omit it. So an
    /// equal or an absent number counts as newer.
    pub(super) fn update(&mut self, read: Result<(Bundle, Vec<Ignored>), UnusableFile>) {
        let kept = self.bundle.as_ref().and_then(|bundle| bundle.sequence);
        match read {
            Err(unusable) => self.keep(unusable.to_string()),
            Ok((bundle, _)) if bundle.sequence.zip(kept).is_some_and(|(read, kept)| read < kept) => self.keep(format!(
                "its spiffe_sequence is {}, but {} was loaded before: it may be an old copy; publish it with a higher \
                 spiffe_sequence, or restart the daemon to load it as it is",
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
            "the last usable bundle stays in use"
        } else {
            "no SVID of that trust domain is trusted"
        };
        let file = bundle_file.display();
        write!(
            f,
            "the bundle of {trust_domain} in {file} is not used: {}; {meanwhile} until the file is fixed",
            self.why
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::bundle::NotABundle;
    use crate::trusted_path::UntrustedPath;

    fn relationship() -> Relationship {
        let settings =
            FederationSettings { trust_domain: "partner.test".parse().unwrap(), bundle_file: "/etc/p.json".into() };
        Relationship::new(settings)
    }

    fn load(relationship: &mut Relationship, sequence: Option<u64>) -> Option<u64> {
        let empty = Bundle::empty(relationship.settings.trust_domain.clone());
        relationship.update(Ok((Bundle { sequence, ..empty }, vec![])));
        relationship.bundle.as_ref().unwrap().sequence
    }

    #[test]
    fn a_bundle_with_a_lower_sequence_is_refused_and_any_other_is_loaded() {
        let mut partner = relationship();
        assert_eq!(load(&mut partner, Some(7)), Some(7));
        assert_eq!(load(&mut partner, Some(6)), Some(7));
        assert!(partner.problem.as_ref().unwrap().keeps_last_good);
        assert_eq!(load(&mut partner, Some(7)), Some(7));
        assert_eq!(partner.problem, None);
        assert_eq!(load(&mut partner, Some(8)), Some(8));
        assert_eq!(load(&mut partner, None), None);
        assert_eq!(load(&mut partner, Some(1)), Some(1), "any sequence is newer than none");
    }

    #[test]
    fn an_unusable_file_keeps_the_bundle_and_records_the_problem() {
        let mut partner = relationship();
        partner.update(Err(NotABundle::NoKeys.into()));
        assert!(partner.bundle.is_none());
        assert_eq!(
            partner.problem.as_ref().unwrap().to_string(),
            "the bundle of partner.test in /etc/p.json is not used: it is no SPIFFE bundle: \"keys\" is missing or not an \
             array; no SVID of that trust domain is trusted until the file is fixed"
        );
        load(&mut partner, Some(7));
        partner.update(Err(UntrustedPath::NotAFile.into()));
        assert_eq!(partner.bundle.as_ref().unwrap().sequence, Some(7));
        assert_eq!(
            partner.problem.as_ref().unwrap().to_string(),
            "the bundle of partner.test in /etc/p.json is not used: it is not a regular file; put one in its \
             place; the last usable bundle stays in use until the file is fixed"
        );
    }

    #[test]
    fn an_unchanged_bundle_that_is_read_again_is_not_replaced() {
        let mut partner = relationship();
        load(&mut partner, Some(7));
        let before = partner.bundle.clone().unwrap();
        load(&mut partner, Some(7));
        assert!(Arc::ptr_eq(&before, partner.bundle.as_ref().unwrap()));
    }
}
