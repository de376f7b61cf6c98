//! Reads a bundle file.
//!
//! SECURITY: whoever writes a bundle decides who is believed, so the file is trusted like one of the configuration.

use std::io;
use std::io::Read;

use crate::federation::FederationSettings;
use crate::identity::Bundle;
use crate::identity::bundle::Ignored;
use crate::identity::bundle::MAX_BUNDLE;
use crate::identity::bundle::NotABundle;
use crate::trusted_path;
use crate::trusted_path::TrustedUser;
use crate::trusted_path::UntrustedPath;

/// Why a bundle file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFile {
    /// It cannot be opened, or others could have written it.
    #[error(transparent)]
    Untrusted(#[from] UntrustedPath),
    /// The open file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The content is not a bundle.
    #[error("{0}")]
    NotABundle(#[from] NotABundle),
}

/// Reads the bundle of a relationship, for a daemon that runs as `user`. Returns also the parts that were ignored.
///
/// # Errors
/// [`UnusableFile`]
pub fn read_bundle_file(
    settings: &FederationSettings,
    user: TrustedUser,
) -> Result<(Bundle, Vec<Ignored>), UnusableFile> {
    let file = trusted_path::open_file(&settings.bundle_file, user)?;
    // With one byte over the limit, the parser refuses the file as too large.
    let mut bytes = Vec::new();
    file.take(MAX_BUNDLE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Bundle::from_document(settings.trust_domain.clone(), &bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::identity::jose::InvalidJson;

    fn read(path: &Path) -> Result<(Bundle, Vec<Ignored>), UnusableFile> {
        let settings = FederationSettings { trust_domain: "partner.test".parse().unwrap(), bundle_file: path.into() };
        read_bundle_file(&settings, TrustedUser::own())
    }

    #[test]
    fn only_a_regular_file_within_the_size_limit_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partner.json");
        let not_a_file = |path| matches!(read(path), Err(UnusableFile::Untrusted(UntrustedPath::NotAFile)));
        assert!(matches!(read(&path), Err(UnusableFile::Untrusted(UntrustedPath::Unreachable { .. }))));
        assert!(not_a_file(folder.path()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(not_a_file(&path), "opening a FIFO must not block");
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("{{\"keys\":[]{}}}", " ".repeat(MAX_BUNDLE))).unwrap();
        let too_large = NotABundle::Json(InvalidJson::TooLarge { limit: MAX_BUNDLE });
        assert!(matches!(read(&path), Err(UnusableFile::NotABundle(why)) if why == too_large));
        fs::write(&path, r#"{"keys":[]}"#).unwrap();
        assert!(read(&path).is_ok());
    }

    #[test]
    fn a_file_that_others_can_write_gives_no_bundle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partner.json");
        fs::write(&path, r#"{"keys":[]}"#).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
        assert!(matches!(read(&path), Err(UnusableFile::Untrusted(UntrustedPath::WritableByOthers { .. }))));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(read(&path), Err(UnusableFile::Untrusted(UntrustedPath::WritableByOthers { .. }))));
    }
}
