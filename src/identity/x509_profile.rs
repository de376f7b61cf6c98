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
