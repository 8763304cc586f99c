//! Adapters behind the engine's ports. None of them imports another.

pub mod cache;
pub mod nonce;
pub mod sql;
