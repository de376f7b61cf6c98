//! The profile that every certificate of ours keeps: the rules of the X509-SVID standard and of RFC 5280, checked on the
//! bytes that are about to be signed, so that what breaks them never gets a signature. Knows nothing of who signs.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use x509_parser::certificate::TbsCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::BasicConstraints;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::KeyUsage;
use x509_parser::extensions::ParsedExtension;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::OID_EC_P256;
use x509_parser::oid_registry::OID_NIST_EC_P384;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;
use x509_parser::x509::X509Version;

use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::identity::x509_names::is_dns_name;
use crate::identity::x509_names::subject::is_subject_of;

/// The most octets a serial number may have (SPEC: RFC 5280 §4.1.2.2).
const MAX_SERIAL: usize = 20;
/// Fewer octets than this cannot hold 64 random bits.
const MIN_SERIAL: usize = 8;
const MIN_RSA_BITS: usize = 2048;
/// SPEC: RFC 5280 §4.1.2.5, the last year that is written as UTCTime.
const LAST_UTC_TIME_YEAR: i32 = 2049;

/// What a leaf must agree with: facts of the certificate that signs it.
#[derive(Debug, Clone, Copy)]
pub struct IssuedBy<'a> {
    /// The trust domain of everything it signs.
    pub trust_domain: &'a TrustDomain,
    /// Its subject key id.
    pub key_id: &'a [u8],
    /// Its end.
    pub not_after: SystemTime,
}

/// Which rule a certificate breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProfileViolation {
    /// Not DER, or something after its end.
    #[error("it is not one DER certificate")]
    Malformed,
    /// Inner and outer signature algorithm differ (SPEC: RFC 5280 §4.1.1.2).
    #[error("its two signature algorithms differ")]
    Algorithms,
    /// Not version 3.
    #[error("it is not of version 3")]
    Version,
    /// The serial number is negative, zero, longer than 20 octets or shorter than 64 bits.
    #[error("its serial number is not a positive one of 8 to 20 octets")]
    Serial,
    /// It ends before it begins, or a time has the wrong form (SPEC: RFC 5280 §4.1.2.5).
    #[error("its validity is empty, or written in the wrong form")]
    Validity,
    /// It would outlive the certificate that signs it.
    #[error("it ends after the certificate that signs it")]
    OutlivesIssuer,
    /// A key that verifiers do not take.
    #[error("its public key is none of P-256, P-384, Ed25519 and RSA of 2048 bits or more")]
    PublicKey,
    /// An extension occurs twice, or cannot be read.
    #[error("an extension occurs twice or cannot be read")]
    Extensions,
    /// A critical extension that verifiers must refuse.
    #[error("it has a critical extension that verifiers do not know")]
    UnknownCritical,
    /// URI name constraints: some verifiers ignore them and others refuse every chain that has them.
    #[error("it has name constraints")]
    NameConstraints,
    /// Not exactly one URI name, or none at all (SPEC: X509-SVID §2).
    #[error("it does not have exactly one URI name")]
    UriNames,
    /// The URI name is not a SPIFFE ID of the right kind (SPEC: X509-SVID §2, §3).
    #[error("its URI name is not the SPIFFE ID it should be")]
    SpiffeId,
    /// The SPIFFE ID belongs to another trust domain than the certificate that signs it.
    #[error("its SPIFFE ID is of another trust domain")]
    ForeignTrustDomain,
    /// The subject is empty and the names are not critical (SPEC: X509-SVID §3.1).
    #[error("its subject is empty and its names are not critical")]
    NamesNotCritical,
    /// The subject is not empty and the names are critical (SPEC: RFC 5280 §4.2.1.6).
    #[error("it has a subject and its names are critical")]
    NamesCritical,
    /// A DNS name that is none.
    #[error("one of its DNS names is none")]
    DnsName,
    /// The subject is not the one that follows from its DNS names.
    #[error("its common name is not its first DNS name of at most 64 characters, or its subject has other attributes")]
    Subject,
    /// A signing certificate without a subject.
    #[error("it signs and has no subject")]
    NoSubject,
    /// Basic constraints are absent or say the wrong thing (SPEC: X509-SVID §4.1).
    #[error("its basic constraints are absent or wrong")]
    BasicConstraints,
    /// Key usage is absent, not critical, or has the wrong bits (SPEC: X509-SVID §4.3).
    #[error("its key usage is absent, not critical or wrong")]
    KeyUsage,
    /// Extended key usage without both server and client authentication (SPEC: X509-SVID §4.4).
    #[error("its extended key usage lacks server or client authentication")]
    ExtendedKeyUsage,
    /// No subject key id.
    #[error("it has no subject key id")]
    SubjectKeyId,
    /// The authority key id is absent or not that of the certificate that signs it.
    #[error("its authority key id is absent or not its signer's")]
    AuthorityKeyId,
}

