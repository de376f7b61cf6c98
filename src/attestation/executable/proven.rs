//! What was proven of the file that one process image runs, and when that still counts (SPEC: product contract §5, rule 5):
//! as long as the image runs and nobody but root can have written the file. Asks nobody.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::attestation::host::facts;
use crate::attestation::kernel::FileIdentity;
use crate::evidence::Selector;

/// The proofs about the file of one process image, shared by all connections of that image.
///
/// INVARIANT: of one image alone. Attestation refuses a process that runs another image than the pinned one before it asks
/// a source, so what is kept here is never used for another.
///
/// SECURITY: a proof is kept, and a kept proof counts, only while root owns the file and its mode lets nobody else write
/// to it (the bits of the group are the mask of its ACL). Once that is seen not to be so, nothing counts any more, even if
/// root takes the file back: the bytes may be the caller's. This looks at the file that runs and not at the one at its
/// path, whose directory may belong to the caller.
#[derive(Debug, Default)]
pub(in crate::attestation) struct ProvenExecutable(Mutex<Proofs>);

#[derive(Debug, Default)]
struct Proofs {
    path: Option<Selector>,
    digest: Option<Digest>,
    /// The `f_type` of the file system, which never changes for an open file.
    file_system: Option<i64>,
    /// Somebody else than root could write the file at some time.
    spoilt: bool,
}

#[derive(Debug)]
struct Digest {
    sha256: [u8; 32],
    size: u64,
    mtime: i128,
}

/// An earlier proof of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeptPath {
    /// It still counts.
    Counts(Selector),
    /// It counts if the file is on a file system whose metadata can be believed, which is not known yet.
    DependsOnFileSystem,
    /// There is none, or it does not count.
    Nothing,
}

impl ProvenExecutable {
    /// Keeps a path that was just proven of the running file. The first one stays: a file that root moves is proven at
    /// its new path, too.
    pub(super) fn keep_path(&self, running: &FileIdentity, path: &Selector) {
        if let Some(mut proofs) = self.unspoilt(running) {
            proofs.path.get_or_insert_with(|| path.clone());
        }
    }

    /// The path that was proven before.
    pub(super) fn path(&self, running: &FileIdentity) -> KeptPath {
        let Some(proofs) = self.unspoilt(running) else { return KeptPath::Nothing };
        match (&proofs.path, proofs.file_system) {
            (Some(path), Some(file_system)) if facts::only_root_writes(running, file_system) => {
                KeptPath::Counts(path.clone())
            }
            (Some(_), None) => KeptPath::DependsOnFileSystem,
            _ => KeptPath::Nothing,
        }
    }

    /// Notes the type of the running file's file system.
    pub(super) fn on_file_system(&self, file_system: i64) {
        self.proofs().file_system = Some(file_system);
    }

    /// Keeps a digest that was just proven of the running file, which was read from a file system of this type.
    pub(super) fn keep_digest(&self, running: &FileIdentity, file_system: i64, sha256: [u8; 32]) {
        if let Some(mut proofs) = self.unspoilt(running) {
            proofs.file_system = Some(file_system);
            proofs.digest = Some(Digest { sha256, size: running.size, mtime: running.mtime });
        }
    }

    /// The digest that was proven before, where root has not written the file since then.
    pub(super) fn digest(&self, running: &FileIdentity) -> Option<[u8; 32]> {
        let proofs = self.unspoilt(running)?;
        let digest = proofs.digest.as_ref()?;
        let unwritten = digest.size == running.size && digest.mtime == running.mtime;
        let believed = facts::only_root_writes(running, proofs.file_system?);
        (unwritten && believed).then_some(digest.sha256)
    }

