//! The bundles that can be served, encoded once and shared by every stream. Knows who may see which only as a list of
//! names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::entitlement::door::EncodedBundles;
use crate::identity::Bundle;
use crate::identity::TrustDomain;

/// A bundle with its encodings.
#[derive(Debug)]
pub struct EncodedBundle {
    bundle: Arc<Bundle>,
    x509: Bytes,
    jwks: Bytes,
}

impl EncodedBundle {
    /// Encodes a bundle.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self { x509: bundle.x509_der_concatenated(), jwks: bundle.jwks_for_workload_api(), bundle }
    }

    /// The bundle.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }
}

impl PartialEq for EncodedBundle {
    /// Whether a workload would see no difference; a new sequence number alone is none.
    fn eq(&self, other: &Self) -> bool {
        self.bundle.trust_domain == other.bundle.trust_domain && self.x509 == other.x509 && self.jwks == other.jwks
    }
}

/// Every bundle this node has: its own, and those it was told to believe.
#[derive(Debug, Clone)]
pub struct BundleSet {
    own: Arc<EncodedBundle>,
    foreign: Arc<BTreeMap<TrustDomain, Arc<EncodedBundle>>>,
}

impl BundleSet {
    /// Encodes what is new and shares what is not.
    #[must_use]
    pub fn new(before: Option<&Self>, own: Arc<Bundle>, foreign: &BTreeMap<TrustDomain, Arc<Bundle>>) -> Self {
        let encode = |bundle: &Arc<Bundle>| {
            before
                .and_then(|bundles| bundles.of(bundle.trust_domain.as_str()))
                .filter(|published| Arc::ptr_eq(&published.bundle, bundle))
                .map_or_else(|| Arc::new(EncodedBundle::new(Arc::clone(bundle))), Arc::clone)
        };
        Self {
            own: encode(&own),
            foreign: Arc::new(foreign.iter().map(|(name, bundle)| (name.clone(), encode(bundle))).collect()),
        }
    }

    /// The bundle of a trust domain, by its bare name.
    #[must_use]
    pub fn of(&self, trust_domain: &str) -> Option<&Arc<EncodedBundle>> {
        if self.own.bundle.trust_domain.as_str() == trust_domain {
            return Some(&self.own);
        }
        self.foreign.iter().find(|(name, _)| name.as_str() == trust_domain).map(|(_, published)| published)
    }

    /// Every bundle, the own one first.
    pub fn all(&self) -> impl Iterator<Item = &Bundle> {
        std::iter::once(&self.own).chain(self.foreign.values()).map(|published| &*published.bundle)
    }

    /// The own bundle.
    #[must_use]
    pub fn own(&self) -> &Arc<EncodedBundle> {
        &self.own
    }

    /// What someone may see who federates with these trust domains. A partner whose bundle is missing is left out: it
    /// must not stop what is our own.
    #[must_use]
    pub fn view<'a>(&self, federates_with: impl Iterator<Item = &'a TrustDomain>) -> VisibleBundles {
        let foreign = federates_with
            .filter_map(|name| self.foreign.get(name).map(|published| (name.clone(), Arc::clone(published))))
            .collect();
        VisibleBundles { own: Arc::clone(&self.own), foreign }
    }
}

/// The bundles that one caller may see. Equal when a workload would see no difference.
#[derive(Debug, Clone, PartialEq)]
pub struct VisibleBundles {
    own: Arc<EncodedBundle>,
    foreign: BTreeMap<TrustDomain, Arc<EncodedBundle>>,
}

impl VisibleBundles {
    /// The own trust domain's roots, DER, concatenated.
    #[must_use]
    pub fn own_x509(&self) -> Bytes {
        self.own.x509.clone()
    }

    /// The foreign trust domains' roots.
    #[must_use]
    pub fn foreign_x509(&self) -> EncodedBundles {
        self.foreign.iter().map(|(name, published)| (name.clone(), published.x509.clone())).collect()
    }

    /// Every trust domain's roots, the own one included.
    #[must_use]
    pub fn x509(&self) -> EncodedBundles {
        self.each(|published| published.x509.clone())
    }

    /// Every trust domain's JWK Set, the own one included.
    #[must_use]
    pub fn jwt(&self) -> EncodedBundles {
        self.each(|published| published.jwks.clone())
    }

    /// The bundle of a trust domain that this caller may see, by its bare name.
    #[must_use]
    pub fn bundle_of(&self, trust_domain: &str) -> Option<&Bundle> {
        if self.is_own(trust_domain) {
            return Some(&self.own.bundle);
        }
        self.foreign
            .values()
            .map(|published| &*published.bundle)
            .find(|bundle| bundle.trust_domain.as_str() == trust_domain)
    }

    /// Whether that is the own trust domain.
    #[must_use]
    pub fn is_own(&self, trust_domain: &str) -> bool {
        self.own.bundle.trust_domain.as_str() == trust_domain
    }

    fn each(&self, encoding: impl Fn(&EncodedBundle) -> Bytes) -> EncodedBundles {
        self.foreign
            .values()
            .chain([&self.own])
            .map(|published| (published.bundle.trust_domain.clone(), encoding(published)))
            .collect()
    }
}