/// Checks the to-be-signed bytes of a leaf.
///
/// # Errors
/// [`ProfileViolation`]: the first rule that it breaks.
pub fn lint_leaf(to_be_signed: &[u8], issuer: &IssuedBy<'_>) -> Result<(), ProfileViolation> {
    let certificate = parse(to_be_signed)?;
    let extensions = Extensions::of(&certificate)?;
    check_form(&certificate)?;

    let id = extensions.only_uri()?.parse::<SpiffeId>().map_err(|_| ProfileViolation::SpiffeId)?;
    ensure(id.is_member_of(issuer.trust_domain), ProfileViolation::ForeignTrustDomain)?;
    let has_subject = certificate.subject().iter_rdn().next().is_some();
    ensure(has_subject || extensions.names_critical, ProfileViolation::NamesNotCritical)?;
    ensure(!has_subject || !extensions.names_critical, ProfileViolation::NamesCritical)?;
    ensure(extensions.dns.iter().all(|name| is_dns_name(name)), ProfileViolation::DnsName)?;
    ensure(is_subject_of(certificate.subject().as_raw(), &extensions.dns), ProfileViolation::Subject)?;

    let constraints = extensions.constraints.ok_or(ProfileViolation::BasicConstraints)?;
    ensure(!constraints.ca && constraints.path_len_constraint.is_none(), ProfileViolation::BasicConstraints)?;
    let usage = extensions.critical_usage()?;
    ensure(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign(), ProfileViolation::KeyUsage)?;
    ensure(extensions.authenticates_both == Some(true), ProfileViolation::ExtendedKeyUsage)?;

    ensure(extensions.subject_key_id.is_some(), ProfileViolation::SubjectKeyId)?;
    ensure(extensions.authority_key_id == Some(issuer.key_id), ProfileViolation::AuthorityKeyId)?;
    let issuer_end = issuer.not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let end = certificate.validity.not_after.timestamp();
    ensure(u64::try_from(end).is_ok_and(|end| end <= issuer_end), ProfileViolation::OutlivesIssuer)
}

/// Checks the to-be-signed bytes of a certificate that signs others.
///
/// # Errors
/// [`ProfileViolation`]: the first rule that it breaks.
pub fn lint_authority(to_be_signed: &[u8], trust_domain: &TrustDomain) -> Result<(), ProfileViolation> {
    let certificate = parse(to_be_signed)?;
    let extensions = Extensions::of(&certificate)?;
    check_form(&certificate)?;

    ensure(certificate.subject().iter_rdn().next().is_some(), ProfileViolation::NoSubject)?;
    let uri = extensions.only_uri()?;
    ensure(uri.starts_with(&trust_domain.id_string()), ProfileViolation::ForeignTrustDomain)?;
    ensure(uri == trust_domain.id_string(), ProfileViolation::SpiffeId)?;

    let constraints = extensions.constraints.ok_or(ProfileViolation::BasicConstraints)?;
    ensure(constraints.ca && extensions.constraints_critical, ProfileViolation::BasicConstraints)?;
    let usage = extensions.critical_usage()?;
    // SPEC: X509-SVID appendix A gives these three to leaves only.
    let as_leaf = usage.digital_signature() || usage.key_encipherment() || usage.key_agreement();
    ensure(usage.key_cert_sign() && !as_leaf, ProfileViolation::KeyUsage)?;

    ensure(extensions.subject_key_id.is_some(), ProfileViolation::SubjectKeyId)?;
    let self_signed = certificate.issuer().as_raw() == certificate.subject().as_raw();
    ensure(self_signed || extensions.authority_key_id.is_some(), ProfileViolation::AuthorityKeyId)
}

