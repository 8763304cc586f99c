//! Transactions that change the registry: one at a time on databases that need it, and each with an
//! audit trail.

use std::{ops::Deref, sync::Arc};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, EntityTrait, ExprTrait, IsolationLevel,
    QueryFilter, QuerySelect, Set, prelude::TimeDateTime, sea_query::Expr,
};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    SqlRegistry,
    database::Transaction,
    entity::{audit_events, principals, registry_changes, registry_feed},
    error::registry_error,
    record::moment,
    source::newest_change,
};
use crate::engine::ports::{Author, RegistryError};

/// How many rows one statement inserts: databases limit the number of parameters.
const ROWS_MAX: usize = 500;

impl SqlRegistry {
    /// Begins a transaction. On SQLite it takes the write lock at once: a transaction that reads
    /// first and writes later would fail if another writer came in between. On PostgreSQL it lowers
    /// the isolation level, if the server defaults to a stricter one, which would fail in the same
    /// way at rows that all writers change.
    pub(super) async fn begin(&self) -> Result<Writing, RegistryError> {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|closed| RegistryError::Store(closed.into()))?;
        let is_postgres = self.database.get_database_backend() == DatabaseBackend::Postgres;
        let isolation_level = is_postgres.then_some(IsolationLevel::ReadCommitted);
        let transaction = self.database.begin(isolation_level).await.map_err(registry_error)?;
        Ok(Writing { transaction, _turn: turn })
    }

    /// Like [`Self::begin`], with the row of a principal locked against other changes; `None` if
    /// there is no such principal.
    ///
    /// Anything that changes what tokens a principal has must begin here. Foreign keys and the
    /// removal of a principal lock its row, too. Since all of them take that lock first, there are
    /// no deadlocks, and nothing is added while it is held.
    pub(super) async fn begin_holding(
        &self,
        principal: i64,
    ) -> Result<Option<(Writing, principals::Model)>, RegistryError> {
        let writing = self.begin().await?;
        let held = principals::Entity::find_by_id(principal)
            .lock_exclusive()
            .one(&*writing)
            .await
            .map_err(registry_error)?;
        Ok(held.map(|owner| (writing, owner)))
    }

    /// Like [`Self::begin_holding`], with the row locked against updates only: others may add to
    /// the principal at the same time.
    pub(super) async fn begin_sharing(
        &self,
        principal: i64,
    ) -> Result<Option<(Writing, principals::Model)>, RegistryError> {
        let writing = self.begin().await?;
        let held = principals::Entity::find_by_id(principal)
            .lock_shared()
            .one(&*writing)
            .await
            .map_err(registry_error)?;
        Ok(held.map(|owner| (writing, owner)))
    }
}

/// A write transaction, with its place in the queue of writers.
pub(super) struct Writing {
    transaction: Transaction,
    _turn: OwnedSemaphorePermit,
}

impl Writing {
    pub(super) async fn commit(self) -> Result<(), RegistryError> {
        self.transaction.commit().await.map_err(registry_error)
    }
}

impl Deref for Writing {
    type Target = Transaction;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

/// The records that a transaction leaves: audit events, and an entry in the change feed.
pub(super) struct Trail<'a> {
    owner: &'a principals::Model,
    author: Author<'a>,
    events: Vec<audit_events::ActiveModel>,
}

impl<'a> Trail<'a> {
    pub(super) const fn of(owner: &'a principals::Model, author: Author<'a>) -> Self {
        Self { owner, author, events: Vec::new() }
    }

    pub(super) fn added(&mut self, action: &str, subject: i64, after: &impl Serialize) {
        self.push(action, subject, None, json(after));
    }

    pub(super) fn changed(
        &mut self,
        action: &str,
        subject: i64,
        before: &impl Serialize,
        after: &impl Serialize,
    ) {
        self.push(action, subject, json(before), json(after));
    }

    pub(super) fn removed(&mut self, action: &str, subject: i64, before: &impl Serialize) {
        self.push(action, subject, json(before), None);
    }

