//! The registry in a database, through `SeaORM`: SQLite, PostgreSQL, MySQL or MariaDB. `SeaORM`
//! models never leave this module.

mod api_keys;
mod by_principal;
mod database;
mod entity;
mod error;
mod grants;
mod import;
mod keeper;
pub mod legacy;
mod open;
mod record;
mod registry;
mod schema;
mod source;
mod transaction;
mod unprepared;
mod usage;

pub use database::{Database, connect, look_at};
pub use keeper::Keeper;
pub use open::ConnectError;
pub use registry::SqlRegistry;
pub use schema::{Schema, SchemaError, is_missing_file};
