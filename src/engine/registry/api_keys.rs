//! API keys: creating, registering, reading and revoking them.

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

/// Maximum length of a key that a caller chooses, in characters.
const CHOSEN_KEY_CHARACTERS_MAX: usize = 1000;

/// The terms of an API key.
#[derive(Clone, Debug)]
pub struct ApiKeyTerms {
    /// The identifier that must be sent together with the key; `None` generates one.
    pub identifier: Option<Uuid>,
    /// The owner's label.
    pub comment: Option<String>,
    /// When the key expires.
    pub expiry: Expiry,
}

/// When something expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// At this time.
    At(UnixMillis),
    /// This long after now.
    In(Duration),
}

/// Why an API key cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The registry failed or refused it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Registry {
    /// Creates an API key for a principal. The key is returned only once; only its hash is stored.
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

    /// Registers a key that the caller chose, for the principal that `identifier` names. The
    /// principal is added if it does not exist. Registering the key again updates its expiry.
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

    /// The API key with that id.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<ApiKeyRecord, RegistryError> {
        in_time(self.store.api_key(id)).await
    }

    /// Up to `limit` API keys, of one principal or of all, including revoked ones, starting after
    /// `after`.
    pub async fn api_keys_page(
        &self,
        of: Option<&Username>,
        after: Option<ApiKeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError> {
        in_time(self.store.api_keys(of, after, limit)).await
    }

    /// All API keys, of one principal or of all, including revoked ones.
    pub async fn api_keys(
        &self,
        of: Option<&Username>,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError> {
        every(|after| self.api_keys_page(of, after, PAGE), |key: &ApiKeyRecord| key.id).await
    }

    /// Revokes an API key, if its version still is `expected`, and all tokens that it was exchanged
    /// for.
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
