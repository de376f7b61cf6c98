//! Signing with a local key: builds leaves and tokens, checks the profile before signing, and limits the time in which a
//! key may sign. Does not know where keys are stored.

pub(in crate::authority) mod certificates;
pub(in crate::authority) mod key;
mod leaf;
pub(in crate::authority) mod life;
pub(in crate::authority) mod tokens;
