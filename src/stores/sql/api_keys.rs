//! API keys: added, registered by their holders, and revoked together with the grants issued for
//! them.

use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QuerySelect, Set};

use super::{
    SqlRegistry, by_principal,
    database::Transaction,
    entity::{
        api_keys::{ActiveModel, Column, Entity, Model},
        principals,
    },
    error::{or_conflict, registry_error},
    grants,
    record::{api_key_record, moment},
    registry::{check_version, find, insert_principal},
    transaction::Trail,
};
use crate::{
    domain::{
        decision::Used,
        principal::{ApiKeyId, Username},
        secret_token::SecretHash,
        time::UnixMillis,
    },
    engine::ports::{
        ApiKeyRecord, Author, HeldApiKey, NewApiKey, NewPrincipal, PrincipalRecord, RegistryError,
        Version,
    },
};

pub(super) async fn add(
    registry: &SqlRegistry,
    username: &Username,
    new: NewApiKey,
    author: Author<'_>,
) -> Result<ApiKeyRecord, RegistryError> {
    let writing = registry.begin().await?;
    let owner = find(&*writing, username).await?;
    let added = insert(&writing, &owner, &new, author.now).await?;
    let mut trail = Trail::of(&owner, author);
    trail.added("api_key.add", added.id.0, &added);
    trail.commit(writing).await?;
    Ok(added)
}

/// Each attempt uses a new transaction, since PostgreSQL rejects further statements after a
/// duplicate. Two attempts are enough when two clients register the same key at once. The third is
/// for two keys registered for one identifier: the principal, and then the key, may turn out to
/// exist.
pub(super) async fn register(
    registry: &SqlRegistry,
    new: &NewApiKey,
    author: Author<'_>,
) -> Result<ApiKeyRecord, RegistryError> {
    const ATTEMPTS: usize = 3;

    for _ in 0..ATTEMPTS {
        if let Some(registered) = try_register(registry, new, author).await? {
            return Ok(registered);
        }
    }
    Err(RegistryError::Changed)
}

pub(super) async fn one(
    registry: &SqlRegistry,
    id: ApiKeyId,
) -> Result<ApiKeyRecord, RegistryError> {
    let (row, owner) = by_principal::one::<Entity>(registry, id.0)
        .await?
        .ok_or(RegistryError::NoSuchApiKey(id))?;
    api_key_record(row, &owner)
}

pub(super) async fn page(
    registry: &SqlRegistry,
    of: Option<&Username>,
    after: Option<ApiKeyId>,
    limit: u64,
) -> Result<Vec<ApiKeyRecord>, RegistryError> {
    let rows = by_principal::page::<Entity>(registry, of, after.map(|id| id.0), limit).await?;
    rows.map(|(key, owner)| api_key_record(key, &owner)).collect()
}

pub(super) async fn revoke(
    registry: &SqlRegistry,
    id: ApiKeyId,
    expected: Option<Version>,
    author: Author<'_>,
) -> Result<ApiKeyRecord, RegistryError> {
    let missing = || RegistryError::NoSuchApiKey(id);
    let known = Entity::find_by_id(id.0)
        .one(&registry.database)
        .await
        .map_err(registry_error)?
        .ok_or_else(missing)?;
    let (writing, owner) = registry.begin_holding(known.principal_id).await?.ok_or_else(missing)?;
    let row = find_to_change(&writing, id.0).await?.ok_or_else(missing)?;
    let before = api_key_record(row.clone(), &owner.username)?;
    check_version(expected, before.version())?;
    if before.revoked_at.is_some() {
        return Ok(before);
    }
    let changed = ActiveModel { revoked_at: Set(Some(moment(author.now))), ..row.into() };
    let after =
        api_key_record(changed.update(&*writing).await.map_err(registry_error)?, &owner.username)?;
    grants::revoke_earned(&writing, &owner, Used::ApiKey(id), author.now).await?;
    let mut trail = Trail::of(&owner, author);
    trail.changed("api_key.revoke", id.0, &before, &after);
    trail.commit(writing).await?;
    Ok(after)
}

pub(super) async fn held(
    registry: &SqlRegistry,
    hash: &SecretHash,
) -> Result<Option<HeldApiKey>, RegistryError> {
    let query = Entity::find()
        .filter(Column::KeyHash.eq(hash.as_str()))
        .find_also_related(principals::Entity);
    let Some((row, Some(owner))) = query.one(&registry.database).await.map_err(registry_error)?
    else {
        return Ok(None);
    };
    Ok(Some(HeldApiKey {
        key: api_key_record(row, &owner.username)?,
        holder: PrincipalRecord::try_from(owner)?,
    }))
}

