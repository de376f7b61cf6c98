//! The last accepted configuration, kept for a start with bad files.

use std::path::Path;
use std::path::PathBuf;

use toml::de::DeTable;
use toml::de::DeValue;

use crate::agent::config::Accepted;
use crate::agent::config::Config;
use crate::agent::config::files;
use crate::agent::config::sections::authority;
use crate::durable::DataDir;
use crate::durable::Name;

/// The directory of the last accepted configuration: the `data_dir` in the main file, as far as that can be parsed, or the
/// default. Nothing is created there.
#[must_use]
pub fn data_dir_of(main: &Path) -> PathBuf {
    let text = files::read_untrusted(main);
    let (table, _) = DeTable::parse_recoverable(&text);
    let authority = table.get_ref().get("authority").and_then(|value| value.get_ref().as_table());
    let named = authority.and_then(|table| table.get("data_dir")).map(|value| value.get_ref());
    match named {
        Some(DeValue::String(path)) => PathBuf::from(path.as_ref()),
        _ => PathBuf::from(authority::DEFAULT_DATA_DIR),
    }
}

/// The configuration that was last accepted, if one was kept and this version still accepts it.
///
/// # Errors
/// Why there is none, in a sentence.
pub fn recall(data_dir: &DataDir) -> Result<(Config, Accepted), String> {
    let bytes = data_dir
        .load(Name::Configuration)
        .map_err(|why| why.to_string())?
        .ok_or_else(|| format!("{} holds no configuration that was accepted before", data_dir.path().display()))?;
    let accepted: Accepted = serde_json::from_slice(&bytes).map_err(|why| why.to_string())?;
    let config = accepted.config().map_err(|_| "this version does not accept the last configuration".to_owned())?;
    Ok((config, accepted))
}

/// Keeps what was accepted.
///
/// # Errors
/// Why it was not kept, in a sentence.
pub fn keep(data_dir: &DataDir, accepted: &Accepted) -> Result<(), String> {
    let bytes = serde_json::to_vec(accepted).map_err(|why| why.to_string())?;
    data_dir.store(Name::Configuration, &bytes).map_err(|why| why.to_string())
}
