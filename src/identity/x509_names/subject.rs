//! The subject of an X509-SVID: the attributes that the operator chose, then the first DNS name that fits as the common
//! name. Written and read here alone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

/// The most bytes of a common name (SPEC: RFC 5280 appendix A, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;
/// The most attributes of a prefix.
const MAX_ATTRIBUTES: usize = 16;

/// SPEC: X.690 §8; only the tags that a name needs.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// `id-at-commonName`
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// One type of attribute (SPEC: RFC 4514 §3, RFC 5280 appendix A).
struct AttributeType {
    name: &'static str,
    object_id: &'static [u8],
    encoding: u8,
    /// The most characters of a value.
    most: usize,
    /// Whether a name may have several.
    repeats: bool,
}

const fn kind(name: &'static str, object_id: &'static [u8], encoding: u8, most: usize, repeats: bool) -> AttributeType {
    AttributeType { name, object_id, encoding, most, repeats }
}

/// The types that a prefix may have. `CN` is not among them: it comes from the DNS names.
static TYPES: [AttributeType; 6] = [
    kind("C", &[0x55, 0x04, 0x06], PRINTABLE_STRING, 2, false),
    kind("ST", &[0x55, 0x04, 0x08], UTF8_STRING, 128, false),
    kind("L", &[0x55, 0x04, 0x07], UTF8_STRING, 128, false),
    kind("O", &[0x55, 0x04, 0x0a], UTF8_STRING, 64, false),
    kind("OU", &[0x55, 0x04, 0x0b], UTF8_STRING, 64, true),
    kind("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], IA5_STRING, 63, true),
];

/// What comes before the common name in every subject: parsed from a string such as `O=Example,C=DE`.
///
/// SPEC: RFC 4514 §2.1: the string begins with the last attribute of the encoded name. `O=Example,C=DE` is encoded as C,
/// then O, and the common name follows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubjectPrefix {
    /// In the order of the encoding. INVARIANT: `kind` is an index of [`TYPES`], and the value fits that type.
    attributes: Arc<[Attribute]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attribute {
    kind: usize,
    value: Box<str>,
}

/// Why a text is not a subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// A part without `=`, or with nothing before it.
    #[error("the part {part:?} has no type; write for example \"O=Example,C=DE\"")]
    NoType {
        /// The part.
        part: String,
    },
    /// `CN`.
    #[error("CN comes from the first name in dns; remove it here")]
    CommonName,
    /// A type that is not supported.
    #[error("the type {name:?} is not supported; known are C, ST, L, O, OU and DC")]
    UnknownType {
        /// The type.
        name: String,
    },
    /// Two of a type that a name has once.
    #[error("{name} is there twice; keep one of them")]
    Twice {
        /// The type.
        name: &'static str,
    },
    /// A value of the wrong form or length.
    #[error("{name} is {value:?}; write {wanted}")]
    Value {
        /// The type.
        name: &'static str,
        /// The value.
        value: String,
        /// What the type needs.
        wanted: String,
    },
    /// An escape that RFC 4514 does not have.
    #[error(
        "\"\\\" is followed by {after:?}; write \"\\\" before one of ,+\"\\<>;=# or a space, or two hexadecimal digits"
    )]
    Escape {
        /// What follows.
        after: String,
    },
    /// A character that must be escaped.
    #[error("{character:?} is not escaped; write \"\\{character}\"")]
    NotEscaped {
        /// The character.
        character: char,
    },
    /// `#` and hexadecimal digits instead of a string.
    #[error("a value that begins with \"#\" is not supported; write it as text")]
    Hexadecimal,
    /// More than 16 attributes.
    #[error("it has more than {MAX_ATTRIBUTES} parts")]
    TooMany,
}

/// The first DNS name that fits into a common name.
#[must_use]
pub fn common_name(dns: &[impl AsRef<str>]) -> Option<&str> {
    dns.iter().map(AsRef::as_ref).find(|name| name.len() <= MAX_COMMON_NAME)
}

