//! The two certificates that the embedded authority makes: its own, and leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::signature::EcdsaKeyPair;
use bytes::Bytes;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rcgen::SerialNumber;
use time::OffsetDateTime;

use crate::authority::Chain;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::embedded::keys::LintingKey;
use crate::authority::embedded::keys::P256Point;
use crate::authority::embedded::keys::Signs;
use crate::authority::embedded::life::Life;
use crate::identity::TrustDomain;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

/// How far a leaf's beginning lies back, for verifiers whose clocks are late (SPEC: product contract §6).
pub(super) const LEAF_BACKDATE: Duration = Duration::from_secs(60);
/// How far an authority's beginning lies back.
pub(super) const AUTHORITY_BACKDATE: Duration = Duration::from_secs(48 * 60 * 60);

/// Signs leaves.
pub(super) struct X509Signer {
    issuer: Issuer<'static, LintingKey>,
    life: Life,
    randomness: Arc<dyn Randomness>,
}

impl X509Signer {
    /// Takes up a key and its certificate, which were checked to belong together.
    pub(super) fn new(
        pair: Arc<EcdsaKeyPair>,
        trust_domain: TrustDomain,
        certificate: &OwnCertificate,
        randomness: Arc<dyn Randomness>,
    ) -> Option<Self> {
        let signs = Signs::Leaves { key_id: certificate.key_id.clone(), not_after: certificate.life.not_after };
        let key = LintingKey { pair, trust_domain, signs };
        let issuer = Issuer::from_ca_cert_der(&certificate.der.as_ref().into(), key).ok()?;
        Some(Self { issuer, life: certificate.life, randomness })
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.life.not_after
    }

    pub(super) fn sign(&self, order: &Order) -> Result<Chain, Refused> {
        let (not_after, clamped) = self.life.clamp(order.issued, order.not_after)?;
        let subject = P256Point::of(&order.public_key)
            .ok_or_else(|| Refused::Unavailable("only P-256 keys are certified".to_owned()))?;
        let serial = new_serial(&*self.randomness).map_err(|error| Refused::Unavailable(error.to_string()))?;
        let leaf = leaf(order, not_after, &serial).ok_or_else(|| Refused::BugLint("a name or time".to_owned()))?;
        let signed = leaf.signed_by(&subject, &self.issuer).map_err(refused)?;
        let certificates = vec![Bytes::copy_from_slice(signed.der())];
        Ok(Chain { certificates, serial: hex(&serial), not_after, clamped })
    }
}

impl fmt::Debug for X509Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Signer").field("life", &self.life).finish_non_exhaustive()
    }
}

/// What is to be known of the authority's own certificate.
#[derive(Debug, Clone)]
pub(super) struct OwnCertificate {
    pub(super) der: Bytes,
    pub(super) key_id: Vec<u8>,
    pub(super) life: Life,
}

/// Makes the authority's own certificate.
pub(super) fn self_signed(
    pair: Arc<EcdsaKeyPair>,
    trust_domain: &TrustDomain,
    life: Life,
    randomness: &dyn Randomness,
) -> Result<Bytes, Refused> {
    let serial = new_serial(randomness).map_err(|error| Refused::Unavailable(error.to_string()))?;
    let own = own(trust_domain, life, &serial).ok_or_else(|| Refused::BugLint("a name or time".to_owned()))?;
    let key = LintingKey { pair, trust_domain: trust_domain.clone(), signs: Signs::Itself };
    let signed = own.self_signed(&key).map_err(refused)?;
    Ok(Bytes::copy_from_slice(signed.der()))
}

/// SPEC: X509-SVID §3.1, §4; RFC 5280 §4.2. The subject stays empty, which makes the names critical.
fn leaf(order: &Order, not_after: SystemTime, serial: &[u8]) -> Option<CertificateParams> {
    let mut names = vec![SanType::URI(order.id.as_str().try_into().ok()?)];
    for name in &order.dns {
        names.push(SanType::DnsName(name.as_str().try_into().ok()?));
    }
    let mut leaf = blank(order.issued.checked_sub(LEAF_BACKDATE)?, not_after, serial)?;
    leaf.subject_alt_names = names;
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    Some(leaf)
}

/// SPEC: X509-SVID §3.2, §4 and appendix A. The serial is in the subject, so that two authorities of one trust domain
/// never have one name.
fn own(trust_domain: &TrustDomain, life: Life, serial: &[u8]) -> Option<CertificateParams> {
    let mut own = blank(life.not_before, life.not_after, serial)?;
    own.distinguished_name.push(DnType::CommonName, format!("bonafide authority {}", hex(serial)));
    own.subject_alt_names = vec![SanType::URI(trust_domain.id_string().try_into().ok()?)];
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Some(own)
}

/// A certificate that says nothing yet: every default that the builder has for these is replaced.
fn blank(not_before: SystemTime, not_after: SystemTime, serial: &[u8]) -> Option<CertificateParams> {
    let mut blank = CertificateParams::default();
    blank.distinguished_name = DistinguishedName::new();
    blank.not_before = calendar(not_before)?;
    blank.not_after = calendar(not_after)?;
    blank.serial_number = Some(SerialNumber::from_slice(serial));
    Some(blank)
}

fn calendar(time: SystemTime) -> Option<OffsetDateTime> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// 128 random bits behind a constant first octet, which keeps the number positive, non-zero and of one width.
fn new_serial(randomness: &dyn Randomness) -> Result<[u8; 17], NoRandomness> {
    let mut serial = [1; 17];
    let (_, random) = serial.split_at_mut(1);
    randomness.fill(random)?;
    Ok(serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(error: rcgen::Error) -> Refused {
    match error {
        rcgen::Error::X509(violation) => Refused::BugLint(violation),
        other => Refused::Unavailable(other.to_string()),
    }
}
