//! The two certificates that a key of an authority signs: its own, and leaves.

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
use rcgen::IsCa;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rcgen::SerialNumber;
use rcgen::SigningKey;
use time::OffsetDateTime;

use crate::authority::order::Chain;
use crate::authority::order::Order;
use crate::authority::order::Refused;
use crate::authority::signing::key::LintingKey;
use crate::authority::signing::key::Signs;
use crate::authority::signing::leaf;
use crate::authority::signing::leaf::LeafWriter;
use crate::authority::signing::life::Life;
use crate::authority::signing::life::Validity;
use crate::identity::TrustDomain;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

/// How far a leaf's beginning lies back, for verifiers whose clocks are late (SPEC: product contract §6).
pub(in crate::authority) const LEAF_BACKDATE: Duration = Duration::from_secs(60);

/// Signs leaves.
pub(in crate::authority) struct X509Signer {
    key: LintingKey,
    leaves: LeafWriter,
    life: Life,
    randomness: Arc<dyn Randomness>,
}

impl X509Signer {
    /// Takes up a key and its certificate, which were checked to belong together.
    pub(in crate::authority) fn new(
        pair: Arc<EcdsaKeyPair>,
        trust_domain: TrustDomain,
        own: OwnCertificate,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        let leaves = LeafWriter::new(&own.subject, &own.key_id);
        let signs = Signs::Leaves { key_id: own.key_id, not_after: own.life.not_after };
        Self { key: LintingKey { pair, trust_domain, signs }, leaves, life: own.life, randomness }
    }

    pub(in crate::authority) fn not_after(&self) -> SystemTime {
        self.life.not_after
    }

    pub(in crate::authority) fn validity(&self, now: SystemTime) -> Validity {
        self.life.validity(now)
    }

    pub(in crate::authority) fn sign(&self, order: &Order) -> Result<Chain, Refused> {
        let (not_after, clamped) = self.life.clamp(order.issued, order.not_after)?;
        let serial = new_serial(&*self.randomness).map_err(|error| Refused::Unavailable(error.to_string()))?;
        let not_before = order.issued.checked_sub(LEAF_BACKDATE).and_then(calendar).ok_or_else(unwritable)?;
        let validity = (not_before, calendar(not_after).ok_or_else(unwritable)?);
        let leaf = self.leaves.to_be_signed(order, &serial, validity).ok_or_else(unwritable)?;
        let signature = self.key.sign(&leaf).map_err(refused)?;
        let certificates = vec![Bytes::from(leaf::signed(&leaf, &signature))];
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
pub(in crate::authority) struct OwnCertificate {
    pub(in crate::authority) der: Bytes,
    /// The subject, DER.
    pub(in crate::authority) subject: Vec<u8>,
    pub(in crate::authority) key_id: Vec<u8>,
    pub(in crate::authority) life: Life,
}

/// Makes the authority's own certificate.
pub(in crate::authority) fn self_signed(
    pair: Arc<EcdsaKeyPair>,
    trust_domain: &TrustDomain,
    life: Life,
    randomness: &dyn Randomness,
) -> Result<Bytes, Refused> {
    let serial = new_serial(randomness).map_err(|error| Refused::Unavailable(error.to_string()))?;
    let own = own(trust_domain, life, &serial).ok_or_else(unwritable)?;
    let key = LintingKey { pair, trust_domain: trust_domain.clone(), signs: Signs::Itself };
    let signed = own.self_signed(&key).map_err(refused)?;
    Ok(Bytes::copy_from_slice(signed.der()))
}

/// SPEC: X509-SVID §3.2, §4 and appendix A. The serial is in the subject, so that two authorities of one trust domain
/// never have one name.
fn own(trust_domain: &TrustDomain, life: Life, serial: &[u8; 17]) -> Option<CertificateParams> {
    let mut own = CertificateParams::default();
    own.not_before = calendar(life.not_before)?;
    own.not_after = calendar(life.not_after)?;
    own.serial_number = Some(SerialNumber::from_slice(serial));
    own.distinguished_name = DistinguishedName::new();
    own.distinguished_name.push(DnType::CommonName, format!("bonafide authority {}", hex(serial)));
    own.subject_alt_names = vec![SanType::URI(trust_domain.id_string().try_into().ok()?)];
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Some(own)
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

/// The same number in lower-case hexadecimal.
fn hex(serial: &[u8; 17]) -> String {
    let [first, random @ ..] = *serial;
    format!("{first:02x}{:032x}", u128::from_be_bytes(random))
}

fn unwritable() -> Refused {
    Refused::BugLint("a name or a time that no certificate can hold".to_owned())
}

fn refused(error: rcgen::Error) -> Refused {
    match error {
        rcgen::Error::X509(violation) => Refused::BugLint(violation),
        other => Refused::Unavailable(other.to_string()),
    }
}
