//! The two certificates that a key of an authority signs: its own, and leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::authority::keys::KeyId;
use crate::authority::order::Chain;
use crate::authority::order::Order;
use crate::authority::order::Refused;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::Life;
use crate::authority::signing::linting::LintingKey;
use crate::authority::signing::linting::Signs;
use crate::authority::signing::templates;
use crate::authority::signing::templates::Leaves;
use crate::authority::signing::templates::Serial;
use crate::identity::TrustDomain;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::to_be_signed;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

/// How far a leaf's beginning lies back, for verifiers whose clocks are late (SPEC: product contract §6).
pub(in crate::authority) const LEAF_BACKDATE: Duration = Duration::from_secs(60);

/// Signs leaves.
pub(in crate::authority) struct X509Signer {
    key: LintingKey<Arc<dyn SigningKey>>,
    id: KeyId,
    leaves: Leaves,
    life: Life,
    randomness: Arc<dyn Randomness>,
}

impl X509Signer {
    /// Takes up a key and its certificate, which were checked to belong together.
    pub(in crate::authority) fn new(
        key: Arc<dyn SigningKey>,
        trust_domain: TrustDomain,
        own: &OwnCertificate,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        let leaves = Leaves::new(&own.subject, &own.key_id);
        let signs = Signs::Leaves { key_id: own.key_id.clone(), not_after: own.life.not_after };
        let key = LintingKey::new(key, trust_domain, signs);
        Self { key, id: own.key(), leaves, life: own.life, randomness }
    }

    /// Signs the leaf of an order.
    ///
    /// # Errors
    /// [`Refused`]; nothing was signed, or nothing that anybody has seen.
    pub(in crate::authority) async fn sign(&self, order: &Order) -> Result<Chain, Refused> {
        let (not_after, clamped) = self.life.clamp(order.issued, order.not_after)?;
        let serial = Serial::draw(&*self.randomness).map_err(no_serial)?;
        let not_before = order.issued.checked_sub(LEAF_BACKDATE).ok_or_else(unwritable)?;
        let leaf = self.leaves.to_be_signed(order, &serial, Life { not_before, not_after }).ok_or_else(unwritable)?;
        let certificates = vec![self.key.certificate(&leaf).await?];
        Ok(Chain { certificates, issuer: self.id, serial: serial.to_string(), not_after, clamped })
    }
}

impl fmt::Debug for X509Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Signer").field("id", &self.id).field("life", &self.life).finish_non_exhaustive()
    }
}

/// What is to be known of the authority's own certificate.
#[derive(Debug, Clone)]
pub(in crate::authority) struct OwnCertificate {
    pub(in crate::authority) der: Bytes,
    /// SubjectPublicKeyInfo, DER. INVARIANT: of the key that has signed it.
    pub(in crate::authority) public_key: Bytes,
    /// The subject, DER.
    pub(in crate::authority) subject: Vec<u8>,
    pub(in crate::authority) key_id: Vec<u8>,
    pub(in crate::authority) life: Life,
}

impl OwnCertificate {
    /// Reads a kept certificate, whoever wrote it, and checks that it keeps the profile and is signed by the key in it.
    /// Whether that is the authority's key, the caller compares.
    ///
    /// # Errors
    /// What is wrong.
    pub(in crate::authority) fn read(der: Bytes, trust_domain: &TrustDomain) -> Result<Self, &'static str> {
        let broken = "a certificate of the authority breaks the profile";
        let signed = to_be_signed(&der).map_err(|_| broken)?;
        lint_authority(&signed, trust_domain).map_err(|_| broken)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| broken)?;
        parsed.verify_signature(None).map_err(|_| "a certificate of the authority is not signed by its key")?;
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let key_id = key_id.ok_or(broken)?;
        let life = Life {
            not_before: at(parsed.validity().not_before.timestamp())?,
            not_after: at(parsed.validity().not_after.timestamp())?,
        };
        let public_key = Bytes::copy_from_slice(parsed.public_key().raw);
        let subject = parsed.subject().as_raw().to_vec();
        Ok(Self { der, public_key, subject, key_id, life })
    }

    /// The name of its key. A subject key id of less than 8 octets has zeros after its end.
    pub(in crate::authority) fn key(&self) -> KeyId {
        let mut first = [0; 8];
        first.iter_mut().zip(&self.key_id).for_each(|(octet, of_id)| *octet = *of_id);
        KeyId(u64::from_be_bytes(first))
    }
}

/// Makes the authority's own certificate.
///
/// # Errors
/// [`Refused`]
pub(in crate::authority) fn self_signed(
    key: &LocalKey,
    trust_domain: &TrustDomain,
    life: Life,
    randomness: &dyn Randomness,
) -> Result<Bytes, Refused> {
    let serial = Serial::draw(randomness).map_err(no_serial)?;
    let own = templates::authority(trust_domain, key.public_key(), &serial, life).ok_or_else(unwritable)?;
    LintingKey::new(key, trust_domain.clone(), Signs::Itself).certificate_now(&own)
}

fn at(timestamp: i64) -> Result<SystemTime, &'static str> {
    let seconds = u64::try_from(timestamp).map_err(|_| "a time lies before 1970")?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or("a time is out of range")
}

fn no_serial(error: NoRandomness) -> Refused {
    Refused::Unavailable(error.to_string())
}

fn unwritable() -> Refused {
    Refused::BugLint("a name or a time that no certificate can hold".to_owned())
}
