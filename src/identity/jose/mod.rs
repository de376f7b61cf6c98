//! JSON, keys and signatures as JWT-SVIDs and SPIFFE bundles have them. Strict where the common libraries are lenient:
//! what can be read in two ways is not read at all. Refuses to know where a document came from and who asks.

pub mod algorithm;
pub mod json;
pub mod jws;
pub mod public_key;

pub use algorithm::Algorithm;
pub use json::InvalidJson;
pub use jws::InvalidToken;
pub use public_key::PublicKey;
pub use public_key::UnusableKey;
