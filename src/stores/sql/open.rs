//! Opens connections: sets up each kind of database, and finds the server that accepts writes if
//! there are several.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions, Connection, Executor, MySqlConnection, PgConnection, Row,
        SqliteConnection,
        mysql::{MySqlConnectOptions, MySqlPoolOptions},
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::config::database::{DatabaseKind, DatabaseUrl};

/// How long to wait for a connection before the database counts as unreachable.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long SQLite waits for the write of another process to finish.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval between attempts while a server refuses connections, or while another process sets
/// up the SQLite file.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// Makes a value that does not fit an error, and gives string literals and `||` one meaning,
/// however the server is configured.
const SQL_MODE: &str = "SET sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,\
                        NO_ZERO_DATE,NO_ZERO_IN_DATE,PIPES_AS_CONCAT'";
/// PostgreSQL accepts any setting with a dot in its name, and no pooler knows this one.
const DIRECT: (&str, &str) = ("countersign.direct", "on");

/// The database cannot be reached. The message shows neither the URL, which may hold a password,
/// nor the driver's error about the URL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The driver rejects the URL.
    #[error(
        "`database.url` cannot be used: a parameter after the `?`, or the encoding of its user name or password, is not understood"
    )]
    Url,
    /// No server answers, or none accepts the login.
    #[error("the database cannot be reached; check `database.url`")]
    Unreachable(#[source] sqlx::Error),
    /// The server's certificate is rejected. The driver does its own verification: unlike
    /// elsewhere, trusting the certificate itself does not help.
    #[error(
        "the database's certificate is that of an authority (CA:TRUE), which is not taken as a server's own; make it again with \
         `-addext basicConstraints=critical,CA:FALSE`"
    )]
    AuthorityAsServer(#[source] sqlx::Error),
    /// The SQLite file cannot be created.
    #[error("the database file {path:?} cannot be created: {source}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl ConnectError {
    fn unreachable(error: sqlx::Error) -> Self {
        // The driver wraps the TLS library's error in a type of its own, which differs for each
        // kind of database.
        if format!("{error:?}").contains("CaUsedAsEndEntity") {
            Self::AuthorityAsServer(error)
        } else {
            Self::Unreachable(error)
        }
    }
}

/// Whether opening a database may create it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Creates the SQLite file if the URL says so.
    Use,
    /// Creates nothing.
    Look,
}

/// Connection options of one server.
#[derive(Clone, Debug)]
pub(super) enum Server {
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

/// A single connection outside of any pool.
#[derive(Debug)]
pub(super) enum Session {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// A server that answers.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) server: Server,
    pub(super) session: Session,
    /// Whether a pooler sits in front of the server.
    pub(super) is_pooled: bool,
    pub(super) writes: Writes,
}

/// Whether a server accepts writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writes {
    /// Whether the server calls itself read-only; privileged users may be exempt.
    pub(super) is_marked_read_only: bool,
    /// Why it refuses writes; `None` if it accepts them.
    pub(super) refused: Option<String>,
}

impl Writes {
    const TAKEN: Self = Self { is_marked_read_only: false, refused: None };
}

impl Server {
    /// All servers of `url`, in its order.
    pub(super) fn all(url: &DatabaseUrl, access: Access) -> Result<Vec<Self>, ConnectError> {
        url.servers().map(|server| Self::of(url.kind(), server, access)).collect()
    }

    fn of(kind: DatabaseKind, url: &str, access: Access) -> Result<Self, ConnectError> {
        // The drivers' errors quote parts of the URL.
        let bad = |_| ConnectError::Url;
        Ok(match kind {
            // A pooler refuses parameters that it does not track. `extra_float_digits` is one, and
            // matters only for floats, which are not used.
            DatabaseKind::Postgres => {
                let options: PgConnectOptions = url.parse().map_err(bad)?;
                Self::Postgres(Box::new(
                    options.extra_float_digits(None).disable_statement_logging(),
                ))
            }
            DatabaseKind::MySql => {
                let options: MySqlConnectOptions = url.parse().map_err(bad)?;
                let options = options.pipes_as_concat(false).no_engine_substitution(false);
                Self::MySql(Box::new(options.disable_statement_logging()))
            }
            DatabaseKind::Sqlite => {
                let options: SqliteConnectOptions = url.parse().map_err(bad)?;
                let options = options
                    .busy_timeout(SQLITE_BUSY_TIMEOUT)
                    .foreign_keys(true)
                    .disable_statement_logging();
                Self::Sqlite(Box::new(match access {
                    Access::Use => {
                        if url.contains("mode=rwc") {
                            create_for_owner(options.get_filename())?;
                        }
                        // With WAL, readers do not wait for the writer, and the command line can
                        // write while the service runs.
                        options.journal_mode(SqliteJournalMode::Wal)
                    }
                    Access::Look => options.create_if_missing(false),
                }))
            }
        })
    }

