//! Transactions that change the registry: one after the other where the database wants that, and none without a trail.

use std::{ops::Deref, sync::Arc};

use sea_orm::{DatabaseTransaction, EntityTrait, QuerySelect, Set, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    SqlRegistry,
    entity::{audit_events, principals, registry_changes},
    error::registry_error,
    record::moment,
};
use crate::engine::ports::{Author, RegistryError};

/// How many rows one statement adds: databases bound the number of its parameters.
const ROWS_MAX: usize = 500;

impl SqlRegistry {
    /// On SQLite the transaction takes the write lock at once: one that reads first and writes later would fail when another
    /// writer came between.
    pub(super) async fn begin(&self) -> Result<Writing, RegistryError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|closed| RegistryError::Store(closed.into()))?;
        let options =
            TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..TransactionOptions::default() };
        let transaction = self.database.begin_with_options(options).await.map_err(registry_error)?;
        Ok(Writing { transaction, _turn: turn })
    }

    /// The same, with the row of a principal held against other changes; `None` where there is no such principal.
    ///
    /// Whoever changes what tokens a principal has begins here. A foreign key asks for the principal's row, too, and so does its
    /// removal: all of them take it first, so none waits for another in a circle, and nothing is added while it is held.
    pub(super) async fn begin_holding(&self, principal: i64) -> Result<Option<(Writing, principals::Model)>, RegistryError> {
        let writing = self.begin().await?;
        let held = principals::Entity::find_by_id(principal).lock_exclusive().one(&*writing).await.map_err(registry_error)?;
        Ok(held.map(|owner| (writing, owner)))
    }

    /// The same, with the row held against changes only: others may add to the principal at the same time.
    pub(super) async fn begin_sharing(&self, principal: i64) -> Result<Option<(Writing, principals::Model)>, RegistryError> {
        let writing = self.begin().await?;
        let held = principals::Entity::find_by_id(principal).lock_shared().one(&*writing).await.map_err(registry_error)?;
        Ok(held.map(|owner| (writing, owner)))
    }
}

/// A transaction in its turn.
pub(super) struct Writing {
    transaction: DatabaseTransaction,
    _turn: OwnedSemaphorePermit,
}

impl Writing {
    pub(super) async fn commit(self) -> Result<(), RegistryError> {
        self.transaction.commit().await.map_err(registry_error)
    }
}

impl Deref for Writing {
    type Target = DatabaseTransaction;

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

    pub(super) fn changed(&mut self, action: &str, subject: i64, before: &impl Serialize, after: &impl Serialize) {
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

    /// Ends every changing transaction. The entry in the change feed comes last, so that the time between its number being given
    /// and its becoming visible is short: followers look back a little, not far.
    pub(super) async fn commit(self, writing: Writing) -> Result<(), RegistryError> {
        Self::commit_all(vec![self], writing).await
    }

    /// The same for a transaction that changed several principals.
    pub(super) async fn commit_all(trails: Vec<Self>, writing: Writing) -> Result<(), RegistryError> {
        let (mut events, mut changes) = (Vec::new(), Vec::with_capacity(trails.len()));
        for trail in trails {
            changes.push(registry_changes::ActiveModel {
                principal_id: Set(trail.owner.id),
                at: Set(moment(trail.author.now)),
                ..Default::default()
            });
            events.extend(trail.events);
        }
        insert_events(&writing, events).await?;
        registry_changes::Entity::insert_many(changes).exec_without_returning(&*writing).await.map_err(registry_error)?;
        writing.commit().await
    }
}

async fn insert_events(writing: &Writing, events: Vec<audit_events::ActiveModel>) -> Result<(), RegistryError> {
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
