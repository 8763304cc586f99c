//! The admin listener.

pub mod api;
pub mod api_keys;
pub mod changes;
pub mod entrance;
pub mod keys;
pub mod schema;
pub mod tokens;
