//! The queries of the key directory.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, JoinType, LoaderTrait, QueryFilter, QueryOrder,
    QuerySelect, RelationTrait, Select,
};
use uuid::Uuid;

use super::{
    SqlRegistry,
    entity::{jwks_trusts, principals, public_keys, registry_changes, registry_feed, token_grants},
    error::registry_error,
    record::{known_principal, moment, revoked_jti, username as stored_username},
    registry::page,
};
use crate::{
    domain::{
        principal::{KnownPrincipal, PrincipalId, Username},
        time::UnixMillis,
    },
    engine::ports::{PrincipalSource, RegistryChange, RegistryError},
};

/// How long after its expiry a revoked token is still listed: clocks differ, and an expired token
/// is refused for its expiry anyway.
const TOLD_AFTER_END: Duration = Duration::from_mins(1);
/// SQLite and PostgreSQL accept a limited number of parameters: tens of thousands at most.
const PARAMETERS_MAX: usize = 1000;

#[async_trait]
impl PrincipalSource for SqlRegistry {
    async fn load(&self, username: &Username) -> Result<Option<KnownPrincipal>, RegistryError> {
        let rows = principals::Entity::find()
            .filter(principals::Column::Username.eq(username.as_str()))
            .find_also_related(public_keys::Entity)
            .find_also_related(jwks_trusts::Entity)
            .all(&self.database);
        let revoked = revoked_tokens()
            .join(JoinType::InnerJoin, token_grants::Relation::Principal.def())
            .filter(principals::Column::Username.eq(username.as_str()))
            .into_tuple::<RevokedToken>()
            .all(&self.database);
        // Concurrently, so that a principal that is not in memory takes no longer.
        let (rows, revoked) = tokio::try_join!(rows, revoked).map_err(registry_error)?;
        // The join returns each key with each trust.
        let (mut keys, mut trusts, mut found) = (BTreeMap::new(), BTreeMap::new(), None);
        for (principal, key, trust) in rows {
            found = Some(principal);
            keys.extend(key.map(|key| (key.id, key)));
            trusts.extend(trust.map(|trust| (trust.id, trust)));
        }
        let Some(row) = found else { return Ok(None) };
        let revoked =
            revoked.into_iter().filter_map(|(grant, _, jti)| revoked_jti(grant, &jti)).collect();
        known_principal(&row, keys.into_values().collect(), trusts.into_values().collect(), revoked)
            .map(Some)
    }

    async fn load_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<KnownPrincipal>, RegistryError> {
        let rows = page(&self.database, after, limit).await?;
        let keys =
            rows.load_many(public_keys::Entity, &self.database).await.map_err(registry_error)?;
        let trusts =
            rows.load_many(jwks_trusts::Entity, &self.database).await.map_err(registry_error)?;
        let mut revoked = self.revoked_of(&rows).await?;
        let all = rows.iter().zip(keys.into_iter().zip(trusts));
        all.map(|(row, (keys, trusts))| {
            known_principal(row, keys, trusts, revoked.remove(&row.id).unwrap_or_default())
        })
        .collect()
    }

