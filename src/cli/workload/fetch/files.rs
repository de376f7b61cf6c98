//! PEM, and files that are whole at every moment.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;

/// DER as a block of PEM (SPEC: RFC 7468 §2).
pub(in crate::cli::workload::fetch) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 80));
    *pem += &format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII, so every chunk is text.
        *pem += std::str::from_utf8(line).unwrap_or_default();
        pem.push('\n');
    }
    *pem += &format!("-----END {label}-----\n");
    pem
}

/// Puts `text` in place of the file `name` in `folder`, whole or not at all, readable for its owner alone.
///
/// # Errors
/// [`Failure`] that names the file.
pub(in crate::cli::workload::fetch) fn replace(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    write(folder, name, text.as_bytes()).map_err(|error| {
        Failure::new(
            Exit::No,
            format!("cannot write {}", folder.join(name).display()),
            error.to_string(),
            format!("mkdir -p -m 0700 {}", folder.display()),
        )
    })
}

/// SECURITY: the file is new (`create_new`), so neither a symlink nor wider modes of an earlier one are taken over.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = fs::File::options().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, folder.join(name))
    });
    if written.is_err() {
        let _nothing_was_made = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_private_whatever_it_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("svid_key.pem")).unwrap();
        replace(folder.path(), "svid_key.pem", "secret").unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(folder.path().join("svid_key.pem")).unwrap(), "secret");
        let mode = fs::symlink_metadata(folder.path().join("svid_key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left beside");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let failure = replace(Path::new("/nonexistent"), "svid.pem", "").unwrap_err();
        assert!(failure.what.contains("/nonexistent/svid.pem"), "{failure:?}");
    }

    #[test]
    fn pem_has_lines_of_64() {
        assert_eq!(
            *pem("CERTIFICATE", &[0; 50]),
            format!("-----BEGIN CERTIFICATE-----\n{}\nAAA=\n-----END CERTIFICATE-----\n", "A".repeat(64))
        );
    }
}
