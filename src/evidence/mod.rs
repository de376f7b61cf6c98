//! Evidence about a process: facts with source and grade, facts that were withheld and why, and providers whose answer
//! is open. Does not know how a fact is found or which identity it gives.

pub mod accounts;
pub mod epoch_parts;
pub mod evidence_set;
pub mod principal;
pub mod provider;
pub mod selector;
pub mod subordinate_uids;
pub mod undecided;
pub mod workload;

pub use accounts::AccountName;
pub use accounts::Accounts;
pub use epoch_parts::EpochPart;
pub use epoch_parts::EpochParts;
pub use evidence_set::EvidenceSet;
pub use evidence_set::Fact;
pub use evidence_set::Grade;
pub use evidence_set::Source;
pub use evidence_set::Withheld;
pub use evidence_set::WithheldBecause;
pub use principal::Principal;
pub use provider::Answer;
pub use provider::Provider;
pub use provider::Providers;
pub use selector::InvalidSelector;
pub use selector::Selector;
pub use selector::kind::SelectorKind;
pub use subordinate_uids::RangeOwner;
pub use subordinate_uids::SubordinateUids;
pub use undecided::Undecided;
pub use workload::Credentials;
pub use workload::Level;
