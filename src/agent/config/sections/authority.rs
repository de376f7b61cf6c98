//! `[authority]`: who signs, and where it keeps its keys.

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::sections::svid::LONGEST_LIFETIME;
use crate::agent::config::sections::svid::warn_if_short;

/// The shortest life of an authority: four times that of an SVID.
pub const SHORTEST_AUTHORITY: Duration = Duration::from_secs(40);

/// Where it keeps its keys unless the configuration says otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/bonafide";

/// The embedded authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySection {
    /// Its directory: keys, certificates, the last accepted configuration.
    pub data_dir: PathBuf,
    /// How long one of its certificates lives.
    pub ca_ttl: Duration,
}

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>) -> AuthoritySection {
    let mut authority = top.table("authority", "[authority]");
    authority.word("kind", &[("embedded", ())], &["disk", "spire"]);
    let data_dir = authority.string("data_dir").and_then(|text| {
        let plain = is_plain_absolute(text.value);
        if !plain {
            let advice = "write an absolute path without \"..\", for example \"/var/lib/bonafide\"";
            authority.problem(text.span.start, format!("data_dir is {}; {advice}", shown(text.value)));
        }
        plain.then(|| PathBuf::from(text.value))
    });
    let ca_ttl = authority.duration("ca_ttl", SHORTEST_AUTHORITY..=LONGEST_LIFETIME);
    warn_if_short(&mut authority, "ca_ttl", ca_ttl);
    authority.finish();
    AuthoritySection {
        data_dir: data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
        ca_ttl: ca_ttl.map_or(Duration::from_secs(168 * 3600), |(length, _)| length),
    }
}

/// Whether a path is absolute, without `..` and control characters.
pub(in crate::agent::config) fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..") && !path.chars().any(char::is_control)
}
