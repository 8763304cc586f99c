//! Converts between rows and domain types.

use sea_orm::prelude::TimeDateTime;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entity::{api_keys, audit_events, jwks_trusts, principals, public_keys, token_grants};
use crate::{
    domain::{
        decision::Used,
        json,
        key::PublicKey,
        key_set::{KeySetContents, LeftOutKey},
        principal::{
            ApiKeyId, GrantId, KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, TrustId,
            Username,
        },
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{
        ApiKeyRecord, AuditEvent, GrantRecord, KeyRecord, KeyTerms, PrincipalRecord, Profile,
        RefreshRecord, RegistryError, TrustRecord,
    },
};

/// Separates the audiences of a grant; no audience contains it.
pub(super) const AUDIENCE_SEPARATOR: &str = " ";

/// Columns hold UTC without a time zone: MariaDB accepts no values with a zone after 2038.
pub(super) fn moment(at: UnixMillis) -> TimeDateTime {
    let utc = at.to_utc();
    TimeDateTime::new(utc.date(), utc.time())
}

pub(super) fn millis(moment: TimeDateTime) -> UnixMillis {
    let nanos = moment.assume_utc().unix_timestamp_nanos();
    UnixMillis(i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX))
}

impl TryFrom<principals::Model> for PrincipalRecord {
    type Error = RegistryError;

    fn try_from(row: principals::Model) -> Result<Self, Self::Error> {
        Ok(Self {
            id: PrincipalId(row.id),
            username: username(&row.username)?,
            is_active: row.is_active,
            scopes: scopes(&row.scopes)?,
            profile: Profile {
                given_name: row.given_name,
                family_name: row.family_name,
                email: row.email,
            },
            created_at: millis(row.created_at),
            updated_at: millis(row.updated_at),
        })
    }
}

pub(super) fn key_record(row: public_keys::Model, owner: &str) -> Result<KeyRecord, RegistryError> {
    Ok(KeyRecord {
        id: KeyId(row.id),
        username: username(owner)?,
        key: row.key,
        fingerprint: row.fingerprint,
        family: row.family,
        terms: KeyTerms {
            comment: row.comment,
            scopes: row.scopes.as_deref().map(scopes).transpose()?,
            not_before: row.not_before.map(millis),
            expires_at: row.expires_at.map(millis),
        },
        revoked_at: row.revoked_at.map(millis),
        last_used_on: row.last_used_on.map(millis),
        created_at: millis(row.created_at),
    })
}

pub(super) fn trust_record(
    row: jwks_trusts::Model,
    owner: &str,
) -> Result<TrustRecord, RegistryError> {
    Ok(TrustRecord {
        id: TrustId(row.id),
        username: username(owner)?,
        jwks_url: row.jwks_url,
        last_used_on: row.last_used_on.map(millis),
        last_fetched_at: row.last_fetched_at.map(millis),
        last_error: row.last_error,
        contents: row
            .usable_keys
            .map(|usable_keys| contents(usable_keys, row.left_out.as_deref()))
            .transpose()?,
        created_at: millis(row.created_at),
    })
}

/// Maximum length in bytes of the text that fits the column on MySQL, with a margin.
const LEFT_OUT_BYTES_MAX: usize = 60_000;

/// A JSON object, like the input that it is read from.
#[derive(Serialize, Deserialize)]
struct LeftOut<T> {
    keys: T,
}

fn contents(usable_keys: i64, left_out: Option<&str>) -> Result<KeySetContents, RegistryError> {
    let read = |text: &str| json::object(text.as_bytes()).map(|LeftOut { keys }| keys);
    let left_out =
        left_out.map(read).transpose().map_err(|error| RegistryError::Store(error.into()))?;
    Ok(KeySetContents {
        usable_keys: usize::try_from(usable_keys).unwrap_or_default(),
        left_out: left_out.unwrap_or_default(),
    })
}

pub(super) fn usable_keys(contents: &KeySetContents) -> i64 {
    i64::try_from(contents.usable_keys).unwrap_or(i64::MAX)
}

/// As many of `keys` as fit the column: all of them, except for an extreme key set. `None` if
/// `keys` is empty.
pub(super) fn left_out(keys: &[LeftOutKey]) -> Result<Option<String>, RegistryError> {
    let mut keys = keys;
    while !keys.is_empty() {
        let text = serde_json::to_string(&LeftOut { keys })
            .map_err(|error| RegistryError::Store(error.into()))?;
        if text.len() <= LEFT_OUT_BYTES_MAX {
            return Ok(Some(text));
        }
        keys = &keys[..keys.len() / 2];
    }
    Ok(None)
}

pub(super) fn api_key_record(
    row: api_keys::Model,
    owner: &str,
) -> Result<ApiKeyRecord, RegistryError> {
    Ok(ApiKeyRecord {
        id: ApiKeyId(row.id),
        username: username(owner)?,
        identifier: uuid(&row.identifier)?,
        comment: row.comment,
        expires_at: millis(row.expires_at),
        revoked_at: row.revoked_at.map(millis),
        last_used_on: row.last_used_on.map(millis),
        created_at: millis(row.created_at),
    })
}

