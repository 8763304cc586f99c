//! Differences between the databases.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DatabaseBackend, DbErr, Statement},
};

/// Column types of one database, for types whose meaning must not differ.
pub(crate) struct Dialect {
    backend: DatabaseBackend,
    /// Makes comparisons byte for byte, including trailing spaces. Only MySQL and MariaDB need it,
    /// under different names.
    collation: Option<&'static str>,
}

impl Dialect {
    pub(crate) async fn of(manager: &SchemaManager<'_>) -> Result<Self, DbErr> {
        let (backend, connection) = (manager.get_database_backend(), manager.get_connection());
        let collation = match backend {
            DatabaseBackend::MySql => {
                let version = connection
                    .query_one_raw(Statement::from_string(backend, "SELECT VERSION() AS version"))
                    .await?;
                let version: String =
                    version.map_or_else(|| Ok(String::new()), |row| row.try_get("", "version"))?;
                Some(if version.contains("MariaDB") {
                    "utf8mb4_nopad_bin"
                } else {
                    "utf8mb4_0900_bin"
                })
            }
            _ => None,
        };
        Ok(Self { backend, collation })
    }

    /// Text of up to `length` characters, compared byte for byte.
    pub(crate) fn exact_text(&self, column: impl IntoIden, length: u32) -> ColumnDef {
        let mut definition = ColumnDef::new(column);
        match self.collation {
            Some(collation) => definition
                .custom(format!("VARCHAR({length}) CHARACTER SET utf8mb4 COLLATE {collation}")),
            None => definition.string_len(length),
        };
        definition
    }

    /// The statement that makes MySQL and MariaDB accept any text in all columns of `table`,
    /// whatever the character set of the database.
    pub(crate) fn any_text_in(&self, table: &str) -> Option<String> {
        let collation = self.collation?;
        Some(format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}"))
    }

    /// A UTC time with at least microsecond precision, beyond the year 2038.
    pub(crate) fn moment(&self, column: impl IntoIden) -> ColumnDef {
        let mut definition = ColumnDef::new(column);
        match self.backend {
            DatabaseBackend::MySql => definition.custom("DATETIME(6)"),
            _ => definition.date_time(),
        };
        definition
    }
}

/// A unique id for each row, never reused.
pub(crate) fn row_id(column: impl IntoIden) -> ColumnDef {
    let mut definition = ColumnDef::new(column);
    definition.big_integer().not_null().auto_increment().primary_key();
    definition
}
