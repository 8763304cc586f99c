//! API keys: making, registering, looking at and revoking them.

use std::time::Duration;

use uuid::Uuid;

use super::{
    super::{
        issue::random_uuid,
        ports::{ApiKeyRecord, NewApiKey, RegistryError, Version},
    },
    COMMENT_CHARACTERS_MAX, PAGE, Registry, check_text, every, in_time,
};
use crate::domain::{
    principal::{ApiKeyId, Username},
    secret_token::{NoRandomness, OpaqueKind, OpaqueToken, SecretHash},
    time::UnixMillis,
};

/// Longest key that a caller may choose, in characters.
const CHOSEN_KEY_CHARACTERS_MAX: usize = 1000;

/// What goes with an API key.
#[derive(Clone, Debug)]
pub struct ApiKeyTerms {
    /// What its holder has to name together with it; a new one where none is given.
    pub identifier: Option<Uuid>,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// Until when it may be used.
    pub expiry: Expiry,
}

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// At that moment.
    At(UnixMillis),
    /// So much later than now.
    In(Duration),
}

/// An API key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The registry refused it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Registry {
    /// Makes an API key for a principal. The key is told now and never again.
    pub async fn issue_api_key(
        &self,
        username: &Username,
        terms: ApiKeyTerms,
    ) -> Result<(ApiKeyRecord, OpaqueToken), ApiKeyError> {
        check_text("comment", terms.comment.as_deref(), COMMENT_CHARACTERS_MAX)?;
        let key = OpaqueToken::generate(OpaqueKind::ApiKey)?;
        let identifier = terms.identifier.map_or_else(random_uuid, Ok)?;
        let new = NewApiKey {
            hash: key.hash(),
            identifier,
            comment: terms.comment,
            expires_at: self.expires_at(terms.expiry)?,
        };
        let record = self.change(self.store.add_api_key(username, new, self.author())).await?;
        Ok((record, key))
    }

    /// Registers a key that its holder chose, for the principal that is named by `identifier`,
    /// which is added where there is none. Registering it again extends it.
    pub async fn register_api_key(
        &self,
        key: &str,
        identifier: Uuid,
        lifetime: Duration,
    ) -> Result<ApiKeyRecord, RegistryError> {
        if key.is_empty() || key.chars().count() > CHOSEN_KEY_CHARACTERS_MAX {
            return Err(RegistryError::BadText {
                what: "key",
                characters_max: CHOSEN_KEY_CHARACTERS_MAX,
            });
        }
        let expires_at = self.expires_at(Expiry::In(lifetime))?;
        let new = NewApiKey { hash: SecretHash::of(key), identifier, comment: None, expires_at };
        self.change(self.store.register_api_key(new, self.author())).await
    }

    /// The API key of that number.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<ApiKeyRecord, RegistryError> {
        in_time(self.store.api_key(id)).await
    }

    /// Up to `limit` API keys, of one principal or of all, revoked ones too, from the one after
    /// `after` on.
    pub async fn api_keys_page(
        &self,
        of: Option<&Username>,
        after: Option<ApiKeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError> {
        in_time(self.store.api_keys(of, after, limit)).await
    }

    /// Every API key, of one principal or of all, revoked ones too.
    pub async fn api_keys(
        &self,
        of: Option<&Username>,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError> {
        every(|after| self.api_keys_page(of, after, PAGE), |key: &ApiKeyRecord| key.id).await
    }

    /// Revokes an API key, if it still is at `expected`, and all tokens that it was exchanged for.
    pub async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        expected: Option<Version>,
    ) -> Result<ApiKeyRecord, RegistryError> {
        self.change(self.store.revoke_api_key(id, expected, self.author())).await
    }

    fn expires_at(&self, expiry: Expiry) -> Result<UnixMillis, RegistryError> {
        let now = self.clock.now();
        let at = match expiry {
            Expiry::At(at) => at,
            Expiry::In(duration) => now.saturating_add(duration).min(UnixMillis::LAST_WRITABLE),
        };
        if at > now { Ok(at) } else { Err(RegistryError::NeverUsable) }
    }
}
