//! Imports many accounts at once: finds those that exist already, and adds the others.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{
    SqlRegistry, api_keys,
    entity::{api_keys as api_key_rows, jwks_trusts, principals, public_keys, token_grants},
    error::{or_conflict, registry_error},
    grants,
    record::{api_key_record, grant_record},
    registry::{insert_key, insert_principal, insert_trust},
    transaction::{Trail, Writing},
};
use crate::{
    domain::{decision::Used, principal::Username, secret_token::SecretHash},
    engine::ports::{
        AddedAccount, AddedApiKey, AddedHolder, Author, ExistingPrincipal, ExistingRecords,
        HeldApiKey, ImportLookup, ImportStore, NewGrant, PrincipalRecord, RegistryError,
    },
};

/// How many rows one statement selects.
const ROWS_MAX: usize = 500;

#[async_trait]
impl ImportStore for SqlRegistry {
    async fn standing(&self, sought: &ImportLookup) -> Result<ExistingRecords, RegistryError> {
        let mut standing = ExistingRecords::default();
        for names in sought.usernames.chunks(ROWS_MAX) {
            let named = principals::Column::Username.is_in(names.iter().map(Username::as_str));
            let rows = principals::Entity::find()
                .filter(named)
                .all(&self.database)
                .await
                .map_err(registry_error)?;
            for principal in self.with_keys_and_trusts(rows).await? {
                standing.principals.insert(principal.record.username.clone(), principal);
            }
        }
        for hashes in sought.api_keys.chunks(ROWS_MAX) {
            let hashed = api_key_rows::Column::KeyHash.is_in(hashes.iter().map(SecretHash::as_str));
            let query =
                api_key_rows::Entity::find().filter(hashed).find_also_related(principals::Entity);
            for (row, owner) in query.all(&self.database).await.map_err(registry_error)? {
                let (Some(hash), Some(owner)) = (SecretHash::written(&row.key_hash), owner) else {
                    continue;
                };
                let held = HeldApiKey {
                    key: api_key_record(row, &owner.username)?,
                    holder: PrincipalRecord::try_from(owner)?,
                };
                standing.api_keys.insert(hash, held);
            }
        }
        for hashes in sought.refresh_tokens.chunks(ROWS_MAX) {
            let hashed =
                token_grants::Column::RefreshHash.is_in(hashes.iter().map(SecretHash::as_str));
            let query = token_grants::Entity::find()
                .select_only()
                .column(token_grants::Column::RefreshHash)
                .filter(hashed);
            let found: Vec<Option<String>> =
                query.into_tuple().all(&self.database).await.map_err(registry_error)?;
            standing
                .refresh_tokens
                .extend(found.into_iter().flatten().filter_map(|hash| SecretHash::written(&hash)));
        }
        Ok(standing)
    }

    async fn add_accounts(
        &self,
        accounts: Vec<AddedAccount>,
        author: Author<'_>,
    ) -> Result<(), RegistryError> {
        let writing = self.begin().await?;
        let mut known = hold(&writing, &accounts).await?;
        let mut owners = Vec::with_capacity(accounts.len());
        for account in &accounts {
            owners.push(match &account.holder {
                AddedHolder::New(new, created_at) => {
                    (insert_principal(&writing, new, *created_at, author.now).await?, true)
                }
                AddedHolder::Known(id) => (
                    known
                        .remove(&id.0)
                        .ok_or_else(|| RegistryError::NoSuchPrincipal(id.to_string()))?,
                    false,
                ),
            });
        }
        let mut trails = Vec::with_capacity(accounts.len());
        for (account, (owner, is_new)) in accounts.into_iter().zip(&owners) {
            let mut trail = Trail::of(owner, author);
            if *is_new {
                trail.added("principal.add", owner.id, &PrincipalRecord::try_from(owner.clone())?);
            }
            add_to(&writing, &mut trail, owner, account, author).await?;
            trails.push(trail);
        }
        Trail::commit_all(trails, writing).await
    }
}

