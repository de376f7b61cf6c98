//! Why an authority did not open, and what an operator should know about one that did.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::authority::keys::KeyKind;
use crate::authority::order::Refused;
use crate::authority::signing::life::release_day;
use crate::durable::LoadError;
use crate::durable::StoreError;
use crate::time::date::rfc3339;

/// Why there is no authority. Nothing was changed, on disk or otherwise.
#[derive(Debug, thiserror::Error)]
pub enum NoAuthority {
    /// Its state cannot be read, or must not be trusted.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state is whole, and says what cannot be.
    #[error(
        "{file} is inconsistent: {why}; restore it from a backup, or give up every identity it signed and type: \
         mv {file} {file}.damaged"
    )]
    Contradiction {
        /// The state file.
        file: PathBuf,
        /// What is wrong in it.
        why: &'static str,
    },
    /// The state belongs to another trust domain.
    #[error(
        "{file} belongs to the trust domain {found:?} and the configuration says {wanted:?}; nothing was changed. One of:\n  \
         keep {found}: set trust_domain = {found:?}, and type: systemctl restart bonafide\n  \
         have both: set [authority] data_dir to another directory, which gets a new authority of {wanted}; {found} can \
         be taken up again. Type: systemctl restart bonafide\n  \
         give up {found}: its SVIDs are not renewed, and whoever verifies SVIDs of this node elsewhere needs the bundle \
         of {wanted}. Type: mv {file} {file}.{found} && systemctl restart bonafide"
    )]
    ForeignTrustDomain {
        /// The state file.
        file: PathBuf,
        /// Its trust domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// What was made or changed could not be kept.
    #[error("the authority's keys cannot be kept: {0}")]
    Store(#[from] StoreError),
    /// There are no keys yet, and the clock is wrong, so that no life could be given to new ones.
    #[error(
        "the clock shows a time before this release was made ({}), so no authority can be made; set the clock: \
         timedatectl",
        release_day()
    )]
    ClockBeforeRelease,
    /// The crypto library could not make a key.
    #[error("the crypto library could not make a key for a new authority")]
    NoKey,
    /// `ca_ttl` reaches past the end of time.
    #[error("ca_ttl is too long for any calendar; the default is \"168h\"")]
    LifeTooLong,
    /// The new authority's own certificate could not be signed.
    #[error("a new authority could not be made: {0}")]
    OwnCertificate(Refused),
}

/// What an operator should know about an authority that did open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// It was made just now: nobody trusts it yet.
    #[error("a new authority was made for {trust_domain:?}")]
    New {
        /// For whom.
        trust_domain: String,
    },
    /// A new key is in the bundle, and is used later.
    #[error("a new {kind} key of the authority, {id}, is in the bundle and is used from {}", rfc3339(*used_from))]
    Published {
        /// Of which kind.
        kind: KeyKind,
        /// Which.
        id: String,
        /// From when on.
        used_from: SystemTime,
    },
    /// A key signs from now on.
    #[error("the {kind} key {id} of the authority signs from now on, and {before} no more")]
    Used {
        /// Of which kind.
        kind: KeyKind,
        /// Which.
        id: String,
        /// The one that signed until now.
        before: String,
    },
    /// A key that signs no more is not in the bundle any more.
    #[error("the key {id} of the authority has left the bundle")]
    Left {
        /// Which.
        id: String,
    },
    /// There are no keys yet, and none can be made before the clock is right.
    #[error("{}", NoAuthority::ClockBeforeRelease)]
    AwaitsClock,
    /// The data directory took no writes at the start: no key can be rotated.
    #[error(
        "{path} takes no writes ({why}): no new key can be kept there, so none is rotated; make room (df -h {path}), or \
         make it writable"
    )]
    NotWritable {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}
