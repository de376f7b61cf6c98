//! Registration entries: which selectors give which SPIFFE ID on which terms, and the index that finds entries for a
//! set of evidence. Knows a source of entries only as a trait.

pub mod entry;
pub mod entry_index;
pub mod entry_source;

pub use entry::Entry;
pub use entry_index::EntryIndex;
pub use entry_source::EntrySet;
pub use entry_source::EntrySource;
pub use entry_source::HoldBack;
