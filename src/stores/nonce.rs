//! Where used nonces are remembered: in this process, or in Redis for all replicas.

pub mod memory;
pub mod redis;