    /// Connects, and returns whether a pooler sits in front of the server.
    async fn connect(&self) -> Result<(Session, bool), sqlx::Error> {
        match self {
            Self::Postgres(options) => connect_postgres(options).await,
            Self::MySql(options) => {
                let mut session = options.connect().await?;
                session.execute(SQL_MODE).await?;
                Ok((Session::MySql(session), false))
            }
            Self::Sqlite(options) => Ok((Session::Sqlite(options.connect().await?), false)),
        }
    }

    pub(super) async fn reach(&self) -> Result<Reached, sqlx::Error> {
        let (mut session, is_pooled) = self.connect().await?;
        let writes = session.writes().await?;
        Ok(Reached { server: self.clone(), session, is_pooled, writes })
    }
}

/// Opens connections to the database of another system, for reading only. Its settings are kept
/// except for those without which it cannot be read.
pub(super) async fn open_to_read(
    url: &DatabaseUrl,
    limit: Duration,
) -> Result<DatabaseConnection, ConnectError> {
    const CONNECTIONS_MAX: u32 = 2;

    let mut failure = ConnectError::Url;
    for server in Server::all(url, Access::Look)? {
        let opened = match server {
            Server::Postgres(options) => {
                let pool = PgPoolOptions::new()
                    .max_connections(CONNECTIONS_MAX)
                    .acquire_timeout(limit)
                    .connect_with(*options);
                pool.await.map(SqlxPostgresConnector::from_sqlx_postgres_pool)
            }
            Server::MySql(options) => {
                let pool = MySqlPoolOptions::new()
                    .max_connections(CONNECTIONS_MAX)
                    .acquire_timeout(limit)
                    .connect_with(*options);
                pool.await.map(SqlxMySqlConnector::from_sqlx_mysql_pool)
            }
            Server::Sqlite(options) => {
                let pool = SqlitePoolOptions::new()
                    .max_connections(CONNECTIONS_MAX)
                    .acquire_timeout(limit);
                pool.connect_with(options.read_only(true))
                    .await
                    .map(SqlxSqliteConnector::from_sqlx_sqlite_pool)
            }
        };
        match opened {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = ConnectError::unreachable(error),
        }
    }
    Err(failure)
}

/// A pooler refuses an unknown startup parameter, or drops it.
async fn connect_postgres(options: &PgConnectOptions) -> Result<(Session, bool), sqlx::Error> {
    match options.clone().options([DIRECT]).connect().await {
        Ok(mut session) => {
            let row =
                session.fetch_one("SELECT current_setting('countersign.direct', true)").await?;
            let is_direct =
                row.try_get::<Option<String>, _>(0)?.is_some_and(|value| value == DIRECT.1);
            Ok((Session::Postgres(session), !is_direct))
        }
        Err(sqlx::Error::Database(error))
            if !is_final(error.code().as_deref().unwrap_or_default()) =>
        {
            Ok((Session::Postgres(options.connect().await?), true))
        }
        Err(error) => Err(error),
    }
}

/// Failed authentication, an unknown database, too many connections and a server that is starting
/// or stopping have nothing to do with startup parameters.
fn is_final(sql_state: &str) -> bool {
    ["28", "3D", "53", "57"].iter().any(|class| sql_state.starts_with(class))
}

impl Session {
    /// Whether the server accepts writes, as far as that can be told without writing.
    pub(super) async fn writes(&mut self) -> Result<Writes, sqlx::Error> {
        match self {
            Self::Postgres(session) => {
                let query =
                    "SELECT current_setting('transaction_read_only') = 'on', pg_is_in_recovery()";
                let row = session.fetch_one(query).await?;
                let (is_marked_read_only, is_standby) = (row.try_get(0)?, row.try_get(1)?);
                let why = if is_standby {
                    "it is a standby"
                } else {
                    "`default_transaction_read_only` is on"
                };
                Ok(Writes {
                    is_marked_read_only,
                    refused: is_marked_read_only.then(|| why.to_owned()),
                })
            }
            Self::MySql(session) => {
                if !is_mysql_marked_read_only(session).await? {
                    return Ok(Writes::TAKEN);
                }
                let refused = session
                    .execute("UPDATE registry_feed SET newest = newest WHERE id < 0")
                    .await
                    .err();
                let refused = refused.filter(is_read_only).map(|error| error.to_string());
                Ok(Writes { is_marked_read_only: true, refused })
            }
            Self::Sqlite(_) => Ok(Writes::TAKEN),
        }
    }

