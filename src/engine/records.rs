//! What stands in the registry, how it is changed, and why that may fail.

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

/// Who makes a change, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// Who, as audit events name it.
    pub actor: &'a str,
    /// When.
    pub now: UnixMillis,
}

/// A principal to be added.
#[derive(Clone, Debug)]
pub struct NewPrincipal {
    /// Its name, not in use yet.
    pub username: Username,
    /// Whether it may pass.
    pub is_active: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// Who it is for people.
    pub profile: Profile,
    /// Its first keys.
    pub keys: Vec<NewKey>,
    /// The URLs of its first trusts.
    pub jwks_urls: Vec<String>,
}

impl NewPrincipal {
    /// An enabled principal with nothing but a name.
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

/// A principal as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrincipalRecord {
    /// Its number.
    pub id: PrincipalId,
    /// Its name.
    pub username: Username,
    /// Whether it may pass.
    pub is_active: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// Who it is for people.
    #[serde(flatten)]
    pub profile: Profile,
    /// When it was added.
    pub created_at: UnixMillis,
    /// When it was changed last.
    pub updated_at: UnixMillis,
}

/// What is to be different about a principal; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalChange {
    /// Whether it may pass.
    pub is_active: Option<bool>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// Given name; `Some(None)` takes it away.
    pub given_name: Option<Option<String>>,
    /// Family name.
    pub family_name: Option<Option<String>>,
    /// E-mail address.
    pub email: Option<Option<String>>,
}

/// A public key to be added.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key as it was given, for display.
    pub as_given: String,
    /// The key as it was read.
    pub key: PublicKey,
    /// What goes with it.
    pub terms: KeyTerms,
}

/// What goes with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyTerms {
    /// What the owner calls it; the comment of an OpenSSH key where none is given.
    pub comment: Option<String>,
    /// What it may be used for, where that is less than what its principal may do.
    pub scopes: Option<Scopes>,
    /// From when on it may be used.
    pub not_before: Option<UnixMillis>,
    /// Until when it may be used.
    pub expires_at: Option<UnixMillis>,
}

/// A public key as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Its number.
    pub id: KeyId,
    /// Whose it is.
    pub username: Username,
    /// The key as it was given.
    pub key: String,
    /// The fingerprint, in hexadecimal digits.
    pub fingerprint: String,
    /// The kind of key, by its name.
    pub family: String,
    /// What goes with it.
    #[serde(flatten)]
    pub terms: KeyTerms,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
    /// When it was used last, to within some seconds.
    pub last_used_on: Option<UnixMillis>,
    /// When it was added.
    pub created_at: UnixMillis,
}

/// What is to be different about a key; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// What the owner calls it; `Some(None)` takes it away.
    pub comment: Option<Option<String>>,
    /// What it may be used for; `Some(None)` is all that its principal may do.
    pub scopes: Option<Option<Scopes>>,
    /// From when on it may be used; `Some(None)` is since ever.
    pub not_before: Option<Option<UnixMillis>>,
    /// Until when it may be used; `Some(None)` is for ever.
    pub expires_at: Option<Option<UnixMillis>>,
    /// Whether to revoke it, for good. One that is revoked already keeps its first date.
    pub revoke: bool,
}

impl KeyChange {
    /// Revokes the key and changes nothing else.
    pub const REVOCATION: Self =
        Self { comment: None, scopes: None, not_before: None, expires_at: None, revoke: true };

    /// What goes with the key after the change.
    pub fn applied_to(self, terms: &KeyTerms) -> KeyTerms {
        KeyTerms {
            comment: self.comment.unwrap_or_else(|| terms.comment.clone()),
            scopes: self.scopes.unwrap_or_else(|| terms.scopes.clone()),
            not_before: self.not_before.unwrap_or(terms.not_before),
            expires_at: self.expires_at.unwrap_or(terms.expires_at),
        }
    }
}

