//! Keys: those that people register, and those that we sign with.

pub mod real;
pub mod registration;
pub mod signing;
