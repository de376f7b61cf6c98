//! The trait of a name service.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::evidence::AccountName;

/// What a name service says of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameAnswer {
    /// It has this id.
    Id {
        /// The uid or gid.
        id: u32,
        /// Whether the local database (`/etc/passwd`, `/etc/group`) has it with this id, and not a service beside it.
        in_file: bool,
    },
    /// There is no such name.
    Absent,
    /// It could not find out.
    Failed,
    /// The daemon cannot read the names of PID 1's root.
    NotReadable,
}

/// An answer, and when its question was put to the name service.
#[derive(Debug, Clone, Copy)]
pub struct NameReply {
    /// The answer.
    pub answer: NameAnswer,
    /// What is true may have changed since then.
    pub put: Instant,
}

/// A name service.
pub trait NameSource: Send + Sync + fmt::Debug {
    /// Asks for the id of a name. The future may never resolve; it blocks no thread of the runtime.
    fn ask(self: Arc<Self>, name: AccountName) -> BoxFuture<'static, NameReply>;

    /// The text of `/etc/subuid`; `None` where it cannot be read now. Without such a file it is empty. The future may never
    /// resolve; it blocks no thread of the runtime.
    fn subordinate_uids(self: Arc<Self>) -> BoxFuture<'static, Option<Vec<u8>>>;

    /// Notifies `changed` at every change of the local databases and of `/etc/subuid`. Never ends, and may block in a file system.
    fn follow(self: Arc<Self>, changed: Arc<Notify>) -> BoxFuture<'static, ()>;
}
