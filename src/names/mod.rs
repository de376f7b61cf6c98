//! Who the users and groups are that entries name, and how old each answer is. Asks the name service of PID 1's root off
//! the request path, confirms every answer, and publishes what is known. Refuses to know which entry uses a name, and
//! what is decided by it.
//!
//! | file | owns |
//! |---|---|
//! | [`book`] | the answers with their age: which question is due, which names are open, purely |
//! | [`databases`] | the text of `passwd`, `group` and `nsswitch.conf` |
//! | [`subordinate`] | the text of `/etc/subuid`, and whose its ranges are, purely |
//! | [`source`] | the trait of a name service, and its answers |
//! | [`service`] | the task that asks, records and publishes |
//! | `askers` | the bounded threads that may block in a name service |
//! | `root` | whether the daemon's own name service is that of PID 1's root, and the files of that root |
//! | [`system`] | the name service of this machine |
//!
//! # Age
//!
//! A name is *confirmed* by an answer, and an answer counts for 5 minutes from the time at which its question was put.
//! After that, and before the first answer, the name is *open*: it may have any id. The index of entries then awaits the
//! name service in every entry that uses it.

pub mod book;
pub mod databases;
pub mod service;
pub mod source;
pub mod subordinate;
pub mod system;

mod askers;
mod root;

pub use service::NameService;
pub use service::look_up;
pub use source::NameAnswer;
pub use source::NameReply;
pub use source::NameSource;
pub use system::SystemNames;
