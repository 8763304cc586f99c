//! Schema changes, made by one process at a time.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel, RuntimeErr,
    SqliteTransactionMode, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    Statement, TransactionOptions, TransactionTrait,
    sqlx::{mysql::MySqlPoolOptions, postgres::PgPoolOptions},
};
use tokio::time::Instant;

use super::{
    database::sqlite_pool,
    open::{
        Access, CONNECT_TIMEOUT, ConnectError, Reached, Server, is_busy, reach_patiently,
        set_up_mysql,
    },
};
use crate::config::database::{DatabaseKind, DatabaseSettings};

/// How long to wait for another process that changes the schema: a large table may take long.
const PATIENCE: Duration = Duration::from_mins(10);
/// The id of the lock in PostgreSQL, where it is local to one database.
const POSTGRES_LOCK: i64 = 0x636f_756e_7465_7273;
/// The name of the lock in MySQL and MariaDB, where it is global to the server.
const MYSQL_LOCK: &str = "CONCAT('countersign.', SHA1(DATABASE()))";

/// Why the schema could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Another process has been changing the schema for too long.
    #[error("another process has been changing the schema for {PATIENCE:?}; end it and try again")]
    Held,
    /// An error of the database.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// A database whose schema is changed or inspected.
#[derive(Debug)]
pub struct Schema {
    connection: DatabaseConnection,
    kind: DatabaseKind,
    is_pooled: bool,
}

