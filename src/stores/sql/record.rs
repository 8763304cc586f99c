//! Rows, and what they mean.

use sea_orm::prelude::TimeDateTime;

use super::entity::{principals, public_keys};
use crate::{
    domain::{
        key::{PublicKey, VerifyingKey},
        principal::{KeyId, KnownKey, KnownPrincipal, PrincipalId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{KeyRecord, PrincipalRecord, RegistryError},
};

/// Columns hold UTC without saying so: as values with a zone, MariaDB takes none after 2038.
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
            created_at: millis(row.created_at),
            updated_at: millis(row.updated_at),
        })
    }
}

pub(super) fn key_record(row: public_keys::Model, owner: &str) -> Result<KeyRecord, RegistryError> {
    Ok(KeyRecord {
        id: KeyId(row.id),
        username: username(owner)?,
        fingerprint: row.fingerprint,
        family: row.family,
        comment: row.comment,
        scopes: row.scopes.as_deref().map(scopes).transpose()?,
        not_before: row.not_before.map(millis),
        expires_at: row.expires_at.map(millis),
        revoked_at: row.revoked_at.map(millis),
        last_used_on: row.last_used_on.map(millis),
        created_at: millis(row.created_at),
    })
}

/// A principal with its unrevoked keys as decisions need it. A key that can no longer be read is left out and logged: it must
/// not take the principal's other keys with it.
pub(super) fn known_principal(row: &principals::Model, keys: Vec<public_keys::Model>) -> Result<KnownPrincipal, RegistryError> {
    let held = scopes(&row.scopes)?;
    let known_key = |key: public_keys::Model| -> Option<KnownKey> {
        let usable = PublicKey::parse(&key.key).map_err(Into::into).and_then(|parsed| {
            let narrowed = key.scopes.as_deref().map(scopes).transpose()?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((parsed.key, narrowed))
        });
        match usable {
            Ok((parsed, narrowed)) => {
                let scopes = narrowed.map_or_else(|| held.clone(), |narrowed| held.narrowed_by(&narrowed));
                let (from, until) = (key.not_before.map(millis), key.expires_at.map(millis));
                Some(KnownKey::new(KeyId(key.id), VerifyingKey::new(&parsed), scopes, from, until))
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
    let keys = keys.into_iter().filter(|key| key.revoked_at.is_none()).filter_map(known_key).collect();
    Ok(KnownPrincipal::new(PrincipalId(row.id), username(&row.username)?, row.is_active, keys))
}

pub(super) fn username(stored: &str) -> Result<Username, RegistryError> {
    Username::new(stored).map_err(|error| RegistryError::Store(format!("the table principals holds {stored:?}: {error}").into()))
}

fn scopes(stored: &str) -> Result<Scopes, RegistryError> {
    Scopes::parse(stored).map_err(|error| RegistryError::Store(error.into()))
}
