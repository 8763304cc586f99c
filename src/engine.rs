//! The use cases, and the ports for everything that they need from outside.

mod binding;
mod decoy;
pub mod import;
pub mod issue;
pub mod ports;
pub mod readiness;
mod records;
pub mod registry;
pub mod verify;
