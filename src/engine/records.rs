//! The rows of the registry, how they are changed, and why a change may fail.

mod import;
mod tokens;

use std::error::Error;

use aws_lc_rs::digest;
use serde::Serialize;

pub use self::import::{
    AddedAccount, AddedApiKey, AddedHolder, ExistingPrincipal, ExistingRecords, ImportLookup,
    LegacyAccount, LegacyApiKey, LegacyError, LegacyKey, LegacyPerson, LegacyRefreshToken,
    LegacyTotals, LegacyTrust, Origin,
};
pub use self::tokens::{
    ApiKeyRecord, GrantName, GrantRecord, HeldApiKey, HeldGrant, NewApiKey, NewGrant, NewRefresh,
    RefreshRecord, Rotation,
};
pub use crate::domain::profile::Profile;
use crate::domain::{
    key::PublicKey,
    key_set::KeySetContents,
    principal::{ApiKeyId, GrantId, KeyId, PrincipalId, TrustId, Username},
    scope::Scopes,
    time::UnixMillis,
};

/// The author and time of a change.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The author's name in audit events.
    pub actor: &'a str,
    /// The time of the change.
    pub now: UnixMillis,
}

/// A principal to be added.
#[derive(Clone, Debug)]
pub struct NewPrincipal {
    /// Unique name; fails if it is taken.
    pub username: Username,
    /// `false` adds it disabled: nothing it signs passes.
    pub is_active: bool,
    /// The principal's scopes.
    pub scopes: Scopes,
    /// Names and e-mail address, for people.
    pub profile: Profile,
    /// Its first registered keys.
    pub keys: Vec<NewKey>,
    /// URLs of the key sets that it trusts from the start.
    pub jwks_urls: Vec<String>,
}

impl NewPrincipal {
    /// An enabled principal with a name and nothing else.
    pub fn named(username: Username) -> Self {
        Self {
            username,
            is_active: true,
            scopes: Scopes::default(),
            profile: Profile::default(),
            keys: Vec::new(),
            jwks_urls: Vec::new(),
        }
    }
}

/// A principal as stored in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrincipalRecord {
    /// Unique id. Never reused.
    pub id: PrincipalId,
    /// Unique name.
    pub username: Username,
    /// `false` if the principal is disabled: nothing it signs passes.
    pub is_active: bool,
    /// The principal's scopes.
    pub scopes: Scopes,
    /// Names and e-mail address, for people.
    #[serde(flatten)]
    pub profile: Profile,
    /// When it was added.
    pub created_at: UnixMillis,
    /// When it was last changed.
    pub updated_at: UnixMillis,
}

/// Changes to a principal; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalChange {
    /// Enables or disables the principal.
    pub is_active: Option<bool>,
    /// The new scopes.
    pub scopes: Option<Scopes>,
    /// Given name; `Some(None)` removes it.
    pub given_name: Option<Option<String>>,
    /// Family name; `Some(None)` removes it.
    pub family_name: Option<Option<String>>,
    /// E-mail address; `Some(None)` removes it.
    pub email: Option<Option<String>>,
}

/// A public key to add.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key's original text, for display.
    pub as_given: String,
    /// The parsed key.
    pub key: PublicKey,
    /// Comment, scopes and validity.
    pub terms: KeyTerms,
}

/// Comment, scopes and validity of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyTerms {
    /// The owner's label; the comment of an OpenSSH key if none is given.
    pub comment: Option<String>,
    /// The scopes of the key; `None` for all scopes of its principal.
    pub scopes: Option<Scopes>,
    /// The key must not be used before this time; `None` if there is no start.
    pub not_before: Option<UnixMillis>,
    /// The key must not be used at or after this time; `None` if it does not expire.
    pub expires_at: Option<UnixMillis>,
}

/// A public key as stored in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Unique id.
    pub id: KeyId,
    /// Username of the owning principal.
    pub username: Username,
    /// The key's original text.
    pub key: String,
    /// The fingerprint, 64 hexadecimal digits.
    pub fingerprint: String,
    /// The name of the key's kind, such as `ed25519`.
    pub family: String,
    /// Comment, scopes and validity.
    #[serde(flatten)]
    pub terms: KeyTerms,
    /// When the key was revoked; `None` if it was not.
    pub revoked_at: Option<UnixMillis>,
    /// When the key was last used, to within some seconds; `None` if never.
    pub last_used_on: Option<UnixMillis>,
    /// When the key was added.
    pub created_at: UnixMillis,
}

/// Changes to a key; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// The owner's label; `Some(None)` removes it.
    pub comment: Option<Option<String>>,
    /// The scopes of the key; `Some(None)` means all scopes of its principal.
    pub scopes: Option<Option<Scopes>>,
    /// The start of the key's validity; `Some(None)` removes it.
    pub not_before: Option<Option<UnixMillis>>,
    /// The end of the key's validity; `Some(None)` means that it never expires.
    pub expires_at: Option<Option<UnixMillis>>,
    /// Whether to revoke the key. This cannot be undone; a key that is already revoked keeps its
    /// first date.
    pub revoke: bool,
}

impl KeyChange {
    /// A change that revokes the key and nothing else.
    pub const REVOCATION: Self =
        Self { comment: None, scopes: None, not_before: None, expires_at: None, revoke: true };

