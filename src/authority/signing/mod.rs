//! Signing with the keys of an authority, local or elsewhere: builds certificates and tokens, checks the profile before
//! signing, and limits the time in which a key may sign. Does not know where keys are stored, nor which of them is used.

pub(in crate::authority) mod certificates;
mod der;
pub(in crate::authority) mod key;
pub(in crate::authority) mod life;
mod linting;
mod templates;
pub(in crate::authority) mod tokens;

pub use key::KeyFailed;
pub use key::SigningKey;

#[cfg(test)]
mod tests;
