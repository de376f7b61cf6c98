//! Selectors: typed values for facts, with the text form `type:value`.

pub(in crate::evidence) mod kind;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::provider::Provider;
use crate::evidence::selector::kind::SelectorKind;

/// The most bytes of a selector's text: a path of 4,096 bytes (`PATH_MAX`) and its type.
pub const MAX_SELECTOR: usize = MAX_PATH + 64;

/// The most bytes of a path, as the kernel counts them (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// The most bytes of a user or group name. A directory service has longer names than Linux (256 bytes) and adds its
/// domain.
const MAX_NAME: usize = 1024;

/// One fact about a workload that an entry can require.
///
/// Values are typed, and two selectors are equal only when kind and value are equal: no comparison splits or joins text
/// at colons. `FromStr` accepts only the kinds that this version can prove; `TryFrom<String>` also keeps unknown types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// `unix:uid:N`, the effective user id in the initial user namespace.
    UnixUid(u32),
    /// `unix:gid:N`, the effective group id.
    UnixGid(u32),
    /// `unix:user:NAME`.
    UnixUser(Arc<str>),
    /// `unix:group:NAME`.
    UnixGroup(Arc<str>),
    /// `unix:supplementary_gid:N`.
    UnixSupplementaryGid(u32),
    /// `unix:supplementary_group:NAME`.
    UnixSupplementaryGroup(Arc<str>),
    /// `unix:path:P`, the executable's absolute path on the host.
    UnixPath(Arc<str>),
    /// `unix:sha256:HEX`, the digest of the executable's bytes, in lower-case hexadecimal.
    UnixSha256([u8; 32]),
    /// `systemd:id:UNIT`, a unit of the system manager.
    SystemdId(Arc<str>),
    /// `systemd:slice:SLICE`, the slice of the system manager that holds the unit.
    SystemdSlice(Arc<str>),
    /// `cgroup:PATH`, the whole path from the root of the hierarchy, beginning with `/`.
    Cgroup(Arc<str>),
    /// `host:true`: the host's own user, PID and cgroup namespaces, and no container cgroup.
    Host,
    /// `TYPE:VALUE` of a type that this version does not know, as a server of entries sent it. Equal only to itself.
    Other {
        /// The text before the first colon.
        kind: Arc<str>,
        /// The text after it.
        value: Arc<str>,
    },
}

/// Why a text is not a selector. `at` counts bytes from the start of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// No colon, or nothing before it.
    #[error("has no type; write type:value, for example \"unix:uid:1000\"")]
    NoType,
    /// A known kind without its type, such as `uid:1000`.
    #[error("has no type; did you mean {meant:?}?")]
    TypeMissing {
        /// The whole selector.
        meant: String,
    },
    /// This version does not know the type.
    #[error("has the unknown type {kind:?}{}", .nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownType {
        /// The text before the value.
        kind: String,
        /// The most similar known kind, at most three edits away.
        nearest: Option<&'static str>,
    },
    /// A known kind whose attestor this version does not have.
    #[error("needs an attestor that this version does not have: {kind:?}")]
    NotBuiltYet {
        /// The kind.
        kind: String,
    },
    /// The value does not have the form that the kind needs.
    #[error("{why}")]
    Value {
        /// Byte offset of the value.
        at: usize,
        /// The form that the kind needs.
        why: &'static str,
    },
    /// More than [`MAX_SELECTOR`] bytes.
    #[error("has {bytes} bytes; at most {MAX_SELECTOR} are allowed")]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
    /// A character that no fact has.
    #[error("has {found:?}, and a fact with it is always withheld, because it can stand for other bytes; leave it out")]
    NotPrintable {
        /// Where the character begins.
        at: usize,
        /// The character.
        found: char,
    },
}

/// Where a text has a character that no value has: a control character, or U+FFFD.
///
/// SECURITY: U+FFFD stands for every byte that is not UTF-8, so names that differ in such bytes alone look the same.
fn not_printable(text: &str) -> Option<(usize, char)> {
    text.char_indices().find(|(_, c)| c.is_control() || *c == char::REPLACEMENT_CHARACTER)
}

