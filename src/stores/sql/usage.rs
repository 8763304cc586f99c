//! When keys, trusts and API keys were last used, and results of fetching key sets. These are no
//! changes to the registry: no decision depends on them, so they are not in the change feed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, sea_query::Expr};

use super::{
    SqlRegistry,
    database::Transaction,
    entity::{api_keys, jwks_trusts, public_keys},
    error::registry_error,
    record::{left_out, moment, usable_keys},
};
use crate::{
    domain::{decision::Used, key_set::KeySetContents, time::UnixMillis},
    engine::ports::{FetchFailure, FetchReports, RegistryError, UsageStore},
};

/// How many rows one statement updates.
const ROWS_MAX: usize = 500;

#[async_trait]
impl UsageStore for SqlRegistry {
    /// Rounds times down to whole seconds, so that one statement covers all uses within a second.
    async fn write_usage(&self, used: &[(Used, UnixMillis)]) -> Result<(), RegistryError> {
        let [mut keys, mut trusts, mut api_keys] = [const { Notes::new() }; 3];
        for (used, at) in used {
            match used {
                Used::Key(id) => keys.entry(at.seconds()).or_default().push(id.0),
                Used::Trust(id) => trusts.entry(at.seconds()).or_default().push(id.0),
                Used::ApiKey(id) => api_keys.entry(at.seconds()).or_default().push(id.0),
            }
        }
        let writing = self.begin().await?;
        write::<public_keys::Entity>(
            &writing,
            &keys,
            public_keys::Column::Id,
            public_keys::Column::LastUsedOn,
        )
        .await?;
        write::<jwks_trusts::Entity>(
            &writing,
            &trusts,
            jwks_trusts::Column::Id,
            jwks_trusts::Column::LastUsedOn,
        )
        .await?;
        write::<api_keys::Entity>(
            &writing,
            &api_keys,
            api_keys::Column::Id,
            api_keys::Column::LastUsedOn,
        )
        .await?;
        writing.commit().await
    }
}

/// Ids by the second in which they were used.
type Notes = BTreeMap<i64, Vec<i64>>;

async fn write<E: EntityTrait>(
    transaction: &Transaction,
    notes: &Notes,
    id: E::Column,
    last_used_on: E::Column,
) -> Result<(), RegistryError> {
    for (at, ids) in notes.iter().flat_map(chunks) {
        let update = E::update_many()
            .col_expr(last_used_on, Expr::value(moment(at)))
            .filter(id.is_in(ids.iter().copied()))
            .filter(is_earlier(last_used_on, at));
        update.exec(transaction).await.map_err(registry_error)?;
    }
    Ok(())
}

fn chunks<'a>(
    (second, ids): (&'a i64, &'a Vec<i64>),
) -> impl Iterator<Item = (UnixMillis, &'a [i64])> {
    let at = UnixMillis(second.saturating_mul(1000));
    ids.chunks(ROWS_MAX).map(move |ids| (at, ids))
}

/// Another replica may have recorded a later use.
fn is_earlier(column: impl ColumnTrait, at: UnixMillis) -> Condition {
    Condition::any().add(column.is_null()).add(column.lt(moment(at)))
}

#[async_trait]
impl FetchReports for SqlRegistry {
    async fn fetched(
        &self,
        url: &str,
        at: UnixMillis,
        outcome: Result<&KeySetContents, &FetchFailure>,
    ) -> Result<(), RegistryError> {
        let update =
            jwks_trusts::Entity::update_many().filter(jwks_trusts::Column::JwksUrl.eq(url));
        let update = match outcome {
            Ok(contents) => update
                .col_expr(jwks_trusts::Column::LastFetchedAt, Expr::value(moment(at)))
                .col_expr(jwks_trusts::Column::LastError, Expr::value(None::<String>))
                .col_expr(jwks_trusts::Column::UsableKeys, Expr::value(usable_keys(contents)))
                .col_expr(jwks_trusts::Column::LeftOut, Expr::value(left_out(&contents.left_out)?)),
            Err(failure) => update
                .col_expr(jwks_trusts::Column::LastError, Expr::value(failure.reason.as_str())),
        };
        update.exec(&self.database).await.map(drop).map_err(registry_error)
    }
}
