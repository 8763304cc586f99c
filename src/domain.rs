//! What a key, a token, a nonce, a principal and a decision *are*.
//!
//! Everything here is pure and synchronous: it reads no clock, fetches and stores nothing, and
//! imports none of our other modules. `now` is always an argument.

pub mod algorithm;
pub mod auth_request;
pub mod content_digest;
pub mod decision;
pub mod fence;
pub mod forward_clock;
pub mod header_value;
pub mod issuer_keys;
pub mod json;
pub mod key;
pub mod key_schedule;
pub mod key_set;
pub mod nonce;
pub mod principal;
pub mod profile;
pub mod scope;
pub mod secret_token;
pub mod target;
pub mod time;
pub mod token;
