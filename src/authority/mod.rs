//! Who signs. An authority turns orders into certificates and tokens, publishes the bundle that verifies them, and keeps
//! its own keys. Refuses to know who asked and why: an [`Order`] names an entry and an identity, and no process.
//!
//! [`open()`] is the one place that knows which kinds there are; [`signing`] is what every authority with a key on this
//! machine signs with.

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

/// Whose keys may be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySharing {
    /// No two process images share a key.
    PerImage,
    /// One key per entry, as a remote signer's interface has it.
    PerEntry,
}

/// Where signatures are made, and with that what limits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignerLocation {
    /// On the processors of this machine: a signature waits for its turn on one of them.
    Local,
    /// Over the network: a signature costs time and no processor.
    Remote {
        /// The most orders in one call.
        max_batch: usize,
        /// Whose keys may be the same. A signer on this machine never lets two process images share one.
        key_sharing: KeySharing,
    },
}

/// Who signs.
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

    /// What an operator does to replace an authority whose life is over or was given by a wrong clock.
    fn replacement(&self) -> String;

    /// Does what is due by that time, such as making the first keys; says so, if it did. Blocks for as long as a disk takes.
    ///
    /// # Errors
    /// [`NoAuthority`]; nothing was changed, and it may be tried again.
    fn maintain(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority>;
}