    /// The terms of the key after the change.
    pub fn applied_to(self, terms: &KeyTerms) -> KeyTerms {
        KeyTerms {
            comment: self.comment.unwrap_or_else(|| terms.comment.clone()),
            scopes: self.scopes.unwrap_or_else(|| terms.scopes.clone()),
            not_before: self.not_before.unwrap_or(terms.not_before),
            expires_at: self.expires_at.unwrap_or(terms.expires_at),
        }
    }
}

/// A trust as stored in the registry: the keys of the set at `jwks_url` count as the principal's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrustRecord {
    /// Unique id.
    pub id: TrustId,
    /// Username of the owning principal.
    pub username: Username,
    /// The URL of the key set.
    pub jwks_url: String,
    /// When a key of the set was last used, to within some seconds; `None` if never.
    pub last_used_on: Option<UnixMillis>,
    /// When any replica last fetched the set; `None` if never.
    pub last_fetched_at: Option<UnixMillis>,
    /// Why the last fetch failed; `None` if it succeeded.
    pub last_error: Option<String>,
    /// The usable keys of the set at its last fetch; `None` if it was never fetched. Nobody sets
    /// this, so it is not part of the version.
    #[serde(skip)]
    pub contents: Option<KeySetContents>,
    /// When the trust was added.
    pub created_at: UnixMillis,
}

/// A recorded change to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Unique id.
    pub id: i64,
    /// The time of the change.
    pub at: UnixMillis,
    /// The author's name.
    pub actor: String,
    /// The kind of change.
    pub action: String,
    /// Username of the principal that the change is about.
    pub username: String,
    /// The id of the row that was changed.
    pub subject_id: i64,
    /// The state before the change, as JSON; `None` if the row was added.
    pub before: Option<String>,
    /// The state after the change, as JSON; `None` if the row was removed.
    pub after: Option<String>,
}

/// Distinguishes each state of a record from every other. The time of last use is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    fn of(state: &impl std::fmt::Debug) -> Self {
        let digest = digest::digest(&digest::SHA256, format!("{state:?}").as_bytes());
        Self(digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

impl PrincipalRecord {
    /// The version of this state.
    pub fn version(&self) -> Version {
        Version::of(self)
    }
}

impl KeyRecord {
    /// The version of this state; the time of last use is not part of it.
    pub fn version(&self) -> Version {
        Version::of(&Self { last_used_on: None, ..self.clone() })
    }

    /// Whether the key may be used at `now`, regardless of its principal.
    pub fn is_usable(&self, now: UnixMillis) -> bool {
        let KeyTerms { not_before, expires_at, .. } = self.terms;
        self.revoked_at.is_none()
            && not_before.is_none_or(|from| from <= now)
            && expires_at.is_none_or(|until| now < until)
    }
}

impl TrustRecord {
    /// The version of this state; the times of last use and of fetches are not part of it.
    pub fn version(&self) -> Version {
        Version::of(&Self {
            last_used_on: None,
            last_fetched_at: None,
            last_error: None,
            contents: None,
            ..self.clone()
        })
    }
}

/// Why a read or change of the registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The username is taken.
    #[error("there is already a principal named {0:?}")]
    PrincipalExists(String),
    /// The principal already has this key.
    #[error("{username:?} already has the key {fingerprint}; a revoked key cannot be added again")]
    KeyExists {
        /// Username of the owning principal.
        username: String,
        /// The fingerprint of the key.
        fingerprint: String,
    },
    /// The principal already has this trust.
    #[error("{username:?} already trusts {jwks_url}")]
    TrustExists {
        /// Username of the owning principal.
        username: String,
        /// The URL of the key set.
        jwks_url: String,
    },
    /// There is no principal of that name.
    #[error("there is no principal named {0:?}; list them with `countersign principal list`")]
    NoSuchPrincipal(String),
    /// There is no key with that id.
    #[error("there is no key with the id {0}; list them with `countersign key list`")]
    NoSuchKey(KeyId),
    /// There is no trust with that id.
    #[error("there is no trust with the id {0}; list them with `countersign trust list`")]
    NoSuchTrust(TrustId),
    /// The API key is already registered for another identifier, or is revoked.
    #[error(
        "that API key is registered for another identifier, or was revoked; choose another key"
    )]
    ApiKeyExists,
    /// There is no API key with that id.
    #[error("there is no API key with the id {0}; list them with `countersign api-key list`")]
    NoSuchApiKey(ApiKeyId),
    /// There is no grant with that id.
    #[error("there is no token with the id {0}")]
    NoSuchGrant(GrantId),
    /// The row was changed since it was read.
    #[error("it was changed since; look at it again before changing it")]
    Changed,
    /// The key would expire before it becomes valid.
    #[error(
        "the key would expire before it may be used; give an expiry that lies after its start and after now"
    )]
    NeverUsable,
    /// A text is empty, too long or contains characters that cannot be stored.
    #[error(
        "{what} has to have 1 to {characters_max} characters, none of them a control character"
    )]
    BadText {
        /// The name of the field.
        what: &'static str,
        /// Its maximum length, in characters.
        characters_max: usize,
    },
    /// The tables are missing or not of this version.
    #[error("the database is not migrated; run `countersign migrate up`")]
    NotMigrated(#[source] Box<dyn Error + Send + Sync>),
    /// The database accepts no changes.
    #[error(
        "the database is read-only; if another server took over, `database.url` has to lead there"
    )]
    ReadOnly(#[source] Box<dyn Error + Send + Sync>),
    /// The database failed or is unreachable.
    #[error("the database failed")]
    Store(#[source] Box<dyn Error + Send + Sync>),
}
