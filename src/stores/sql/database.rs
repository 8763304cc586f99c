//! The database as the registry uses it: drops connections when their server no longer accepts
//! writes, and fails at once while the database is known to be unreachable.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, ExecResult,
    IsolationLevel, QueryResult, RuntimeErr, SqliteTransactionMode, SqlxMySqlConnector,
    SqlxPostgresConnector, SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait,
    sqlx::{
        self, Connection, PgPool, PgTransaction, mysql::MySqlPoolOptions, postgres::PgPoolOptions,
        sqlite::SqlitePoolOptions,
    },
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    open::{
        Access, CONNECT_TIMEOUT, ConnectError, Reached, Server, is_mysql_marked_read_only,
        is_postgres_marked_read_only, is_read_only, is_write_failure, reach_patiently,
        set_up_mysql,
    },
    unprepared,
};
use crate::{
    config::database::{DatabaseKind, DatabaseSettings},
    engine::ports::{RegistryHealth, RegistryTrouble},
};

/// The registry is rarely read or written; decisions are answered from memory.
const CONNECTIONS_MAX: u32 = 8;
/// How long an answer may take before the state of the database is checked.
const SUSPICIOUSLY_LONG: Duration = Duration::from_millis(250);

/// Connects to the database named by `settings`.
pub async fn connect(settings: &DatabaseSettings) -> Result<Database, ConnectError> {
    Database::connect(settings, Access::Use).await
}

/// Like [`connect`], but does not create the SQLite file.
pub async fn look_at(settings: &DatabaseSettings) -> Result<Database, ConnectError> {
    Database::connect(settings, Access::Look).await
}

/// A database. Clones share their connections and state.
#[derive(Clone)]
pub struct Database(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) servers: Vec<Server>,
    kind: DatabaseKind,
    is_pooled: bool,
    pool: RwLock<Pool>,
    pub(super) state: watch::Sender<State>,
    pub(super) signs: Arc<Signs>,
}

/// The known state of a database. After the connection is made, only a [`Keeper`](super::Keeper)
/// updates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Usable,
    /// It can be read, but refuses writes for this reason.
    ReadOnly(String),
    /// It cannot be reached, for this reason.
    Away(String),
}

/// Signs that the database has to be checked.
#[derive(Debug, Default)]
pub(super) struct Signs {
    pub(super) seen: Notify,
    /// Why a write was refused, if one was since the last check.
    refused: Mutex<Option<String>>,
    /// Whether the server called itself read-only when it was last selected. A connection to a
    /// server that reports otherwise is not used.
    pub(super) is_marked_read_only: AtomicBool,
}

impl Signs {
    /// Whether to use a connection whose server reports `is_marked_read_only`.
    fn admit(&self, is_marked_read_only: bool) -> bool {
        let is_as_known = is_marked_read_only == self.is_marked_read_only.load(Ordering::Acquire);
        if !is_as_known {
            self.refuse(&"the server is not the one that it was");
        }
        is_as_known
    }

    fn refuse(&self, reason: &dyn fmt::Display) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_string());
        self.seen.notify_one();
    }

    pub(super) fn take_refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A pool of connections to one server.
#[derive(Clone)]
pub(super) enum Pool {
    Direct(DatabaseConnection),
    /// A pooler gives every transaction, and every message outside of one, to any free connection.
    Pooled(PgPool),
}

impl Database {
    async fn connect(settings: &DatabaseSettings, access: Access) -> Result<Self, ConnectError> {
        let servers = Server::all(&settings.url, access)?;
        let Reached { server, session, is_pooled, writes } = reach_patiently(&servers).await?;
        session.close().await;
        let signs = Arc::new(Signs::default());
        signs.is_marked_read_only.store(writes.is_marked_read_only, Ordering::Release);
        Ok(Self(Arc::new(Shared {
            servers,
            kind: settings.url.kind(),
            is_pooled,
            pool: RwLock::new(Pool::to(&server, is_pooled, &signs)),
            state: watch::Sender::new(writes.refused.map_or(State::Usable, State::ReadOnly)),
            signs,
        })))
    }

    /// Whether a pooler such as `PgBouncer` sits in front of the database.
    pub fn is_pooled(&self) -> bool {
        self.0.is_pooled
    }

