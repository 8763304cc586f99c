//! The registry in a database, through `SeaORM`: SQLite, PostgreSQL, MySQL or MariaDB. Its models never leave this module.

mod api_keys;
mod connection;
mod entity;
mod error;
mod grants;
mod import;
pub mod legacy;
mod owned;
mod record;
mod registry;
mod source;
mod usage;
mod writing;

pub use connection::{ConnectError, connect};
pub use registry::SqlRegistry;
