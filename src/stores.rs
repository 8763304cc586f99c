//! Adapters behind the engine's ports. None of them imports another; `redis` is no adapter, but how
//! two of them reach theirs.

pub mod cache;
pub mod jwks;
pub mod nonce;
pub mod notify;
pub mod redis;
pub mod signing_keys;
pub mod sql;
pub mod usage;