impl SubjectPrefix {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// The subject of an SVID with these DNS names, DER; an empty sequence where there is nothing to write.
    #[must_use]
    pub fn subject(&self, dns: &[impl AsRef<str>]) -> Vec<u8> {
        let attribute = |(object_id, encoding, value): (&[u8], u8, &str)| {
            let pair = [der(OBJECT_ID, object_id), der(encoding, value.as_bytes())].concat();
            der(SET, &der(SEQUENCE, &pair))
        };
        let prefix = self.attributes.iter().filter_map(|attribute| {
            let kind = TYPES.get(attribute.kind)?;
            Some((kind.object_id, kind.encoding, &*attribute.value))
        });
        // SPEC: RFC 5280 §4.1.2.4: UTF8String; a wildcard is not a PrintableString.
        let name = common_name(dns).map(|name| (COMMON_NAME, UTF8_STRING, name));
        let attributes: Vec<u8> = prefix.chain(name).flat_map(attribute).collect();
        der(SEQUENCE, &attributes)
    }
}

/// Whether these bytes are the subject that an SVID with these DNS names has: the common name that follows from them, and
/// before it nothing but attributes that a prefix may have.
///
/// SECURITY: a common name that is none of the DNS names would be a name that no entry gave, and databases read it.
#[must_use]
pub fn is_subject_of(subject: &[u8], dns: &[impl AsRef<str>]) -> bool {
    read_prefix(subject, common_name(dns).is_some()).is_some_and(|prefix| prefix.subject(dns) == subject)
}

/// The attributes of a subject, without the last one where that is a common name.
fn read_prefix(subject: &[u8], named: bool) -> Option<SubjectPrefix> {
    let (mut sets, []) = value_of(SEQUENCE, subject)? else { return None };
    let mut attributes = Vec::new();
    while !sets.is_empty() {
        let (set, rest) = value_of(SET, sets)?;
        sets = rest;
        if named && rest.is_empty() {
            break;
        }
        let (pair, []) = value_of(SEQUENCE, set)? else { return None };
        let (object_id, value) = value_of(OBJECT_ID, pair)?;
        let kind = TYPES.iter().position(|kind| kind.object_id == object_id)?;
        let (value, []) = value_of(TYPES.get(kind)?.encoding, value)? else { return None };
        push(&mut attributes, kind, str::from_utf8(value).ok()?.to_owned()).ok()?;
    }
    Some(SubjectPrefix { attributes: attributes.into() })
}

/// The content of the first value, which must have this tag, and what follows it.
fn value_of(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes.strip_prefix(&[tag])? {
        [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// One value: tag, length in its shortest form, content. No name is longer than 65,535 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let length = match content.len() {
        ..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&length, content].concat()
}

impl FromStr for SubjectPrefix {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        let mut attributes = Vec::new();
        let parts = if text.trim().is_empty() { Vec::new() } else { split(text)? };
        for part in parts.into_iter().rev() {
            let (name, value) = part
                .split_once('=')
                .map(|(name, value)| (name.trim(), value))
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| InvalidSubject::NoType { part: part.to_owned() })?;
            if name.eq_ignore_ascii_case("CN") {
                return Err(InvalidSubject::CommonName);
            }
            let kind = TYPES
                .iter()
                .position(|kind| kind.name.eq_ignore_ascii_case(name))
                .ok_or_else(|| InvalidSubject::UnknownType { name: name.to_owned() })?;
            push(&mut attributes, kind, unescaped(value)?)?;
        }
        Ok(Self { attributes: attributes.into() })
    }
}

/// Splits at commas that are not escaped. SPEC: RFC 4514 §2.2: `+` would join two attributes to one.
fn split(text: &str) -> Result<Vec<&str>, InvalidSubject> {
    let (mut parts, mut begin, mut escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(text.get(begin..at).unwrap_or_default());
                begin = at + 1;
            }
            '+' | '"' | ';' | '<' | '>' => return Err(InvalidSubject::NotEscaped { character }),
            _ => {}
        }
    }
    parts.push(text.get(begin..).unwrap_or_default());
    Ok(parts)
}

