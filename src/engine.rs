//! The use cases, and the ports through which they reach the world.

mod binding;
mod decoy;
pub mod import;
pub mod issue;
pub mod ports;
pub mod readiness;
mod records;
pub mod registry;
pub mod verify;
