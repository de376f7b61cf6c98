//! The doors. Each turns bytes into questions and answers into bytes; none of them decides.

pub mod admin;
