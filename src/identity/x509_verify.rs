//! Verifies the certificates of a peer as an X509-SVID (SPEC: X509-SVID §5). Paths, signatures and dates are checked by
//! webpki; here stand the rules of the standard that it does not know, and those of RFC 5280 that it leaves out.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Deref;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::VerifiedPath;
use x509_parser::asn1_rs::Any;
use x509_parser::asn1_rs::Class;
use x509_parser::asn1_rs::Sequence;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;

use crate::identity::bundle::Bundle;
use crate::identity::bundle::root::Root;
use crate::identity::spiffe_id::InvalidSpiffeId;
use crate::identity::spiffe_id::SpiffeId;

/// The most certificates that a peer may present.
pub const MAX_CHAIN: usize = 8;

/// The context tag of a URI in a GeneralName (SPEC: RFC 5280 §4.2.1.6).
const URI: u32 = 6;

/// What the peer is in the connection that it authenticates for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It was connected to.
    Server,
    /// It has connected.
    Client,
}

/// Why certificates are no valid X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidX509Svid {
    /// No certificate, or more than [`MAX_CHAIN`].
    #[error("the peer has presented {certificates} certificates; 1 to {MAX_CHAIN} are allowed")]
    ChainLength {
        /// How many.
        certificates: usize,
    },
    /// Not DER, something after its end, or an extension that cannot be read or occurs twice.
    #[error("the peer's certificate is malformed")]
    Malformed,
    /// It is a CA certificate: it signs, and never authenticates (SPEC: X509-SVID §3.2, §5.2).
    #[error("the peer's certificate is a signing certificate")]
    SigningCertificate,
    /// Not exactly one URI name, of whatever scheme and encoding (SPEC: X509-SVID §2, §5.2).
    #[error("the peer's certificate has {uris} URI names; an X509-SVID has exactly one")]
    UriNames {
        /// How many.
        uris: usize,
    },
    /// The URI name is no workload's SPIFFE ID.
    #[error("the peer's certificate has no SPIFFE ID: {0}")]
    Id(#[from] InvalidSpiffeId),
    /// Key usage is absent, or not that of a leaf (SPEC: X509-SVID §4.3, §5.2).
    #[error("the peer's key usage is not that of a leaf: digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
    /// Nothing is known of the trust domain of its SPIFFE ID.
    #[error("there is no bundle of the peer's trust domain")]
    UnknownTrustDomain,
    /// Its trust domain has no root whose life the time lies in.
    #[error("the bundle of the peer's trust domain has no root that is valid now")]
    NoRoot,
    /// A certificate between leaf and root may not sign certificates (SPEC: RFC 5280 §6.1.4 n).
    #[error("an intermediate certificate may not sign certificates")]
    IntermediateKeyUsage,
    /// The path is longer than its root allows (SPEC: RFC 5280 §4.2.1.9).
    #[error("the path is longer than its root allows")]
    PathLength,
    /// No valid path to a root of its trust domain.
    #[error("the peer's certificate does not lead to a root of its trust domain: {0}")]
    Path(webpki::Error),
}

/// Verifies `chain`, DER, leaf first, and returns whose it is.
///
/// SECURITY: the trust domain of the leaf's ID alone says which roots are asked (SPEC: Workload API §4.6), so no trust
/// domain can certify another's workloads.
///
/// # Errors
/// [`InvalidX509Svid`]
pub fn verify_x509_svid<B: Deref<Target = Bundle>>(
    chain: &[&[u8]],
    bundle_of: impl FnOnce(&str) -> Option<B>,
    now: SystemTime,
    purpose: Purpose,
) -> Result<SpiffeId, InvalidX509Svid> {
    let [leaf, intermediates @ ..] = chain else { return Err(InvalidX509Svid::ChainLength { certificates: 0 }) };
    if chain.len() > MAX_CHAIN {
        return Err(InvalidX509Svid::ChainLength { certificates: chain.len() });
    }
    let id = read_leaf(leaf)?;
    let bundle = bundle_of(id.trust_domain()).filter(|bundle| id.is_member_of(&bundle.trust_domain));
    let bundle = bundle.ok_or(InvalidX509Svid::UnknownTrustDomain)?;
    check_path(leaf, intermediates, &bundle, now, purpose)?;
    Ok(id)
}

