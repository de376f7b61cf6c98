//! Authorities. An authority turns orders into certificates and tokens, publishes the bundle that verifies them, and keeps
//! its own keys. It does not know which process asked: an [`Order`] names an entry and a SPIFFE ID.
//!
//! [`open()`] is the only function that names the kinds of authority. [`signing`] is shared by all that have a local key.

pub mod embedded;
pub mod no_authority;
pub mod open;
pub mod order;
pub mod signing;

pub use embedded::Embedded;
pub use embedded::settings::EmbeddedSettings;
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

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::identity::bundle::Bundle;

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

    /// When the active X.509 key, and with it everything it signs, ends; `None` before there is one.
    fn not_after(&self) -> Option<SystemTime>;

    /// Where `now` lies in the life of that key; `None` before there is one.
    fn validity(&self, now: SystemTime) -> Option<Validity>;

    /// The instruction for an operator who has to replace the authority.
    fn replacement(&self) -> String;

    /// Does what is due at `now`, such as making the first keys, and returns a note of it. Blocks while it writes to disk.
    ///
    /// # Errors
    /// [`NoAuthority`]; nothing was changed, and the call may be repeated.
    fn maintain(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority>;
}
