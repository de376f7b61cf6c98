//! Who gets what: [`decide`](decide::decide) is a pure function of what is proven, the entries, and the time, and always
//! says why. A [`Permit`] can come from nowhere else.

pub mod decide;