/// Whose certificate it says it is, where it is a leaf by the standard's rules; nothing is verified yet.
fn read_leaf(der: &[u8]) -> Result<SpiffeId, InvalidX509Svid> {
    let malformed = |_| InvalidX509Svid::Malformed;
    let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| InvalidX509Svid::Malformed)?;
    if !rest.is_empty() || leaf.extensions_map().is_err() {
        return Err(InvalidX509Svid::Malformed);
    }
    if leaf.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(InvalidX509Svid::SigningCertificate);
    }
    let usage = leaf.key_usage().map_err(malformed)?.ok_or(InvalidX509Svid::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(InvalidX509Svid::KeyUsage);
    }
    let names = leaf.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).map_err(malformed)?;
    let uris = names.map_or(Some(Vec::new()), |names| uri_names(names.value)).ok_or(InvalidX509Svid::Malformed)?;
    let [uri] = uris[..] else { return Err(InvalidX509Svid::UriNames { uris: uris.len() }) };
    let uri = std::str::from_utf8(uri).map_err(|_| InvalidX509Svid::Malformed)?;
    Ok(uri.parse()?)
}

/// Every URI name, as bytes.
///
/// SECURITY: libraries pass over names that are not UTF-8; a certificate with two URIs would look like one with one. So
/// tags are counted, before anything of a name is read.
fn uri_names(names: &[u8]) -> Option<Vec<&[u8]>> {
    let (rest, names) = Sequence::from_der(names).ok()?;
    let mut left = match names.content {
        Cow::Borrowed(content) if rest.is_empty() => content,
        _ => return None,
    };
    let mut uris = Vec::new();
    while !left.is_empty() {
        let (after, name) = Any::from_der(left).ok()?;
        if name.class() == Class::ContextSpecific && name.tag().0 == URI {
            uris.push(name.data);
        }
        left = after;
    }
    Some(uris)
}

fn check_path(
    leaf: &[u8],
    intermediates: &[&[u8]],
    bundle: &Bundle,
    now: SystemTime,
    purpose: Purpose,
) -> Result<(), InvalidX509Svid> {
    // SECURITY: an anchor has no dates, so a path to an expired root would be valid for ever.
    let roots = bundle.x509_authorities.iter().filter_map(|der| Root::read(der).ok());
    let roots: Vec<_> = roots.filter(|root| root.is_valid_at(now)).collect();
    let anchors: Vec<_> = roots.iter().filter_map(Root::anchor).collect();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| InvalidX509Svid::NoRoot)?;
    if anchors.is_empty() {
        return Err(InvalidX509Svid::NoRoot);
    }
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(InvalidX509Svid::Path)?;
    let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    // A path that breaks a rule of ours is passed over, as one that breaks a rule of webpki: there may be another.
    let broken = Cell::new(None);
    let keeps_our_rules = |path: &VerifiedPath<'_>| {
        check_signers(path, &roots).map_err(|why| {
            broken.set(Some(why));
            webpki::Error::UnknownIssuer
        })
    };
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let time = UnixTime::since_unix_epoch(since_1970);
    let path = leaf.verify_for_usage(algorithms, &anchors, &intermediates, time, usage, None, Some(&keeps_our_rules));
    path.map(drop).map_err(|why| broken.take().unwrap_or(InvalidX509Svid::Path(why)))
}