/// The to-be-signed bytes of a whole certificate, for [`lint_leaf`] and [`lint_authority`].
///
/// # Errors
/// [`ProfileViolation::Malformed`] and [`ProfileViolation::Algorithms`].
pub fn to_be_signed(certificate: &[u8]) -> Result<Vec<u8>, ProfileViolation> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| ProfileViolation::Malformed)?;
    ensure(rest.is_empty(), ProfileViolation::Malformed)?;
    ensure(parsed.signature_algorithm == parsed.tbs_certificate.signature, ProfileViolation::Algorithms)?;
    Ok(parsed.tbs_certificate.as_ref().to_vec())
}

fn parse(to_be_signed: &[u8]) -> Result<TbsCertificate<'_>, ProfileViolation> {
    match TbsCertificate::from_der(to_be_signed) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(ProfileViolation::Malformed),
    }
}

/// The rules that leaves and signing certificates share.
fn check_form(certificate: &TbsCertificate<'_>) -> Result<(), ProfileViolation> {
    ensure(certificate.version() == X509Version::V3, ProfileViolation::Version)?;
    let serial = certificate.raw_serial();
    let positive = serial.first().is_some_and(|first| first & 0x80 == 0) && serial.iter().any(|byte| *byte != 0);
    ensure(positive && (MIN_SERIAL..=MAX_SERIAL).contains(&serial.len()), ProfileViolation::Serial)?;
    let validity = &certificate.validity;
    ensure(validity.not_before < validity.not_after, ProfileViolation::Validity)?;
    ensure(right_form(&validity.not_before) && right_form(&validity.not_after), ProfileViolation::Validity)?;
    ensure(key_is_known(certificate.public_key()), ProfileViolation::PublicKey)
}

fn key_is_known(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
        }
        Ok(PublicKey::RSA(key)) => key.key_size() >= MIN_RSA_BITS,
        Ok(PublicKey::Unknown(_)) => key.algorithm.algorithm == OID_SIG_ED25519,
        Ok(_) | Err(_) => false,
    }
}

fn right_form(time: &ASN1Time) -> bool {
    time.is_generalizedtime() == (time.to_datetime().year() > LAST_UTC_TIME_YEAR)
}

/// The extensions of one certificate, each at most once.
#[derive(Default)]
struct Extensions<'a> {
    uris: Vec<&'a str>,
    dns: Vec<&'a str>,
    names_critical: bool,
    constraints: Option<&'a BasicConstraints>,
    constraints_critical: bool,
    usage: Option<&'a KeyUsage>,
    usage_critical: bool,
    authenticates_both: Option<bool>,
    subject_key_id: Option<&'a [u8]>,
    authority_key_id: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn of(certificate: &'a TbsCertificate<'_>) -> Result<Self, ProfileViolation> {
        let mut found = Self::default();
        let all = certificate.extensions();
        for (at, extension) in all.iter().enumerate() {
            ensure(all.iter().skip(at + 1).all(|other| other.oid != extension.oid), ProfileViolation::Extensions)?;
            found.take(extension)?;
        }
        Ok(found)
    }

    fn take(&mut self, extension: &'a X509Extension<'_>) -> Result<(), ProfileViolation> {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                self.names_critical = extension.critical;
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push(uri),
                        GeneralName::DNSName(name) => self.dns.push(name),
                        GeneralName::Invalid(..) => return Err(ProfileViolation::Extensions),
                        _ => {}
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.constraints = Some(constraints);
                self.constraints_critical = extension.critical;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.usage = Some(usage);
                self.usage_critical = extension.critical;
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.authenticates_both = Some(usage.server_auth && usage.client_auth);
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::NameConstraints(_) => return Err(ProfileViolation::NameConstraints),
            ParsedExtension::ParseError { .. } => return Err(ProfileViolation::Extensions),
            _ => ensure(!extension.critical, ProfileViolation::UnknownCritical)?,
        }
        Ok(())
    }

    fn only_uri(&self) -> Result<&'a str, ProfileViolation> {
        match self.uris.as_slice() {
            [uri] => Ok(uri),
            _ => Err(ProfileViolation::UriNames),
        }
    }

    fn critical_usage(&self) -> Result<&'a KeyUsage, ProfileViolation> {
        self.usage.filter(|_| self.usage_critical).ok_or(ProfileViolation::KeyUsage)
    }
}

