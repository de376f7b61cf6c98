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

    fn x509(&self) -> Option<Bytes> {
        (!self.bundle.x509_authorities.is_empty()).then(|| self.x509.clone())
    }

    fn jwks(&self) -> Option<Bytes> {
        (!self.bundle.jwt_authorities.is_empty()).then(|| self.jwks.clone())
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

    /// Whether a workload that has seen these bundles would see no difference in the own one.
    #[must_use]
    pub fn has_own_of(&self, visible: &VisibleBundles) -> bool {
        Arc::ptr_eq(&self.own, &visible.own) || self.own == visible.own
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
    /// Whether a workload would see no difference in what verifies X509-SVIDs.
    #[must_use]
    pub fn has_same_x509(&self, other: &Self) -> bool {
        let foreign = |bundles: &Self| bundles.foreign_x509();
        self.own.x509 == other.own.x509 && foreign(self) == foreign(other)
    }

    /// The own trust domain's roots, DER, concatenated.
    #[must_use]
    pub fn own_x509(&self) -> Bytes {
        self.own.x509.clone()
    }

    /// The foreign trust domains' roots, without the domains that have none.
    #[must_use]
    pub fn foreign_x509(&self) -> EncodedBundles {
        self.foreign(EncodedBundle::x509)
    }

    /// Every trust domain's roots, the own one included; without the foreign domains that have none.
    #[must_use]
    pub fn x509(&self) -> EncodedBundles {
        self.with_own(&self.own.x509, EncodedBundle::x509)
    }

    /// Every trust domain's JWK Set, the own one included; without the foreign domains that have no JWT key.
    #[must_use]
    pub fn jwt(&self) -> EncodedBundles {
        self.with_own(&self.own.jwks, EncodedBundle::jwks)
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

    /// py-spiffe 0.3 refuses a whole X.509 message for one empty bundle in it, the workload's own SVID included. A bundle
    /// that is left out says the same: nothing of that domain can be verified.
    fn foreign(&self, encoding: impl Fn(&EncodedBundle) -> Option<Bytes>) -> EncodedBundles {
        self.foreign.iter().filter_map(|(name, published)| Some((name.clone(), encoding(published)?))).collect()
    }

    fn with_own(&self, own: &Bytes, encoding: impl Fn(&EncodedBundle) -> Option<Bytes>) -> EncodedBundles {
        let mut bundles = self.foreign(encoding);
        bundles.insert(self.own.bundle.trust_domain.clone(), own.clone());
        bundles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::JwtAuthority;
    use crate::identity::jose::Algorithm;
    use crate::identity::jose::PublicKey;
    use crate::identity::key_pair::KeyType;

    const OWN: &str = "example.org";
    const X509_ONLY: &str = "x509.example";
    const JWT_ONLY: &str = "jwt.example";
    const EMPTY: &str = "empty.example";

    fn bundle(trust_domain: &str) -> Bundle {
        Bundle::empty(trust_domain.parse().unwrap())
    }

    /// What somebody sees who federates with everybody.
    fn view() -> VisibleBundles {
        let (_, public_key) = KeyType::P256.generate().unwrap();
        let key = PublicKey::from_spki(&public_key).unwrap();
        let jwt_authorities = vec![JwtAuthority::named_by_thumbprint(key, Algorithm::Es256).unwrap()];
        let x509_authorities = vec![Bytes::from_static(b"a root")];
        let foreign = [
            Bundle { x509_authorities, ..bundle(X509_ONLY) },
            Bundle { jwt_authorities, ..bundle(JWT_ONLY) },
            bundle(EMPTY),
        ];
        let foreign: BTreeMap<_, _> = foreign.map(|bundle| (bundle.trust_domain.clone(), Arc::new(bundle))).into();
        BundleSet::new(None, Arc::new(bundle(OWN)), &foreign).view(foreign.keys())
    }

    fn names(bundles: &EncodedBundles) -> Vec<&str> {
        bundles.keys().map(TrustDomain::as_str).collect()
    }

    #[test]
    fn a_foreign_domain_without_roots_is_left_out_of_x509_messages() {
        assert_eq!(names(&view().foreign_x509()), [X509_ONLY]);
        assert_eq!(names(&view().x509()), [OWN, X509_ONLY]);
    }

    #[test]
    fn a_foreign_domain_without_jwt_keys_is_left_out_of_jwt_bundles() {
        assert_eq!(names(&view().jwt()), [OWN, JWT_ONLY]);
    }
}