    fn push(&mut self, action: &str, subject: i64, before: Option<String>, after: Option<String>) {
        self.events.push(audit_events::ActiveModel {
            at: Set(moment(self.author.now)),
            actor: Set(self.author.actor.to_owned()),
            action: Set(action.to_owned()),
            username: Set(self.owner.username.clone()),
            subject_id: Set(subject),
            before: Set(before),
            after: Set(after),
            ..Default::default()
        });
    }

    /// Commits a transaction that does not affect decisions.
    pub(super) async fn commit_unannounced(self, writing: Writing) -> Result<(), RegistryError> {
        insert_events(&writing, self.events).await?;
        writing.commit().await
    }

    /// Commits a transaction that affects decisions. The entry in the change feed is written last:
    /// once it has a number, all other writers wait for this transaction to end.
    pub(super) async fn commit(self, writing: Writing) -> Result<(), RegistryError> {
        Self::commit_all(vec![self], writing).await
    }

    /// Like [`Self::commit`], for a transaction that changed several principals.
    pub(super) async fn commit_all(
        trails: Vec<Self>,
        writing: Writing,
    ) -> Result<(), RegistryError> {
        let (mut events, mut concerned) = (Vec::new(), Vec::with_capacity(trails.len()));
        for trail in trails {
            concerned.push((trail.owner.id, moment(trail.author.now)));
            events.extend(trail.events);
        }
        insert_events(&writing, events).await?;
        insert_changes(&writing, concerned).await?;
        writing.commit().await
    }
}

/// Numbers of changes come from a single row. A writer locks the row when it takes numbers, until
/// its transaction has ended and is visible to all. So the numbers have no gaps and become visible
/// in order: once a change is seen, no earlier one can still appear. Database sequences do not
/// guarantee that.
async fn insert_changes(
    writing: &Writing,
    concerned: Vec<(i64, TimeDateTime)>,
) -> Result<(), RegistryError> {
    use registry_feed::{Column, Entity, ROW};

    bound_idling(writing).await?;
    let count = i64::try_from(concerned.len()).unwrap_or(i64::MAX);
    let raise = Entity::update_many()
        .col_expr(Column::Newest, Expr::col(Column::Newest).add(count))
        .filter(Column::Id.eq(ROW));
    raise.exec(&**writing).await.map_err(registry_error)?;
    let first = newest_change(&**writing).await? - count + 1;
    let mut changes = Vec::with_capacity(concerned.len());
    for ((principal, at), ordinal) in concerned.into_iter().zip(first..) {
        changes.push(registry_changes::ActiveModel {
            principal_id: Set(principal),
            at: Set(at),
            ordinal: Set(Some(ordinal)),
            ..Default::default()
        });
    }
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let some = registry_changes::Entity::insert_many(changes.by_ref().take(ROWS_MAX));
        some.exec_without_returning(&**writing).await.map_err(registry_error)?;
    }
    Ok(())
}

/// All writers wait for the one that has locked the row with the numbers. If that writer disappears
/// without closing its connection, the server ends its transaction, instead of waiting for hours
/// until the network notices. SQLite notices when a process ends.
async fn bound_idling(writing: &Writing) -> Result<(), RegistryError> {
    let statement = match writing.get_database_backend() {
        DatabaseBackend::Postgres => "SET LOCAL idle_in_transaction_session_timeout = '5s'",
        // MySQL treats the part for MariaDB as a comment.
        DatabaseBackend::MySql => {
            "SET @countersign = 0 /*M!100300 , SESSION idle_write_transaction_timeout = 5 */"
        }
        _ => return Ok(()),
    };
    writing.execute_unprepared(statement).await.map(drop).map_err(registry_error)
}

async fn insert_events(
    writing: &Writing,
    events: Vec<audit_events::ActiveModel>,
) -> Result<(), RegistryError> {
    let mut events = events.into_iter().peekable();
    while events.peek().is_some() {
        let some = audit_events::Entity::insert_many(events.by_ref().take(ROWS_MAX));
        some.exec_without_returning(&**writing).await.map_err(registry_error)?;
    }
    Ok(())
}

fn json(state: &impl Serialize) -> Option<String> {
    serde_json::to_string(state).ok()
}
