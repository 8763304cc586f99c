//! One read-only transaction on the database of another system.

use std::time::Duration;

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr,
    IsolationLevel, QueryResult, TransactionTrait,
    prelude::{TimeDateTime, TimeDateTimeWithTimeZone},
    sea_query::{
        Alias, Asterisk, Expr, ExprTrait, Func, IntoTableRef, Query, SelectStatement, TableRef,
    },
};

use super::super::{error::is_missing_schema, open::open_to_read, record::millis};
use crate::{
    config::database::{DatabaseKind, DatabaseUrl},
    domain::time::UnixMillis,
    engine::ports::LegacyError,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything is read in one transaction, so that it is consistent although it is read page by
/// page. The first query, after the schema was inspected, determines its snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    connection: DatabaseConnection,
    transaction: DatabaseTransaction,
    system: &'static str,
}

impl Snapshot {
    /// Opens the database of `system`.
    pub(super) async fn open(url: &DatabaseUrl, system: &'static str) -> Result<Self, LegacyError> {
        let connect = |error: DbErr| LegacyError::Connect(error.into());
        let connection = open_to_read(url, CONNECT_TIMEOUT)
            .await
            .map_err(|error| LegacyError::Connect(error.into()))?;
        let is_sqlite = url.kind() == DatabaseKind::Sqlite;
        // SQLite has only one isolation level, and is opened read-only anyway.
        let (isolation, access) = if is_sqlite {
            (None, None)
        } else {
            (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly))
        };
        let transaction = connection.begin_with_config(isolation, access).await.map_err(connect)?;
        Ok(Self { connection, transaction, system })
    }

    /// Whether the column exists. Runs outside of the transaction, which a failing query would
    /// abort on PostgreSQL.
    pub(super) async fn has(&self, table: &Table, column: &str) -> Result<bool, LegacyError> {
        let mut query = Query::select();
        query.expr(table.column(column)).from(table.reference()).and_where(Expr::cust("1 = 0"));
        match self.connection.query_all(&query).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing_schema(&error) => Ok(false),
            Err(error) => Err(LegacyError::Failed(error.into())),
        }
    }

    /// Fails unless the columns exist.
    pub(super) async fn require(&self, table: &Table, columns: &[&str]) -> Result<(), LegacyError> {
        for column in columns {
            if !self.has(table, column).await? {
                let missing = format!("column {column:?} in a table {:?}", table.name);
                return Err(LegacyError::AnotherSystem { missing, system: self.system });
            }
        }
        Ok(())
    }

    pub(super) async fn rows(
        &self,
        query: &SelectStatement,
    ) -> Result<Vec<QueryResult>, LegacyError> {
        self.transaction.query_all(query).await.map_err(|error| LegacyError::Failed(error.into()))
    }

    /// The number of rows that `query` returns.
    pub(super) async fn count(&self, query: SelectStatement) -> Result<u64, LegacyError> {
        let mut counting = Query::select();
        counting
            .expr_as(Func::count(Expr::col(Asterisk)), "counted")
            .from_subquery(query, "rows_to_count");
        let rows = self.rows(&counting).await?;
        let counted: i64 = match rows.first() {
            Some(row) => {
                row.try_get("", "counted").map_err(|error| LegacyError::Failed(error.into()))?
            }
            None => 0,
        };
        Ok(u64::try_from(counted).unwrap_or(0))
    }

    /// Converts a value of any type to text.
    pub(super) fn as_text(&self, value: Expr) -> Expr {
        value.cast_as(match self.connection.get_database_backend() {
            DatabaseBackend::MySql => "CHAR",
            _ => "TEXT",
        })
    }
}

/// A table, optionally with its schema (`accounts.users`), and its alias in queries.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    short: &'static str,
}

impl Table {
    pub(super) fn new(name: &str, short: &'static str) -> Self {
        Self { name: name.to_owned(), short }
    }

    pub(super) fn reference(&self) -> TableRef {
        let table = match self.name.split_once('.') {
            Some((schema, table)) => (Alias::new(schema), Alias::new(table)).into_table_ref(),
            None => Alias::new(&self.name).into_table_ref(),
        };
        table.alias(self.short)
    }

    /// Always qualified with the table: SQLite takes an unknown quoted name for a string.
    pub(super) fn column(&self, column: &str) -> Expr {
        Expr::col((self.short, Alias::new(column)))
    }
}

/// A text; `None` if it is null or not in the query.
pub(super) fn text(row: &QueryResult, column: &str) -> Option<String> {
    row.try_get::<Option<String>>("", column).ok().flatten()
}

/// A text that must not be null.
pub(super) fn some_text(row: &QueryResult, column: &str) -> Result<String, LegacyError> {
    row.try_get("", column).map_err(|error| LegacyError::Failed(error.into()))
}

/// A time; `None` if it is null, not in the query or unreadable. Without a time zone it is UTC.
pub(super) fn moment(row: &QueryResult, column: &str) -> Option<UnixMillis> {
    if let Ok(moment) = row.try_get::<Option<TimeDateTime>>("", column) {
        return moment.map(millis);
    }
    let moment = row.try_get::<Option<TimeDateTimeWithTimeZone>>("", column).ok().flatten()?;
    let utc = moment.to_offset(time::UtcOffset::UTC);
    Some(millis(TimeDateTime::new(utc.date(), utc.time())))
}
