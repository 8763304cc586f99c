//! Stores of used nonces: in this process, or in a Redis that all replicas share.

pub mod memory;
pub mod redis;
