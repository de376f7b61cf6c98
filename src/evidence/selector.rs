//! The text form of a fact, `type:value`, as typed values.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::provider::Provider;

/// The most bytes a selector's text may have: a cgroup path may reach 4,096.
pub const MAX_SELECTOR: usize = MAX_PATH + 64;

/// The most bytes of a path, as the kernel counts them (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// One fact about a workload that an entry can ask for.
///
/// Values are typed, and two selectors are equal only when kind and value are: no comparison ever splits or joins text
/// at colons. `FromStr` reads what a configuration may write, `TryFrom<String>` whatever `Display` wrote.
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
        /// What stands before the first colon.
        kind: Arc<str>,
        /// What stands behind it.
        value: Arc<str>,
    },
}

/// The kind of a selector, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SelectorKind {
    /// See [`Selector::UnixUid`].
    UnixUid,
    /// See [`Selector::UnixGid`].
    UnixGid,
    /// See [`Selector::UnixUser`].
    UnixUser,
    /// See [`Selector::UnixGroup`].
    UnixGroup,
    /// See [`Selector::UnixSupplementaryGid`].
    UnixSupplementaryGid,
    /// See [`Selector::UnixSupplementaryGroup`].
    UnixSupplementaryGroup,
    /// See [`Selector::UnixPath`].
    UnixPath,
    /// See [`Selector::UnixSha256`].
    UnixSha256,
    /// See [`Selector::SystemdId`].
    SystemdId,
    /// See [`Selector::SystemdSlice`].
    SystemdSlice,
    /// See [`Selector::Cgroup`].
    Cgroup,
    /// See [`Selector::Host`].
    Host,
    /// See [`Selector::Other`].
    Other,
}

/// Why a text is not a selector. `at` counts bytes from the start of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// No colon, or nothing before it.
    #[error("has no kind; write kind:value, for example \"unix:uid:1000\"")]
    NoKind,
    /// The kind is not one of ours.
    #[error("has the unknown kind {kind:?}{}", .nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKind {
        /// What stands before the value.
        kind: String,
        /// The nearest kind there is, where one is near.
        nearest: Option<&'static str>,
    },
    /// A kind of the contract whose attestor does not exist yet.
    #[error("needs an attestor that this version does not have: {kind:?}")]
    NotBuiltYet {
        /// The kind.
        kind: String,
    },
    /// The value is not of the kind's form.
    #[error("{why}")]
    Value {
        /// Byte offset of the value.
        at: usize,
        /// What the form is.
        why: &'static str,
    },
    /// More than [`MAX_SELECTOR`] bytes.
    #[error("has {bytes} bytes; at most {MAX_SELECTOR} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
}

/// Kinds of the contract that no part of this version can prove.
const NOT_BUILT_YET: [&str; 6] = ["docker", "k8s", "cri", "node", "systemd:user-unit", "systemd:fragment_path"];

/// All that this version knows of a kind.
struct KindRow {
    kind: SelectorKind,
    /// The text before the value, without its colon.
    name: &'static str,
    /// Reads the value; the error says what its form is.
    read: fn(&str) -> Result<Selector, &'static str>,
    /// Whether such a fact alone tells a workload from the others on its node (SPEC: product contract §4). A cgroup is
    /// strong by its value.
    strong: bool,
    /// Who proves it.
    provider: Provider,
}

const fn row(
    kind: SelectorKind,
    name: &'static str,
    read: fn(&str) -> Result<Selector, &'static str>,
    strong: bool,
    provider: Provider,
) -> KindRow {
    KindRow { kind, name, read, strong, provider }
}

/// Every kind that this version can prove, in the order of [`Selector`].
static KINDS: [KindRow; 12] = [
    row(SelectorKind::UnixUid, "unix:uid", |v| number(v).map(Selector::UnixUid), true, Provider::KERNEL),
    row(SelectorKind::UnixGid, "unix:gid", |v| number(v).map(Selector::UnixGid), true, Provider::KERNEL),
    row(SelectorKind::UnixUser, "unix:user", |v| name(v).map(Selector::UnixUser), true, Provider::KERNEL),
    row(SelectorKind::UnixGroup, "unix:group", |v| name(v).map(Selector::UnixGroup), true, Provider::KERNEL),
    row(
        SelectorKind::UnixSupplementaryGid,
        "unix:supplementary_gid",
        |v| number(v).map(Selector::UnixSupplementaryGid),
        true,
        Provider::KERNEL,
    ),
    row(
        SelectorKind::UnixSupplementaryGroup,
        "unix:supplementary_group",
        |v| name(v).map(Selector::UnixSupplementaryGroup),
        true,
        Provider::KERNEL,
    ),
    row(SelectorKind::UnixPath, "unix:path", executable_path, false, Provider::PATH),
    row(SelectorKind::UnixSha256, "unix:sha256", sha256, false, Provider::SHA256),
    row(SelectorKind::SystemdId, "systemd:id", |v| name(v).map(Selector::SystemdId), true, Provider::KERNEL),
    row(SelectorKind::SystemdSlice, "systemd:slice", slice, false, Provider::KERNEL),
    row(SelectorKind::Cgroup, "cgroup", cgroup_path, true, Provider::KERNEL),
    row(SelectorKind::Host, "host", host, false, Provider::KERNEL),
];

