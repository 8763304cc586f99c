//! Adapters of the engine's ports. They do not import each other; `redis` is no adapter, but the
//! access to Redis that two of them share.

pub mod cache;
pub mod jwks;
pub mod nonce;
pub mod notify;
pub mod redis;
pub mod signing_keys;
pub mod sql;
pub mod usage;
