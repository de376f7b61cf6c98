//! What outlives the process: one locked directory, in it one record per [`Name`], each replaced whole or not at all.
//! Refuses to know what the records say, and to read what others could have read or written.

mod atomic_file;
mod data_dir;
mod disk;
mod files;
mod journal;
mod owner;
#[cfg(test)]
pub(crate) mod simulated_disk;

pub use data_dir::DataDir;
pub use data_dir::LoadError;
pub use data_dir::Name;
pub use data_dir::StoreError;
pub use files::Files;
pub use files::NewFile;
pub use files::OpenDataDirError;
pub use files::Unreadable;
pub use journal::Damage;
pub use owner::FileOwner;