    /// Begins a transaction. On SQLite it takes the write lock at once.
    pub(super) async fn begin(
        &self,
        isolation_level: Option<IsolationLevel>,
    ) -> Result<Transaction, DbErr> {
        let begun = self.guard(async {
            Ok(match self.pool() {
                Pool::Direct(connection) => {
                    let options = TransactionOptions {
                        isolation_level,
                        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                        ..TransactionOptions::default()
                    };
                    Begun::Direct(connection.begin_with_options(options).await?)
                }
                Pool::Pooled(pool) => Begun::Pooled(tokio::sync::Mutex::new(
                    unprepared::begin(&pool, isolation_level).await?,
                )),
            })
        });
        Ok(Transaction { begun: begun.await?, database: self.clone() })
    }

    fn pool(&self) -> Pool {
        self.0.pool.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops all connections. New ones go to `server`.
    pub(super) fn turn_to(&self, server: &Server) {
        let new = Pool::to(server, self.0.is_pooled, &self.0.signs);
        let old = std::mem::replace(
            &mut *self.0.pool.write().unwrap_or_else(PoisonError::into_inner),
            new,
        );
        // Do not wait for connections that may never answer.
        drop(tokio::spawn(old.close()));
    }

    /// Runs `work`, unless the database is or becomes known to be unreachable.
    async fn guard<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        let mut states = self.0.state.subscribe();
        let (mut work, mut suspicion) = (pin!(work), pin!(sleep(SUSPICIOUSLY_LONG)));
        let mut is_suspicious = false;
        loop {
            if let State::Away(reason) = &*states.borrow_and_update() {
                return Err(out_of_reach(reason));
            }
            tokio::select! {
                result = &mut work => return result.inspect_err(|error| self.note(error)),
                () = &mut suspicion, if !is_suspicious => {
                    is_suspicious = true;
                    self.0.signs.seen.notify_one();
                }
                changed = states.changed() => if changed.is_err() {
                    return work.await;
                },
            }
        }
    }

    fn note(&self, error: &DbErr) {
        let (DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))) = error
        else {
            if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) {
                self.0.signs.seen.notify_one();
            }
            return;
        };
        if is_read_only(error) || is_write_failure(error) {
            self.0.signs.refuse(error);
        } else if !matches!(**error, sqlx::Error::RowNotFound) && !is_answer(error) {
            self.0.signs.seen.notify_one();
        }
    }
}

/// Whether the server answered, and is going to stay available.
fn is_answer(error: &sqlx::Error) -> bool {
    // PostgreSQL and MySQL report that they are stopping, and PostgreSQL that it is starting.
    let is_end = |code: &str| code.starts_with("57P") || code.starts_with("08");
    error.as_database_error().is_some_and(|error| !error.code().is_some_and(|code| is_end(&code)))
}

fn out_of_reach(reason: &str) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("the database is out of reach: {reason}")))
}