    /// The proofs, unless somebody else than root can write the file or could at an earlier look.
    fn unspoilt(&self, running: &FileIdentity) -> Option<MutexGuard<'_, Proofs>> {
        let mut proofs = self.proofs();
        if !proofs.spoilt && !facts::only_root_writes_by_metadata(running) {
            *proofs = Proofs { spoilt: true, ..Proofs::default() };
        }
        (!proofs.spoilt).then_some(proofs)
    }

    fn proofs(&self) -> MutexGuard<'_, Proofs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: i64 = 0xEF53;
    const FUSE: i64 = 0x6573_5546;
    const OVERLAY: i64 = 0x794C_7630;

    fn file() -> FileIdentity {
        FileIdentity {
            device: libc::makedev(8, 1),
            inode: 5,
            size: 100,
            ctime: 1,
            mtime: 1,
            links: 1,
            uid: 0,
            gid: 0,
            mode: 0o100_755,
        }
    }

    fn web() -> Selector {
        "unix:path:/usr/bin/web".parse().unwrap()
    }

    /// Proofs of a path and a digest on a file system of this type.
    fn proven(file: &FileIdentity, file_system: i64) -> ProvenExecutable {
        let proven = ProvenExecutable::default();
        proven.keep_path(file, &web());
        proven.keep_digest(file, file_system, [7; 32]);
        proven
    }

    #[test]
    fn a_proof_outlives_the_name_of_the_file_and_a_change_of_its_mode_by_root() {
        let proven = proven(&file(), EXT4);
        for later in [
            FileIdentity { links: 0, ctime: 2, ..file() },
            FileIdentity { links: 2, ctime: 3, ..file() },
            FileIdentity { mode: 0o100_600, ctime: 4, ..file() },
        ] {
            assert_eq!(proven.path(&later), KeptPath::Counts(web()), "{later:?}");
            assert_eq!(proven.digest(&later), Some([7; 32]), "{later:?}");
        }
    }

    #[test]
    fn a_file_that_somebody_else_than_root_can_write_proves_nothing_later() {
        let written = [
            FileIdentity { uid: 1000, ..file() },
            FileIdentity { mode: 0o100_775, ..file() },
            FileIdentity { mode: 0o100_757, ..file() },
            FileIdentity { device: libc::makedev(7, 0), ..file() },
        ];
        for other in written {
            let at_the_proof = proven(&other, EXT4);
            assert_eq!(
                (at_the_proof.path(&other), at_the_proof.digest(&other)),
                (KeptPath::Nothing, None),
                "{other:?}"
            );
            assert_eq!((at_the_proof.path(&file()), at_the_proof.digest(&file())), (KeptPath::Nothing, None));
            let in_between = proven(&file(), EXT4);
            assert_eq!((in_between.path(&other), in_between.digest(&other)), (KeptPath::Nothing, None), "{other:?}");
            assert_eq!(in_between.path(&file()), KeptPath::Nothing, "root took it back: {other:?}");
            assert_eq!(in_between.digest(&file()), None, "root took it back: {other:?}");
        }
    }

    #[test]
    fn metadata_counts_only_on_a_file_system_that_does_not_lie() {
        for file_system in [FUSE, OVERLAY] {
            let proven = proven(&file(), file_system);
            assert_eq!((proven.path(&file()), proven.digest(&file())), (KeptPath::Nothing, None), "{file_system:#x}");
        }
        let unknown = ProvenExecutable::default();
        unknown.keep_path(&file(), &web());
        assert_eq!(unknown.path(&file()), KeptPath::DependsOnFileSystem);
        unknown.on_file_system(EXT4);
        assert_eq!(unknown.path(&file()), KeptPath::Counts(web()));
    }

    #[test]
    fn a_digest_of_other_bytes_does_not_count() {
        let proven = proven(&file(), EXT4);
        assert_eq!(proven.digest(&FileIdentity { mtime: 2, ..file() }), None);
        assert_eq!(proven.digest(&FileIdentity { size: 101, ..file() }), None);
    }

    #[test]
    fn the_first_path_stays() {
        let proven = proven(&file(), EXT4);
        proven.keep_path(&file(), &"unix:path:/usr/bin/web.old".parse().unwrap());
        assert_eq!(proven.path(&file()), KeptPath::Counts(web()));
        assert_eq!(ProvenExecutable::default().path(&file()), KeptPath::Nothing);
    }
}
