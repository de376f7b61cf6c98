//! The text form of a fact, `type:value`, as typed values.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

/// The most bytes a selector's text may have: a cgroup path may reach 4,096.
pub const MAX_SELECTOR: usize = MAX_PATH + 64;

/// The most bytes of a path, as the kernel counts them (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// One fact about a workload that an entry can ask for.
///
/// Values are typed, and two selectors are equal only when kind and value are: no comparison ever splits or joins text
/// at colons. `Display` and `FromStr` are each other's inverse.
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

impl SelectorKind {
    /// Every kind there is, in the order of [`Selector`].
    pub const ALL: [Self; 12] = [
        Self::UnixUid,
        Self::UnixGid,
        Self::UnixUser,
        Self::UnixGroup,
        Self::UnixSupplementaryGid,
        Self::UnixSupplementaryGroup,
        Self::UnixPath,
        Self::UnixSha256,
        Self::SystemdId,
        Self::SystemdSlice,
        Self::Cgroup,
        Self::Host,
    ];

    /// The text before the value, without its colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnixUid => "unix:uid",
            Self::UnixGid => "unix:gid",
            Self::UnixUser => "unix:user",
            Self::UnixGroup => "unix:group",
            Self::UnixSupplementaryGid => "unix:supplementary_gid",
            Self::UnixSupplementaryGroup => "unix:supplementary_group",
            Self::UnixPath => "unix:path",
            Self::UnixSha256 => "unix:sha256",
            Self::SystemdId => "systemd:id",
            Self::SystemdSlice => "systemd:slice",
            Self::Cgroup => "cgroup",
            Self::Host => "host",
        }
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
        }
    }

    /// `unix:path:` for a path as the kernel shows it; `None` when no selector may have that text.
    #[must_use]
    pub fn path(path: &str) -> Option<Self> {
        (path != "/" && path.len() <= MAX_PATH && is_plain_path(path)).then(|| Self::UnixPath(path.into()))
    }

    /// `cgroup:` for a path from the root of the hierarchy; `None` when no selector may have that text.
    #[must_use]
    pub fn cgroup(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH && is_plain_path(path)).then(|| Self::Cgroup(path.into()))
    }

    /// Whether this fact alone tells a workload from the others on its node (SPEC: product contract §4). Slices, paths,
    /// hashes, the root cgroup and `host:true` do not.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        match self {
            Self::UnixUid(_)
            | Self::UnixGid(_)
            | Self::UnixUser(_)
            | Self::UnixGroup(_)
            | Self::UnixSupplementaryGid(_)
            | Self::UnixSupplementaryGroup(_)
            | Self::SystemdId(_) => true,
            Self::Cgroup(path) => **path != *"/" && !path.ends_with(".slice"),
            Self::UnixPath(_) | Self::UnixSha256(_) | Self::SystemdSlice(_) | Self::Host => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().as_str();
        match self {
            Self::UnixUid(id) | Self::UnixGid(id) | Self::UnixSupplementaryGid(id) => write!(f, "{kind}:{id}"),
            Self::UnixUser(text)
            | Self::UnixGroup(text)
            | Self::UnixSupplementaryGroup(text)
            | Self::UnixPath(text)
            | Self::SystemdId(text)
            | Self::SystemdSlice(text)
            | Self::Cgroup(text) => write!(f, "{kind}:{text}"),
            Self::UnixSha256(digest) => {
                write!(f, "{kind}:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Host => write!(f, "{kind}:true"),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        let (kind, value) = split_kind(text)?;
        let at = text.len() - value.len();
        let wrong = |why| InvalidSelector::Value { at, why };
        let number = || canonical_number(value).ok_or_else(|| wrong("wants a number from 0 to 4294967294"));
        let name =
            || if is_name(value) { Ok(value.into()) } else { Err(wrong("wants a name of printable characters")) };
        Ok(match kind {
            SelectorKind::UnixUid => Self::UnixUid(number()?),
            SelectorKind::UnixGid => Self::UnixGid(number()?),
            SelectorKind::UnixUser => Self::UnixUser(name()?),
            SelectorKind::UnixGroup => Self::UnixGroup(name()?),
            SelectorKind::UnixSupplementaryGid => Self::UnixSupplementaryGid(number()?),
            SelectorKind::UnixSupplementaryGroup => Self::UnixSupplementaryGroup(name()?),
            SelectorKind::UnixPath if is_plain_path(value) && value != "/" => Self::UnixPath(value.into()),
            SelectorKind::UnixPath => return Err(wrong("wants an absolute path without \"//\", \".\" or \"..\"")),
            SelectorKind::UnixSha256 => {
                Self::UnixSha256(lower_hex(value).ok_or_else(|| wrong("wants 64 lower-case hexadecimal digits"))?)
            }
            SelectorKind::SystemdId => Self::SystemdId(name()?),
            SelectorKind::SystemdSlice if value.ends_with(".slice") => Self::SystemdSlice(name()?),
            SelectorKind::SystemdSlice => return Err(wrong("wants a name that ends in .slice")),
            SelectorKind::Cgroup if is_plain_path(value) => Self::Cgroup(value.into()),
            SelectorKind::Cgroup => return Err(wrong("wants a path from the root, for example \"cgroup:/team/web\"")),
            SelectorKind::Host if value == "true" => Self::Host,
            SelectorKind::Host => return Err(wrong("has one value: \"host:true\"")),
        })
    }
}

fn split_kind(text: &str) -> Result<(SelectorKind, &str), InvalidSelector> {
    let found = SelectorKind::ALL
        .into_iter()
        .find_map(|kind| Some((kind, text.strip_prefix(kind.as_str())?.strip_prefix(':')?)));
    if let Some(found) = found {
        return Ok(found);
    }
    let Some((first, rest)) = text.split_once(':').filter(|(first, _)| !first.is_empty()) else {
        return Err(InvalidSelector::NoKind);
    };
    let kind = match rest.split_once(':') {
        Some((second, _)) => format!("{first}:{second}"),
        None => first.to_owned(),
    };
    if NOT_BUILT_YET.iter().any(|not_yet| *not_yet == first || *not_yet == kind) {
        return Err(InvalidSelector::NotBuiltYet { kind });
    }
    let nearest = SelectorKind::ALL
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&kind, known.as_str()), known.as_str()))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known);
    Err(InvalidSelector::UnknownKind { kind, nearest })
}

/// A decimal number in its one canonical spelling; `u32::MAX` is the kernel's "no id".
fn canonical_number(text: &str) -> Option<u32> {
    let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX)?;
    (number.to_string() == text).then_some(number)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/')
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

    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}
