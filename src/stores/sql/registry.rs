//! Changes to the registry.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseBackend, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, Set,
};
use tokio::sync::Semaphore;

use super::{
    api_keys, by_principal,
    database::{Database, Transaction},
    entity::{audit_events, jwks_trusts, principals, public_keys},
    error::{or_conflict, registry_error},
    grants,
    record::{audit_event, key_record, moment, trust_record},
    transaction::Trail,
};
use crate::{
    domain::{
        decision::Used,
        principal::{ApiKeyId, KeyId, PrincipalId, TrustId, Username},
        time::UnixMillis,
    },
    engine::ports::{
        ApiKeyRecord, AuditEvent, Author, KeyChange, KeyRecord, NewApiKey, NewKey, NewPrincipal,
        PrincipalChange, PrincipalRecord, RegistryError, RegistryStore, TrustRecord, Version,
    },
};

/// The registry in a SQL database.
#[derive(Clone, Debug)]
pub struct SqlRegistry {
    pub(super) database: Database,
    /// Queues the writers of this process. SQLite allows one write at a time and makes other
    /// writers poll with sleeps that grow to 100 ms; here each waits for the one before.
    pub(super) turns: Arc<Semaphore>,
}

impl SqlRegistry {
    /// Creates a registry on `database`.
    pub fn new(database: Database) -> Self {
        let turns = if database.get_database_backend() == DatabaseBackend::Sqlite {
            1
        } else {
            Semaphore::MAX_PERMITS
        };
        Self { database, turns: Arc::new(Semaphore::new(turns)) }
    }
}

#[async_trait]
impl RegistryStore for SqlRegistry {
    async fn add_principal(
        &self,
        new: NewPrincipal,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError> {
        let writing = self.begin().await?;
        let owner = insert_principal(&writing, &new, author.now, author.now).await?;
        let record = PrincipalRecord::try_from(owner.clone())?;
        let mut trail = Trail::of(&owner, author);
        trail.added("principal.add", record.id.0, &record);
        for key in new.keys {
            let key = insert_key(&writing, &owner, key, author.now, None).await?;
            trail.added("key.add", key.id.0, &key);
        }
        for url in &new.jwks_urls {
            let trust = insert_trust(&writing, &owner, url, author.now, None).await?;
            trail.added("trust.add", trust.id.0, &trust);
        }
        trail.commit(writing).await?;
        Ok(record)
    }

    async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        find(&self.database, username).await?.try_into()
    }