    /// Performs a write without effect: only a write can tell that the disk is full.
    pub(super) async fn try_sqlite(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
        let mut session = options.clone().busy_timeout(RETRY_INTERVAL).connect().await?;
        let written = async {
            session.execute("BEGIN IMMEDIATE").await?;
            session.execute("UPDATE registry_feed SET newest = newest").await?;
            session.execute("COMMIT").await.map(drop)
        };
        let written = written.await;
        drop(session.close().await);
        written
    }

    pub(super) async fn close(self) {
        // The session is dropped either way.
        drop(match self {
            Self::Postgres(session) => session.close().await,
            Self::MySql(session) => session.close().await,
            Self::Sqlite(session) => session.close().await,
        });
    }
}

pub(super) async fn is_postgres_marked_read_only(
    session: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    Ok(session.fetch_one("SHOW transaction_read_only").await?.try_get::<String, _>(0)? == "on")
}

/// Newer versions of MariaDB report words instead of `0` and `1`.
pub(super) async fn is_mysql_marked_read_only(
    session: &mut MySqlConnection,
) -> Result<bool, sqlx::Error> {
    let value: String =
        session.fetch_one("SELECT CAST(@@global.read_only AS CHAR)").await?.try_get(0)?;
    Ok(!matches!(value.as_str(), "0" | "OFF"))
}

/// Settings of every new connection to MySQL or MariaDB.
pub(super) async fn set_up_mysql(session: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    session.execute(SQL_MODE).await.map(drop)
}

/// The first of `servers` that accepts writes; if none does, one that answers.
pub(super) async fn reach_any(servers: &[Server], limit: Duration) -> Result<Reached, sqlx::Error> {
    let attempts = servers.iter().enumerate().map(|(place, server)| async move {
        let reached = timeout(limit, server.reach()).await;
        (place, reached.unwrap_or(Err(sqlx::Error::PoolTimedOut)))
    });
    let mut attempts: FuturesUnordered<_> = attempts.collect();
    let (mut second_best, mut failure) = (None::<(usize, Reached)>, None::<(usize, sqlx::Error)>);
    while let Some((place, attempt)) = attempts.next().await {
        match attempt {
            Ok(reached) if reached.writes.refused.is_none() => return Ok(reached),
            Ok(reached) if second_best.as_ref().is_none_or(|(before, _)| place < *before) => {
                second_best = Some((place, reached));
            }
            Err(error) if failure.as_ref().is_none_or(|(before, _)| place < *before) => {
                failure = Some((place, error));
            }
            Ok(_) | Err(_) => {}
        }
    }
    match (second_best, failure) {
        (Some((_, reached)), _) => Ok(reached),
        (None, Some((_, error))) => Err(error),
        (None, None) => Err(sqlx::Error::PoolClosed),
    }
}

/// Retries [`reach_any`] for a while: a server may be starting, or another process may be setting
/// up the SQLite file.
pub(super) async fn reach_patiently(servers: &[Server]) -> Result<Reached, ConnectError> {
    let began_at = Instant::now();
    loop {
        let error = match reach_any(servers, CONNECT_TIMEOUT).await {
            Ok(reached) => return Ok(reached),
            Err(error) => error,
        };
        let patience = if is_busy(&error) { SQLITE_BUSY_TIMEOUT } else { CONNECT_TIMEOUT };
        if !is_passing(&error) || began_at.elapsed() >= patience {
            return Err(ConnectError::unreachable(error));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => {
            error.is_transient_in_connect_phase() || is_busy_code(error.code().as_deref())
        }
        _ => false,
    }
}

/// Whether another process has locked the SQLite file.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| is_busy_code(error.code().as_deref()))
}

/// `SQLITE_BUSY`, `SQLITE_LOCKED` and their extended codes.
fn is_busy_code(code: Option<&str>) -> bool {
    code.filter(|code| code.len() < 5)
        .and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Whether the server reports that it accepts no writes.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // In order: --read-only and --super-read-only; read-only transaction; read-only server and
        // InnoDB; refused by group replication.
        return matches!(error.number(), 1290 | 1792 | 1836 | 1874 | 3100);
    }
    // PostgreSQL: read_only_sql_transaction.
    error.code().as_deref() == Some("25006")
}

/// Whether SQLite could not write: the disk is full or failing, or the file is read-only, gone or
/// no longer a database.
pub(super) fn is_write_failure(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let is_sqlite = error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    is_sqlite && code.is_some_and(|code| matches!(code & 0xff, 8 | 10 | 11 | 13 | 14 | 26))
}

/// Makes a new file accessible only to its owner, and so the files that SQLite puts beside it: they
/// hold key hashes and usernames.
fn create_for_owner(file: &Path) -> Result<(), ConnectError> {
    // An in-memory database.
    if file.as_os_str().as_encoded_bytes().starts_with(b"file:") || file.as_os_str().is_empty() {
        return Ok(());
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(ConnectError::File { path: file.to_owned(), source }),
    }
}
