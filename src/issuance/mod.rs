//! Issuance: turns a permit into an SVID on the terms of its entry, and decides when the SVID is renewed. Does not know
//! why a process is permitted, and refuses the permits of an earlier rulebook.

mod context;
mod entry_key;
mod image_svids;
#[allow(clippy::module_inception, reason = "the room is named for the noun that it makes")]
pub mod issuance;
mod issue_error;
pub mod issuer;
pub mod metrics;
mod order_queue;
mod remote_signer;
pub mod renewal;
mod shared_svids;
mod svid_cache;

pub use context::CurrentEpoch;
pub use entry_key::EntriesInForce;
pub use image_svids::Holder;
pub use image_svids::ImageSvids;
pub use issuance::CredentialKind;
pub use issuance::Issuance;
pub use issuance::IssuanceId;
pub use issuance::IssuedJwtSvid;
pub use issuance::IssuedX509Svid;
pub use issuance::NotAnIssuanceId;
pub use issue_error::IssueError;
pub use issuer::Issuer;

#[cfg(test)]
mod tests;
