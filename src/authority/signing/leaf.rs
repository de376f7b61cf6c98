//! Writes leaves: DER, octet by octet, because a general builder takes as long as the signature does. What is the same
//! in every leaf of an authority is encoded once. The profile reads each of them back, with another's parser, before it
//! is signed.

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use time::OffsetDateTime;

use crate::authority::order::Order;

/// SPEC: X.690 §8; only the tags that a leaf needs.
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    /// Inside a name or a key id: the choice with this number, primitive.
    pub(super) const KEY_ID: u8 = 0x80;
    pub(super) const DNS_NAME: u8 = 0x82;
    pub(super) const URI: u8 = 0x86;
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// `[0] { INTEGER 2 }`
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// ecdsa-with-SHA256 (SPEC: RFC 5758 §3.2).
const ALGORITHM: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const NO_SUBJECT: [u8; 2] = [0x30, 0x00];
/// Critical, and not an authority (SPEC: X509-SVID §4.1).
const BASIC_CONSTRAINTS: &[u8] = &[0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00];
/// Critical, `digitalSignature` alone (SPEC: X509-SVID §4.3).
const KEY_USAGE: &[u8] =
    &[0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x07, 0x80];
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

/// What all leaves of one authority have in common.
pub(super) struct LeafWriter {
    issuer: Vec<u8>,
    authority_key_id: Vec<u8>,
}

impl LeafWriter {
    /// For an authority with this subject (a Name, DER) and this subject key id.
    pub(super) fn new(issuer: &[u8], key_id: &[u8]) -> Self {
        let key_id = der(tag::SEQUENCE, &[&der(tag::KEY_ID, &[key_id])]);
        Self { issuer: issuer.to_vec(), authority_key_id: extension(AUTHORITY_KEY_ID, &key_id) }
    }

    /// The to-be-signed bytes for an order; `None` for a name that no certificate can hold.
    pub(super) fn to_be_signed(
        &self,
        order: &Order,
        serial: &[u8; 17],
        (not_before, not_after): (OffsetDateTime, OffsetDateTime),
    ) -> Option<Vec<u8>> {
        let terms = &order.entry.terms;
        let subject = terms.subject.subject(&terms.dns);
        let names = names(order, subject == NO_SUBJECT)?;
        // SPEC: RFC 7093 §2, method 1.
        let hash = digest(&SHA256, order.key.public_bits());
        let (key_id, _) = hash.as_ref().split_at_checked(20)?;
        let key_id = extension(SUBJECT_KEY_ID, &der(tag::OCTET_STRING, &[key_id]));
        let extensions: [&[u8]; 6] =
            [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, &key_id, &self.authority_key_id, &names];
        let fields: [&[u8]; 8] = [
            VERSION_3,
            &der(tag::INTEGER, &[serial]),
            ALGORITHM,
            &self.issuer,
            &der(tag::SEQUENCE, &[&time(not_before), &time(not_after)]),
            &subject,
            order.key.public_key(),
            &der(tag::EXTENSIONS, &[&der(tag::SEQUENCE, &extensions)]),
        ];
        Some(der(tag::SEQUENCE, &fields))
    }
}

/// The whole certificate.
pub(super) fn signed(to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
    let no_unused_bits = [0];
    der(tag::SEQUENCE, &[to_be_signed, ALGORITHM, &der(tag::BIT_STRING, &[&no_unused_bits, signature])])
}

fn names(order: &Order, critical: bool) -> Option<Vec<u8>> {
    let mut names = der(tag::URI, &[order.id.as_str().as_bytes()]);
    for name in &order.entry.terms.dns {
        // SPEC: RFC 5280 §4.2.1.6: an IA5String, and never empty.
        (name.is_ascii() && !name.is_empty()).then(|| names.extend(der(tag::DNS_NAME, &[name.as_bytes()])))?;
    }
    let name = if critical { CRITICAL_ALT_NAME } else { SUBJECT_ALT_NAME };
    Some(extension(name, &der(tag::SEQUENCE, &[&names])))
}

fn extension(name: &[u8], value: &[u8]) -> Vec<u8> {
    der(tag::SEQUENCE, &[name, &der(tag::OCTET_STRING, &[value])])
}

/// SPEC: RFC 5280 §4.1.2.5: the short form through 2049.
fn time(time: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let rest = format!("{:02}{day:02}{hour:02}{minute:02}{second:02}Z", u8::from(month));
    if (1950..2050).contains(&year) {
        der(tag::UTC_TIME, &[format!("{:02}{rest}", year.rem_euclid(100)).as_bytes()])
    } else {
        der(tag::GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

/// One value: tag, length in its shortest form, and the parts of its content one after the other.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut value = Vec::with_capacity(length + 10);
    value.push(tag);
    match u8::try_from(length) {
        Ok(short @ ..0x80) => value.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let significant = octets.iter().skip_while(|octet| **octet == 0);
            value.push(0x80 | u8::try_from(significant.clone().count()).unwrap_or_default());
            value.extend(significant);
        }
    }
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_shortest_form() {
        let head = |length: usize| {
            let value = der(tag::OCTET_STRING, &[&vec![7; length]]);
            value[..value.len() - length].to_vec()
        };
        assert_eq!(head(0), [4, 0]);
        assert_eq!(head(127), [4, 127]);
        assert_eq!(head(128), [4, 0x81, 128]);
        assert_eq!(head(255), [4, 0x81, 255]);
        assert_eq!(head(256), [4, 0x82, 1, 0]);
        assert_eq!(head(65_536), [4, 0x83, 1, 0, 0]);
    }

    #[test]
    fn a_time_is_short_through_2049_and_long_from_2050_on() {
        let text = |at| String::from_utf8(time(at)).unwrap();
        assert_eq!(text(time::macros::datetime!(2026-01-02 03:04:05 UTC)), "\u{17}\u{d}260102030405Z");
        assert_eq!(text(time::macros::datetime!(2049-12-31 23:59:59 UTC)), "\u{17}\u{d}491231235959Z");
        assert_eq!(text(time::macros::datetime!(2050-01-01 00:00:00 UTC)), "\u{18}\u{f}20500101000000Z");
    }
}