/// The value behind its escapes, without blanks around it that are not escaped.
fn unescaped(text: &str) -> Result<String, InvalidSubject> {
    let text = text.trim_start_matches(' ');
    if text.starts_with('#') {
        return Err(InvalidSubject::Hexadecimal);
    }
    let (mut bytes, mut kept, mut rest) = (Vec::new(), 0, text);
    while let Some(character) = rest.chars().next() {
        let (from, after) = rest.split_at(character.len_utf8());
        rest = after;
        if character != '\\' {
            bytes.extend_from_slice(from.as_bytes());
            if character != ' ' {
                kept = bytes.len();
            }
            continue;
        }
        let wrong = || InvalidSubject::Escape { after: after.chars().take(2).collect() };
        let pair = after.get(..2).filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let taken = match (pair.map(|pair| u8::from_str_radix(pair, 16)), after.bytes().next()) {
            (Some(Ok(byte)), _) => {
                bytes.push(byte);
                2
            }
            (_, Some(byte)) if b",+\"\\<>;=# ".contains(&byte) => {
                bytes.push(byte);
                1
            }
            _ => return Err(wrong()),
        };
        rest = after.get(taken..).unwrap_or_default();
        kept = bytes.len();
    }
    bytes.truncate(kept);
    String::from_utf8(bytes).map_err(|_| InvalidSubject::Escape { after: "bytes that are not UTF-8".to_owned() })
}

/// Adds a value that fits its type.
fn push(attributes: &mut Vec<Attribute>, at: usize, value: String) -> Result<(), InvalidSubject> {
    let Some(kind) = TYPES.get(at) else { return Err(InvalidSubject::UnknownType { name: value }) };
    let wrong = |wanted: String| Err(InvalidSubject::Value { name: kind.name, value: value.clone(), wanted });
    match kind.encoding {
        PRINTABLE_STRING if value.len() != 2 || !value.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            return wrong("a country in two capital letters, for example \"DE\"".to_owned());
        }
        IA5_STRING if !value.is_ascii() => return wrong("ASCII".to_owned()),
        _ if value.is_empty() || value.chars().count() > kind.most => {
            return wrong(format!("1 to {} characters", kind.most));
        }
        _ if value.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) => {
            return wrong("characters that can be printed".to_owned());
        }
        _ => {}
    }
    if !kind.repeats && attributes.iter().any(|other| other.kind == at) {
        return Err(InvalidSubject::Twice { name: kind.name });
    }
    if attributes.len() == MAX_ATTRIBUTES {
        return Err(InvalidSubject::TooMany);
    }
    attributes.push(Attribute { kind: at, value: value.into() });
    Ok(())
}