impl SqlRegistry {
    async fn with_keys_and_trusts(
        &self,
        rows: Vec<principals::Model>,
    ) -> Result<Vec<ExistingPrincipal>, RegistryError> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let mut keys: HashMap<i64, HashMap<String, bool>> = HashMap::new();
        let query = public_keys::Entity::find()
            .filter(public_keys::Column::PrincipalId.is_in(ids.iter().copied()));
        for key in query.all(&self.database).await.map_err(registry_error)? {
            keys.entry(key.principal_id)
                .or_default()
                .insert(key.fingerprint, key.revoked_at.is_some());
        }
        let mut trusts: HashMap<i64, Vec<String>> = HashMap::new();
        let query = jwks_trusts::Entity::find().filter(jwks_trusts::Column::PrincipalId.is_in(ids));
        for trust in query.all(&self.database).await.map_err(registry_error)? {
            trusts.entry(trust.principal_id).or_default().push(trust.jwks_url);
        }
        rows.into_iter()
            .map(|row| {
                let (keys, jwks_urls) = (
                    keys.remove(&row.id).unwrap_or_default(),
                    trusts.remove(&row.id).unwrap_or_default(),
                );
                Ok(ExistingPrincipal {
                    record: row.try_into()?,
                    keys,
                    jwks_urls: jwks_urls.into_iter().collect(),
                })
            })
            .collect()
    }
}

/// Locks the rows of the principals that something is added to: always in the same order, so that
/// two imports do not deadlock.
async fn hold(
    writing: &Writing,
    accounts: &[AddedAccount],
) -> Result<HashMap<i64, principals::Model>, RegistryError> {
    let ids: BTreeSet<i64> = accounts
        .iter()
        .filter_map(|account| match account.holder {
            AddedHolder::Known(id) => Some(id.0),
            AddedHolder::New(..) => None,
        })
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let query = principals::Entity::find()
        .filter(principals::Column::Id.is_in(ids))
        .order_by_asc(principals::Column::Id);
    let rows = query.lock_exclusive().all(&**writing).await.map_err(registry_error)?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

async fn add_to(
    writing: &Writing,
    trail: &mut Trail<'_>,
    owner: &principals::Model,
    account: AddedAccount,
    author: Author<'_>,
) -> Result<(), RegistryError> {
    for (key, last_used_on) in account.keys {
        let added = insert_key(writing, owner, key, author.now, last_used_on).await?;
        trail.added("key.add", added.id.0, &added);
    }
    for (url, last_used_on) in &account.trusts {
        let added = insert_trust(writing, owner, url, author.now, *last_used_on).await?;
        trail.added("trust.add", added.id.0, &added);
    }
    for AddedApiKey { new, created_at, grants } in account.api_keys {
        let added = api_keys::insert(writing, owner, &new, created_at).await?;
        trail.added("api_key.add", added.id.0, &added);
        for grant in grants {
            add_grant(
                writing,
                trail,
                owner,
                NewGrant { proven_by: Some(Used::ApiKey(added.id)), ..grant },
            )
            .await?;
        }
    }
    let proofs: HashSet<Used> = account.grants.iter().filter_map(|grant| grant.proven_by).collect();
    for proof in proofs {
        grants::check_not_revoked(writing, Some(proof)).await?;
    }
    for grant in account.grants {
        add_grant(writing, trail, owner, grant).await?;
    }
    Ok(())
}

async fn add_grant(
    writing: &Writing,
    trail: &mut Trail<'_>,
    owner: &principals::Model,
    grant: NewGrant,
) -> Result<(), RegistryError> {
    let row = grants::row(owner, grant, None).insert(&**writing).await;
    let added = grant_record(
        row.map_err(|error| or_conflict(error, RegistryError::Changed))?,
        &owner.username,
    )?;
    trail.added("token.import", added.id.0, &added);
    Ok(())
}
