//! `[svid]`: what an entry's SVIDs look like when the entry does not say.

use std::time::Duration;

use crate::agent::config::reader::Reader;
use crate::identity::SubjectPrefix;
use crate::time::duration::exact;

/// The shortest life of an SVID.
pub const SHORTEST_SVID: Duration = Duration::from_secs(10);
/// The longest life of anything that is signed.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(87_600 * 3600);
/// Below this a lifetime is allowed, and warned of.
const SHORT: Duration = Duration::from_secs(300);

/// The defaults for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidDefaults {
    /// Lifetime of an X509-SVID.
    pub x509_ttl: Duration,
    /// Lifetime of a JWT-SVID.
    pub jwt_ttl: Duration,
    /// What the subject of an X509-SVID has before its common name.
    pub subject: SubjectPrefix,
}

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>, ca_ttl: Duration) -> SvidDefaults {
    let mut svid = top.table("svid", "[svid]");
    let x509_ttl = lifetime(&mut svid, "x509_ttl", ca_ttl);
    let jwt_ttl = lifetime(&mut svid, "jwt_ttl", ca_ttl);
    keys_and_algorithms(&mut svid);
    svid.not_built_yet("jwt_issuer", "jwt_issuer");
    let subject = svid.parsed("subject").map(|(subject, _)| subject).unwrap_or_default();
    svid.finish();
    // A short authority makes the defaults shorter, not the configuration wrong.
    let within = |length: Duration| length.min(ca_ttl / 2);
    SvidDefaults {
        x509_ttl: x509_ttl.unwrap_or(within(Duration::from_secs(3600))),
        jwt_ttl: jwt_ttl.unwrap_or(within(Duration::from_secs(300))),
        subject,
    }
}

/// A lifetime of an SVID: of `[svid]` or of an entry.
pub(in crate::agent::config) fn lifetime(
    table: &mut Reader<'_, '_>,
    key: &'static str,
    ca_ttl: Duration,
) -> Option<Duration> {
    let found = table.duration(key, SHORTEST_SVID..=LONGEST_LIFETIME);
    warn_if_short(table, key, found);
    let (length, at) = found?;
    if length > ca_ttl / 2 {
        let (written, most, ca) = (exact(length), exact(ca_ttl / 2), exact(ca_ttl));
        table.problem(
            at,
            format!(
                "{key} is {written:?}, but an authority lives at least twice as long as any SVID, and ca_ttl is {ca:?}; \
                 write at most {most:?}, or a longer ca_ttl"
            ),
        );
    }
    Some(length)
}

/// The keys that choose key types and algorithms, of which this version has one each.
pub(in crate::agent::config) fn keys_and_algorithms(table: &mut Reader<'_, '_>) {
    table.word("key_type", &[("ec-p256", ())], &["ec-p384", "rsa-2048", "rsa-3072"]);
    table.word("jwt_alg", &[("ES256", ())], &["ES384", "RS256"]);
}

pub(in crate::agent::config) fn warn_if_short(
    table: &mut Reader<'_, '_>,
    key: &'static str,
    found: Option<(Duration, usize)>,
) {
    if let Some((length, at)) = found.filter(|(length, _)| *length < SHORT) {
        table.warn(at, format!("{key} is {:?}: under 5m a short outage of the signer ends identities", exact(length)));
    }
}
