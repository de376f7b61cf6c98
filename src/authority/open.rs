//! Opens the authority that the configuration names.

use std::sync::Arc;

use crate::authority::Authority;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::settings::EmbeddedSettings;
use crate::authority::no_authority::NoAuthority;
use crate::authority::no_authority::Note;
use crate::durable::DataDir;
use crate::randomness::Randomness;
use crate::time::Moment;

/// The kind of the authority with its settings.
#[derive(Debug, Clone)]
pub enum AuthoritySettings {
    /// `kind = "embedded"`
    Embedded(EmbeddedSettings),
}

/// Opens the authority that `settings` name, with its state in `data_dir`.
///
/// # Errors
/// [`NoAuthority`]. A key that cannot be read is never replaced by a new one.
pub fn open(
    settings: AuthoritySettings,
    data_dir: Arc<DataDir>,
    now: Moment,
    randomness: Arc<dyn Randomness>,
) -> Result<(Arc<dyn Authority>, Vec<Note>), NoAuthority> {
    match settings {
        AuthoritySettings::Embedded(settings) => {
            let (authority, notes) = Embedded::open(data_dir, settings, now, randomness)?;
            Ok((Arc::new(authority), notes))
        }
    }
}