/// The rules for signing certificates that webpki does not check.
fn check_signers(path: &VerifiedPath<'_>, roots: &[Root<'_>]) -> Result<(), InvalidX509Svid> {
    let mut signers = 0;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| InvalidX509Svid::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| InvalidX509Svid::Malformed)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(InvalidX509Svid::IntermediateKeyUsage);
        }
        // SPEC: RFC 5280 §4.2.1.9: certificates that a CA issues to itself are not counted.
        signers += u32::from(certificate.subject() != certificate.issuer());
    }
    let root = roots.iter().find(|root| root.anchor().as_ref() == Some(path.anchor()));
    match root.and_then(Root::path_length) {
        Some(most) if signers > most => Err(InvalidX509Svid::PathLength),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::CustomExtension;
    use rcgen::DnType;
    use rcgen::ExtendedKeyUsagePurpose;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;

    use super::*;
    use crate::identity::trust_domain::TrustDomain;

    const SAN: [u64; 4] = [2, 5, 29, 17];
    const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];
    const ID: &str = "spiffe://example.org/w1";

    /// Noon of the day that all good certificates of these tests are valid on.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_499_200)
    }

    /// A certificate with its key, which may sign others.
    struct Signer {
        params: CertificateParams,
        key: KeyPair,
        der: Vec<u8>,
    }

    type Change<'a> = &'a dyn Fn(&mut CertificateParams);

    const AS_IT_IS: Change<'static> = &|_| {};

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        params
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    impl Signer {
        fn root(name: &str, change: Change<'_>) -> Self {
            let mut params = ca_params(name);
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().to_vec();
            Self { params, key, der }
        }

        fn sign(&self, params: CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let issuer = Issuer::from_params(&self.params, &self.key);
            let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
            Self { params, key, der }
        }

        fn intermediate(&self, name: &str, change: Change<'_>) -> Self {
            let mut params = ca_params(name);
            change(&mut params);
            self.sign(params)
        }

        fn leaf(&self, change: Change<'_>) -> Vec<u8> {
            self.leaf_named(&[(0x86, ID.as_bytes())], change)
        }

        /// A leaf with these names, each a tag and its bytes.
        fn leaf_named(&self, names: &[(u8, &[u8])], change: Change<'_>) -> Vec<u8> {
            let mut params = params("leaf");
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            if !names.is_empty() {
                let one = |(tag, name): &(u8, &[u8])| [&[*tag, u8::try_from(name.len()).unwrap()][..], name].concat();
                let all: Vec<u8> = names.iter().flat_map(one).collect();
                let length = u8::try_from(all.len()).unwrap();
                let head = if length < 128 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
                let names = [head, all].concat();
                params.custom_extensions.push(CustomExtension::from_oid_content(&SAN, names));
            }
            change(&mut params);
            self.sign(params).der
        }

        fn bundle(&self, trust_domain: &str) -> Bundle {
            let trust_domain: TrustDomain = trust_domain.parse().unwrap();
            Bundle { x509_authorities: vec![self.der.clone().into()], ..Bundle::empty(trust_domain) }
        }

        /// Verifies against this as the only root of example.org.
        fn verdict(&self, chain: &[&[u8]]) -> Result<SpiffeId, InvalidX509Svid> {
            let bundle = self.bundle("example.org");
            verify_x509_svid(chain, |_| Some(&bundle), noon(), Purpose::Server)
        }
    }

    fn root() -> Signer {
        Signer::root("root", AS_IT_IS)
    }

    fn untrusted(verdict: Result<SpiffeId, InvalidX509Svid>) -> bool {
        matches!(verdict, Err(InvalidX509Svid::Path(_)))
    }

    #[test]
    fn a_leaf_of_the_profile_is_valid_with_and_without_what_is_optional() {
        let root = root();
        let dns = root.leaf_named(&[(0x82, b"w1.example.org"), (0x86, ID.as_bytes()), (0x82, b"w1")], AS_IT_IS);
        let intermediate = root.intermediate("one", AS_IT_IS);
        let second = intermediate.intermediate("two", AS_IT_IS);
        for chain in [
            vec![root.leaf(AS_IT_IS)],
            vec![dns],
            vec![root.leaf(&|params| params.extended_key_usages.clear())],
            vec![root.leaf(&|params| params.is_ca = IsCa::ExplicitNoCa)],
            vec![root.leaf(&|params| params.key_usages.push(KeyUsagePurpose::KeyAgreement))],
            vec![intermediate.leaf(AS_IT_IS), intermediate.der.clone()],
            vec![second.leaf(AS_IT_IS), intermediate.der.clone(), second.der.clone()],
            vec![root.leaf(AS_IT_IS), root.der.clone()],
        ] {
            let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
            assert_eq!(root.verdict(&chain).unwrap().as_str(), ID);
        }
    }

    #[test]
    fn a_leaf_has_exactly_one_uri_name_whatever_the_others_are() {
        let root = root();
        let uri = (0x86, ID.as_bytes());
        for (names, uris) in [
            (vec![], 0),
            (vec![(0x82, &b"example.org"[..])], 0),
            (vec![uri, (0x86, b"https://example.org/w1")], 2),
            (vec![uri, uri], 2),
            (vec![uri, (0x86, b"\xff\xfe")], 2),
            (vec![(0x86, b"\xff"), (0x82, b"w1"), uri], 2),
            (vec![uri, (0x86, b"")], 2),
            (vec![uri, (0xa6, b"")], 2),
        ] {
            let verdict = root.verdict(&[&root.leaf_named(&names, AS_IT_IS)]);
            assert_eq!(verdict, Err(InvalidX509Svid::UriNames { uris }), "{names:?}");
        }
    }

    #[test]
    fn the_uri_name_is_a_workloads_spiffe_id() {
        let root = root();
        for uri in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "https://example.org/w1",
            "spiffe://Example.org/w1",
            "spiffe://example.org/a/../w1",
            "spiffe://example.org/w1?x",
            "",
        ] {
            let verdict = root.verdict(&[&root.leaf_named(&[(0x86, uri.as_bytes())], AS_IT_IS)]);
            assert!(matches!(verdict, Err(InvalidX509Svid::Id(_))), "{uri}: {verdict:?}");
        }
        for uri in [&b"spiffe://example.org/\xff"[..], b"\xef\xbb\xbfspiffe://example.org/w1\xc0"] {
            assert_eq!(root.verdict(&[&root.leaf_named(&[(0x86, uri)], AS_IT_IS)]), Err(InvalidX509Svid::Malformed));
        }
    }

    #[test]
    fn a_signing_certificate_authenticates_nobody() {
        let root = root();
        let intermediate = root.intermediate("one", AS_IT_IS);
        let with_an_id = root.leaf(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        for der in [&root.der, &intermediate.der, &with_an_id] {
            assert_eq!(root.verdict(&[der]), Err(InvalidX509Svid::SigningCertificate));
        }
    }

    #[test]
    fn a_leaf_has_the_key_usage_of_a_leaf() {
        use KeyUsagePurpose::CrlSign;
        use KeyUsagePurpose::DigitalSignature;
        use KeyUsagePurpose::KeyCertSign;
        use KeyUsagePurpose::KeyEncipherment;
        let root = root();
        for usages in [
            vec![],
            vec![KeyEncipherment],
            vec![DigitalSignature, KeyCertSign],
            vec![DigitalSignature, CrlSign],
            vec![KeyCertSign, CrlSign],
        ] {
            let leaf = root.leaf(&|params| params.key_usages.clone_from(&usages));
            assert_eq!(root.verdict(&[&leaf]), Err(InvalidX509Svid::KeyUsage), "{usages:?}");
        }
    }

    #[test]
    fn an_extended_key_usage_that_is_there_has_the_purpose() {
        let root = root();
        let bundle = root.bundle("example.org");
        let leaf = root.leaf(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let verdict = |purpose| verify_x509_svid(&[&leaf], |_| Some(&bundle), noon(), purpose);
        assert!(verdict(Purpose::Server).is_ok());
        assert!(untrusted(verdict(Purpose::Client)));
        let other = root.leaf(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]);
        assert!(untrusted(root.verdict(&[&other])));
    }

    #[test]
    fn a_trust_domain_certifies_its_own_workloads_only() {
        let (ours, theirs) = (root(), Signer::root("theirs", AS_IT_IS));
        let bundles = [ours.bundle("example.org"), theirs.bundle("partner.test")];
        let bundle_of = |name: &str| bundles.iter().find(|bundle| bundle.trust_domain.as_str() == name);
        let verdict = |leaf: &[u8]| verify_x509_svid(&[leaf], bundle_of, noon(), Purpose::Server);
        assert!(verdict(&ours.leaf(AS_IT_IS)).is_ok());
        assert!(untrusted(verdict(&theirs.leaf(AS_IT_IS))));
        let same_name = root();
        assert!(untrusted(verdict(&same_name.leaf(AS_IT_IS))), "a root of the same name with another key");
        let stranger = ours.leaf_named(&[(0x86, b"spiffe://stranger.test/w1")], AS_IT_IS);
        assert_eq!(verdict(&stranger), Err(InvalidX509Svid::UnknownTrustDomain));
        assert_eq!(ours.verdict(&[&stranger]), Err(InvalidX509Svid::UnknownTrustDomain), "whatever the lookup answers");
    }

    #[test]
    fn every_certificate_of_the_path_is_within_its_life() {
        let past: Change<'_> = &|params| params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let future: Change<'_> = &|params| params.not_before = rcgen::date_time_ymd(2030, 1, 2);
        for ended in [past, future] {
            let good = root();
            assert!(untrusted(good.verdict(&[&good.leaf(ended)])));
            let intermediate = good.intermediate("one", ended);
            assert!(untrusted(good.verdict(&[&intermediate.leaf(AS_IT_IS), &intermediate.der])));
            let root = Signer::root("root", ended);
            assert_eq!(root.verdict(&[&root.leaf(AS_IT_IS)]), Err(InvalidX509Svid::NoRoot));
        }
        let root = root();
        let bundle = root.bundle("example.org");
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let verdict = verify_x509_svid(&[&root.leaf(AS_IT_IS)], |_| Some(&bundle), before_1970, Purpose::Server);
        assert_eq!(verdict, Err(InvalidX509Svid::NoRoot));
    }

    #[test]
    fn an_intermediate_must_be_allowed_to_sign_certificates() {
        let root = root();
        let crl_only = root.intermediate("one", &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
        let verdict = root.verdict(&[&crl_only.leaf(AS_IT_IS), &crl_only.der]);
        assert_eq!(verdict, Err(InvalidX509Svid::IntermediateKeyUsage));
        for no_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let leaf = root.intermediate("one", &|params| params.is_ca = no_ca);
            assert!(untrusted(root.verdict(&[&leaf.leaf(AS_IT_IS), &leaf.der])));
        }
        let unsaid = root.intermediate("one", &|params| params.key_usages.clear());
        assert!(root.verdict(&[&unsaid.leaf(AS_IT_IS), &unsaid.der]).is_ok(), "without key usage, cA alone counts");
    }

    #[test]
    fn a_path_that_breaks_our_rules_does_not_hide_one_that_keeps_them() {
        let root = root();
        let good = root.intermediate("one", AS_IT_IS);
        let mut crl_only = good.params.clone();
        crl_only.key_usages = vec![KeyUsagePurpose::CrlSign];
        let crl_only = crl_only.signed_by(&good.key, &Issuer::from_params(&root.params, &root.key)).unwrap();
        let leaf = good.leaf(AS_IT_IS);
        assert!(root.verdict(&[&leaf, crl_only.der(), &good.der]).is_ok());
        assert_eq!(root.verdict(&[&leaf, crl_only.der()]), Err(InvalidX509Svid::IntermediateKeyUsage));
    }

    #[test]
    fn path_lengths_hold_for_intermediates_and_for_the_root() {
        let limited: Change<'_> = &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let top = Signer::root("root", limited);
        assert!(top.verdict(&[&top.leaf(AS_IT_IS)]).is_ok());
        let one = top.intermediate("one", AS_IT_IS);
        assert_eq!(top.verdict(&[&one.leaf(AS_IT_IS), &one.der]), Err(InvalidX509Svid::PathLength));
        let top = root();
        let one = top.intermediate("one", limited);
        assert!(top.verdict(&[&one.leaf(AS_IT_IS), &one.der]).is_ok());
        let two = one.intermediate("two", AS_IT_IS);
        assert!(untrusted(top.verdict(&[&two.leaf(AS_IT_IS), &two.der, &one.der])));
    }

    #[test]
    fn a_chain_through_uri_name_constraints_is_refused_and_not_half_checked() {
        // permittedSubtrees with one URI, "example.org".
        let value = [&[0x30, 17, 0xa0, 15, 0x30, 13, 0x86, 11][..], b"example.org"].concat();
        let constrained: Change<'_> = &|params| {
            params.custom_extensions.push(CustomExtension::from_oid_content(&NAME_CONSTRAINTS, value.clone()));
        };
        let top = Signer::root("root", constrained);
        assert!(untrusted(top.verdict(&[&top.leaf(AS_IT_IS)])));
        let top = root();
        let one = top.intermediate("one", constrained);
        assert!(untrusted(top.verdict(&[&one.leaf(AS_IT_IS), &one.der])));
    }

    #[test]
    fn an_extension_occurs_once_and_a_critical_one_is_known() {
        let root = root();
        let extension = |oid: &[u64], critical: bool| {
            let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
            extension.set_criticality(critical);
            extension
        };
        let unknown = [1, 3, 6, 1, 4, 1, 55555, 1];
        assert!(root.verdict(&[&root.leaf(&|it| it.custom_extensions.push(extension(&unknown, false)))]).is_ok());
        assert!(untrusted(root.verdict(&[&root.leaf(&|it| it.custom_extensions.push(extension(&unknown, true)))])));
        let twice =
            root.leaf(&|it| it.custom_extensions.extend([extension(&unknown, false), extension(&unknown, false)]));
        assert_eq!(root.verdict(&[&twice]), Err(InvalidX509Svid::Malformed));
        let names: Vec<u8> = [&[0x30, 25, 0x86, 23][..], ID.as_bytes()].concat();
        let names = CustomExtension::from_oid_content(&SAN, names);
        assert_eq!(
            root.verdict(&[&root.leaf(&|it| it.custom_extensions.push(names.clone()))]),
            Err(InvalidX509Svid::Malformed)
        );
    }

    #[test]
    fn no_changed_certificate_is_valid() {
        let root = root();
        let leaf = root.leaf(AS_IT_IS);
        for place in 0..leaf.len() {
            for bit in [1, 0x80] {
                let mut changed = leaf.clone();
                changed[place] ^= bit;
                assert!(root.verdict(&[&changed]).is_err(), "byte {place} changed by {bit:#x}");
            }
        }
        for end in 0..leaf.len() {
            assert!(root.verdict(&[&leaf[..end]]).is_err(), "cut at {end}");
        }
        assert_eq!(root.verdict(&[&[&leaf[..], &[0]].concat()]), Err(InvalidX509Svid::Malformed));
    }

    #[test]
    fn chains_of_none_and_of_too_many_are_refused() {
        let root = root();
        assert_eq!(root.verdict(&[]), Err(InvalidX509Svid::ChainLength { certificates: 0 }));
        let leaf = root.leaf(AS_IT_IS);
        assert!(root.verdict(&[&leaf[..]; MAX_CHAIN]).is_ok());
        let refused = Err(InvalidX509Svid::ChainLength { certificates: MAX_CHAIN + 1 });
        assert_eq!(root.verdict(&[&leaf[..]; MAX_CHAIN + 1]), refused);
    }

    #[test]
    fn an_empty_bundle_believes_nobody() {
        let empty = Bundle::empty("example.org".parse().unwrap());
        let leaf = root().leaf(AS_IT_IS);
        let verdict = verify_x509_svid(&[&leaf], |_| Some(&empty), noon(), Purpose::Server);
        assert_eq!(verdict, Err(InvalidX509Svid::NoRoot));
    }
}