fn ensure(holds: bool, otherwise: ProfileViolation) -> Result<(), ProfileViolation> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::CertificateParams;
    use rcgen::CustomExtension;
    use rcgen::DistinguishedName;
    use rcgen::DnType;
    use rcgen::ExtendedKeyUsagePurpose;
    use rcgen::GeneralSubtree;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyIdMethod;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;
    use rcgen::NameConstraints;
    use rcgen::SanType;
    use rcgen::SerialNumber;
    use time::macros::datetime;

    use super::ProfileViolation as Breaks;
    use super::*;

    const KEY_ID: &[u8] = b"the key id of the authority";
    const KEY_USAGE_OID: &[u64] = &[2, 5, 29, 15];
    const BASIC_CONSTRAINTS_OID: &[u64] = &[2, 5, 29, 19];
    /// A bit string with `digitalSignature`, and one with `keyCertSign`.
    const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
    const KEY_CERT_SIGN: &[u8] = &[0x03, 0x02, 0x02, 0x04];
    const CA_TRUE: &[u8] = &[0x30, 0x03, 0x01, 0x01, 0xff];

    fn blank() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&[1; 16]));
        params.not_before = datetime!(2026-11-22 12:00 UTC);
        params.not_after = datetime!(2026-11-22 13:00 UTC);
        params.key_identifier_method = KeyIdMethod::PreSpecified(KEY_ID.to_vec());
        params
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn leaf() -> CertificateParams {
        let mut leaf = blank();
        leaf.distinguished_name.push(DnType::CommonName, "web.test");
        leaf.subject_alt_names =
            vec![uri("spiffe://example.org/web"), SanType::DnsName("web.test".try_into().unwrap())];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf
    }

    fn own() -> CertificateParams {
        let mut own = blank();
        own.distinguished_name.push(DnType::CommonName, "authority");
        own.subject_alt_names = vec![uri("spiffe://example.org")];
        own.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        own
    }

    fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    }

    fn signed(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer_key = KeyPair::generate().unwrap();
        let issuer = own();
        params.signed_by(key, &Issuer::from_params(&issuer, issuer_key)).unwrap().der().to_vec()
    }

    fn verdict_on_leaf(to_be_signed: &[u8]) -> Result<(), Breaks> {
        let trust_domain = "example.org".parse().unwrap();
        let not_after = UNIX_EPOCH + Duration::from_secs(1_795_352_400);
        assert_eq!(datetime!(2026-11-22 13:00 UTC).unix_timestamp(), 1_795_352_400);
        lint_leaf(to_be_signed, &IssuedBy { trust_domain: &trust_domain, key_id: KEY_ID, not_after })
    }

    fn leaf_with(change: impl FnOnce(&mut CertificateParams)) -> Result<(), Breaks> {
        let mut params = leaf();
        change(&mut params);
        verdict_on_leaf(&to_be_signed(&signed(&params, &KeyPair::generate().unwrap())).unwrap())
    }

    fn authority_with(change: impl FnOnce(&mut CertificateParams)) -> Result<(), Breaks> {
        let mut params = own();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        lint_authority(&to_be_signed(certificate.der()).unwrap(), &"example.org".parse().unwrap())
    }

    #[test]
    fn the_profile_accepts_our_templates() {
        assert_eq!(leaf_with(|_| {}), Ok(()));
        assert_eq!(authority_with(|_| {}), Ok(()));
    }

    #[test]
    fn a_leaf_has_dns_names_and_the_subject_that_follows_from_them() {
        let named = |leaf: &mut CertificateParams| leaf.distinguished_name.push(DnType::CommonName, "web");
        assert_eq!(leaf_with(named), Err(Breaks::Subject));
        let organization = |leaf: &mut CertificateParams| {
            leaf.distinguished_name = DistinguishedName::new();
            leaf.distinguished_name.push(DnType::OrganizationName, "Example");
            leaf.distinguished_name.push(DnType::CommonName, "web.test");
        };
        assert_eq!(leaf_with(organization), Ok(()));
        let title = |leaf: &mut CertificateParams| {
            leaf.distinguished_name = DistinguishedName::new();
            leaf.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 12]), "Root");
            leaf.distinguished_name.push(DnType::CommonName, "web.test");
        };
        assert_eq!(leaf_with(title), Err(Breaks::Subject));
        assert_eq!(leaf_with(|leaf| leaf.distinguished_name = DistinguishedName::new()), Err(Breaks::Subject));
        let names = b"\x30\x24\x86\x18spiffe://example.org/web\x82\x08web.test";
        let named_by_hand = |critical| {
            move |leaf: &mut CertificateParams| {
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(extension(&[2, 5, 29, 17], names, critical));
            }
        };
        assert_eq!(leaf_with(named_by_hand(false)), Ok(()));
        assert_eq!(leaf_with(named_by_hand(true)), Err(Breaks::NamesCritical));
        let also_called = |name: &str| {
            let name = SanType::DnsName(name.try_into().unwrap());
            leaf_with(|leaf| leaf.subject_alt_names.push(name))
        };
        assert_eq!(also_called("*.web.test"), Ok(()));
        for none in ["*", "w*.web.test", "*.*.test", "a..b", "10.0.0.1"] {
            assert_eq!(also_called(none), Err(Breaks::DnsName), "{none}");
        }
    }

    /// Attack 97: every row of the profile, broken alone.
    #[test]
    fn a_leaf_that_breaks_one_row_of_the_profile_is_named_by_that_row() {
        let serial = |bytes: &[u8]| leaf_with(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(bytes)));
        assert_eq!(serial(&[0; 16]), Err(Breaks::Serial));
        assert_eq!(serial(&[1; 7]), Err(Breaks::Serial));
        assert_eq!(serial(&[1; 21]), Err(Breaks::Serial));

        let names = |names: Vec<SanType>| leaf_with(|leaf| leaf.subject_alt_names = names);
        assert_eq!(names(vec![]), Err(Breaks::UriNames));
        assert_eq!(names(vec![SanType::DnsName("web.test".try_into().unwrap())]), Err(Breaks::UriNames));
        let two = ["spiffe://example.org/web", "spiffe://example.org/web"];
        assert_eq!(names(two.map(uri).to_vec()), Err(Breaks::UriNames));
        assert_eq!(names(vec![uri("spiffe://example.org/web"), uri("https://example.org")]), Err(Breaks::UriNames));
        assert_eq!(names(vec![uri("https://example.org/web")]), Err(Breaks::SpiffeId));
        assert_eq!(names(vec![uri("spiffe://example.org")]), Err(Breaks::SpiffeId));
        assert_eq!(names(vec![uri("spiffe://other.test/web")]), Err(Breaks::ForeignTrustDomain));

        assert_eq!(leaf_with(|leaf| leaf.is_ca = IsCa::NoCa), Err(Breaks::BasicConstraints));
        let unconstrained = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        assert_eq!(leaf_with(|leaf| leaf.is_ca = unconstrained), Err(Breaks::BasicConstraints));

        let usage = |usages: Vec<KeyUsagePurpose>| leaf_with(|leaf| leaf.key_usages = usages);
        assert_eq!(usage(vec![]), Err(Breaks::KeyUsage));
        assert_eq!(usage(vec![KeyUsagePurpose::KeyEncipherment]), Err(Breaks::KeyUsage));
        for extra in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
            assert_eq!(usage(vec![KeyUsagePurpose::DigitalSignature, extra]), Err(Breaks::KeyUsage));
        }
        let uncritical_usage = |leaf: &mut CertificateParams| {
            leaf.key_usages.clear();
            leaf.custom_extensions.push(extension(KEY_USAGE_OID, DIGITAL_SIGNATURE, false));
        };
        assert_eq!(leaf_with(uncritical_usage), Err(Breaks::KeyUsage));
        assert_eq!(leaf_with(|leaf| leaf.extended_key_usages.truncate(1)), Err(Breaks::ExtendedKeyUsage));
        assert_eq!(leaf_with(|leaf| leaf.extended_key_usages.clear()), Err(Breaks::ExtendedKeyUsage));
    }

    #[test]
    fn a_leaf_with_wrong_extensions_ids_or_times_is_refused() {
        let twice = |leaf: &mut CertificateParams| {
            leaf.custom_extensions.push(extension(KEY_USAGE_OID, DIGITAL_SIGNATURE, true));
        };
        assert_eq!(leaf_with(twice), Err(Breaks::Extensions));
        let unknown = |critical| {
            move |leaf: &mut CertificateParams| {
                leaf.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 99_999], &[0x05, 0x00], critical));
            }
        };
        assert_eq!(leaf_with(unknown(true)), Err(Breaks::UnknownCritical));
        assert_eq!(leaf_with(unknown(false)), Ok(()));
        let permitted_subtrees = vec![GeneralSubtree::DnsName("test".to_owned())];
        let constraints = NameConstraints { permitted_subtrees, excluded_subtrees: vec![] };
        assert_eq!(leaf_with(|leaf| leaf.name_constraints = Some(constraints)), Err(Breaks::NameConstraints));

        let no_signer = |leaf: &mut CertificateParams| leaf.use_authority_key_identifier_extension = false;
        assert_eq!(leaf_with(no_signer), Err(Breaks::AuthorityKeyId));
        let no_own_id = |leaf: &mut CertificateParams| {
            leaf.is_ca = IsCa::NoCa;
            leaf.custom_extensions.push(extension(BASIC_CONSTRAINTS_OID, &[0x30, 0x00], true));
        };
        assert_eq!(leaf_with(no_own_id), Err(Breaks::SubjectKeyId));

        let ends = |end| leaf_with(|leaf| leaf.not_after = end);
        assert_eq!(ends(datetime!(2026-11-22 13:00:01 UTC)), Err(Breaks::OutlivesIssuer));
        assert_eq!(ends(datetime!(2026-11-22 12:00 UTC)), Err(Breaks::Validity));
        let big = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(verdict_on_leaf(&to_be_signed(&signed(&leaf(), &big)).unwrap()), Ok(()));
    }

    /// What no builder writes, patched into the bytes.
    #[test]
    fn a_leaf_of_another_form_is_refused() {
        let mut without_subject = leaf();
        without_subject.distinguished_name = DistinguishedName::new();
        without_subject.subject_alt_names.truncate(1);
        let whole = signed(&without_subject, &KeyPair::generate().unwrap());
        let good = to_be_signed(&whole).unwrap();
        let patched = |from: &[u8], to: &[u8]| {
            let at = good.windows(from.len()).position(|window| window == from).unwrap();
            let mut bytes = good.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            verdict_on_leaf(&bytes)
        };
        assert_eq!(patched(&[0xa0, 0x03, 0x02, 0x01, 0x02], &[0xa0, 0x03, 0x02, 0x01, 0x01]), Err(Breaks::Version));
        assert_eq!(patched(&[0x02, 0x10, 0x01, 0x01], &[0x02, 0x10, 0x81, 0x01]), Err(Breaks::Serial));
        // The names' "critical", taken back: object id, then the boolean.
        let names = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01];
        assert_eq!(
            patched(&[names.as_slice(), &[0xff]].concat(), &[names.as_slice(), &[0x00]].concat()),
            Err(Breaks::NamesNotCritical)
        );
        // The curve, exchanged for another: P-256's object id with another last number.
        let curve = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01];
        assert_eq!(
            patched(&[curve.as_slice(), &[0x07]].concat(), &[curve.as_slice(), &[0x06]].concat()),
            Err(Breaks::PublicKey)
        );
        assert_eq!(verdict_on_leaf(&good[..good.len() - 1]), Err(Breaks::Malformed));
        assert_eq!(verdict_on_leaf(&[good.as_slice(), &[0]].concat()), Err(Breaks::Malformed));
        assert_eq!(to_be_signed(&[whole.as_slice(), &[0]].concat()), Err(Breaks::Malformed));
    }

    #[test]
    fn a_year_from_2050_on_is_written_in_the_long_form() {
        let ends = |end| authority_with(|own| own.not_after = end);
        assert_eq!(ends(datetime!(2049-12-31 23:59:59 UTC)), Ok(()));
        assert_eq!(ends(datetime!(2050-01-01 00:00 UTC)), Ok(()));

        // The beginning, 2026, written in the long form: two octets more in the time, its sequence and the whole.
        let mut bytes = to_be_signed(&signed(&leaf(), &KeyPair::generate().unwrap())).unwrap();
        let at = bytes.windows(4).position(|window| window == [0x30, 0x1e, 0x17, 0x0d]).unwrap();
        bytes.splice(at..at + 4, [0x30, 0x20, 0x18, 0x0f, b'2', b'0']);
        assert_eq!(bytes[..2], [0x30, 0x82]);
        let length = u16::from_be_bytes([bytes[2], bytes[3]]) + 2;
        bytes.splice(2..4, length.to_be_bytes());
        assert_eq!(verdict_on_leaf(&bytes), Err(Breaks::Validity));
    }

    #[test]
    fn a_signing_certificate_is_refused_by_the_row_that_it_breaks() {
        assert_eq!(authority_with(|own| own.distinguished_name = DistinguishedName::new()), Err(Breaks::NoSubject));
        let named = |text: &'static str| authority_with(|own| own.subject_alt_names = vec![uri(text)]);
        assert_eq!(named("spiffe://example.org/"), Err(Breaks::SpiffeId));
        assert_eq!(named("spiffe://example.org/ca"), Err(Breaks::SpiffeId));
        assert_eq!(named("spiffe://other.test"), Err(Breaks::ForeignTrustDomain));
        assert_eq!(authority_with(|own| own.subject_alt_names.clear()), Err(Breaks::UriNames));

        assert_eq!(authority_with(|own| own.is_ca = IsCa::ExplicitNoCa), Err(Breaks::BasicConstraints));
        let uncritical = |own: &mut CertificateParams| {
            own.is_ca = IsCa::NoCa;
            own.custom_extensions.push(extension(BASIC_CONSTRAINTS_OID, CA_TRUE, false));
        };
        assert_eq!(authority_with(uncritical), Err(Breaks::BasicConstraints));
        let no_key_id = |own: &mut CertificateParams| {
            own.is_ca = IsCa::NoCa;
            own.custom_extensions.push(extension(BASIC_CONSTRAINTS_OID, CA_TRUE, true));
        };
        assert_eq!(authority_with(no_key_id), Err(Breaks::SubjectKeyId));

        assert_eq!(authority_with(|own| own.key_usages = vec![KeyUsagePurpose::CrlSign]), Err(Breaks::KeyUsage));
        let of_leaves =
            [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
        for usage in of_leaves {
            assert_eq!(authority_with(|own| own.key_usages.push(usage)), Err(Breaks::KeyUsage));
        }
        let uncritical = |own: &mut CertificateParams| {
            own.key_usages.clear();
            own.custom_extensions.push(extension(KEY_USAGE_OID, KEY_CERT_SIGN, false));
        };
        assert_eq!(authority_with(uncritical), Err(Breaks::KeyUsage));

        let mut signed_by_another = own();
        signed_by_another.distinguished_name.push(DnType::OrganizationName, "another name than its signer's");
        let certificate = signed(&signed_by_another, &KeyPair::generate().unwrap());
        let verdict = lint_authority(&to_be_signed(&certificate).unwrap(), &"example.org".parse().unwrap());
        assert_eq!(verdict, Err(Breaks::AuthorityKeyId));
    }
}