impl RegistryHealth for Database {
    fn check(&self) -> Result<(), RegistryTrouble> {
        match &*self.0.state.borrow() {
            State::Usable => Ok(()),
            State::ReadOnly(reason) => Err(RegistryTrouble::ReadOnly(reason.clone())),
            State::Away(reason) => Err(RegistryTrouble::Away(reason.clone())),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("kind", &self.0.kind)
            .field("state", &*self.0.state.borrow())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ConnectionTrait for Database {
    fn get_database_backend(&self) -> DatabaseBackend {
        match self.0.kind {
            DatabaseKind::Sqlite => DatabaseBackend::Sqlite,
            DatabaseKind::Postgres => DatabaseBackend::Postgres,
            DatabaseKind::MySql => DatabaseBackend::MySql,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.guard(async {
            match self.pool() {
                Pool::Direct(connection) => connection.execute_raw(statement).await,
                Pool::Pooled(pool) => {
                    unprepared::alone(&pool, async |one| unprepared::execute(one, statement).await)
                        .await
                }
            }
        })
        .await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.guard(async {
            match self.pool() {
                Pool::Direct(connection) => connection.execute_unprepared(sql).await,
                Pool::Pooled(pool) => {
                    unprepared::alone(&pool, async |one| unprepared::execute_text(one, sql).await)
                        .await
                }
            }
        })
        .await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.guard(async {
            match self.pool() {
                Pool::Direct(connection) => connection.query_one_raw(statement).await,
                Pool::Pooled(pool) => {
                    unprepared::alone(&pool, async |one| {
                        unprepared::query_one(one, statement).await
                    })
                    .await
                }
            }
        })
        .await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.guard(async {
            match self.pool() {
                Pool::Direct(connection) => connection.query_all_raw(statement).await,
                Pool::Pooled(pool) => {
                    unprepared::alone(&pool, async |one| {
                        unprepared::query_all(one, statement).await
                    })
                    .await
                }
            }
        })
        .await
    }
}

/// A transaction; rolled back unless committed.
pub(super) struct Transaction {
    begun: Begun,
    database: Database,
}

enum Begun {
    Direct(DatabaseTransaction),
    Pooled(tokio::sync::Mutex<PgTransaction<'static>>),
}

impl Transaction {
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        let Self { begun, database } = self;
        database
            .guard(async {
                match begun {
                    Begun::Direct(transaction) => transaction.commit().await,
                    Begun::Pooled(transaction) => {
                        unprepared::commit(transaction.into_inner()).await
                    }
                }
            })
            .await
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DatabaseBackend {
        self.database.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.database
            .guard(async {
                match &self.begun {
                    Begun::Direct(transaction) => transaction.execute_raw(statement).await,
                    Begun::Pooled(transaction) => {
                        unprepared::execute(&mut *transaction.lock().await, statement).await
                    }
                }
            })
            .await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.database
            .guard(async {
                match &self.begun {
                    Begun::Direct(transaction) => transaction.execute_unprepared(sql).await,
                    Begun::Pooled(transaction) => {
                        unprepared::execute_text(&mut *transaction.lock().await, sql).await
                    }
                }
            })
            .await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.database
            .guard(async {
                match &self.begun {
                    Begun::Direct(transaction) => transaction.query_one_raw(statement).await,
                    Begun::Pooled(transaction) => {
                        unprepared::query_one(&mut *transaction.lock().await, statement).await
                    }
                }
            })
            .await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.database
            .guard(async {
                match &self.begun {
                    Begun::Direct(transaction) => transaction.query_all_raw(statement).await,
                    Begun::Pooled(transaction) => {
                        unprepared::query_all(&mut *transaction.lock().await, statement).await
                    }
                }
            })
            .await
    }
}

impl Pool {
    /// Connects when a connection is first needed. Before a connection is reused, a query of the
    /// server's read-only mark replaces the driver's own ping, and takes one round trip like the
    /// ping.
    fn to(server: &Server, is_pooled: bool, signs: &Arc<Signs>) -> Self {
        let signs = Arc::clone(signs);
        match server {
            Server::Postgres(options) => {
                let pool = PgPoolOptions::new()
                    .max_connections(CONNECTIONS_MAX)
                    .acquire_timeout(CONNECT_TIMEOUT)
                    .test_before_acquire(false)
                    .before_acquire(move |connection, _| {
                        let signs = Arc::clone(&signs);
                        Box::pin(async move {
                            Ok(signs.admit(is_postgres_marked_read_only(connection).await?))
                        })
                    });
                let options = (**options).clone();
                if is_pooled {
                    return Self::Pooled(
                        pool.connect_lazy_with(options.statement_cache_capacity(0)),
                    );
                }
                Self::Direct(SqlxPostgresConnector::from_sqlx_postgres_pool(
                    pool.connect_lazy_with(options),
                ))
            }
            Server::MySql(options) => {
                let pool = MySqlPoolOptions::new()
                    .max_connections(CONNECTIONS_MAX)
                    .acquire_timeout(CONNECT_TIMEOUT)
                    .test_before_acquire(false)
                    .after_connect(|connection, _| Box::pin(set_up_mysql(connection)))
                    .before_acquire(move |connection, _| {
                        let signs = Arc::clone(&signs);
                        Box::pin(async move {
                            Ok(signs.admit(is_mysql_marked_read_only(connection).await?))
                        })
                    });
                Self::Direct(SqlxMySqlConnector::from_sqlx_mysql_pool(
                    pool.connect_lazy_with((**options).clone()),
                ))
            }
            Server::Sqlite(options) => {
                let pool = sqlite_pool(CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT);
                Self::Direct(SqlxSqliteConnector::from_sqlx_sqlite_pool(
                    pool.connect_lazy_with((**options).clone()),
                ))
            }
        }
    }

    async fn close(self) {
        match self {
            Self::Direct(connection) => drop(connection.close().await),
            Self::Pooled(pool) => pool.close().await,
        }
    }
}

/// SQLite itself rolls a transaction back when the disk is full. The driver's own `ROLLBACK` then
/// fails, and the driver believes from then on that a transaction is open: such a connection would
/// accept no transaction any more, and might keep the file locked for other processes.
pub(super) fn sqlite_pool(connections_max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections_max).after_release(|connection, _| {
        Box::pin(async move {
            // The ping runs after all queued work.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    })
}
