//! A workload's SPIFFE ID.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identity::trust_domain::InvalidTrustDomain;
use crate::identity::trust_domain::TrustDomain;

/// The most bytes a SPIFFE ID may have, scheme included (SPEC: SPIFFE-ID §2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

const SCHEME: &str = "spiffe://";

/// The SPIFFE ID of a workload: always with a path, because a leaf without one is not a valid SVID
/// (SPEC: X509-SVID §3.1, §5.2). A trust domain's own ID is a [`TrustDomain`].
///
/// Compared byte by byte, never decoded, trimmed or normalised (SPEC: SPIFFE-ID §2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    path_start: usize,
}

/// Why a text is not a SPIFFE ID. Positions count bytes from the start of the part that is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// The text does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// The trust domain's name is not one.
    #[error(transparent)]
    TrustDomain(#[from] InvalidTrustDomain),
    /// There is no path, or only `/`.
    #[error("a workload's SPIFFE ID has a path, for example spiffe://example.org/web")]
    NoPath,
    /// An empty, `.` or `..` segment, or a slash at the end.
    #[error("the path has an empty, \".\" or \"..\" segment at byte {at}")]
    PathSegment {
        /// Byte offset in the path.
        at: usize,
    },
    /// A character that no path may have.
    #[error("the path has {found:?} at byte {at}; only a-z A-Z 0-9 . - _ and / are allowed")]
    PathCharacter {
        /// Byte offset in the path.
        at: usize,
        /// The character.
        found: char,
    },
    /// More than [`MAX_SPIFFE_ID`] bytes.
    #[error("the SPIFFE ID has {bytes} bytes; at most 2048 are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
}

impl SpiffeId {
    /// Joins a trust domain and a path that begins with `/`.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] when the path is not one, or the whole is too long.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, InvalidSpiffeId> {
        check_path(path)?;
        let bytes = SCHEME.len() + trust_domain.as_str().len() + path.len();
        if bytes > MAX_SPIFFE_ID {
            return Err(InvalidSpiffeId::TooLong { bytes });
        }
        let uri = format!("{SCHEME}{trust_domain}{path}");
        Ok(Self { path_start: uri.len() - path.len(), uri: uri.into() })
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.path_start).unwrap_or_default()
    }

    /// The path, beginning with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(self.path_start..).unwrap_or_default()
    }

    /// Whether this ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain() == trust_domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (name, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        Self::new(&name.parse()?, path)
    }
}

fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    if path.is_empty() || path == "/" {
        return Err(InvalidSpiffeId::NoPath);
    }
    if !path.starts_with('/') {
        return Err(InvalidSpiffeId::PathSegment { at: 0 });
    }
    let mut at = 1;
    for segment in path.split('/').skip(1) {
        if matches!(segment, "" | "." | "..") {
            return Err(InvalidSpiffeId::PathSegment { at });
        }
        if let Some((inside, found)) =
            segment.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
        {
            return Err(InvalidSpiffeId::PathCharacter { at: at + inside, found });
        }
        at += segment.len() + 1;
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A SPIFFE ID in the standard's sense: of a workload, or a trust domain's own.
    fn is_spiffe_id(bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let own = |name: &str| name.parse::<TrustDomain>().is_ok_and(|domain| domain.id_string() == text);
        text.parse::<SpiffeId>().is_ok_and(|id| id.as_str() == text) || text.strip_prefix(SCHEME).is_some_and(own)
    }

    const INVALID: [&str; 98] = [
        "",
        "s",
        "spiffe",
        "spiffe:",
        "spiffe:/",
        "spiffe://",
        "spiffe:///",
        "spiffe:///w1",
        "spiffe:example.org/w1",
        "spiffe:/example.org/w1",
        "//example.org/w1",
        "example.org/w1",
        "://example.org/w1",
        "https://example.org/w1",
        "wimse://example.org/w1",
        "spiffes://example.org/w1",
        "xspiffe://example.org/w1",
        "urn:spiffe:example.org:w1",
        " spiffe://example.org/w1",
        "spiffe://example.org/w1 ",
        "spiffe://example.org/w1\n",
        "\u{feff}spiffe://example.org/w1",
        "SPIFFE://example.org/w1",
        "Spiffe://example.org/w1",
        "spiffe://Example.org/w1",
        "spiffe://EXAMPLE.ORG/w1",
        "\u{17f}piffe://example.org/w1",
        "spiffe://\u{212a}8s.example/w1",
        "spiffe://example.org/",
        "spiffe://example.org//",
        "spiffe://example.org//w1",
        "spiffe://example.org/w1/",
        "spiffe://example.org/a//b",
        "spiffe://example.org/.",
        "spiffe://example.org/./w1",
        "spiffe://example.org/a/./b",
        "spiffe://example.org/..",
        "spiffe://example.org/../w1",
        "spiffe://example.org/a/..",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/w1?x=1",
        "spiffe://example.org?x",
        "spiffe://example.org/w1?",
        "spiffe://example.org/w1#f",
        "spiffe://example.org#f",
        "spiffe://example.org/w1#",
        "spiffe://user@example.org/w1",
        "spiffe://user:pw@example.org/w1",
        "spiffe://@example.org/w1",
        "spiffe://example.org:8443/w1",
        "spiffe://example.org:/w1",
        "spiffe://[::1]/w1",
        "spiffe://[2001:db8::1]:443/w1",
        "spiffe://ex%61mple.org/w1",
        "spiffe://%65xample.org/w1",
        "spiffe://example.org/%77",
        "spiffe://example.org/%2e%2e/w1",
        "spiffe://example.org/a%2Fb",
        "spiffe://example.org/a%00b",
        "spiffe://example.org/%F0%9F%A4%AF",
        "spiffe://example.org/100%",
        "spiffe://example.org/a b",
        "spiffe://example.org/a\tb",
        "spiffe://example.org/a\0b",
        "spiffe://example.org/a\x7fb",
        "spiffe://example.org/a\\b",
        "spiffe://example.org\\@evil.test/w1",
        "spiffe://example.org/a~b",
        "spiffe://example.org/a+b",
        "spiffe://example.org/a=b",
        "spiffe://example.org/a@b",
        "spiffe://example.org/a:b",
        "spiffe://example.org/a*b",
        "spiffe://example.org/a$b",
        "spiffe://example.org/a,b",
        "spiffe://example.org/a;b",
        "spiffe://example.org/a!b",
        "spiffe://example.org/a'b",
        "spiffe://example.org/a(b",
        "spiffe://example.org/a&b",
        "spiffe://example.org/a[b",
        "spiffe://example.org/a{b",
        "spiffe://example.org/a<b",
        "spiffe://example.org/a\"b",
        "spiffe://example.org/a^b",
        "spiffe://*.example.org/w1",
        "spiffe://exa~mple.org/w1",
        "spiffe://exam ple.org/w1",
        "spiffe://example.org,partner.test/w1",
        "spiffe://bücher.example/w1",
        "spiffe://example.org/тест",
        "spiffe://example.org/\u{430}dmin",
        "spiffe://example\u{3002}org/w1",
        "spiffe://example.org\u{ff0f}w1",
        "spiffe://example.org/a\u{200b}b",
        "spiffe://example.org/\u{202e}a",
        "spiffe://\u{ff45}xample.org/w1",
        "spiffe://example.org/spiffe://example.org/w1",
    ];

    fn padded_to(bytes: usize) -> String {
        format!("{:a<bytes$}", "spiffe://example.org/")
    }

    #[test]
    fn every_valid_spiffe_id_is_accepted_as_it_is() {
        for id in [
            "spiffe://example.org",
            "spiffe://example.org/w1",
            "spiffe://example.org/ns/shop/sa/checkout",
            "spiffe://example.org/0b8e2f0e-3c1c-4c57-9d15-8f0b6d0a7e11",
            "spiffe://a/b",
            "spiffe://localhost/w",
            "spiffe://10.0.0.7/db",
            "spiffe://999.999.999.999/x",
            "spiffe://0x7f.1/x",
            "spiffe://123/456",
            "spiffe://my_domain/x",
            "spiffe://-lead.example/x",
            "spiffe://trail-/x",
            "spiffe://a..b/x",
            "spiffe://.example.org/x",
            "spiffe://example.org./x",
            "spiffe://_/x",
            "spiffe://../x",
            "spiffe://xn--bcher-kva.example/x",
            "spiffe://spiffe/spiffe",
            "spiffe://example.org/W1",
            "spiffe://example.org/.hidden",
            "spiffe://example.org/..x",
            "spiffe://example.org/...",
            "spiffe://example.org/-",
            "spiffe://example.org/_",
            "spiffe://example.org/a.b-c_D/9",
            &format!("spiffe://example.org{}", "/a".repeat(500)),
            &format!("spiffe://{}/x", "a".repeat(255)),
            &padded_to(2048),
        ] {
            assert!(is_spiffe_id(id.as_bytes()), "{id:?} is valid");
        }
    }

    #[test]
    fn every_invalid_spiffe_id_is_refused() {
        let too_long = [format!("spiffe://{}/x", "a".repeat(256)), padded_to(2049)];
        for id in INVALID.into_iter().chain(too_long.iter().map(String::as_str)) {
            assert!(!is_spiffe_id(id.as_bytes()), "{id:?} is invalid");
        }
        assert!(!is_spiffe_id(b"spiffe://example.org/\xff"), "not UTF-8");
        assert!(!is_spiffe_id(b"spiffe://example.org/\xc0\xae\xc0\xae/a"), "an overlong UTF-8 for `..`");
    }

    #[test]
    fn a_trust_domain_takes_39_characters_and_a_path_65() {
        let accepted = |around: fn(char) -> String| -> String {
            (0..=255_u8).map(char::from).filter(|c| is_spiffe_id(around(*c).as_bytes())).collect()
        };
        assert_eq!(accepted(|c| format!("spiffe://a{c}b/w")), "-./0123456789_abcdefghijklmnopqrstuvwxyz");
        assert_eq!(
            accepted(|c| format!("spiffe://example.org/a{c}b")),
            "-./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
        );
    }

    #[test]
    fn an_id_takes_itself_apart() {
        let id: SpiffeId = "spiffe://example.org/ns/shop".parse().unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("example.org", "/ns/shop"));
        assert!(id.is_member_of(&"example.org".parse().unwrap()));
        assert!(!id.is_member_of(&"example.or".parse().unwrap()));
        assert!(!id.is_member_of(&"example.org.".parse().unwrap()));
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let why = |text: &str| text.parse::<SpiffeId>().unwrap_err().to_string();
        assert_eq!(
            why("spiffe://Acme.test/w"),
            "the trust domain has a capital letter 'A' at byte 0; write it in lower case"
        );
        assert_eq!(
            why("spiffe://acme.test/a b"),
            "the path has ' ' at byte 2; only a-z A-Z 0-9 . - _ and / are allowed"
        );
        assert_eq!(why("spiffe://acme.test/a//b"), "the path has an empty, \".\" or \"..\" segment at byte 3");
        assert_eq!(
            why("spiffe://acme.test"),
            "a workload's SPIFFE ID has a path, for example spiffe://example.org/web"
        );
    }

    proptest! {
        #[test]
        fn an_id_is_displayed_as_it_was_parsed(text in "spiffe://[a-zA-Z0-9._-]{0,9}(/[a-zA-Z0-9._/%-]{0,9}){0,3}|\\PC{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), &*text);
                let domain: TrustDomain = id.trust_domain().parse().unwrap();
                prop_assert_eq!(SpiffeId::new(&domain, id.path()).unwrap(), id);
            }
        }

        #[test]
        fn an_id_built_from_parts_parses_as_itself(name in "[a-z0-9._-]{1,20}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){1,4}") {
            let id = SpiffeId::new(&name.parse().unwrap(), &path).unwrap();
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id.clone());
            prop_assert_eq!((id.trust_domain(), id.path()), (&*name, &*path));
        }
    }
}
