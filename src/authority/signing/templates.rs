//! What the two kinds of certificate say: an authority's own, and leaves.

use std::fmt;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;

use crate::authority::order::Order;
use crate::authority::signing::der;
use crate::authority::signing::der::TbsCertificate;
use crate::authority::signing::life::Life;
use crate::identity::TrustDomain;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

const NO_SUBJECT: [u8; 2] = [0x30, 0x00];
/// `id-at-commonName`
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// Critical, and not an authority (SPEC: X509-SVID §4.1).
const NO_AUTHORITY: &[u8] = &[0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00];
/// Critical, and an authority, of paths of any length (SPEC: X509-SVID §4.1).
const AUTHORITY: &[u8] =
    &[0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];
/// Critical, `digitalSignature` alone (SPEC: X509-SVID §4.3).
const SIGNS_DATA: &[u8] =
    &[0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x07, 0x80];
/// Critical, `keyCertSign` and `cRLSign` (SPEC: X509-SVID §4.3).
const SIGNS_CERTIFICATES: &[u8] =
    &[0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x01, 0x06];
/// serverAuth and clientAuth (SPEC: X509-SVID §4.4).
const EXTENDED_KEY_USAGE: &[u8] = &[
    0x30, 0x1d, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x04, 0x16, 0x30, 0x14, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07,
    0x03, 0x01, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02,
];
const SUBJECT_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
/// With `critical`, where the subject is empty (SPEC: X509-SVID §3.1, RFC 5280 §4.2.1.6).
const CRITICAL_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];

/// A serial number; `Display` is the same number in lower-case hexadecimal.
pub(super) struct Serial([u8; 17]);

impl Serial {
    /// 128 random bits behind a constant first octet, which keeps the number positive, non-zero and of one width.
    pub(super) fn draw(randomness: &dyn Randomness) -> Result<Self, NoRandomness> {
        let mut serial = [1; 17];
        let (_, random) = serial.split_at_mut(1);
        randomness.fill(random)?;
        Ok(Self(serial))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, random @ ..] = self.0;
        write!(f, "{first:02x}{:032x}", u128::from_be_bytes(random))
    }
}

/// The to-be-signed bytes of an authority's own certificate (SPEC: X509-SVID §3.2, §4 and appendix A); `None` for a time
/// that no certificate can hold. The serial is in the subject, so that two authorities of one trust domain never have one
/// name.
pub(super) fn authority(trust_domain: &TrustDomain, public_key: &[u8], serial: &Serial, life: Life) -> Option<Vec<u8>> {
    let common_name = format!("bonafide authority {serial}");
    let attribute = [COMMON_NAME, &der::value(der::UTF8_STRING, &[common_name.as_bytes()])];
    let name = der::value(der::SEQUENCE, &[&der::value(der::SET, &[&der::value(der::SEQUENCE, &attribute)])]);
    let names = der::general_name(der::URI, &trust_domain.id_string())?;
    let names = der::extension(SUBJECT_ALT_NAME, &der::value(der::SEQUENCE, &[&names]));
    // SPEC: RFC 5280 §4.2.1.2 leaves the method open; this one digests the whole SubjectPublicKeyInfo.
    let key_id = subject_key_id(public_key)?;
    Some(der::to_be_signed(&TbsCertificate {
        serial: &serial.0,
        issuer: &name,
        validity: &der::validity(life.not_before, life.not_after)?,
        subject: &name,
        public_key,
        extensions: &[&names, SIGNS_CERTIFICATES, &key_id, AUTHORITY],
    }))
}

/// What all leaves of one authority have in common, encoded once.
pub(super) struct Leaves {
    issuer: Vec<u8>,
    authority_key_id: Vec<u8>,
}

impl Leaves {
    /// For an authority with this subject (a Name, DER) and this subject key id.
    pub(super) fn new(issuer: &[u8], key_id: &[u8]) -> Self {
        let key_id = der::value(der::SEQUENCE, &[&der::value(der::KEY_ID, &[key_id])]);
        Self { issuer: issuer.to_vec(), authority_key_id: der::extension(AUTHORITY_KEY_ID, &key_id) }
    }

    /// The to-be-signed bytes for an order; `None` for a name or a time that no certificate can hold.
    pub(super) fn to_be_signed(&self, order: &Order, serial: &Serial, life: Life) -> Option<Vec<u8>> {
        let terms = &order.entry.terms;
        let subject = terms.subject.subject(&terms.dns);
        let names = names(order, subject == NO_SUBJECT)?;
        // SPEC: RFC 7093 §2, method 1.
        let key_id = subject_key_id(order.key.public_bits())?;
        Some(der::to_be_signed(&TbsCertificate {
            serial: &serial.0,
            issuer: &self.issuer,
            validity: &der::validity(life.not_before, life.not_after)?,
            subject: &subject,
            public_key: order.key.public_key(),
            extensions: &[NO_AUTHORITY, SIGNS_DATA, EXTENDED_KEY_USAGE, &key_id, &self.authority_key_id, &names],
        }))
    }
}

fn names(order: &Order, critical: bool) -> Option<Vec<u8>> {
    let mut names = der::general_name(der::URI, order.id.as_str())?;
    for name in &order.entry.terms.dns {
        names.extend(der::general_name(der::DNS_NAME, name)?);
    }
    let name = if critical { CRITICAL_ALT_NAME } else { SUBJECT_ALT_NAME };
    Some(der::extension(name, &der::value(der::SEQUENCE, &[&names])))
}

/// The leftmost 160 bits of a digest of the key.
fn subject_key_id(key: &[u8]) -> Option<Vec<u8>> {
    let hash = digest(&SHA256, key);
    let (key_id, _) = hash.as_ref().split_at_checked(20)?;
    Some(der::extension(SUBJECT_KEY_ID, &der::value(der::OCTET_STRING, &[key_id])))
}
