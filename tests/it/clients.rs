//! Clients, as people run them.

pub mod examples;
pub mod real;
pub mod session;
