//! The one way in which a file is replaced.

use std::io;

use crate::durable::files::Files;

/// What the file is called while it is written.
const UNFINISHED: &str = ".unfinished";

/// Replaces a file, or makes it: whenever the power fails, the name stands for all of the old bytes or all of the new
/// ones, and once this has returned, for the new ones.
///
/// SECURITY: a failed sync means *not durable*, and is never tried again: the kernel reports a lost write only once.
pub(super) fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    write_new(files, &unfinished, bytes)
        .and_then(|()| files.rename(&unfinished, name))
        .inspect_err(|_| drop(files.remove(&unfinished)))?;
    files.sync_names()
}

/// Finds out whether `bytes` more could be written durably, and leaves nothing behind.
pub(super) fn probe(files: &dyn Files, name: &str, bytes: usize) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let written = write_new(files, &unfinished, &vec![0; bytes]);
    written.and(files.remove(&unfinished))
}

fn write_new(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    files.remove(name)?;
    let mut file = files.create(name)?;
    file.write(bytes)?;
    file.sync()
}