impl Schema {
    /// Opens the database that `settings` name.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, ConnectError> {
        Self::connect(settings, Access::Use).await
    }

    /// Like [`Self::open`], but creates nothing. `None` if the SQLite file does not exist.
    pub async fn look_at(settings: &DatabaseSettings) -> Result<Option<Self>, ConnectError> {
        if is_missing_file(settings)? {
            Ok(None)
        } else {
            Self::connect(settings, Access::Look).await.map(Some)
        }
    }

    async fn connect(settings: &DatabaseSettings, access: Access) -> Result<Self, ConnectError> {
        let servers = Server::all(&settings.url, access)?;
        let Reached { server, session, is_pooled, .. } = reach_patiently(&servers).await?;
        session.close().await;
        let connection = match server {
            Server::Postgres(options) => {
                let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
                let options =
                    if is_pooled { options.statement_cache_capacity(0) } else { *options };
                SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(options))
            }
            Server::MySql(options) => {
                let pool =
                    MySqlPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
                let pool = pool.after_connect(|connection, _| Box::pin(set_up_mysql(connection)));
                SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(*options))
            }
            Server::Sqlite(options) => {
                let pool = sqlite_pool(1).acquire_timeout(CONNECT_TIMEOUT);
                SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(*options))
            }
        };
        Ok(Self { connection, kind: settings.url.kind(), is_pooled })
    }

    /// Runs read-only `work` in one transaction.
    pub async fn look<T>(
        &self,
        work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, DbErr>,
    ) -> Result<T, DbErr> {
        let transaction = self.connection.begin().await?;
        self.forget_statements(&transaction).await?;
        let result = work(&transaction).await;
        self.end(transaction, result).await
    }

    /// Runs `work` in one transaction while no other process changes the schema. If it fails,
    /// PostgreSQL and SQLite roll all of it back. Calls `waits` if it has to wait for another
    /// process.
    pub async fn change<T>(
        &self,
        waits: impl FnMut(),
        work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, DbErr>,
    ) -> Result<T, SchemaError> {
        let transaction = match self.kind {
            DatabaseKind::Postgres => self.lock_postgres(waits).await?,
            DatabaseKind::MySql => self.lock_mysql(waits).await?,
            DatabaseKind::Sqlite => self.lock_sqlite(waits).await?,
        };
        let result = work(&transaction).await;
        if self.kind == DatabaseKind::MySql {
            // Schema changes end the transaction on MySQL, so the lock belongs to the connection.
            let released =
                transaction.execute_unprepared(&format!("DO RELEASE_LOCK({MYSQL_LOCK})")).await;
            return Ok(self
                .end(transaction, result.and_then(|done| released.map(|_| done)))
                .await?);
        }
        Ok(self.end(transaction, result).await?)
    }

    /// Closes the connection, and waits until it is closed.
    pub async fn close(self) {
        drop(self.connection.close().await);
    }

    async fn end<T>(
        &self,
        transaction: DatabaseTransaction,
        result: Result<T, DbErr>,
    ) -> Result<T, DbErr> {
        match result {
            Ok(done) => {
                self.forget_statements(&transaction).await?;
                transaction.commit().await?;
                Ok(done)
            }
            Err(error) => {
                // The first error says more than a failure of this.
                drop(self.forget_statements(&transaction).await);
                drop(transaction.rollback().await);
                Err(error)
            }
        }
    }

    /// Behind a pooler, the connection may have named statements of other clients, and is given to
    /// others afterwards.
    async fn forget_statements(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        if self.is_pooled {
            transaction.execute_unprepared("DEALLOCATE ALL").await.map(drop)
        } else {
            Ok(())
        }
    }

    /// The lock belongs to the transaction, so that it also works behind a pooler. Work of others
    /// is visible once the lock is held.
    async fn lock_postgres(
        &self,
        mut waits: impl FnMut(),
    ) -> Result<DatabaseTransaction, SchemaError> {
        let transaction =
            self.connection.begin_with_config(Some(IsolationLevel::ReadCommitted), None).await?;
        self.forget_statements(&transaction).await?;
        if is_yes(
            &transaction,
            &format!("SELECT pg_try_advisory_xact_lock({POSTGRES_LOCK})::int::bigint AS locked"),
        )
        .await?
        {
            return Ok(transaction);
        }
        waits();
        let seconds = PATIENCE.as_secs();
        let wait = format!(
            "SET LOCAL lock_timeout = '{seconds}s'; SELECT pg_advisory_xact_lock({POSTGRES_LOCK}); SET LOCAL lock_timeout TO DEFAULT"
        );
        match transaction.execute_unprepared(&wait).await {
            Ok(_) => Ok(transaction),
            Err(error) if sql_state(&error).as_deref() == Some("55P03") => Err(SchemaError::Held),
            Err(error) => Err(error.into()),
        }
    }

    /// The transaction stays on one connection, which holds the lock.
    async fn lock_mysql(
        &self,
        mut waits: impl FnMut(),
    ) -> Result<DatabaseTransaction, SchemaError> {
        let transaction = self.connection.begin().await?;
        let lock =
            |seconds| format!("SELECT CAST(GET_LOCK({MYSQL_LOCK}, {seconds}) AS SIGNED) AS locked");
        if is_yes(&transaction, &lock(0)).await? {
            return Ok(transaction);
        }
        waits();
        if is_yes(&transaction, &lock(PATIENCE.as_secs())).await? {
            Ok(transaction)
        } else {
            Err(SchemaError::Held)
        }
    }

    async fn lock_sqlite(
        &self,
        mut waits: impl FnMut(),
    ) -> Result<DatabaseTransaction, SchemaError> {
        let began_at = Instant::now();
        loop {
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            match self.connection.begin_with_options(options).await {
                Ok(transaction) => return Ok(transaction),
                Err(
                    DbErr::Exec(RuntimeErr::SqlxError(error))
                    | DbErr::Query(RuntimeErr::SqlxError(error)),
                ) if is_busy(&error) => {
                    waits();
                    if began_at.elapsed() >= PATIENCE {
                        return Err(SchemaError::Held);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether `settings` name an SQLite file that does not exist.
pub fn is_missing_file(settings: &DatabaseSettings) -> Result<bool, ConnectError> {
    let servers = Server::all(&settings.url, Access::Look)?;
    let [Server::Sqlite(options)] = servers.as_slice() else { return Ok(false) };
    let file = options.get_filename();
    Ok(!file.as_os_str().as_encoded_bytes().starts_with(b"file:") && !file.exists())
}

async fn is_yes(transaction: &DatabaseTransaction, query: &str) -> Result<bool, DbErr> {
    let row = transaction
        .query_one_raw(Statement::from_string(transaction.get_database_backend(), query))
        .await?;
    Ok(row.map(|row| row.try_get::<Option<i64>>("", "locked")).transpose()?.flatten() == Some(1))
}

fn sql_state(error: &DbErr) -> Option<String> {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) =
        error
    else {
        return None;
    };
    error.as_database_error()?.code().map(Into::into)
}