/// A trust as it stands in the registry: the keys of the set at `jwks_url` count as the
/// principal's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrustRecord {
    /// Its number.
    pub id: TrustId,
    /// Whose it is.
    pub username: Username,
    /// Where the key set is.
    pub jwks_url: String,
    /// When a key of the set was used last, to within some seconds.
    pub last_used_on: Option<UnixMillis>,
    /// When the set was fetched last, by any replica.
    pub last_fetched_at: Option<UnixMillis>,
    /// Why the last fetch failed; none where it did not.
    pub last_error: Option<String>,
    /// What the set had for us when it was fetched last; none if it never was. Not what anybody
    /// changed, so no part of its state.
    #[serde(skip)]
    pub contents: Option<KeySetContents>,
    /// When it was added.
    pub created_at: UnixMillis,
}

/// A change to the registry, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: UnixMillis,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// Whom it concerns.
    pub username: String,
    /// The number of the principal, key or trust that was changed.
    pub subject_id: i64,
    /// What it was before, as JSON; none where it is new.
    pub before: Option<String>,
    /// What it is now, as JSON; none where it is gone.
    pub after: Option<String>,
}

/// Tells one state of a record from every other. What is noted about its use is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    fn of(state: &impl std::fmt::Debug) -> Self {
        let digest = digest::digest(&digest::SHA256, format!("{state:?}").as_bytes());
        Self(digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

impl PrincipalRecord {
    /// Its state.
    pub fn version(&self) -> Version {
        Version::of(self)
    }
}

impl KeyRecord {
    /// Its state, but for when it was used.
    pub fn version(&self) -> Version {
        Version::of(&Self { last_used_on: None, ..self.clone() })
    }

    /// Whether it may be used at `now`, as far as it alone says.
    pub fn is_usable(&self, now: UnixMillis) -> bool {
        let KeyTerms { not_before, expires_at, .. } = self.terms;
        self.revoked_at.is_none()
            && not_before.is_none_or(|from| from <= now)
            && expires_at.is_none_or(|until| now < until)
    }
}

impl TrustRecord {
    /// Its state, but for when it was used and fetched.
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

/// Why a change to the registry, or a look at it, failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The username is taken.
    #[error("there is already a principal named {0:?}")]
    PrincipalExists(String),
    /// The principal has that key.
    #[error("{username:?} already has the key {fingerprint}; a revoked key cannot be added again")]
    KeyExists {
        /// Whose key it is.
        username: String,
        /// Which one.
        fingerprint: String,
    },
    /// The principal has that trust.
    #[error("{username:?} already trusts {jwks_url}")]
    TrustExists {
        /// Whose trust it is.
        username: String,
        /// In what.
        jwks_url: String,
    },
    /// Nobody has that name.
    #[error("there is no principal named {0:?}; list them with `countersign principal list`")]
    NoSuchPrincipal(String),
    /// No key has that number.
    #[error("there is no key with the id {0}; list them with `countersign key list`")]
    NoSuchKey(KeyId),
    /// No trust has that number.
    #[error("there is no trust with the id {0}; list them with `countersign trust list`")]
    NoSuchTrust(TrustId),
    /// That API key is registered already, for another identifier or revoked.
    #[error(
        "that API key is registered for another identifier, or was revoked; choose another key"
    )]
    ApiKeyExists,
    /// No API key has that number.
    #[error("there is no API key with the id {0}; list them with `countersign api-key list`")]
    NoSuchApiKey(ApiKeyId),
    /// No grant has that number.
    #[error("there is no token with the id {0}")]
    NoSuchGrant(GrantId),
    /// It was changed since it was looked at.
    #[error("it was changed since; look at it again before changing it")]
    Changed,
    /// It would never be usable.
    #[error(
        "the key would expire before it may be used; give an expiry that lies after its start and after now"
    )]
    NeverUsable,
    /// A text that cannot be kept.
    #[error(
        "{what} has to have 1 to {characters_max} characters, none of them a control character"
    )]
    BadText {
        /// Which.
        what: &'static str,
        /// How many characters it may have.
        characters_max: usize,
    },
    /// The tables are not there, or not those of this version.
    #[error("the database is not migrated; run `countersign migrate up`")]
    NotMigrated(#[source] Box<dyn Error + Send + Sync>),
    /// The database takes no changes.
    #[error(
        "the database is read-only; if another server took over, `database.url` has to lead there"
    )]
    ReadOnly(#[source] Box<dyn Error + Send + Sync>),
    /// The database failed or cannot be reached.
    #[error("the database failed")]
    Store(#[source] Box<dyn Error + Send + Sync>),
}