fn refuse_not_printable(text: &str) -> Result<(), InvalidSelector> {
    not_printable(text).map_or(Ok(()), |(at, found)| Err(InvalidSelector::NotPrintable { at, found }))
}

impl Selector {
    /// The kind of this selector.
    #[must_use]
    pub const fn kind(&self) -> SelectorKind {
        match self {
            Self::UnixUid(_) => SelectorKind::UnixUid,
            Self::UnixGid(_) => SelectorKind::UnixGid,
            Self::UnixUser(_) => SelectorKind::UnixUser,
            Self::UnixGroup(_) => SelectorKind::UnixGroup,
            Self::UnixSupplementaryGid(_) => SelectorKind::UnixSupplementaryGid,
            Self::UnixSupplementaryGroup(_) => SelectorKind::UnixSupplementaryGroup,
            Self::UnixPath(_) => SelectorKind::UnixPath,
            Self::UnixSha256(_) => SelectorKind::UnixSha256,
            Self::SystemdId(_) => SelectorKind::SystemdId,
            Self::SystemdSlice(_) => SelectorKind::SystemdSlice,
            Self::Cgroup(_) => SelectorKind::Cgroup,
            Self::Host => SelectorKind::Host,
            Self::Other { .. } => SelectorKind::Other,
        }
    }

    /// The text after the kind and its colon.
    #[must_use]
    pub fn value(&self) -> Cow<'_, str> {
        match self {
            Self::UnixUser(text)
            | Self::UnixGroup(text)
            | Self::UnixSupplementaryGroup(text)
            | Self::UnixPath(text)
            | Self::SystemdId(text)
            | Self::SystemdSlice(text)
            | Self::Cgroup(text)
            | Self::Other { value: text, .. } => Cow::Borrowed(text),
            Self::UnixUid(id) | Self::UnixGid(id) | Self::UnixSupplementaryGid(id) => Cow::Owned(id.to_string()),
            Self::UnixSha256(digest) => Cow::Owned(digest.iter().map(|byte| format!("{byte:02x}")).collect()),
            Self::Host => Cow::Borrowed("true"),
        }
    }

    /// The provider of such facts. For an unknown type it has the name of that type.
    #[must_use]
    pub fn provider(&self) -> Provider {
        match self {
            Self::Other { kind, .. } => Provider::of_type(kind),
            known => known.kind().provider().unwrap_or(Provider::KERNEL),
        }
    }

    /// `unix:path:` for a path as the kernel shows it; `None` where a selector must not have that text.
    #[must_use]
    pub fn path(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| executable_path(path).ok()).flatten()
    }

    /// `cgroup:` for a path from the root of the hierarchy; `None` where a selector must not have that text.
    #[must_use]
    pub fn cgroup(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| cgroup_path(path).ok()).flatten()
    }

    /// Whether this is the path or the hash of an executable, which the user who starts a program chooses.
    #[must_use]
    pub const fn is_of_executable(&self) -> bool {
        matches!(self, Self::UnixPath(_) | Self::UnixSha256(_))
    }

    /// How many bytes of the heap its texts take.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        /// The counters of an `Arc`.
        const COUNTERS: usize = 2 * size_of::<usize>();
        match self {
            Self::Other { kind, value } => 2 * COUNTERS + kind.len() + value.len(),
            Self::Host => 0,
            known => match known.value() {
                Cow::Borrowed(text) => COUNTERS + text.len(),
                Cow::Owned(_) => 0,
            },
        }
    }

    /// Whether its value can be told from every other by its text.
    #[must_use]
    pub fn is_printable(&self) -> bool {
        not_printable(&self.value()).is_none()
    }

    /// Whether this fact alone tells a workload from the others on its node (SPEC: product contract §4). Slices, paths,
    /// hashes, the root cgroup and `host:true` do not.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        let strong = self.kind().is_strong();
        match self {
            Self::Cgroup(path) => strong && **path != *"/" && !path.ends_with(".slice"),
            _ => strong,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Other { kind, .. } => kind,
            known => known.kind().as_str(),
        };
        write!(f, "{kind}:{}", self.value())
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        refuse_not_printable(text)?;
        match SelectorKind::split(text) {
            Some((kind, value)) => parse_value(kind, text, value),
            None => Err(unknown_type(text)),
        }
    }
}

