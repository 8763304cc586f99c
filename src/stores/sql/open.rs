//! Opening connections: how each kind of database is set up, and which of several servers takes
//! changes.

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

/// How long to wait for a connection before the database counts as out of reach.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long SQLite waits for another process's write to end.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How far apart attempts are while a server refuses connections, or another process sets up the
/// file of SQLite.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// A value that does not fit is an error, whatever the server is set to; texts are written and read
/// as everywhere else.
const SQL_MODE: &str = "SET sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,\
                        NO_ZERO_DATE,NO_ZERO_IN_DATE,PIPES_AS_CONCAT'";
/// PostgreSQL takes any setting with a dot in its name, and no pooler knows this one.
const DIRECT: (&str, &str) = ("countersign.direct", "on");

/// The database cannot be reached. Neither its URL, which may hold a password, nor what a driver
/// says of the URL is shown.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The driver does not take the URL.
    #[error(
        "`database.url` cannot be used: a parameter after the `?`, or the encoding of its user name or password, is not understood"
    )]
    Url,
    /// No server answers, or none lets this service in.
    #[error("the database cannot be reached; check `database.url`")]
    Unreachable(#[source] sqlx::Error),
    /// Its certificate is refused. The driver verifies by itself: unlike everywhere else, trusting
    /// the certificate does not help.
    #[error(
        "the database's certificate is that of an authority (CA:TRUE), which is not taken as a server's own; make it again with \
         `-addext basicConstraints=critical,CA:FALSE`"
    )]
    AuthorityAsServer(#[source] sqlx::Error),
    /// The file of SQLite cannot be made.
    #[error("the database file {path:?} cannot be created: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ConnectError {
    fn unreachable(error: sqlx::Error) -> Self {
        // The driver keeps the library's error in one of its own, of which there is a different one
        // for each kind of database.
        if format!("{error:?}").contains("CaUsedAsEndEntity") {
            Self::AuthorityAsServer(error)
        } else {
            Self::Unreachable(error)
        }
    }
}

/// What may happen to a database that is only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// A file of SQLite is made if the URL says so.
    Use,
    /// Nothing is made.
    Look,
}

/// How to connect to one server.
#[derive(Clone, Debug)]
pub(super) enum Server {
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

/// One connection of its own.
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
    /// Whether a pooler stands in between.
    pub(super) is_pooled: bool,
    pub(super) writes: Writes,
}

/// Whether a server takes changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writes {
    /// What the server says of itself, which a privileged user may be exempt from.
    pub(super) is_marked_read_only: bool,
    /// Why it takes none.
    pub(super) refused: Option<String>,
}

impl Writes {
    const TAKEN: Self = Self { is_marked_read_only: false, refused: None };
}

impl Server {
    /// Every server of `url`, in its order.
    pub(super) fn all(url: &DatabaseUrl, access: Access) -> Result<Vec<Self>, ConnectError> {
        url.servers().map(|server| Self::of(url.kind(), server, access)).collect()
    }

    fn of(kind: DatabaseKind, url: &str, access: Access) -> Result<Self, ConnectError> {
        // What the drivers say quotes parts of the URL.
        let bad = |_| ConnectError::Url;
        Ok(match kind {
            // A pooler refuses parameters that it does not keep, and floats are not used.
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
                        // Readers do not wait for the writer, and the command line may write while
                        // the service runs.
                        options.journal_mode(SqliteJournalMode::Wal)
                    }
                    Access::Look => options.create_if_missing(false),
                }))
            }
        })
    }

    /// Connects, and says whether a pooler stands in between.
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

/// Connections to a database that is only read, and is another system's: on its own terms but for
/// what cannot be read otherwise.
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

/// A pooler refuses a parameter at the start that it does not know, or drops it.
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

/// Authorization, an unknown database, too many connections, and a server that starts or ends are
/// no matter of parameters.
fn is_final(sql_state: &str) -> bool {
    ["28", "3D", "53", "57"].iter().any(|class| sql_state.starts_with(class))
}

impl Session {
    /// Whether its server takes changes, as far as that can be told without making one.
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

    /// Makes a change that changes nothing: a disk may be full, which only a write can tell.
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
        // It is given up either way.
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

/// Newer versions of MariaDB have words for it.
pub(super) async fn is_mysql_marked_read_only(
    session: &mut MySqlConnection,
) -> Result<bool, sqlx::Error> {
    let value: String =
        session.fetch_one("SELECT CAST(@@global.read_only AS CHAR)").await?.try_get(0)?;
    Ok(!matches!(value.as_str(), "0" | "OFF"))
}

/// What every new connection to MySQL or MariaDB begins with.
pub(super) async fn set_up_mysql(session: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    session.execute(SQL_MODE).await.map(drop)
}

/// The first of `servers` that takes changes; one that does not, if there is no other that answers.
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

/// [`reach_any`], again and again for a while: a server may be starting, and another process
/// setting up the file.
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

/// Whether another process holds the file of SQLite.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| is_busy_code(error.code().as_deref()))
}

/// `SQLITE_BUSY`, `SQLITE_LOCKED`, and what they are extended to.
fn is_busy_code(code: Option<&str>) -> bool {
    code.filter(|code| code.len() < 5)
        .and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Whether the server says that it takes no changes.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // --read-only and --super-read-only; a read-only transaction, server and InnoDB; refused by
        // group replication.
        return matches!(error.number(), 1290 | 1792 | 1836 | 1874 | 3100);
    }
    // PostgreSQL: read_only_sql_transaction.
    error.code().as_deref() == Some("25006")
}

/// Whether SQLite could not write: the disk is full or fails, or the file is read-only, gone, or no
/// database any more.
pub(super) fn is_write_failure(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let is_sqlite = error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    is_sqlite && code.is_some_and(|code| matches!(code & 0xff, 8 | 10 | 11 | 13 | 14 | 26))
}

/// A new file is for its owner alone, and so are those that SQLite puts beside it: they hold hashes
/// of keys, and who uses them.
fn create_for_owner(file: &Path) -> Result<(), ConnectError> {
    // A database in memory.
    if file.as_os_str().as_encoded_bytes().starts_with(b"file:") || file.as_os_str().is_empty() {
        return Ok(());
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(ConnectError::File { path: file.to_owned(), source }),
    }
}
