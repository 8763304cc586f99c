//! API keys and grants.

use serde::Serialize;
use uuid::Uuid;

use super::{PrincipalRecord, Version};
use crate::domain::{
    decision::Used,
    principal::{ApiKeyId, GrantId, KeyId, TrustId, Username},
    scope::Scopes,
    secret_token::SecretHash,
    time::UnixMillis,
};

/// An API key to add. Only its hash is stored.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// The hash of the key.
    pub hash: SecretHash,
    /// The identifier that must be sent together with the key.
    pub identifier: Uuid,
    /// The owner's label.
    pub comment: Option<String>,
    /// When the key expires.
    pub expires_at: UnixMillis,
}

/// An API key as stored in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKeyRecord {
    /// Unique id.
    pub id: ApiKeyId,
    /// Username of the owning principal.
    pub username: Username,
    /// The identifier that must be sent together with the key.
    pub identifier: Uuid,
    /// The owner's label.
    pub comment: Option<String>,
    /// When the key expires.
    pub expires_at: UnixMillis,
    /// When the key was revoked; `None` if it was not.
    pub revoked_at: Option<UnixMillis>,
    /// When the key was last used, to within some seconds; `None` if never.
    pub last_used_on: Option<UnixMillis>,
    /// When the key was added.
    pub created_at: UnixMillis,
}

impl ApiKeyRecord {
    /// The version of this state; the time of last use is not part of it.
    pub fn version(&self) -> Version {
        Version::of(&Self { last_used_on: None, ..self.clone() })
    }
}

/// An API key and its owner.
#[derive(Clone, Debug)]
pub struct HeldApiKey {
    /// The API key's row.
    pub key: ApiKeyRecord,
    /// The owning principal.
    pub holder: PrincipalRecord,
}

/// Tokens to issue: an access token, and optionally a refresh token.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// Identifies all grants that follow from one login; they are revoked together.
    pub family: Uuid,
    /// The `jti` of the access token.
    pub access_jti: Uuid,
    /// The refresh token; `None` if none is issued.
    pub refresh: Option<NewRefresh>,
    /// The `aud` of the access token.
    pub audience: Vec<String>,
    /// The back end's session id (`sid`).
    pub sid: Option<String>,
    /// The `scope` of the access token.
    pub scopes: Scopes,
    /// The API key that was exchanged for the grant, or the key or trust that authenticated the
    /// client; the grant ends with it. `None` if an operator asked for the grant.
    pub proven_by: Option<Used>,
    /// Whether an operator asked for the grant, which adds an audit event.
    pub is_minted: bool,
    /// When the tokens are issued.
    pub issued_at: UnixMillis,
    /// When the access token expires.
    pub access_expires_at: UnixMillis,
}

/// A refresh token to issue. Only its hash is stored.
#[derive(Clone, Debug)]
pub struct NewRefresh {
    /// Unique id of the token (`jti`).
    pub jti: Uuid,
    /// The hash of the token.
    pub hash: SecretHash,
    /// Derives this token from its predecessor; see
    /// [`OpaqueToken::successor`](crate::domain::secret_token::OpaqueToken::successor).
    pub seed: Uuid,
    /// When the token expires.
    pub expires_at: UnixMillis,
}

/// A grant (issued tokens) as stored in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantRecord {
    /// Unique id.
    pub id: GrantId,
    /// Username of the owning principal.
    pub username: Username,
    /// Identifies all grants that follow from one login; they are revoked together.
    pub family: Uuid,
    /// The `jti` of the access token.
    pub access_jti: Uuid,
    /// The refresh token; `None` if none was issued.
    pub refresh: Option<RefreshRecord>,
    /// The `aud` of the access token.
    pub audience: Vec<String>,
    /// The back end's session id (`sid`).
    pub sid: Option<String>,
    /// The `scope` of the access token.
    pub scopes: Scopes,
    /// The API key that was exchanged for the grant, or the key or trust that authenticated the
    /// client; `None` if an operator asked for it.
    pub proven_by: Option<Used>,
    /// When the tokens were issued.
    pub issued_at: UnixMillis,
    /// When the access token expires.
    pub access_expires_at: UnixMillis,
    /// When the grant was revoked; `None` if it was not.
    pub revoked_at: Option<UnixMillis>,
}

impl GrantRecord {
    /// The API key that was exchanged for the grant.
    pub const fn api_key(&self) -> Option<ApiKeyId> {
        match self.proven_by {
            Some(Used::ApiKey(id)) => Some(id),
            Some(Used::Key(_) | Used::Trust(_)) | None => None,
        }
    }

    /// The registered key that signed the client's assertion.
    pub const fn key(&self) -> Option<KeyId> {
        match self.proven_by {
            Some(Used::Key(id)) => Some(id),
            Some(Used::ApiKey(_) | Used::Trust(_)) | None => None,
        }
    }

    /// The trust whose key set has the key that signed the client's assertion.
    pub const fn trust(&self) -> Option<TrustId> {
        match self.proven_by {
            Some(Used::Trust(id)) => Some(id),
            Some(Used::ApiKey(_) | Used::Key(_)) | None => None,
        }
    }
}

/// A refresh token as stored in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefreshRecord {
    /// Unique id of the token (`jti`).
    pub jti: Uuid,
    /// Derives this token from its predecessor.
    #[serde(skip)]
    pub seed: Uuid,
    /// When the token expires.
    pub expires_at: UnixMillis,
    /// When the token was exchanged for its successor; `None` if it was not.
    pub rotated_at: Option<UnixMillis>,
}

/// A grant and its owner.
#[derive(Clone, Debug)]
pub struct HeldGrant {
    /// The grant's row.
    pub grant: GrantRecord,
    /// The owning principal.
    pub holder: PrincipalRecord,
    /// The identifier of the API key that was exchanged for the grant.
    pub identifier: Option<Uuid>,
    /// When that API key expires: nothing that it was exchanged for may be used for longer.
    pub api_key_expires_at: Option<UnixMillis>,
}

/// Ways to find a grant.
#[derive(Clone, Copy, Debug)]
pub enum GrantName<'a> {
    /// By the `jti` of its access token or its refresh token.
    Jti(Uuid),
    /// By the hash of its refresh token.
    Refresh(&'a SecretHash),
}

/// The result of exchanging a refresh token for its successor.
#[derive(Clone, Debug)]
pub enum Rotation {
    /// The successor was added.
    Rotated(GrantRecord),
    /// The token was exchanged a moment ago; this is its successor.
    RotatedBefore(GrantRecord),
    /// The token was exchanged long ago, so someone else has it: its whole family is revoked now.
    Reused,
    /// The token was revoked, or no longer exists.
    Ended,
}
