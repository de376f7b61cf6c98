//! Executables: of the host, and of container images.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use bonafide::attestation::kernel::AtPath;
use bonafide::attestation::kernel::FileIdentity;

use crate::kernel::process::File;
use crate::kernel::process::Root;

const EXT4: i64 = 0xEF53;
const OVERLAY: i64 = 0x794C_7630;

/// Every file, by the root that it is below and its path there.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: BTreeMap<(Root, PathBuf), File>,
    made: u64,
}

impl Files {
    /// The file at a path, which is made when it is not there yet.
    pub(super) fn at(&mut self, root: Root, path: impl AsRef<Path>) -> File {
        let path = path.as_ref();
        let place = (root, path.to_owned());
        if let Some(file) = self.known.get(&place) {
            return file.clone();
        }
        let file = self.new_file(root, path.as_os_str().as_encoded_bytes());
        self.known.insert(place, file.clone());
        file
    }

    /// Puts a new file at a path of the host; returns the one that was there.
    pub(super) fn replace(&mut self, path: &Path, content: &[u8]) -> Option<FileIdentity> {
        let new = self.new_file(Root::Host, content);
        self.known.insert((Root::Host, path.to_owned()), new).map(|old| old.identity)
    }

    /// The file at a path of the host.
    pub(super) fn on_host_mut(&mut self, path: &Path) -> &mut File {
        self.known.get_mut(&(Root::Host, path.to_owned())).unwrap()
    }

    /// What PID 1 sees.
    pub(super) fn on_host(&self, path: &Path) -> AtPath {
        let file = self.known.get(&(Root::Host, path.to_owned()));
        file.map_or(AtPath::Nothing, |file| AtPath::File(file.identity))
    }

    fn new_file(&mut self, root: Root, content: &[u8]) -> File {
        self.made += 1;
        let time = i128::from(self.made);
        let (device, file_system) = match root {
            Root::Host => (libc::makedev(8, 1), EXT4),
            Root::Image(_) => (libc::makedev(0, 52), OVERLAY),
        };
        let identity = FileIdentity {
            device,
            inode: self.made,
            size: content.len() as u64,
            ctime: time,
            mtime: time,
            links: 1,
            uid: 0,
            gid: 0,
            mode: 0o755,
        };
        File { identity, content: content.to_owned(), file_system }
    }
}
