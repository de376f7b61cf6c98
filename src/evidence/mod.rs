//! What is known of a process: facts with their source and grade, the facts that were withheld and why, and the two
//! ways in which a check can fail to prove something. Knows nothing of how a fact is found or what it entitles to.

pub mod accounts;
pub mod evidence_set;
pub mod principal;
pub mod selector;
pub mod undecided;
pub mod wants;
pub mod workload;

pub use accounts::Accounts;
pub use evidence_set::EvidenceSet;
pub use evidence_set::Fact;
pub use evidence_set::Grade;
pub use evidence_set::Source;
pub use evidence_set::Withheld;
pub use evidence_set::WithheldBecause;
pub use principal::Principal;
pub use selector::InvalidSelector;
pub use selector::Selector;
pub use selector::SelectorKind;
pub use undecided::Undecided;
pub use wants::Wants;
pub use workload::Credentials;
pub use workload::Level;
