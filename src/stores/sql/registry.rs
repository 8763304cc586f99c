//! Changes to the registry.

use async_trait::async_trait;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Set, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use super::{
    entity::{principals, public_keys, registry_changes},
    error::{or_conflict, registry_error},
    record::{key_record, moment},
};
use crate::{
    domain::{
        principal::{KeyId, PrincipalId, Username},
        time::UnixMillis,
    },
    engine::ports::{KeyRecord, NewKey, NewPrincipal, PrincipalRecord, RegistryError, RegistryStore},
};

/// The registry in a SQL database.
#[derive(Clone, Debug)]
pub struct SqlRegistry {
    pub(super) database: DatabaseConnection,
}

impl SqlRegistry {
    /// The registry in `database`.
    pub const fn new(database: DatabaseConnection) -> Self {
        Self { database }
    }

    /// On SQLite the transaction takes the write lock at once: one that reads first and writes later would fail when another
    /// writer came between.
    async fn begin(&self) -> Result<DatabaseTransaction, RegistryError> {
        let options =
            TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..TransactionOptions::default() };
        self.database.begin_with_options(options).await.map_err(registry_error)
    }
}

#[async_trait]
impl RegistryStore for SqlRegistry {
    async fn add_principal(&self, new: NewPrincipal, now: UnixMillis) -> Result<PrincipalRecord, RegistryError> {
        let transaction = self.begin().await?;
        let taken = || RegistryError::PrincipalExists(new.username.to_string());
        let row = principals::ActiveModel {
            username: Set(new.username.to_string()),
            is_active: Set(true),
            scopes: Set(new.scopes.to_string()),
            created_at: Set(moment(now)),
            updated_at: Set(moment(now)),
            ..Default::default()
        };
        let row = row.insert(&transaction).await.map_err(|error| or_conflict(error, taken()))?;
        commit_change(transaction, row.id, now).await?;
        row.try_into()
    }

    async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        find(&self.database, username).await?.try_into()
    }

    async fn principals(&self, after: Option<PrincipalId>, limit: u64) -> Result<Vec<PrincipalRecord>, RegistryError> {
        page(&self.database, after, limit).await?.into_iter().map(TryInto::try_into).collect()
    }

    async fn set_active(&self, username: &Username, is_active: bool, now: UnixMillis) -> Result<PrincipalRecord, RegistryError> {
        let transaction = self.begin().await?;
        let row = find(&transaction, username).await?;
        if row.is_active == is_active {
            return row.try_into();
        }
        let id = row.id;
        let mut changed: principals::ActiveModel = row.into();
        changed.is_active = Set(is_active);
        changed.updated_at = Set(moment(now));
        let row = changed.update(&transaction).await.map_err(registry_error)?;
        commit_change(transaction, id, now).await?;
        row.try_into()
    }

    async fn remove_principal(&self, username: &Username, now: UnixMillis) -> Result<(), RegistryError> {
        let transaction = self.begin().await?;
        let row = find(&transaction, username).await?;
        principals::Entity::delete_by_id(row.id).exec(&transaction).await.map_err(registry_error)?;
        commit_change(transaction, row.id, now).await
    }

    async fn add_key(&self, username: &Username, new: NewKey, now: UnixMillis) -> Result<KeyRecord, RegistryError> {
        let transaction = self.begin().await?;
        let owner = find(&transaction, username).await?;
        let fingerprint = new.key.fingerprint().to_string();
        let duplicate = RegistryError::KeyExists { username: username.to_string(), fingerprint: fingerprint.clone() };
        let row = public_keys::ActiveModel {
            principal_id: Set(owner.id),
            key: Set(new.as_given),
            fingerprint: Set(fingerprint),
            family: Set(new.key.family().name().to_owned()),
            comment: Set(new.comment),
            scopes: Set(new.scopes.map(|scopes| scopes.to_string())),
            not_before: Set(new.not_before.map(moment)),
            expires_at: Set(new.expires_at.map(moment)),
            created_at: Set(moment(now)),
            ..Default::default()
        };
        let row = row.insert(&transaction).await.map_err(|error| or_conflict(error, duplicate))?;
        commit_change(transaction, owner.id, now).await?;
        key_record(row, &owner.username)
    }

    async fn keys(&self, of: Option<&Username>, after: Option<KeyId>, limit: u64) -> Result<Vec<KeyRecord>, RegistryError> {
        let mut query = public_keys::Entity::find()
            .find_also_related(principals::Entity)
            .filter(public_keys::Column::Id.gt(after.map_or(0, |id| id.0)))
            .order_by_asc(public_keys::Column::Id)
            .limit(limit);
        if let Some(username) = of {
            query = query.filter(public_keys::Column::PrincipalId.eq(find(&self.database, username).await?.id));
        }
        let rows = query.all(&self.database).await.map_err(registry_error)?;
        rows.into_iter().filter_map(|(key, owner)| Some(key_record(key, &owner?.username))).collect()
    }

    async fn revoke_key(&self, id: KeyId, now: UnixMillis) -> Result<KeyRecord, RegistryError> {
        let transaction = self.begin().await?;
        let found = public_keys::Entity::find_by_id(id.0).find_also_related(principals::Entity).one(&transaction).await;
        let Some((row, Some(owner))) = found.map_err(registry_error)? else { return Err(RegistryError::NoSuchKey(id)) };
        if row.revoked_at.is_some() {
            return key_record(row, &owner.username);
        }
        let mut changed: public_keys::ActiveModel = row.into();
        changed.revoked_at = Set(Some(moment(now)));
        let row = changed.update(&transaction).await.map_err(registry_error)?;
        commit_change(transaction, owner.id, now).await?;
        key_record(row, &owner.username)
    }
}

async fn find(connection: &impl ConnectionTrait, username: &Username) -> Result<principals::Model, RegistryError> {
    principals::Entity::find()
        .filter(principals::Column::Username.eq(username.as_str()))
        .one(connection)
        .await
        .map_err(registry_error)?
        .ok_or_else(|| RegistryError::NoSuchPrincipal(username.to_string()))
}

/// Up to `limit` principals in the order of their numbers, from the one after `after` on.
pub(super) async fn page(
    connection: &impl ConnectionTrait,
    after: Option<PrincipalId>,
    limit: u64,
) -> Result<Vec<principals::Model>, RegistryError> {
    principals::Entity::find()
        .filter(principals::Column::Id.gt(after.map_or(0, |id| id.0)))
        .order_by_asc(principals::Column::Id)
        .limit(limit)
        .all(connection)
        .await
        .map_err(registry_error)
}

/// Ends every changing transaction. The entry in the change feed comes last, so that the time between its number being given
/// and its becoming visible is short: followers look back a little, not far.
async fn commit_change(transaction: DatabaseTransaction, principal_id: i64, now: UnixMillis) -> Result<(), RegistryError> {
    let change = registry_changes::ActiveModel { principal_id: Set(principal_id), at: Set(moment(now)), ..Default::default() };
    change.insert(&transaction).await.map_err(registry_error)?;
    transaction.commit().await.map_err(registry_error)
}