fn parse_value(kind: SelectorKind, text: &str, value: &str) -> Result<Selector, InvalidSelector> {
    let parsed = match kind {
        SelectorKind::UnixUid => number(value).map(Selector::UnixUid),
        SelectorKind::UnixGid => number(value).map(Selector::UnixGid),
        SelectorKind::UnixUser => name(value).map(Selector::UnixUser),
        SelectorKind::UnixGroup => name(value).map(Selector::UnixGroup),
        SelectorKind::UnixSupplementaryGid => number(value).map(Selector::UnixSupplementaryGid),
        SelectorKind::UnixSupplementaryGroup => name(value).map(Selector::UnixSupplementaryGroup),
        SelectorKind::UnixPath => executable_path(value),
        SelectorKind::UnixSha256 => sha256(value),
        SelectorKind::SystemdId => unit_name(value).map(Selector::SystemdId),
        SelectorKind::SystemdSlice => slice(value),
        SelectorKind::Cgroup => cgroup_path(value),
        SelectorKind::Host => host(value),
        SelectorKind::Other => return Err(unknown_type(text)),
    };
    parsed.map_err(|why| InvalidSelector::Value { at: text.len() - value.len(), why })
}

/// The error for a text that begins with no known kind.
fn unknown_type(text: &str) -> InvalidSelector {
    let Some((first, rest)) = text.split_once(':').filter(|(first, _)| !first.is_empty()) else {
        return InvalidSelector::NoType;
    };
    if let Some(known) = SelectorKind::ending_in(first) {
        return InvalidSelector::TypeMissing { meant: format!("{known}:{rest}") };
    }
    let kind = match rest.split_once(':') {
        Some((second, _)) => format!("{first}:{second}"),
        None => first.to_owned(),
    };
    if SelectorKind::is_planned(first, &kind) {
        return InvalidSelector::NotBuiltYet { kind };
    }
    let nearest = SelectorKind::nearest(&kind);
    InvalidSelector::UnknownType { kind, nearest }
}

/// A decimal number without leading zeros or a sign; `u32::MAX` is the kernel's "no id".
fn number(text: &str) -> Result<u32, &'static str> {
    let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX && number.to_string() == text);
    number.ok_or("needs a number from 0 to 4294967294")
}

/// The name of a user or group. A directory service gives names with spaces, `@`, `\` and `/`.
fn name(text: &str) -> Result<Arc<str>, &'static str> {
    let is_name = !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    if is_name { Ok(text.into()) } else { Err("needs a name of 1 to 1024 bytes without control characters") }
}

/// SPEC: systemd.unit(5): ASCII letters, digits and `:-_.\@`, at most 255 bytes.
fn unit_name(text: &str) -> Result<Arc<str>, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_name = (1..=255).contains(&text.len()) && text.bytes().all(allowed);
    if is_name { Ok(text.into()) } else { Err("needs the name of a unit: letters, digits and any of :-_.\\@") }
}

fn executable_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text) && text != "/";
    if fits {
        Ok(Selector::UnixPath(text.into()))
    } else {
        Err("needs an absolute path without \"//\", \".\" or \"..\"")
    }
}

fn sha256(text: &str) -> Result<Selector, &'static str> {
    lower_hex(text).map(Selector::UnixSha256).ok_or("needs 64 lower-case hexadecimal digits")
}

fn slice(text: &str) -> Result<Selector, &'static str> {
    if text.ends_with(".slice") {
        unit_name(text).map(Selector::SystemdSlice)
    } else {
        Err("needs a name that ends in .slice")
    }
}

fn cgroup_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text);
    if fits {
        Ok(Selector::Cgroup(text.into()))
    } else {
        Err("needs a path from the root, for example \"cgroup:/team/web\"")
    }
}

fn host(text: &str) -> Result<Selector, &'static str> {
    if text == "true" { Ok(Selector::Host) } else { Err("has one value: \"host:true\"") }
}