/// `None` if a concurrent registration came first.
async fn try_register(
    registry: &SqlRegistry,
    new: &NewApiKey,
    author: Author<'_>,
) -> Result<Option<ApiKeyRecord>, RegistryError> {
    let known =
        Entity::find().filter(Column::KeyHash.eq(new.hash.as_str())).one(&registry.database).await;
    if let Some(known) = known.map_err(registry_error)? {
        return extend(registry, &known, new, author).await;
    }
    let name = Username::new(&new.identifier.to_string())
        .map_err(|error| RegistryError::Store(error.into()))?;
    // Look it up outside of the transaction: on MySQL and MariaDB, two transactions that both look
    // up a missing name and then insert it deadlock.
    let named = principals::Entity::find()
        .filter(principals::Column::Username.eq(name.as_str()))
        .one(&registry.database)
        .await;
    let (writing, owner, is_new) = if let Some(known) = named.map_err(registry_error)? {
        let Some((writing, owner)) = registry.begin_holding(known.id).await? else {
            return Ok(None);
        };
        (writing, owner, false)
    } else {
        let writing = registry.begin().await?;
        let inserted =
            insert_principal(&writing, &NewPrincipal::named(name), author.now, author.now).await;
        let Some(owner) = unless_taken(inserted)? else { return Ok(None) };
        (writing, owner, true)
    };
    let Some(added) = unless_taken(insert(&writing, &owner, new, author.now).await)? else {
        return Ok(None);
    };
    let mut trail = Trail::of(&owner, author);
    if is_new {
        trail.added("principal.add", owner.id, &PrincipalRecord::try_from(owner.clone())?);
    }
    trail.added("api_key.add", added.id.0, &added);
    trail.commit(writing).await?;
    Ok(Some(added))
}

/// Gives a registered key the expiry of `new`. `None` if the key is gone.
async fn extend(
    registry: &SqlRegistry,
    known: &Model,
    new: &NewApiKey,
    author: Author<'_>,
) -> Result<Option<ApiKeyRecord>, RegistryError> {
    let Some((writing, owner)) = registry.begin_holding(known.principal_id).await? else {
        return Ok(None);
    };
    let Some(row) = find_to_change(&writing, known.id).await? else { return Ok(None) };
    let before = api_key_record(row.clone(), &owner.username)?;
    if before.identifier != new.identifier || before.revoked_at.is_some() {
        return Err(RegistryError::ApiKeyExists);
    }
    let mut changed: ActiveModel = row.into();
    changed.expires_at.set_if_not_equals(moment(new.expires_at));
    if !changed.is_changed() {
        return Ok(Some(before));
    }
    let after =
        api_key_record(changed.update(&*writing).await.map_err(registry_error)?, &owner.username)?;
    if after.expires_at < before.expires_at {
        grants::shorten(&writing, &owner, after.id, after.expires_at).await?;
    }
    let mut trail = Trail::of(&owner, author);
    trail.changed("api_key.extend", after.id.0, &before, &after);
    trail.commit(writing).await?;
    Ok(Some(after))
}

pub(super) async fn insert(
    transaction: &Transaction,
    owner: &principals::Model,
    new: &NewApiKey,
    created_at: UnixMillis,
) -> Result<ApiKeyRecord, RegistryError> {
    let row = ActiveModel {
        principal_id: Set(owner.id),
        identifier: Set(new.identifier.to_string()),
        key_hash: Set(new.hash.as_str().to_owned()),
        comment: Set(new.comment.clone()),
        expires_at: Set(moment(new.expires_at)),
        created_at: Set(moment(created_at)),
        ..Default::default()
    };
    let row = row
        .insert(transaction)
        .await
        .map_err(|error| or_conflict(error, RegistryError::ApiKeyExists))?;
    api_key_record(row, &owner.username)
}

async fn find_to_change(
    transaction: &Transaction,
    id: i64,
) -> Result<Option<Model>, RegistryError> {
    Entity::find_by_id(id).lock_exclusive().one(transaction).await.map_err(registry_error)
}

fn unless_taken<T>(inserted: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match inserted {
        Ok(row) => Ok(Some(row)),
        Err(RegistryError::PrincipalExists(_) | RegistryError::ApiKeyExists) => Ok(None),
        Err(error) => Err(error),
    }
}