    async fn names_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        let rows: Vec<(i64, String)> = principals::Entity::find()
            .select_only()
            .column(principals::Column::Id)
            .column(principals::Column::Username)
            .filter(principals::Column::Id.gt(after.map_or(0, |id| id.0)))
            .order_by_asc(principals::Column::Id)
            .limit(limit)
            .into_tuple()
            .all(&self.database)
            .await
            .map_err(registry_error)?;
        rows.into_iter().map(|(id, name)| Ok((PrincipalId(id), stored_username(&name)?))).collect()
    }

    async fn newest_change(&self) -> Result<i64, RegistryError> {
        newest_change(&self.database).await
    }

    async fn changes(&self, seen: i64, limit: u64) -> Result<Vec<RegistryChange>, RegistryError> {
        use registry_changes::Column;

        let query = registry_changes::Entity::find()
            .filter(Column::Ordinal.gt(seen))
            .order_by_asc(Column::Ordinal)
            .limit(limit);
        let rows = query.all(&self.database).await.map_err(registry_error)?;
        let numbered = |row: registry_changes::Model| {
            Some(RegistryChange { number: row.ordinal?, principal: PrincipalId(row.principal_id) })
        };
        Ok(rows.into_iter().filter_map(numbered).collect())
    }

    async fn unnumbered_changes(&self) -> Result<Vec<RegistryChange>, RegistryError> {
        let query =
            registry_changes::Entity::find().filter(registry_changes::Column::Ordinal.is_null());
        let rows = query.all(&self.database).await.map_err(registry_error)?;
        Ok(rows
            .into_iter()
            .map(|row| RegistryChange { number: row.id, principal: PrincipalId(row.principal_id) })
            .collect())
    }

    async fn usernames(
        &self,
        ids: &[PrincipalId],
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PARAMETERS_MAX) {
            let rows: Vec<(i64, String)> = principals::Entity::find()
                .select_only()
                .column(principals::Column::Id)
                .column(principals::Column::Username)
                .filter(principals::Column::Id.is_in(ids.iter().map(|id| id.0)))
                .into_tuple()
                .all(&self.database)
                .await
                .map_err(registry_error)?;
            for (id, name) in rows {
                found.push((PrincipalId(id), stored_username(&name)?));
            }
        }
        Ok(found)
    }

    async fn forget_changes(&self, up_to: i64, unnumbered: &[i64]) -> Result<(), RegistryError> {
        use registry_changes::{Column, Entity};

        Entity::delete_many()
            .filter(Column::Ordinal.lte(up_to))
            .exec(&self.database)
            .await
            .map_err(registry_error)?;
        for ids in unnumbered.chunks(PARAMETERS_MAX) {
            let delete = Entity::delete_many()
                .filter(Column::Id.is_in(ids.iter().copied()))
                .filter(Column::Ordinal.is_null());
            delete.exec(&self.database).await.map_err(registry_error)?;
        }
        Ok(())
    }
}

/// The number of the newest change visible to `connection`.
pub(super) async fn newest_change(connection: &impl ConnectionTrait) -> Result<i64, RegistryError> {
    let feed = registry_feed::Entity::find_by_id(registry_feed::ROW)
        .one(connection)
        .await
        .map_err(registry_error)?;
    feed.map(|feed| feed.newest)
        .ok_or_else(|| RegistryError::Store("the table registry_feed has lost its row".into()))
}

impl SqlRegistry {
    /// The revoked access tokens of a page of principals, by the principal's id.
    async fn revoked_of(
        &self,
        page: &[principals::Model],
    ) -> Result<HashMap<i64, Vec<Uuid>>, RegistryError> {
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            return Ok(HashMap::new());
        };
        let query =
            revoked_tokens().filter(token_grants::Column::PrincipalId.between(first.id, last.id));
        let rows: Vec<RevokedToken> =
            query.into_tuple().all(&self.database).await.map_err(registry_error)?;
        let mut revoked = HashMap::<i64, Vec<Uuid>>::new();
        for (grant, principal, jti) in rows {
            revoked.entry(principal).or_default().extend(revoked_jti(grant, &jti));
        }
        Ok(revoked)
    }
}

/// The id of the grant, the id of the principal, and the `jti` of the access token.
type RevokedToken = (i64, i64, String);

/// Revoked access tokens that may not have expired. The clock only limits how many are read; it
/// decides nothing else.
fn revoked_tokens() -> Select<token_grants::Entity> {
    use token_grants::Column;

    let since = UnixMillis::from(SystemTime::now()).saturating_sub(TOLD_AFTER_END);
    token_grants::Entity::find()
        .select_only()
        .columns([Column::Id, Column::PrincipalId, Column::AccessJti])
        .filter(Column::RevokedAt.is_not_null())
        .filter(Column::AccessExpiresAt.gt(moment(since)))
}
