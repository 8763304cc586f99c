//! The schema of Countersign's database, on SQLite, PostgreSQL and MySQL or MariaDB.
//!
//! This crate is independent: a migration must never change its meaning, so it names tables and
//! columns by its own identifiers and imports nothing of the service.

use sea_orm_migration::{MigrationTrait, MigratorTrait};

mod dialect;
mod m20261121_000001_registry;
mod m20261122_000002_audit;
mod m20261122_000003_tokens;
mod m20261128_000004_grant_origins;
mod m20261128_000005_feed_order;
mod m20261128_000006_key_set_contents;

pub use sea_orm_migration;

/// Every migration, in order.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261121_000001_registry::Migration),
            Box::new(m20261122_000002_audit::Migration),
            Box::new(m20261122_000003_tokens::Migration),
            Box::new(m20261128_000004_grant_origins::Migration),
            Box::new(m20261128_000005_feed_order::Migration),
            Box::new(m20261128_000006_key_set_contents::Migration),
        ]
    }
}
