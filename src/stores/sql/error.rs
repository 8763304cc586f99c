//! Converts errors of the database into those of the registry.

use sea_orm::{DbErr, RuntimeErr, SqlErr};

use super::open::is_read_only;
use crate::engine::ports::RegistryError;

/// A missing table or column means that the schema is not the one of this version. A server that
/// refuses writes was replaced, or is about to be.
pub(super) fn registry_error(error: DbErr) -> RegistryError {
    if is_missing_schema(&error) {
        RegistryError::NotMigrated(error.into())
    } else if is_refused(&error) {
        RegistryError::ReadOnly(error.into())
    } else {
        RegistryError::Store(error.into())
    }
}

/// Like [`registry_error`], but a violated unique index becomes `conflict`.
pub(super) fn or_conflict(error: DbErr, conflict: RegistryError) -> RegistryError {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => conflict,
        _ => registry_error(error),
    }
}

fn is_refused(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) =
        error
    else {
        return false;
    };
    is_read_only(error)
}

pub(super) fn is_missing_schema(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) =
        error
    else {
        return false;
    };
    let Some(error) = error.as_database_error() else { return false };
    // The SQLSTATEs of PostgreSQL and MySQL for an undefined table and column. SQLite has one code
    // for all errors in statements.
    matches!(error.code().as_deref(), Some("42P01" | "42703" | "42S02" | "42S22"))
        || error.message().starts_with("no such table")
        || error.message().starts_with("no such column")
}