    async fn principals(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<PrincipalRecord>, RegistryError> {
        page(&self.database, after, limit).await?.into_iter().map(TryInto::try_into).collect()
    }

    async fn change_principal(
        &self,
        username: &Username,
        change: PrincipalChange,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError> {
        let writing = self.begin().await?;
        let row = find_to_change(&writing, username).await?;
        let before = PrincipalRecord::try_from(row.clone())?;
        check_version(expected, before.version())?;
        let mut changed: principals::ActiveModel = row.clone().into();
        changed.is_active.set_if_not_equals(change.is_active.unwrap_or(row.is_active));
        changed.scopes.set_if_not_equals(
            change.scopes.map_or_else(|| row.scopes.clone(), |scopes| scopes.to_string()),
        );
        changed
            .given_name
            .set_if_not_equals(change.given_name.unwrap_or_else(|| row.given_name.clone()));
        changed
            .family_name
            .set_if_not_equals(change.family_name.unwrap_or_else(|| row.family_name.clone()));
        changed.email.set_if_not_equals(change.email.unwrap_or_else(|| row.email.clone()));
        if !changed.is_changed() {
            return Ok(before);
        }
        changed.updated_at = Set(moment(author.now));
        let after =
            PrincipalRecord::try_from(changed.update(&*writing).await.map_err(registry_error)?)?;
        let mut trail = Trail::of(&row, author);
        trail.changed("principal.change", row.id, &before, &after);
        trail.commit(writing).await?;
        Ok(after)
    }

    async fn remove_principal(
        &self,
        username: &Username,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<(), RegistryError> {
        let writing = self.begin().await?;
        let row = find_to_change(&writing, username).await?;
        let before = PrincipalRecord::try_from(row.clone())?;
        check_version(expected, before.version())?;
        principals::Entity::delete_by_id(row.id).exec(&*writing).await.map_err(registry_error)?;
        let mut trail = Trail::of(&row, author);
        trail.removed("principal.remove", row.id, &before);
        trail.commit(writing).await
    }

    async fn add_key(
        &self,
        username: &Username,
        new: NewKey,
        author: Author<'_>,
    ) -> Result<KeyRecord, RegistryError> {
        let writing = self.begin().await?;
        let owner = find(&*writing, username).await?;
        let added = insert_key(&writing, &owner, new, author.now, None).await?;
        let mut trail = Trail::of(&owner, author);
        trail.added("key.add", added.id.0, &added);
        trail.commit(writing).await?;
        Ok(added)
    }

    async fn key(&self, id: KeyId) -> Result<KeyRecord, RegistryError> {
        let (row, owner) = by_principal::one::<public_keys::Entity>(self, id.0)
            .await?
            .ok_or(RegistryError::NoSuchKey(id))?;
        key_record(row, &owner)
    }

    async fn keys(
        &self,
        of: Option<&Username>,
        after: Option<KeyId>,
        limit: u64,
    ) -> Result<Vec<KeyRecord>, RegistryError> {
        let rows = by_principal::page::<public_keys::Entity>(self, of, after.map(|id| id.0), limit)
            .await?;
        rows.map(|(key, owner)| key_record(key, &owner)).collect()
    }

    async fn change_key(
        &self,
        id: KeyId,
        change: KeyChange,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<KeyRecord, RegistryError> {
        let missing = || RegistryError::NoSuchKey(id);
        let known = public_keys::Entity::find_by_id(id.0)
            .one(&self.database)
            .await
            .map_err(registry_error)?
            .ok_or_else(missing)?;
        let (writing, owner) = self.begin_holding(known.principal_id).await?.ok_or_else(missing)?;
        let found = public_keys::Entity::find_by_id(id.0)
            .lock_exclusive()
            .one(&*writing)
            .await
            .map_err(registry_error)?;
        let row = found.ok_or_else(missing)?;
        let before = key_record(row.clone(), &owner.username)?;
        check_version(expected, before.version())?;
        let mut changed: public_keys::ActiveModel = row.into();
        let action = if change.revoke && before.revoked_at.is_none() {
            changed.revoked_at = Set(Some(moment(author.now)));
            "key.revoke"
        } else {
            "key.change"
        };
        let terms = change.applied_to(&before.terms);
        changed.comment.set_if_not_equals(terms.comment);
        changed.scopes.set_if_not_equals(terms.scopes.map(|scopes| scopes.to_string()));
        changed.not_before.set_if_not_equals(terms.not_before.map(moment));
        changed.expires_at.set_if_not_equals(terms.expires_at.map(moment));
        if !changed.is_changed() {
            return Ok(before);
        }
        let after =
            key_record(changed.update(&*writing).await.map_err(registry_error)?, &owner.username)?;
        // A key that can no longer be used also ends the grants that were issued for it.
        if !after.is_usable(author.now) {
            grants::revoke_earned(&writing, &owner, Used::Key(id), author.now).await?;
        }
        let mut trail = Trail::of(&owner, author);
        trail.changed(action, id.0, &before, &after);
        trail.commit(writing).await?;
        Ok(after)
    }

    async fn add_trust(
        &self,
        username: &Username,
        url: &str,
        author: Author<'_>,
    ) -> Result<TrustRecord, RegistryError> {
        let writing = self.begin().await?;
        let owner = find_to_change(&writing, username).await?;
        let added = insert_trust(&writing, &owner, url, author.now, None).await?;
        let mut trail = Trail::of(&owner, author);
        trail.added("trust.add", added.id.0, &added);
        trail.commit(writing).await?;
        Ok(added)
    }

    async fn trust(&self, id: TrustId) -> Result<TrustRecord, RegistryError> {
        let (row, owner) = by_principal::one::<jwks_trusts::Entity>(self, id.0)
            .await?
            .ok_or(RegistryError::NoSuchTrust(id))?;
        trust_record(row, &owner)
    }

    async fn trusts(
        &self,
        of: Option<&Username>,
        after: Option<TrustId>,
        limit: u64,
    ) -> Result<Vec<TrustRecord>, RegistryError> {
        let rows = by_principal::page::<jwks_trusts::Entity>(self, of, after.map(|id| id.0), limit)
            .await?;
        rows.map(|(trust, owner)| trust_record(trust, &owner)).collect()
    }

    async fn touch_trust(&self, id: TrustId, author: Author<'_>) -> Result<(), RegistryError> {
        let writing = self.begin().await?;
        let (trust, owner) = trust_to_change(&writing, id).await?;
        let mut trail = Trail::of(&owner, author);
        trail.changed("trust.refresh", id.0, &trust, &trust);
        trail.commit(writing).await
    }

    async fn remove_trust(
        &self,
        id: TrustId,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<(), RegistryError> {
        let missing = || RegistryError::NoSuchTrust(id);
        let known = jwks_trusts::Entity::find_by_id(id.0)
            .one(&self.database)
            .await
            .map_err(registry_error)?
            .ok_or_else(missing)?;
        let (writing, owner) = self.begin_holding(known.principal_id).await?.ok_or_else(missing)?;
        let (trust, _) = trust_to_change(&writing, id).await?;
        check_version(expected, trust.version())?;
        jwks_trusts::Entity::delete_by_id(id.0).exec(&*writing).await.map_err(registry_error)?;
        grants::revoke_earned(&writing, &owner, Used::Trust(id), author.now).await?;
        let mut trail = Trail::of(&owner, author);
        trail.removed("trust.remove", id.0, &trust);
        trail.commit(writing).await
    }

    async fn add_api_key(
        &self,
        username: &Username,
        new: NewApiKey,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError> {
        api_keys::add(self, username, new, author).await
    }

    async fn register_api_key(
        &self,
        new: NewApiKey,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError> {
        api_keys::register(self, &new, author).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<ApiKeyRecord, RegistryError> {
        api_keys::one(self, id).await
    }

    async fn api_keys(
        &self,
        of: Option<&Username>,
        after: Option<ApiKeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError> {
        api_keys::page(self, of, after, limit).await
    }

    async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError> {
        api_keys::revoke(self, id, expected, author).await
    }

    async fn audit(
        &self,
        of: Option<&str>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<AuditEvent>, RegistryError> {
        let mut query =
            audit_events::Entity::find().order_by_desc(audit_events::Column::Id).limit(limit);
        if let Some(username) = of {
            query = query.filter(audit_events::Column::Username.eq(username));
        }
        if let Some(before) = before {
            query = query.filter(audit_events::Column::Id.lt(before));
        }
        let rows = query.all(&self.database).await.map_err(registry_error)?;
        Ok(rows.into_iter().map(audit_event).collect())
    }
}

pub(super) async fn insert_principal(
    transaction: &Transaction,
    new: &NewPrincipal,
    created_at: UnixMillis,
    now: UnixMillis,
) -> Result<principals::Model, RegistryError> {
    let row = principals::ActiveModel {
        username: Set(new.username.to_string()),
        is_active: Set(new.is_active),
        given_name: Set(new.profile.given_name.clone()),
        family_name: Set(new.profile.family_name.clone()),
        email: Set(new.profile.email.clone()),
        scopes: Set(new.scopes.to_string()),
        created_at: Set(moment(created_at)),
        updated_at: Set(moment(now)),
        ..Default::default()
    };
    let taken = || RegistryError::PrincipalExists(new.username.to_string());
    row.insert(transaction).await.map_err(|error| or_conflict(error, taken()))
}

pub(super) async fn insert_key(
    transaction: &Transaction,
    owner: &principals::Model,
    new: NewKey,
    now: UnixMillis,
    last_used_on: Option<UnixMillis>,
) -> Result<KeyRecord, RegistryError> {
    let fingerprint = new.key.fingerprint().to_string();
    let duplicate = RegistryError::KeyExists {
        username: owner.username.clone(),
        fingerprint: fingerprint.clone(),
    };
    let row = public_keys::ActiveModel {
        principal_id: Set(owner.id),
        key: Set(new.as_given),
        fingerprint: Set(fingerprint),
        family: Set(new.key.family().name().to_owned()),
        comment: Set(new.terms.comment),
        scopes: Set(new.terms.scopes.map(|scopes| scopes.to_string())),
        not_before: Set(new.terms.not_before.map(moment)),
        expires_at: Set(new.terms.expires_at.map(moment)),
        last_used_on: Set(last_used_on.map(moment)),
        created_at: Set(moment(now)),
        ..Default::default()
    };
    let row = row.insert(transaction).await.map_err(|error| or_conflict(error, duplicate))?;
    key_record(row, &owner.username)
}

/// No unique index prevents duplicate URLs, which may be longer than an index allows. Callers that
/// add a trust must lock the principal's row.
pub(super) async fn insert_trust(
    transaction: &Transaction,
    owner: &principals::Model,
    url: &str,
    now: UnixMillis,
    last_used_on: Option<UnixMillis>,
) -> Result<TrustRecord, RegistryError> {
    let held = jwks_trusts::Entity::find()
        .filter(jwks_trusts::Column::PrincipalId.eq(owner.id))
        .all(transaction)
        .await;
    if held.map_err(registry_error)?.iter().any(|trust| trust.jwks_url == url) {
        return Err(RegistryError::TrustExists {
            username: owner.username.clone(),
            jwks_url: url.to_owned(),
        });
    }
    let row = jwks_trusts::ActiveModel {
        principal_id: Set(owner.id),
        jwks_url: Set(url.to_owned()),
        last_used_on: Set(last_used_on.map(moment)),
        created_at: Set(moment(now)),
        ..Default::default()
    };
    trust_record(row.insert(transaction).await.map_err(registry_error)?, &owner.username)
}

async fn trust_to_change(
    transaction: &Transaction,
    id: TrustId,
) -> Result<(TrustRecord, principals::Model), RegistryError> {
    let found = jwks_trusts::Entity::find_by_id(id.0)
        .lock_exclusive()
        .one(transaction)
        .await
        .map_err(registry_error)?;
    let row = found.ok_or(RegistryError::NoSuchTrust(id))?;
    let owner =
        owner(transaction, row.principal_id).await?.ok_or(RegistryError::NoSuchTrust(id))?;
    Ok((trust_record(row, &owner.username)?, owner))
}

async fn owner(
    connection: &impl ConnectionTrait,
    id: i64,
) -> Result<Option<principals::Model>, RegistryError> {
    principals::Entity::find_by_id(id).one(connection).await.map_err(registry_error)
}

pub(super) async fn find(
    connection: &impl ConnectionTrait,
    username: &Username,
) -> Result<principals::Model, RegistryError> {
    let found = principals::Entity::find()
        .filter(principals::Column::Username.eq(username.as_str()))
        .one(connection)
        .await;
    found
        .map_err(registry_error)?
        .ok_or_else(|| RegistryError::NoSuchPrincipal(username.to_string()))
}

/// Like [`find`], but locked against other changes until the transaction ends.
async fn find_to_change(
    transaction: &Transaction,
    username: &Username,
) -> Result<principals::Model, RegistryError> {
    let query = principals::Entity::find()
        .filter(principals::Column::Username.eq(username.as_str()))
        .lock_exclusive();
    let found = query.one(transaction).await.map_err(registry_error)?;
    found.ok_or_else(|| RegistryError::NoSuchPrincipal(username.to_string()))
}

pub(super) fn check_version(
    expected: Option<Version>,
    found: Version,
) -> Result<(), RegistryError> {
    if expected.is_none_or(|expected| expected == found) {
        Ok(())
    } else {
        Err(RegistryError::Changed)
    }
}

/// Up to `limit` principals in the order of their ids, starting after `after`.
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
