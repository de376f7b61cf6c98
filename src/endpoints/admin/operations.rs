//! What an operator can ask of the running daemon. The agent answers.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::endpoints::admin::reports::ExplainReport;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::StatusReport;
use crate::evidence::Undecided;

/// The daemon as its operator sees it.
pub trait Operations: Send + Sync + fmt::Debug {
    /// The state of everything, at this moment. Takes no lock that serving needs for long.
    fn status(&self) -> StatusReport;

    /// Attests the process `pid` as it is now, and decides for it as if it had asked. Issues nothing.
    ///
    /// # Errors
    /// [`NotExplained`]
    fn explain_pid(&self, pid: u32) -> BoxFuture<'static, Result<ExplainReport, NotExplained>>;

    /// The decision named `d-…`, from the bounded memory of recent ones; `None` once it has been forgotten.
    fn explain_denial(&self, id: &str) -> Option<ExplainReport>;

    /// Reads the configuration again and swaps it, whole or not at all. Applies what was held back.
    fn reload(&self) -> BoxFuture<'static, ReloadReport>;
}

/// Why a process could not be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotExplained {
    /// There is no such process, or it has exited meanwhile.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process id that was asked for.
        pid: u32,
    },
    /// The check could not be completed.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}
