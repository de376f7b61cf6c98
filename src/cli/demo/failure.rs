//! How a step of the demo fails.

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;

/// A step of the demo that did not really happen.
pub(super) fn failed(what: impl Into<String>, why: impl ToString) -> Failure {
    Failure::new(Exit::No, what, why.to_string(), "run it again; if it fails again, that is a bug to report")
}

/// What cannot be done in this folder, and perhaps in another.
pub(super) fn no_room(what: impl Into<String>, why: impl ToString) -> Failure {
    let next =
        "TMPDIR=DIR bonafide demo, with a directory of a short name that has room and lets programs run".to_owned();
    Failure { next, ..failed(what, why) }
}
