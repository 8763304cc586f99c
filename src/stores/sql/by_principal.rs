//! Queries for rows that belong to a principal: one by its id, or page by page.

use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, PrimaryKeyTrait, QueryFilter, QueryOrder,
    QuerySelect, Related,
};

use super::{SqlRegistry, entity::principals, error::registry_error, registry::find};
use crate::{domain::principal::Username, engine::ports::RegistryError};

/// A table whose rows belong to principals.
pub(super) trait Owned: EntityTrait + Related<principals::Entity> {
    /// The column of the row's id.
    const ID: Self::Column;
    /// The column of the principal's id.
    const PRINCIPAL_ID: Self::Column;
}

/// The row with that id, and the username of its principal.
pub(super) async fn one<E: Owned>(
    registry: &SqlRegistry,
    id: i64,
) -> Result<Option<(E::Model, String)>, RegistryError>
where
    E::Model: FromQueryResult + Send + Sync,
    <E::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i64>,
{
    let found = E::find_by_id(id)
        .find_also_related(principals::Entity)
        .one(&registry.database)
        .await
        .map_err(registry_error)?;
    Ok(found.and_then(|(row, owner)| Some((row, owner?.username))))
}

/// Up to `limit` rows of one or all principals in the order of their ids, starting after `after`.
pub(super) async fn page<E: Owned>(
    registry: &SqlRegistry,
    of: Option<&Username>,
    after: Option<i64>,
    limit: u64,
) -> Result<impl Iterator<Item = (E::Model, String)>, RegistryError>
where
    E::Model: FromQueryResult + Send + Sync,
{
    let mut query = E::find()
        .find_also_related(principals::Entity)
        .filter(E::ID.gt(after.unwrap_or(0)))
        .order_by_asc(E::ID)
        .limit(limit);
    if let Some(username) = of {
        query = query.filter(E::PRINCIPAL_ID.eq(find(&registry.database, username).await?.id));
    }
    let rows = query.all(&registry.database).await.map_err(registry_error)?;
    Ok(rows.into_iter().filter_map(|(row, owner)| Some((row, owner?.username))))
}