impl SelectorKind {
    /// The text before the value, without its colon; `other` for kinds that this version does not know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().map_or("other", |row| row.name)
    }

    fn row(self) -> Option<&'static KindRow> {
        KINDS.get(self as usize).filter(|row| row.kind == self)
    }
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

    /// What stands behind the type and its colon.
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

    /// Who proves such facts. For a type that this version does not know it is the provider of that type's name.
    #[must_use]
    pub fn provider(&self) -> Provider {
        match self {
            Self::Other { kind, .. } => Provider::of_type(kind),
            known => known.kind().row().map_or(Provider::KERNEL, |row| row.provider.clone()),
        }
    }

    /// `unix:path:` for a path as the kernel shows it; `None` when no selector may have that text.
    #[must_use]
    pub fn path(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| executable_path(path).ok()).flatten()
    }

    /// `cgroup:` for a path from the root of the hierarchy; `None` when no selector may have that text.
    #[must_use]
    pub fn cgroup(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| cgroup_path(path).ok()).flatten()
    }

    /// Whether this fact alone tells a workload from the others on its node (SPEC: product contract §4). Slices, paths,
    /// hashes, the root cgroup and `host:true` do not.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        let strong = self.kind().row().is_some_and(|row| row.strong);
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
        match known(text) {
            Some((row, value)) => read(row, text, value),
            None => Err(unknown(text)),
        }
    }
}

/// The kind that a text begins with, and the value behind it.
fn known(text: &str) -> Option<(&'static KindRow, &str)> {
    KINDS.iter().find_map(|row| Some((row, text.strip_prefix(row.name)?.strip_prefix(':')?)))
}

fn read(row: &KindRow, text: &str, value: &str) -> Result<Selector, InvalidSelector> {
    let at = text.len() - value.len();
    (row.read)(value).map_err(|why| InvalidSelector::Value { at, why })
}

/// Why a text begins with no kind that this version can prove.
fn unknown(text: &str) -> InvalidSelector {
    let Some((first, rest)) = text.split_once(':').filter(|(first, _)| !first.is_empty()) else {
        return InvalidSelector::NoKind;
    };
    let kind = match rest.split_once(':') {
        Some((second, _)) => format!("{first}:{second}"),
        None => first.to_owned(),
    };
    if NOT_BUILT_YET.iter().any(|not_yet| *not_yet == first || *not_yet == kind) {
        return InvalidSelector::NotBuiltYet { kind };
    }
    let nearest = KINDS
        .iter()
        .map(|row| (strsim::damerau_levenshtein(&kind, row.name), row.name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known);
    InvalidSelector::UnknownKind { kind, nearest }
}

/// A decimal number in its one canonical spelling; `u32::MAX` is the kernel's "no id".
fn number(text: &str) -> Result<u32, &'static str> {
    let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX && number.to_string() == text);
    number.ok_or("wants a number from 0 to 4294967294")
}

fn name(text: &str) -> Result<Arc<str>, &'static str> {
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/');
    let is_name = !text.is_empty() && text.len() <= 256 && plain;
    if is_name { Ok(text.into()) } else { Err("wants a name of printable characters") }
}

fn executable_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text) && text != "/";
    if fits {
        Ok(Selector::UnixPath(text.into()))
    } else {
        Err("wants an absolute path without \"//\", \".\" or \"..\"")
    }
}

fn sha256(text: &str) -> Result<Selector, &'static str> {
    lower_hex(text).map(Selector::UnixSha256).ok_or("wants 64 lower-case hexadecimal digits")
}

fn slice(text: &str) -> Result<Selector, &'static str> {
    if text.ends_with(".slice") {
        name(text).map(Selector::SystemdSlice)
    } else {
        Err("wants a name that ends in .slice")
    }
}

fn cgroup_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text);
    if fits {
        Ok(Selector::Cgroup(text.into()))
    } else {
        Err("wants a path from the root, for example \"cgroup:/team/web\"")
    }
}

fn host(text: &str) -> Result<Selector, &'static str> {
    if text == "true" { Ok(Selector::Host) } else { Err("has one value: \"host:true\"") }
}

fn is_plain_path(text: &str) -> bool {
    text == "/"
        || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
            && !text.chars().any(char::is_control)
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

    /// Reads what a server or an earlier [`Display`](fmt::Display) wrote: a type that this version does not know is kept as
    /// it is.
    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        if let Some((row, value)) = known(&text) {
            return read(row, &text, value);
        }
        let (kind, value) = text.split_once(':').filter(|(kind, _)| !kind.is_empty()).ok_or(InvalidSelector::NoKind)?;
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
    fn every_kind_stands_at_its_own_place_in_the_table() {
        for (at, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
        }
        assert_eq!(SelectorKind::Other as usize, KINDS.len());
    }

    #[test]
    fn a_type_that_is_not_known_is_kept_as_it_was_sent() {
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
