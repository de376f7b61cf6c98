//! Signing with a key on this machine: what a leaf and a token look like, what is read before it is signed, and from when
//! until when a key may sign. Refuses to know where keys are kept.

pub(in crate::authority) mod certificates;
pub(in crate::authority) mod key;
mod leaf;
pub(in crate::authority) mod life;
pub(in crate::authority) mod tokens;
