//! The grammar of certificates: DER, octet by octet. A general builder takes twice the time, and writes no subject with two
//! attributes of one type. Decides nothing of what a certificate says. The profile reads each of them back, with another's
//! parser, before it is signed.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use time::OffsetDateTime;

/// SPEC: X.690 §8; only the tags that a certificate needs.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// Inside a name or a key id: the choice with this number, primitive.
pub(super) const KEY_ID: u8 = 0x80;
pub(super) const DNS_NAME: u8 = 0x82;
pub(super) const URI: u8 = 0x86;
const EXTENSIONS: u8 = 0xa3;

/// `[0] { INTEGER 2 }`
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// ecdsa-with-SHA256 (SPEC: RFC 5758 §3.2).
const ALGORITHM: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// What a certificate says, each part in DER.
pub(super) struct TbsCertificate<'a> {
    /// Big endian, positive, without octets that say nothing.
    pub(super) serial: &'a [u8],
    pub(super) issuer: &'a [u8],
    /// By [`validity`].
    pub(super) validity: &'a [u8],
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    pub(super) public_key: &'a [u8],
    /// Each by [`extension`].
    pub(super) extensions: &'a [&'a [u8]],
}

/// The bytes that get the signature (SPEC: RFC 5280 §4.1, `TBSCertificate`).
pub(super) fn to_be_signed(certificate: &TbsCertificate<'_>) -> Vec<u8> {
    let fields: [&[u8]; 8] = [
        VERSION_3,
        &value(INTEGER, &[certificate.serial]),
        ALGORITHM,
        certificate.issuer,
        certificate.validity,
        certificate.subject,
        certificate.public_key,
        &value(EXTENSIONS, &[&value(SEQUENCE, certificate.extensions)]),
    ];
    value(SEQUENCE, &fields)
}

/// The whole certificate.
pub(super) fn certificate(to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
    let no_unused_bits = [0];
    value(SEQUENCE, &[to_be_signed, ALGORITHM, &value(BIT_STRING, &[&no_unused_bits, signature])])
}

/// An extension. `name` is its object identifier, and after it `critical` where it is.
pub(super) fn extension(name: &[u8], content: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[name, &value(OCTET_STRING, &[content])])
}

/// A name of an alternative name; `None` for one that no certificate can hold (SPEC: RFC 5280 §4.2.1.6: an IA5String,
/// and never empty).
pub(super) fn general_name(tag: u8, name: &str) -> Option<Vec<u8>> {
    (name.is_ascii() && !name.is_empty()).then(|| value(tag, &[name.as_bytes()]))
}

/// From when until when, in whole seconds; `None` for a time that no certificate can hold.
pub(super) fn validity(not_before: SystemTime, not_after: SystemTime) -> Option<Vec<u8>> {
    Some(value(SEQUENCE, &[&time(calendar(not_before)?), &time(calendar(not_after)?)]))
}

fn calendar(time: SystemTime) -> Option<OffsetDateTime> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// SPEC: RFC 5280 §4.1.2.5: the short form through 2049.
fn time(time: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let rest = format!("{:02}{day:02}{hour:02}{minute:02}{second:02}Z", u8::from(month));
    if (1950..2050).contains(&year) {
        value(UTC_TIME, &[format!("{:02}{rest}", year.rem_euclid(100)).as_bytes()])
    } else {
        value(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

/// One value: tag, length in its shortest form, and the parts of its content one after the other.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
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
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_length_has_its_shortest_form() {
        let head = |length: usize| {
            let value = value(OCTET_STRING, &[&vec![7; length]]);
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
        assert_eq!(text(datetime!(2026-01-02 03:04:05 UTC)), "\u{17}\u{d}260102030405Z");
        assert_eq!(text(datetime!(2049-12-31 23:59:59 UTC)), "\u{17}\u{d}491231235959Z");
        assert_eq!(text(datetime!(2050-01-01 00:00:00 UTC)), "\u{18}\u{f}20500101000000Z");
    }

    #[test]
    fn a_time_that_no_certificate_can_hold_is_not_written() {
        let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        assert!(validity(UNIX_EPOCH, last).is_some_and(|validity| validity.ends_with(b"99991231235959Z")));
        let second = Duration::from_secs(1);
        assert_eq!(validity(UNIX_EPOCH, last + second), None);
        assert_eq!(validity(UNIX_EPOCH - second, last), None);
    }
}
