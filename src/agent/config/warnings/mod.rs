//! What a configuration may say and probably does not mean: warnings, which refuse nothing.

pub(in crate::agent::config) mod overlap;
mod paths;
pub(in crate::agent::config) mod selectors;

pub use paths::of_paths;
