//! Keys: those that clients register, and our own signing keys.

pub mod real;
pub mod registration;
pub mod signing;