pub(super) fn grant_record(
    row: token_grants::Model,
    owner: &str,
) -> Result<GrantRecord, RegistryError> {
    let refresh = match (row.refresh_jti, row.refresh_seed, row.refresh_expires_at) {
        (Some(jti), Some(seed), Some(expires_at)) => Some(RefreshRecord {
            jti: uuid(&jti)?,
            seed: uuid(&seed)?,
            expires_at: millis(expires_at),
            rotated_at: row.rotated_at.map(millis),
        }),
        _ => None,
    };
    let proven_by = match (row.api_key_id, row.public_key_id, row.jwks_trust_id) {
        (Some(id), _, _) => Some(Used::ApiKey(ApiKeyId(id))),
        (None, Some(id), _) => Some(Used::Key(KeyId(id))),
        (None, None, Some(id)) => Some(Used::Trust(TrustId(id))),
        (None, None, None) => None,
    };
    Ok(GrantRecord {
        id: GrantId(row.id),
        username: username(owner)?,
        family: uuid(&row.family)?,
        access_jti: uuid(&row.access_jti)?,
        refresh,
        audience: row
            .audience
            .split(AUDIENCE_SEPARATOR)
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect(),
        sid: row.sid,
        scopes: scopes(&row.scopes)?,
        proven_by,
        issued_at: millis(row.issued_at),
        access_expires_at: millis(row.access_expires_at),
        revoked_at: row.revoked_at.map(millis),
    })
}

pub(super) fn audit_event(row: audit_events::Model) -> AuditEvent {
    AuditEvent {
        id: row.id,
        at: millis(row.at),
        actor: row.actor,
        action: row.action,
        username: row.username,
        subject_id: row.subject_id,
        before: row.before,
        after: row.after,
    }
}

/// A principal with its unrevoked keys, its trusts and the `jti` of its revoked access tokens, as
/// decisions need it. A key that can no longer be read is skipped and logged: it must not make the
/// principal's other keys unusable.
pub(super) fn known_principal(
    row: &principals::Model,
    keys: Vec<public_keys::Model>,
    trusts: Vec<jwks_trusts::Model>,
    revoked: Vec<Uuid>,
) -> Result<KnownPrincipal, RegistryError> {
    let held = scopes(&row.scopes)?;
    let known_key = |key: public_keys::Model| -> Option<KnownKey> {
        let usable = PublicKey::parse(&key.key).map_err(Into::into).and_then(|parsed| {
            let narrowed = key.scopes.as_deref().map(scopes).transpose()?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((parsed, narrowed))
        });
        match usable {
            Ok((parsed, narrowed)) => {
                let scopes =
                    narrowed.map_or_else(|| held.clone(), |narrowed| held.narrowed_by(&narrowed));
                let (from, until) = (key.not_before.map(millis), key.expires_at.map(millis));
                Some(KnownKey::new(KeyId(key.id), parsed.verifying_key(), scopes, from, until))
            }
            Err(error) => {
                tracing::error!(
                    key_id = key.id,
                    principal_id = key.principal_id,
                    error,
                    "a stored key cannot be used and is left out"
                );
                None
            }
        }
    };
    let keys =
        keys.into_iter().filter(|key| key.revoked_at.is_none()).filter_map(known_key).collect();
    let trusts = trusts
        .into_iter()
        .map(|trust| KnownTrust { id: TrustId(trust.id), url: trust.jwks_url.into() })
        .collect();
    let principal =
        KnownPrincipal::new(PrincipalId(row.id), username(&row.username)?, row.is_active, held);
    Ok(principal.with_keys(keys).with_trusts(trusts).with_revoked(revoked))
}

pub(super) fn username(stored: &str) -> Result<Username, RegistryError> {
    Username::new(stored).map_err(|error| {
        RegistryError::Store(format!("the table principals holds {stored:?}: {error}").into())
    })
}

/// The `jti` of a revoked access token. If it can no longer be read, it is skipped and logged like
/// a key: no token has that `jti`.
pub(super) fn revoked_jti(grant_id: i64, stored: &str) -> Option<Uuid> {
    uuid(stored)
        .inspect_err(
            |error| tracing::error!(grant_id, error = %error, "the name of a revoked token cannot be read and is left out"),
        )
        .ok()
}

fn uuid(stored: &str) -> Result<Uuid, RegistryError> {
    let unreadable = |error| {
        RegistryError::Store(format!("the database holds {stored:?} for a UUID: {error}").into())
    };
    Uuid::try_parse(stored).map_err(unreadable)
}

fn scopes(stored: &str) -> Result<Scopes, RegistryError> {
    Scopes::parse(stored).map_err(|error| RegistryError::Store(error.into()))
}
