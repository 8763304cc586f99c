//! Grants: issued, exchanged and revoked.
//!
//! Rows to be updated are selected by a plain query and updated by their ids, while the principal's
//! row is locked. On MySQL and MariaDB, an UPDATE that searches by itself would also lock the gaps
//! between the rows it scans, into which the grants of other principals are inserted.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Select, Set,
    sea_query::{Expr, IntoCondition},
};
use uuid::Uuid;

use super::{
    SqlRegistry, api_keys, by_principal,
    database::Transaction,
    entity::{
        api_keys as api_key_rows, jwks_trusts, principals, public_keys,
        token_grants::{ActiveModel, Column, Entity, Model},
    },
    error::registry_error,
    record::{AUDIENCE_SEPARATOR, api_key_record, grant_record, millis, moment},
    transaction::{Trail, Writing},
};
use crate::{
    domain::{
        decision::Used,
        principal::{ApiKeyId, GrantId, PrincipalId, Username},
        secret_token::SecretHash,
        time::UnixMillis,
    },
    engine::ports::{
        Author, GrantName, GrantRecord, GrantStore, HeldApiKey, HeldGrant, NewGrant,
        PrincipalRecord, RegistryError, Rotation,
    },
};

/// How many rows one statement updates.
const ROWS_MAX: usize = 500;

#[async_trait]
impl GrantStore for SqlRegistry {
    async fn api_key_by_hash(
        &self,
        hash: &SecretHash,
    ) -> Result<Option<HeldApiKey>, RegistryError> {
        api_keys::held(self, hash).await
    }

