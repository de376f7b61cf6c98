//! Entries: which selectors give which SPIFFE ID on which terms, and the index that finds the entries that a set of
//! evidence satisfies. Refuses to know where entries come from.

pub mod entry;
pub mod entry_index;

pub use entry::Entry;
pub use entry_index::EntryIndex;
