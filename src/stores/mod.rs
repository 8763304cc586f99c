//! Adapters behind the engine's ports. None of them imports another.

pub mod cache;
pub mod hints;
pub mod jwks;
pub mod nonce;
pub mod signing_keys;
pub mod sql;
pub mod usage;
