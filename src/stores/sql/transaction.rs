//! Transactions that change the registry: one after the other where the database wants that, and
//! none without a trail.

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

/// How many rows one statement adds: databases bound the number of its parameters.
const ROWS_MAX: usize = 500;

impl SqlRegistry {
    /// On SQLite the transaction takes the write lock at once: one that reads first and writes
    /// later would fail when another writer came between. On PostgreSQL a stricter isolation,
    /// if the server is set to one, would fail in the same way at rows that all writers change.
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

    /// The same, with the row of a principal held against other changes; `None` where there is no
    /// such principal.
    ///
    /// Whoever changes what tokens a principal has begins here. A foreign key asks for the
    /// principal's row, too, and so does its removal: all of them take it first, so none waits
    /// for another in a circle, and nothing is added while it is held.
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

    /// The same, with the row held against changes only: others may add to the principal at the
    /// same time.
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

/// A transaction in its turn.
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

/// What a transaction leaves behind: audit events, and an entry in the change feed.
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

    /// Ends a transaction that decisions do not depend on.
    pub(super) async fn commit_unannounced(self, writing: Writing) -> Result<(), RegistryError> {
        insert_events(&writing, self.events).await?;
        writing.commit().await
    }

    /// Ends every changing transaction. The entry in the change feed comes last: from its number
    /// on, all other writers wait for this one to end.
    pub(super) async fn commit(self, writing: Writing) -> Result<(), RegistryError> {
        Self::commit_all(vec![self], writing).await
    }

    /// The same for a transaction that changed several principals.
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

/// The numbers of changes come from one row, which whoever takes numbers holds until the
/// transaction has ended, and is visible to all. So they have no gaps, and become visible in their
/// order: one that was seen has none before it that is still to come. A sequence of the database
/// does not give that.
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

/// Everybody waits for a writer that holds the row with the numbers. The server ends the
/// transaction of one that has gone without a word, instead of waiting for hours until the network
/// notices. SQLite knows when a process ends.
async fn bound_idling(writing: &Writing) -> Result<(), RegistryError> {
    let statement = match writing.get_database_backend() {
        DatabaseBackend::Postgres => "SET LOCAL idle_in_transaction_session_timeout = '5s'",
        // What MariaDB alone has is a comment to MySQL.
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
