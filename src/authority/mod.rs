//! Authorities. An authority turns orders into certificates and tokens, publishes the bundle that verifies them, and keeps
//! its own keys. It does not know which process asked: an [`Order`] names an entry and a SPIFFE ID.
//!
//! [`open()`] is the only function that names the kinds of authority. [`signing`] is shared by all that have a local key.

pub mod embedded;
pub mod keys;
pub mod no_authority;
pub mod open;
pub mod order;
pub mod signing;
pub mod tally;

pub use embedded::Embedded;
pub use embedded::settings::EmbeddedSettings;
pub use keys::KeyId;
pub use keys::KeyKind;
pub use keys::KeyStatus;
pub use keys::NotRotated;
pub use keys::RotationBegun;
pub use keys::RotationOrder;
pub use keys::Stage;
pub use no_authority::NoAuthority;
pub use no_authority::Note;
pub use open::AuthoritySettings;
pub use open::open;
pub use order::Chain;
pub use order::Order;
pub use order::Refused;
pub use order::Token;
pub use order::TokenOrder;
pub use signing::life::RELEASE_DATE;
pub use signing::life::Validity;
pub use tally::RotationTally;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::identity::bundle::Bundle;
use crate::time::Moment;

/// Which SVIDs may have the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySharing {
    /// No two process images share a key.
    PerImage,
    /// One key per entry, as a remote signer's interface has it.
    PerEntry,
}

/// Where an authority signs. It follows what limits the number of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignerLocation {
    /// On this machine: a signature takes a core.
    Local,
    /// On another machine: a signature takes a round trip and no core.
    Remote {
        /// The most orders in one call.
        max_batch: usize,
        /// Which SVIDs may have the same key. With a local signer no two process images share one.
        key_sharing: KeySharing,
    },
}

/// A signer of certificates and tokens.
pub trait Authority: Send + Sync + fmt::Debug {
    /// The value of `[authority] kind`.
    fn kind(&self) -> &'static str;

    /// Certifies each order, in order.
    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>>;

    /// Signs one token.
    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>>;

    /// The bundle of its trust domain, published before anything in it is used; empty before there is a key.
    fn bundle(&self) -> watch::Receiver<Arc<Bundle>>;

    /// Where it signs.
    fn location(&self) -> SignerLocation;

    /// Its keys as they are at `now`, those of X.509 first, and of each kind the oldest first; none where they are kept
    /// elsewhere. Waits for no disk.
    fn keys(&self, now: SystemTime) -> Vec<KeyStatus>;

    /// The X.509 keys that may have leaked: whatever they signed is renewed at once.
    fn tainted(&self) -> Arc<Vec<KeyId>>;

    /// When the active X.509 key, and with it everything it signs, ends; `None` before there is one.
    fn not_after(&self) -> Option<SystemTime>;

    /// Where `now` lies in the life of its active keys, of the worse one; `None` before there are any.
    fn validity(&self, now: SystemTime) -> Option<Validity>;

    /// The same of each kind of key for itself; where they are not told apart, of both.
    fn validities(&self, now: SystemTime) -> Vec<(KeyKind, Validity)> {
        self.validity(now).map(|both| KeyKind::ALL.map(|kind| (kind, both)).to_vec()).unwrap_or_default()
    }

    /// The instruction for an operator whose authority signs nothing more.
    fn remedy(&self) -> String;

    /// How long keys live that are made from now on.
    fn set_key_life(&self, ca_ttl: Duration);

    /// Makes new keys and publishes them now, durably; they are used after a lead. Blocks while it writes to disk.
    ///
    /// # Errors
    /// [`NotRotated`]; nothing was changed, and the call may be repeated.
    fn rotate(&self, order: RotationOrder, now: Moment) -> Result<RotationBegun, NotRotated>;

    /// Whether [`Self::maintain`] would do anything now. Waits for no disk: while somebody else waits for one, it is due.
    fn is_due(&self, now: Moment, served: Served) -> bool;

    /// Does what is due: makes the first keys, and takes keys from stage to stage. Returns what it did. Blocks while it
    /// writes to disk.
    ///
    /// # Errors
    /// [`NoAuthority`]; nothing was changed, and the call may be repeated.
    fn maintain(&self, now: Moment, served: Served) -> Result<Maintained, NoAuthority>;
}

/// What came of [`Authority::maintain`].
#[derive(Debug, Default)]
pub struct Maintained {
    /// What was done.
    pub notes: Vec<Note>,
    /// Why a step that is due was not taken. It is tried again.
    pub postponed: Option<String>,
    /// Whether it was tried just now.
    pub failed: bool,
}

/// What an authority has to know of those who are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The sequence number of its bundle that they are given now.
    pub sequence: Option<u64>,
    /// Whether one of them still has an SVID of a tainted key.
    pub holds_tainted: bool,
}