fn is_plain_path(text: &str) -> bool {
    text == "/"
        || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
            && not_printable(text).is_none()
}

fn lower_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;

    /// Parses a selector from a server, or one that [`Display`](fmt::Display) wrote. An unknown type is kept unchanged.
    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        refuse_not_printable(&text)?;
        if let Some((kind, value)) = SelectorKind::split(&text) {
            return parse_value(kind, &text, value);
        }
        let (kind, value) = text.split_once(':').filter(|(kind, _)| !kind.is_empty()).ok_or(InvalidSelector::NoType)?;
        Ok(Self::Other { kind: kind.into(), value: value.into() })
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_name_service_can_give_is_parsed_and_printed_unchanged() {
        let long = "x".repeat(MAX_NAME);
        for kind in ["unix:user", "unix:group", "unix:supplementary_group"] {
            for name in
                ["domain users@corp.example", r"CORP\Domain Users", "CORP/web", "müller", "web$", " a:b ", &long]
            {
                let text = format!("{kind}:{name}");
                let selector: Selector = text.parse().unwrap();
                assert_eq!((selector.to_string(), &*selector.value()), (text.clone(), name));
                assert_eq!(Selector::try_from(text).unwrap(), selector);
            }
            for none in ["", "a\nb", "a\u{7f}", &format!("{long}x")] {
                assert!(format!("{kind}:{none}").parse::<Selector>().is_err(), "{none:?}");
            }
        }
    }

    #[test]
    fn a_unit_has_only_characters_that_systemd_gives_it() {
        for unit in [r"serial\x2dgetty@ttyS0.service", "run-p176-i205326.scope", "a:b_c.service"] {
            assert_eq!(format!("systemd:id:{unit}").parse(), Ok(Selector::SystemdId(unit.into())));
        }
        for none in ["", "a b.service", "a/b.service", "ü.service", &"x".repeat(256)] {
            assert!(format!("systemd:id:{none}").parse::<Selector>().is_err(), "{none:?}");
        }
    }

    #[test]
    fn a_selector_without_its_type_is_answered_with_the_whole_selector() {
        let message = |text: &str| text.parse::<Selector>().unwrap_err().to_string();
        assert_eq!(message("uid:1000"), "has no type; did you mean \"unix:uid:1000\"?");
        assert_eq!(message("user:domain users"), "has no type; did you mean \"unix:user:domain users\"?");
        assert_eq!(message("id:web.service"), "has no type; did you mean \"systemd:id:web.service\"?");
        assert_eq!(message("root"), "has no type; write type:value, for example \"unix:uid:1000\"");
        assert_eq!(message("unix:uuid:1"), "has the unknown type \"unix:uuid\"; did you mean \"unix:uid\"?");
    }

    #[test]
    fn a_character_that_no_fact_has_is_refused_with_its_place() {
        for kind in ["unix:user:", "unix:path:/", "cgroup:/", "systemd:id:", "docker:label:"] {
            for found in ['\u{fffd}', '\n', '\0', '\u{7f}', '\u{9b}'] {
                let (text, at) = (format!("{kind}we{found}b"), kind.len() + 2);
                let refused = InvalidSelector::NotPrintable { at, found };
                assert_eq!(text.parse::<Selector>().unwrap_err(), refused, "{text:?}");
                assert_eq!(Selector::try_from(text).unwrap_err(), refused, "{kind}");
            }
        }
    }

    #[test]
    fn an_unknown_type_is_kept_as_it_was_sent() {
        for text in ["docker:label:com.example.app:web", "k8s:ns:", "systemd:fragment_path:/etc/a.service", "x: y"] {
            let selector = Selector::try_from(text.to_owned()).unwrap();
            assert_eq!(selector.to_string(), text);
            assert!(!selector.is_strong() && text.parse::<Selector>().is_err(), "{text}");
        }
        let label = Selector::try_from("docker:label:a:b".to_owned()).unwrap();
        assert_eq!(label.provider(), Provider::new("docker"));
        for text in ["", "plain", ":value", "unix:uid:x"] {
            assert!(Selector::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
