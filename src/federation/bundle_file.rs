//! Reads a bundle file.

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

/// Why a bundle file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFile {
    /// The file cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A directory, a pipe or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// The content is not a bundle.
    #[error("{0}")]
    NotABundle(#[from] NotABundle),
}

/// Reads the bundle of a relationship. Returns also the parts that were ignored.
///
/// # Errors
/// [`UnusableFile`]
pub fn read_bundle_file(settings: &FederationSettings) -> Result<(Bundle, Vec<Ignored>), UnusableFile> {
    let bytes = read_regular_file(&settings.bundle_file)?;
    Ok(Bundle::from_document(settings.trust_domain.clone(), &bytes)?)
}

fn read_regular_file(path: &Path) -> Result<Vec<u8>, UnusableFile> {
    // O_NONBLOCK: without it, opening a FIFO blocks until another process opens it for writing.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(UnusableFile::NotAFile);
    }
    // With one byte over the limit, the parser refuses the file as too large.
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
    fn only_a_regular_file_within_the_size_limit_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partner.json");
        assert!(matches!(read(&path), Err(UnusableFile::Unreadable(_))), "no such file");
        assert!(matches!(read(folder.path()), Err(UnusableFile::NotAFile)));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&path), Err(UnusableFile::NotAFile)), "opening a FIFO must not block");
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("{{\"keys\":[]{}}}", " ".repeat(MAX_BUNDLE))).unwrap();
        let too_large = NotABundle::Json(InvalidJson::TooLarge { limit: MAX_BUNDLE });
        assert!(matches!(read(&path), Err(UnusableFile::NotABundle(why)) if why == too_large));
        fs::write(&path, r#"{"keys":[]}"#).unwrap();
        assert!(read(&path).is_ok());
    }
}
