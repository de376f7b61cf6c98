//! Reading one bundle file.

use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::federation::FederationSettings;
use crate::identity::Bundle;
use crate::identity::bundle::Ignored;
use crate::identity::bundle::MAX_BUNDLE;
use crate::identity::bundle::NotABundle;

/// Why a file gives no bundle.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFile {
    /// It cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A directory, a pipe or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// It was read, and holds no bundle.
    #[error("{0}")]
    NotABundle(#[from] NotABundle),
}

/// Reads the bundle of a relationship, and what of it was ignored.
///
/// # Errors
/// [`UnusableFile`]
pub fn read_bundle_file(settings: &FederationSettings) -> Result<(Bundle, Vec<Ignored>), UnusableFile> {
    let bytes = read_regular_file(&settings.bundle_file)?;
    Ok(Bundle::from_document(settings.trust_domain.clone(), &bytes)?)
}

fn read_regular_file(path: &Path) -> Result<Vec<u8>, UnusableFile> {
    // Without waiting: opening a pipe would block until somebody writes to it.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(UnusableFile::NotAFile);
    }
    // One byte over the limit is enough for the parser to refuse it.
    let mut bytes = Vec::new();
    file.take(MAX_BUNDLE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::identity::jose::InvalidJson;

    fn read(path: &Path) -> Result<(Bundle, Vec<Ignored>), UnusableFile> {
        read_bundle_file(&FederationSettings {
            trust_domain: "partner.test".parse().unwrap(),
            bundle_file: path.into(),
        })
    }

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partner.json");
        assert!(matches!(read(&path), Err(UnusableFile::Unreadable(_))), "it is not there");
        assert!(matches!(read(folder.path()), Err(UnusableFile::NotAFile)));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&path), Err(UnusableFile::NotAFile)), "and a pipe does not make it wait");
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("{{\"keys\":[]{}}}", " ".repeat(MAX_BUNDLE))).unwrap();
        let too_large = NotABundle::Json(InvalidJson::TooLarge { limit: MAX_BUNDLE });
        assert!(matches!(read(&path), Err(UnusableFile::NotABundle(why)) if why == too_large));
        fs::write(&path, r#"{"keys":[]}"#).unwrap();
        assert!(read(&path).is_ok());
    }
}
