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

/// An API key to be added. The key itself is not kept.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// What is kept of the key.
    pub hash: SecretHash,
    /// What its holder has to name together with it.
    pub identifier: Uuid,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// Until when it may be used.
    pub expires_at: UnixMillis,
}

/// An API key as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKeyRecord {
    /// Its number.
    pub id: ApiKeyId,
    /// Whose it is.
    pub username: Username,
    /// What its holder has to name together with it.
    pub identifier: Uuid,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// Until when it may be used.
    pub expires_at: UnixMillis,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
    /// When it was used last, to within some seconds.
    pub last_used_on: Option<UnixMillis>,
    /// When it was added.
    pub created_at: UnixMillis,
}

impl ApiKeyRecord {
    /// Its state, but for when it was used.
    pub fn version(&self) -> Version {
        Version::of(&Self { last_used_on: None, ..self.clone() })
    }
}

/// An API key together with whose it is.
#[derive(Clone, Debug)]
pub struct HeldApiKey {
    /// The key.
    pub key: ApiKeyRecord,
    /// Whose it is.
    pub holder: PrincipalRecord,
}

/// Tokens to be given out: an access token, and perhaps a refresh token.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// All that follows from one login: they are revoked together.
    pub family: Uuid,
    /// The `jti` of the access token.
    pub access_jti: Uuid,
    /// The refresh token.
    pub refresh: Option<NewRefresh>,
    /// The `aud` of the access token.
    pub audience: Vec<String>,
    /// The session at the back end that asked for it (`sid`).
    pub sid: Option<String>,
    /// The `scope` of the access token.
    pub scopes: Scopes,
    /// The API key that was exchanged for it, or the key or trust that proved the client: it ends
    /// with that. None if an operator asked for it.
    pub proven_by: Option<Used>,
    /// Whether an operator asked for it, which the audit tells.
    pub is_minted: bool,
    /// When.
    pub issued_at: UnixMillis,
    /// Until when the access token may be used.
    pub access_expires_at: UnixMillis,
}

/// A refresh token to be given out. The token itself is not kept.
#[derive(Clone, Debug)]
pub struct NewRefresh {
    /// Its name.
    pub jti: Uuid,
    /// What is kept of it.
    pub hash: SecretHash,
    /// What makes it out of the one before it; see
    /// [`OpaqueToken::successor`](crate::domain::secret_token::OpaqueToken::successor).
    pub seed: Uuid,
    /// Until when it may be used.
    pub expires_at: UnixMillis,
}

/// Tokens that were given out, as they stand in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantRecord {
    /// Its number.
    pub id: GrantId,
    /// Whose it is.
    pub username: Username,
    /// All that follows from one login: they are revoked together.
    pub family: Uuid,
    /// The `jti` of the access token.
    pub access_jti: Uuid,
    /// The refresh token.
    pub refresh: Option<RefreshRecord>,
    /// The `aud` of the access token.
    pub audience: Vec<String>,
    /// The session at the back end that asked for it.
    pub sid: Option<String>,
    /// The `scope` of the access token.
    pub scopes: Scopes,
    /// The API key that was exchanged for it, or the key or trust that proved the client.
    pub proven_by: Option<Used>,
    /// When it was given out.
    pub issued_at: UnixMillis,
    /// Until when the access token may be used.
    pub access_expires_at: UnixMillis,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
}

impl GrantRecord {
    /// The API key that was exchanged for it.
    pub const fn api_key(&self) -> Option<ApiKeyId> {
        match self.proven_by {
            Some(Used::ApiKey(id)) => Some(id),
            Some(Used::Key(_) | Used::Trust(_)) | None => None,
        }
    }

    /// The key that the client signed with.
    pub const fn key(&self) -> Option<KeyId> {
        match self.proven_by {
            Some(Used::Key(id)) => Some(id),
            Some(Used::ApiKey(_) | Used::Trust(_)) | None => None,
        }
    }

    /// The trust whose key set had the key that the client signed with.
    pub const fn trust(&self) -> Option<TrustId> {
        match self.proven_by {
            Some(Used::Trust(id)) => Some(id),
            Some(Used::ApiKey(_) | Used::Key(_)) | None => None,
        }
    }
}

/// A refresh token that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefreshRecord {
    /// Its name.
    pub jti: Uuid,
    /// What makes it out of the one before it.
    #[serde(skip)]
    pub seed: Uuid,
    /// Until when it may be used.
    pub expires_at: UnixMillis,
    /// When it was exchanged for the next one.
    pub rotated_at: Option<UnixMillis>,
}

/// A grant together with whose it is.
#[derive(Clone, Debug)]
pub struct HeldGrant {
    /// The grant.
    pub grant: GrantRecord,
    /// Whose it is.
    pub holder: PrincipalRecord,
    /// The identifier of the API key that was exchanged for it.
    pub identifier: Option<Uuid>,
    /// Until when that API key may be used: nothing that it was exchanged for may be used for
    /// longer.
    pub api_key_expires_at: Option<UnixMillis>,
}

/// How a grant is found.
#[derive(Clone, Copy, Debug)]
pub enum GrantName<'a> {
    /// By the `jti` of its access token or of its refresh token.
    Jti(Uuid),
    /// By its refresh token.
    Refresh(&'a SecretHash),
}

/// What came of exchanging a refresh token for the next one.
#[derive(Clone, Debug)]
pub enum Rotation {
    /// The next one.
    Rotated(GrantRecord),
    /// It was exchanged a moment ago; this is what it was exchanged for.
    RotatedBefore(GrantRecord),
    /// It was exchanged long ago, so somebody else has it: everything of its family is revoked now.
    Reused,
    /// It was revoked, or is gone.
    Ended,
}