impl fmt::Display for SubjectPrefix {
    /// SPEC: RFC 4514 §2.4.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, attribute) in self.attributes.iter().rev().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{}=", TYPES.get(attribute.kind).map_or("", |kind| kind.name))?;
            let last = attribute.value.chars().count().saturating_sub(1);
            for (at, character) in attribute.value.chars().enumerate() {
                let at_an_end = (at == 0 && matches!(character, ' ' | '#')) || (at == last && character == ' ');
                let escape = if at_an_end || ",+\"\\<>;".contains(character) { "\\" } else { "" };
                write!(f, "{escape}{character}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for SubjectPrefix {
    type Error = InvalidSubject;

    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        text.parse()
    }
}

impl From<SubjectPrefix> for String {
    fn from(subject: SubjectPrefix) -> Self {
        subject.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x509_parser::prelude::FromDer;
    use x509_parser::x509::X509Name;

    use super::*;

    const NONE: [&str; 0] = [];

    fn prefix(text: &str) -> SubjectPrefix {
        text.parse().unwrap()
    }

    /// The subject as another's parser reads it.
    fn read(subject: &[u8]) -> Vec<(String, String)> {
        let (rest, name) = X509Name::from_der(subject).unwrap();
        assert!(rest.is_empty());
        let attributes = name.iter_attributes();
        attributes.map(|one| (one.attr_type().to_id_string(), one.as_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn a_subject_has_its_prefix_and_then_the_first_dns_name_that_fits() {
        let long = format!("{}.internal", "a".repeat(60));
        let fits = "b".repeat(55) + ".internal";
        assert_eq!((long.len(), fits.len()), (69, 64));
        let empty = SubjectPrefix::default();
        assert_eq!(empty.subject(&NONE), [0x30, 0x00]);
        assert_eq!(empty.subject(&[&long]), [0x30, 0x00]);
        assert_eq!(read(&empty.subject(&[&long, &fits])), [("2.5.4.3".to_owned(), fits)]);
        assert_eq!(
            read(&empty.subject(&["*.db.internal", "web"])),
            [("2.5.4.3".to_owned(), "*.db.internal".to_owned())]
        );
        let expected = [("2.5.4.6", "DE"), ("2.5.4.10", "Example"), ("2.5.4.3", "db.internal")];
        let expected = expected.map(|(object_id, value)| (object_id.to_owned(), value.to_owned()));
        assert_eq!(read(&prefix("O=Example,C=DE").subject(&["db.internal"])), expected);
        assert_eq!(read(&prefix("O=Example,C=DE").subject(&NONE)), expected[..2]);
    }

    #[test]
    fn a_subject_is_printed_as_it_is_parsed() {
        for text in ["", "O=Example,C=DE", r"OU=a\, b,OU=\#c,O=\ x\ ,ST=\\\+\;,DC=corp,DC=example", "L=Köln"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix(" o = Example , C=DE ").to_string(), "O=Example,C=DE");
        assert_eq!(prefix(r"O=K\c3\b6ln\20,L=a\=b").to_string(), "O=Köln\\ ,L=a=b");
    }

    #[test]
    fn what_is_no_subject_is_refused_with_its_reason() {
        for (text, why) in [
            ("Example", "the part \"Example\" has no type; write for example \"O=Example,C=DE\""),
            ("O=a,,C=DE", "the part \"\" has no type; write for example \"O=Example,C=DE\""),
            ("CN=web", "CN comes from the first name in dns; remove it here"),
            ("UID=1", "the type \"UID\" is not supported; known are C, ST, L, O, OU and DC"),
            ("2.5.4.10=x", "the type \"2.5.4.10\" is not supported; known are C, ST, L, O, OU and DC"),
            ("O=a,O=b", "O is there twice; keep one of them"),
            ("C=Germany", "C is \"Germany\"; write a country in two capital letters, for example \"DE\""),
            ("C=de", "C is \"de\"; write a country in two capital letters, for example \"DE\""),
            ("O=", "O is \"\"; write 1 to 64 characters"),
            ("DC=ü", "DC is \"ü\"; write ASCII"),
            ("O=a\nb", "O is \"a\\nb\"; write characters that can be printed"),
            ("O=a+OU=b", "'+' is not escaped; write \"\\+\""),
            ("O=\"a\"", "'\"' is not escaped; write \"\\\"\""),
            ("O=#04", "a value that begins with \"#\" is not supported; write it as text"),
        ] {
            assert_eq!(text.parse::<SubjectPrefix>().unwrap_err().to_string(), why, "{text}");
        }
        for text in [r"O=\", r"O=\x", r"O=\4", r"O=\ff", &format!("O={}", "x".repeat(65)), &vec!["OU=x"; 17].join(",")]
        {
            assert!(text.parse::<SubjectPrefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_common_name_that_is_no_dns_name_is_not_the_subject_of_an_svid() {
        let subject = |dns: &[&str]| prefix("O=Example,C=DE").subject(dns);
        assert!(is_subject_of(&subject(&["web.internal"]), &["web.internal"]));
        assert!(is_subject_of(&subject(&NONE), &NONE));
        assert!(is_subject_of(&[0x30, 0x00], &NONE));
        assert!(!is_subject_of(&subject(&["admin.internal"]), &["web.internal"]));
        assert!(!is_subject_of(&subject(&["admin.internal"]), &["web.internal", "admin.internal"]), "not the first");
        assert!(!is_subject_of(&subject(&["web.internal"]), &NONE));
        assert!(!is_subject_of(&subject(&NONE), &["web.internal"]));
        let mut trailing = subject(&NONE);
        trailing.push(0);
        assert!(!is_subject_of(&trailing, &NONE) && !is_subject_of(&[], &NONE));
    }

    proptest! {
        #[test]
        fn a_subject_that_is_parsed_is_encoded_as_another_parser_reads_it(value in "[^\\p{C}\u{fffd}]{1,64}", text in ".*") {
            let escaped: String = value.chars().map(|c| if c.is_ascii() { format!("\\{:02x}", c as u8) } else { c.to_string() }).collect();
            let prefix = prefix(&format!("O={escaped}"));
            prop_assert_eq!(read(&prefix.subject(&NONE)), [("2.5.4.10".to_owned(), value)]);
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            if let Ok(prefix) = text.parse::<SubjectPrefix>() {
                prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            }
        }
    }
}
