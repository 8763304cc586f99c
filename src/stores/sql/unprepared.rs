//! PostgreSQL behind a pooler that gives each transaction to any free connection.
//!
//! State that a connection keeps between transactions, above all prepared statements, is missing on
//! the next connection, or is that of another client. So statements are unnamed. The driver
//! prepares and executes them in two steps, and both steps always run in one transaction.

use sea_orm::{
    DbErr, ExecResult, IsolationLevel, QueryResult, RuntimeErr, Statement,
    sea_query::Values,
    sqlx::{
        self, AssertSqlSafe, Executor, PgConnection, PgPool, PgTransaction, Postgres, query::Query,
        query_with,
    },
};
use sea_query_sqlx::SqlxValues;

/// Runs `work` in a separate transaction.
pub(super) async fn alone<T>(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DbErr>,
) -> Result<T, DbErr> {
    let mut transaction = begin(pool, None).await?;
    let result = work(&mut transaction).await?;
    commit(transaction).await?;
    Ok(result)
}

pub(super) async fn begin(
    pool: &PgPool,
    isolation_level: Option<IsolationLevel>,
) -> Result<PgTransaction<'static>, DbErr> {
    let connection = |error: sqlx::Error| DbErr::Conn(RuntimeErr::SqlxError(error.into()));
    let mut transaction = pool.begin().await.map_err(connection)?;
    if let Some(level) = isolation_level {
        execute_text(&mut transaction, &format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
    }
    Ok(transaction)
}

pub(super) async fn commit(transaction: PgTransaction<'static>) -> Result<(), DbErr> {
    transaction.commit().await.map_err(failed)
}

pub(super) async fn execute(
    connection: &mut PgConnection,
    statement: Statement,
) -> Result<ExecResult, DbErr> {
    let done = nameless(statement).execute(connection).await;
    done.map(Into::into).map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
}

pub(super) async fn execute_text(
    connection: &mut PgConnection,
    sql: &str,
) -> Result<ExecResult, DbErr> {
    let done = connection.execute(AssertSqlSafe(sql.to_owned())).await;
    done.map(Into::into).map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
}

pub(super) async fn query_one(
    connection: &mut PgConnection,
    statement: Statement,
) -> Result<Option<QueryResult>, DbErr> {
    Ok(nameless(statement).fetch_optional(connection).await.map_err(failed)?.map(Into::into))
}

pub(super) async fn query_all(
    connection: &mut PgConnection,
    statement: Statement,
) -> Result<Vec<QueryResult>, DbErr> {
    let rows = nameless(statement).fetch_all(connection).await.map_err(failed)?;
    Ok(rows.into_iter().map(Into::into).collect())
}

fn nameless(statement: Statement) -> Query<'static, Postgres, SqlxValues> {
    let values = statement.values.unwrap_or(Values(Vec::new()));
    query_with(AssertSqlSafe(statement.sql), SqlxValues(values)).persistent(false)
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}
