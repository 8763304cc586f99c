//! Rows, and what they mean.

use sea_orm::prelude::TimeDateTime;

use super::entity::{audit_events, jwks_trusts, principals, public_keys};
use crate::{
    domain::{
        key::{PublicKey, VerifyingKey},
        principal::{KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, TrustId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{AuditEvent, KeyRecord, KeyTerms, PrincipalRecord, Profile, RegistryError, TrustRecord},
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
            profile: Profile { given_name: row.given_name, family_name: row.family_name, email: row.email },
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

pub(super) fn trust_record(row: jwks_trusts::Model, owner: &str) -> Result<TrustRecord, RegistryError> {
    Ok(TrustRecord {
        id: TrustId(row.id),
        username: username(owner)?,
        jwks_url: row.jwks_url,
        last_used_on: row.last_used_on.map(millis),
        last_fetched_at: row.last_fetched_at.map(millis),
        last_error: row.last_error,
        created_at: millis(row.created_at),
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

/// A principal with its unrevoked keys and its trusts as decisions need it. A key that can no longer be read is left out and logged: it must
/// not take the principal's other keys with it.
pub(super) fn known_principal(
    row: &principals::Model,
    keys: Vec<public_keys::Model>,
    trusts: Vec<jwks_trusts::Model>,
) -> Result<KnownPrincipal, RegistryError> {
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
    let trusts = trusts.into_iter().map(|trust| KnownTrust { id: TrustId(trust.id), url: trust.jwks_url.into() }).collect();
    let principal = KnownPrincipal::new(PrincipalId(row.id), username(&row.username)?, row.is_active, held);
    Ok(principal.with_keys(keys).with_trusts(trusts))
}

pub(super) fn username(stored: &str) -> Result<Username, RegistryError> {
    Username::new(stored).map_err(|error| RegistryError::Store(format!("the table principals holds {stored:?}: {error}").into()))
}

fn scopes(stored: &str) -> Result<Scopes, RegistryError> {
    Scopes::parse(stored).map_err(|error| RegistryError::Store(error.into()))
}
