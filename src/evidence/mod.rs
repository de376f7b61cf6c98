//! What is known of a process: facts with their source and grade, facts that were withheld and why, and providers that
//! have not answered. Knows nothing of how a fact is found or what it entitles to.

pub mod accounts;
pub mod evidence_set;
pub mod principal;
pub mod provider;
pub mod selector;
pub mod undecided;
pub mod workload;

pub use accounts::Accounts;
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
pub use selector::SelectorKind;
pub use undecided::Undecided;
pub use workload::Credentials;
pub use workload::Level;