    async fn add_grant(
        &self,
        holder: PrincipalId,
        new: NewGrant,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<GrantRecord, RegistryError> {
        let missing = || RegistryError::NoSuchPrincipal(holder.to_string());
        let (writing, owner) = if ends_others {
            self.begin_holding(holder.0).await?.ok_or_else(missing)?
        } else {
            self.begin_sharing(holder.0).await?.ok_or_else(missing)?
        };
        check_not_revoked(&writing, new.proven_by).await?;
        check_not_ended(&writing, new.family).await?;
        let others =
            unended(owner.id, author.now).filter(Column::Family.ne(new.family.to_string()));
        let is_minted = new.is_minted;
        let added = insert(&writing, &owner, new, None).await?;
        let mut trail = Trail::of(&owner, author);
        if is_minted {
            trail.added("token.issue", added.id.0, &added);
        }
        supersede(writing, trail, ends_others.then_some(others), &owner, author).await?;
        Ok(added)
    }

    async fn find_grant(&self, name: GrantName<'_>) -> Result<Option<HeldGrant>, RegistryError> {
        let named = match name {
            GrantName::Jti(jti) => Condition::any()
                .add(Column::AccessJti.eq(jti.to_string()))
                .add(Column::RefreshJti.eq(jti.to_string())),
            GrantName::Refresh(hash) => Column::RefreshHash.eq(hash.as_str()).into_condition(),
        };
        let found = Entity::find()
            .filter(named)
            .find_also_related(principals::Entity)
            .one(&self.database)
            .await;
        let Some((row, Some(owner))) = found.map_err(registry_error)? else { return Ok(None) };
        let api_key = match row.api_key_id {
            Some(id) => api_key_rows::Entity::find_by_id(id)
                .one(&self.database)
                .await
                .map_err(registry_error)?,
            None => None,
        };
        let api_key = api_key.map(|key| api_key_record(key, &owner.username)).transpose()?;
        Ok(Some(HeldGrant {
            grant: grant_record(row, &owner.username)?,
            holder: PrincipalRecord::try_from(owner)?,
            identifier: api_key.as_ref().map(|key| key.identifier),
            api_key_expires_at: api_key.map(|key| key.expires_at),
        }))
    }

    async fn rotate(
        &self,
        id: GrantId,
        new: NewGrant,
        grace: Duration,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<Rotation, RegistryError> {
        let Some((writing, owner)) = self.begin_about(Column::Id.eq(id.0)).await? else {
            return Ok(Rotation::Ended);
        };
        let row = Entity::find_by_id(id.0)
            .lock_exclusive()
            .one(&*writing)
            .await
            .map_err(registry_error)?;
        let usable = row
            .filter(|row| row.refresh_expires_at.is_some_and(|until| author.now < millis(until)));
        let Some(row) = usable else { return Ok(Rotation::Ended) };
        // Check for an exchange before a revocation: the exchange itself may have revoked the
        // grant.
        match row.rotated_at.map(millis) {
            Some(at) if author.now.since(at) <= grace => successor(&writing, &owner, id).await,
            Some(_) => end_reused(writing, &owner, &row, author).await,
            None if row.revoked_at.is_some() => Ok(Rotation::Ended),
            None => exchange(writing, &owner, row, new, ends_others, author).await,
        }
    }

    async fn revoke_family(&self, family: Uuid, author: Author<'_>) -> Result<u64, RegistryError> {
        let family = family.to_string();
        let Some((writing, owner)) = self.begin_about(Column::Family.eq(family.as_str())).await?
        else {
            return Ok(0);
        };
        let grants = unrevoked(owner.id)
            .filter(Column::Family.eq(family))
            .all(&*writing)
            .await
            .map_err(registry_error)?;
        if grants.is_empty() {
            return Ok(0);
        }
        let mut trail = Trail::of(&owner, author);
        revoke(&writing, &mut trail, "token.revoke", &owner, &grants, author.now).await?;
        trail.commit(writing).await?;
        Ok(grants.len() as u64)
    }

    async fn grant(&self, id: GrantId) -> Result<GrantRecord, RegistryError> {
        let (row, owner) =
            by_principal::one::<Entity>(self, id.0).await?.ok_or(RegistryError::NoSuchGrant(id))?;
        grant_record(row, &owner)
    }

    async fn grants(
        &self,
        of: Option<&Username>,
        after: Option<GrantId>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, RegistryError> {
        let rows = by_principal::page::<Entity>(self, of, after.map(|id| id.0), limit).await?;
        rows.map(|(grant, owner)| grant_record(grant, &owner)).collect()
    }

    async fn forget_grants(&self, before: UnixMillis) -> Result<(), RegistryError> {
        let refresh = Condition::any()
            .add(Column::RefreshExpiresAt.is_null())
            .add(Column::RefreshExpiresAt.lt(moment(before)));
        let ids: Vec<i64> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::AccessExpiresAt.lt(moment(before)))
            .filter(refresh)
            .order_by_asc(Column::Id)
            .into_tuple()
            .all(&self.database)
            .await
            .map_err(registry_error)?;
        for ids in ids.chunks(ROWS_MAX) {
            let writing = self.begin().await?;
            let delete = Entity::delete_many().filter(Column::Id.is_in(ids.iter().copied()));
            delete.exec(&*writing).await.map_err(registry_error)?;
            writing.commit().await?;
        }
        Ok(())
    }
}

impl SqlRegistry {
    /// Begins a transaction that locks the principal whose grant is `which`, if that grant exists.
    /// The owner of a grant never changes.
    async fn begin_about(
        &self,
        which: impl IntoCondition,
    ) -> Result<Option<(Writing, principals::Model)>, RegistryError> {
        let query = Entity::find().select_only().column(Column::PrincipalId).filter(which);
        let principal: Option<i64> =
            query.into_tuple().one(&self.database).await.map_err(registry_error)?;
        match principal {
            Some(principal) => self.begin_holding(principal).await,
            None => Ok(None),
        }
    }
}

/// Revokes the families of every grant that was issued for `proof`.
pub(super) async fn revoke_earned(
    transaction: &Transaction,
    owner: &principals::Model,
    proof: Used,
    now: UnixMillis,
) -> Result<(), RegistryError> {
    let earned = match proof {
        Used::ApiKey(id) => Column::ApiKeyId.eq(id.0),
        Used::Key(id) => Column::PublicKeyId.eq(id.0),
        Used::Trust(id) => Column::JwksTrustId.eq(id.0),
    };
    let families = Entity::find()
        .select_only()
        .column(Column::Family)
        .filter(Column::PrincipalId.eq(owner.id))
        .filter(earned)
        .into_query();
    let grants = unrevoked(owner.id).filter(Column::Family.in_subquery(families));
    let ids: Vec<i64> = grants
        .select_only()
        .column(Column::Id)
        .into_tuple()
        .all(transaction)
        .await
        .map_err(registry_error)?;
    set_revoked(transaction, &ids, now).await
}

/// Limits the lifetime of all refresh tokens that were issued for an API key to `until`.
pub(super) async fn shorten(
    transaction: &Transaction,
    owner: &principals::Model,
    key: ApiKeyId,
    until: UnixMillis,
) -> Result<(), RegistryError> {
    let grants = unrevoked(owner.id)
        .filter(Column::ApiKeyId.eq(key.0))
        .filter(Column::RefreshExpiresAt.gt(moment(until)));
    let ids: Vec<i64> = grants
        .select_only()
        .column(Column::Id)
        .into_tuple()
        .all(transaction)
        .await
        .map_err(registry_error)?;
    for ids in ids.chunks(ROWS_MAX) {
        let update = Entity::update_many()
            .col_expr(Column::RefreshExpiresAt, Expr::value(moment(until)))
            .filter(Column::Id.is_in(ids.iter().copied()));
        update.exec(transaction).await.map_err(registry_error)?;
    }
    Ok(())
}

/// Fails if the key was revoked, or the trust removed, since it was checked: a new grant would
/// outlive it.
pub(super) async fn check_not_revoked(
    transaction: &Transaction,
    proof: Option<Used>,
) -> Result<(), RegistryError> {
    match proof {
        None => Ok(()),
        Some(Used::ApiKey(id)) => {
            let row = api_key_rows::Entity::find_by_id(id.0)
                .one(transaction)
                .await
                .map_err(registry_error)?;
            row.filter(|key| key.revoked_at.is_none())
                .map(drop)
                .ok_or(RegistryError::NoSuchApiKey(id))
        }
        Some(Used::Key(id)) => {
            let row = public_keys::Entity::find_by_id(id.0)
                .one(transaction)
                .await
                .map_err(registry_error)?;
            row.filter(|key| key.revoked_at.is_none()).map(drop).ok_or(RegistryError::NoSuchKey(id))
        }
        Some(Used::Trust(id)) => {
            let row = jwks_trusts::Entity::find_by_id(id.0)
                .one(transaction)
                .await
                .map_err(registry_error)?;
            row.map(drop).ok_or(RegistryError::NoSuchTrust(id))
        }
    }
}

/// Fails if the family has ended: a family without a live grant gets no new one.
async fn check_not_ended(transaction: &Transaction, family: Uuid) -> Result<(), RegistryError> {
    let grants = Entity::find().filter(Column::Family.eq(family.to_string()));
    let living = grants
        .clone()
        .filter(Column::RevokedAt.is_null())
        .one(transaction)
        .await
        .map_err(registry_error)?;
    if living.is_some() {
        return Ok(());
    }
    match grants.one(transaction).await.map_err(registry_error)? {
        None => Ok(()),
        Some(ended) => Err(RegistryError::NoSuchGrant(GrantId(ended.id))),
    }
}

async fn exchange(
    writing: Writing,
    owner: &principals::Model,
    row: Model,
    new: NewGrant,
    ends_others: bool,
    author: Author<'_>,
) -> Result<Rotation, RegistryError> {
    let predecessor = row.id;
    let spent = ActiveModel { rotated_at: Set(Some(moment(author.now))), ..row.into() };
    spent.update(&*writing).await.map_err(registry_error)?;
    let added = insert(&writing, owner, new, Some(predecessor)).await?;
    let others =
        ends_others.then(|| unended(owner.id, author.now).filter(Column::Id.ne(added.id.0)));
    supersede(writing, Trail::of(owner, author), others, owner, author).await?;
    Ok(Rotation::Rotated(added))
}

/// The grant that grant `id` was exchanged for, or [`Rotation::Ended`] if that was revoked.
async fn successor(
    transaction: &Transaction,
    owner: &principals::Model,
    id: GrantId,
) -> Result<Rotation, RegistryError> {
    let found = Entity::find()
        .filter(Column::PredecessorId.eq(id.0))
        .one(transaction)
        .await
        .map_err(registry_error)?;
    match found.filter(|row| row.revoked_at.is_none()) {
        Some(row) => grant_record(row, &owner.username).map(Rotation::RotatedBefore),
        None => Ok(Rotation::Ended),
    }
}

async fn end_reused(
    writing: Writing,
    owner: &principals::Model,
    row: &Model,
    author: Author<'_>,
) -> Result<Rotation, RegistryError> {
    let family = unended(owner.id, author.now).filter(Column::Family.eq(row.family.as_str()));
    let grants = family.all(&*writing).await.map_err(registry_error)?;
    if grants.is_empty() {
        return Ok(Rotation::Ended);
    }
    let mut trail = Trail::of(owner, author);
    revoke(&writing, &mut trail, "token.reuse", owner, &grants, author.now).await?;
    trail.commit(writing).await?;
    Ok(Rotation::Reused)
}

/// Revokes `others`, if there are any, and commits. Only a revocation affects decisions.
async fn supersede(
    writing: Writing,
    mut trail: Trail<'_>,
    others: Option<Select<Entity>>,
    owner: &principals::Model,
    author: Author<'_>,
) -> Result<(), RegistryError> {
    let grants = match others {
        Some(others) => others.all(&*writing).await.map_err(registry_error)?,
        None => Vec::new(),
    };
    if grants.is_empty() {
        return trail.commit_unannounced(writing).await;
    }
    revoke(&writing, &mut trail, "token.supersede", owner, &grants, author.now).await?;
    trail.commit(writing).await
}

/// Revokes `grants` in the order of their ids. Writes one event per family, about its newest grant.
async fn revoke(
    transaction: &Transaction,
    trail: &mut Trail<'_>,
    action: &str,
    owner: &principals::Model,
    grants: &[Model],
    now: UnixMillis,
) -> Result<(), RegistryError> {
    let ids: Vec<i64> = grants.iter().map(|grant| grant.id).collect();
    set_revoked(transaction, &ids, now).await?;
    let newest: BTreeMap<&str, &Model> =
        grants.iter().map(|grant| (grant.family.as_str(), grant)).collect();
    for grant in newest.into_values() {
        let before = grant_record(grant.clone(), &owner.username)?;
        let after = GrantRecord { revoked_at: Some(now), ..before.clone() };
        trail.changed(action, grant.id, &before, &after);
    }
    Ok(())
}

async fn set_revoked(
    transaction: &Transaction,
    ids: &[i64],
    now: UnixMillis,
) -> Result<(), RegistryError> {
    for ids in ids.chunks(ROWS_MAX) {
        let update = Entity::update_many()
            .col_expr(Column::RevokedAt, Expr::value(moment(now)))
            .filter(Column::Id.is_in(ids.iter().copied()));
        update.exec(transaction).await.map_err(registry_error)?;
    }
    Ok(())
}

async fn insert(
    transaction: &Transaction,
    owner: &principals::Model,
    new: NewGrant,
    predecessor: Option<i64>,
) -> Result<GrantRecord, RegistryError> {
    let row = row(owner, new, predecessor);
    grant_record(row.insert(transaction).await.map_err(registry_error)?, &owner.username)
}

pub(super) fn row(
    owner: &principals::Model,
    new: NewGrant,
    predecessor: Option<i64>,
) -> ActiveModel {
    let refresh = new.refresh.as_ref();
    let (api_key, public_key, trust) = match new.proven_by {
        None => (None, None, None),
        Some(Used::ApiKey(id)) => (Some(id.0), None, None),
        Some(Used::Key(id)) => (None, Some(id.0), None),
        Some(Used::Trust(id)) => (None, None, Some(id.0)),
    };
    ActiveModel {
        principal_id: Set(owner.id),
        family: Set(new.family.to_string()),
        access_jti: Set(new.access_jti.to_string()),
        refresh_jti: Set(refresh.map(|refresh| refresh.jti.to_string())),
        refresh_hash: Set(refresh.map(|refresh| refresh.hash.as_str().to_owned())),
        refresh_seed: Set(refresh.map(|refresh| refresh.seed.to_string())),
        audience: Set(new.audience.join(AUDIENCE_SEPARATOR)),
        sid: Set(new.sid),
        scopes: Set(new.scopes.to_string()),
        api_key_id: Set(api_key),
        public_key_id: Set(public_key),
        jwks_trust_id: Set(trust),
        predecessor_id: Set(predecessor),
        issued_at: Set(moment(new.issued_at)),
        access_expires_at: Set(moment(new.access_expires_at)),
        refresh_expires_at: Set(refresh.map(|refresh| moment(refresh.expires_at))),
        ..Default::default()
    }
}

/// The unrevoked grants of a principal that have a token that is not expired.
fn unended(principal: i64, now: UnixMillis) -> Select<Entity> {
    let unexpired = Condition::any()
        .add(Column::AccessExpiresAt.gt(moment(now)))
        .add(Column::RefreshExpiresAt.gt(moment(now)));
    unrevoked(principal).filter(unexpired)
}

/// The unrevoked grants of a principal, by id.
fn unrevoked(principal: i64) -> Select<Entity> {
    Entity::find()
        .filter(Column::PrincipalId.eq(principal))
        .filter(Column::RevokedAt.is_null())
        .order_by_asc(Column::Id)
}
