//! Connecting to the database.

use std::time::Duration;

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, sqlx::sqlite::SqliteJournalMode};

use crate::config::database::{DatabaseKind, DatabaseSettings};

/// Reads and writes of the registry are rare; decisions are answered from memory.
const CONNECTIONS_MAX: u32 = 8;
/// How long to wait for a connection before the database counts as out of reach.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long SQLite waits for another process's write to end.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The database cannot be reached. The URL, which may hold a password, is not shown.
#[derive(Debug, thiserror::Error)]
#[error("the database cannot be reached; check `database.url`")]
pub struct ConnectError(#[source] DbErr);

/// Connects to the database that `settings` names.
pub async fn connect(settings: &DatabaseSettings) -> Result<DatabaseConnection, ConnectError> {
    let mut options = ConnectOptions::new(settings.url.expose());
    options.max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).connect_timeout(ACQUIRE_TIMEOUT).sqlx_logging(false);
    if settings.url.kind() == DatabaseKind::Sqlite {
        // Readers do not wait for the writer, and the command line may write while the service runs.
        options.map_sqlx_sqlite_opts(|sqlite| {
            sqlite.journal_mode(SqliteJournalMode::Wal).busy_timeout(SQLITE_BUSY_TIMEOUT).foreign_keys(true)
        });
    }
    Database::connect(options).await.map_err(ConnectError)
}
