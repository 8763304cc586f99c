//! Accounts of another system: what its database contains, what the registry already has, and what
//! is to be added.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fmt,
    sync::Arc,
};

use secrecy::SecretString;

use super::{HeldApiKey, NewApiKey, NewGrant, NewKey, NewPrincipal, PrincipalRecord, Profile};
use crate::domain::{
    principal::{PrincipalId, Username},
    secret_token::SecretHash,
    time::UnixMillis,
};

/// A row of the other system's database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The table's name.
    pub table: Arc<str>,
    /// The primary key, as text.
    pub id: String,
}

/// Table and primary key, as in `asymmetric_jwt_auth_publickey 17`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.id)
    }
}

/// An account as the other system stores it, unchecked.
#[derive(Clone, Debug)]
pub struct LegacyAccount {
    /// The row of the account.
    pub origin: Origin,
    /// The position among the accounts; the next page starts after it.
    pub cursor: String,
    /// The username in the other system.
    pub unverified_username: String,
    /// The person's data; `None` if the other system does not have it.
    pub person: Option<LegacyPerson>,
    /// When the account was added in the other system.
    pub created_at: Option<UnixMillis>,
    /// Its public keys.
    pub keys: Vec<LegacyKey>,
    /// The key sets that it trusts.
    pub trusts: Vec<LegacyTrust>,
    /// Its API keys.
    pub api_keys: Vec<LegacyApiKey>,
    /// Its refresh tokens that belong to no API key and have not ended.
    pub refresh_tokens: Vec<LegacyRefreshToken>,
}

/// The person behind an account.
#[derive(Clone, Debug)]
pub struct LegacyPerson {
    /// `false` if the account is disabled.
    pub is_active: bool,
    /// Names and e-mail address.
    pub profile: Profile,
}

/// A public key as the other system stores it.
#[derive(Clone, Debug)]
pub struct LegacyKey {
    /// The row of the key.
    pub origin: Origin,
    /// The key's text, in any format.
    pub text: String,
    /// The owner's label.
    pub comment: Option<String>,
    /// When the key was last used.
    pub last_used_on: Option<UnixMillis>,
}

/// A trusted key set as the other system stores it.
#[derive(Clone, Debug)]
pub struct LegacyTrust {
    /// The row of the trust.
    pub origin: Origin,
    /// The URL of the key set.
    pub url: String,
    /// When a key of the set was last used.
    pub last_used_on: Option<UnixMillis>,
}

/// An API key as the other system stores it.
#[derive(Clone, Debug)]
pub struct LegacyApiKey {
    /// The row of the API key.
    pub origin: Origin,
    /// SHA-512 of the key, in hexadecimal digits.
    pub key_hash: String,
    /// The identifier that must be sent together with the key.
    pub identifier: String,
    /// When the key expires; `None` if the value is unreadable.
    pub expires_at: Option<UnixMillis>,
    /// When the key was added in the other system.
    pub created_at: Option<UnixMillis>,
    /// The refresh tokens that the key was exchanged for and that have not ended.
    pub refresh_tokens: Vec<LegacyRefreshToken>,
}

/// A refresh token as the other system stores it.
#[derive(Clone, Debug)]
pub struct LegacyRefreshToken {
    /// The row of the refresh token.
    pub origin: Origin,
    /// The token itself.
    pub text: SecretString,
    /// The `aud` of the access tokens that it can be exchanged for.
    pub audience: Vec<String>,
    /// The back end's session id (`sid`).
    pub sid: Option<String>,
    /// When the token was issued.
    pub issued_at: Option<UnixMillis>,
    /// When the token expires; `None` if the value is unreadable.
    pub expires_at: Option<UnixMillis>,
}

/// The number of rows in the other system's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyTotals {
    /// The number of accounts to import.
    pub accounts: u64,
    /// The number of rows to skip, since nothing depends on them.
    pub passed_over: u64,
    /// The kind of the skipped rows.
    pub passed_over_kind: &'static str,
}

/// Why the other system's database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The database is unreachable. The error does not show the URL, which may contain a password.
    #[error("the database to import from cannot be reached; check the URL that --database gives")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The database does not have the tables of that system.
    #[error("the database to import from has no {missing}; is it the one of {system}?")]
    AnotherSystem {
        /// The missing table or column.
        missing: String,
        /// The system that was expected.
        system: &'static str,
    },
    /// The database failed.
    #[error("the database to import from failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// What to look up in the registry before an import.
#[derive(Clone, Debug, Default)]
pub struct ImportLookup {
    /// Principals, to be returned with their keys and trusts.
    pub usernames: Vec<Username>,
    /// Hashes of API keys.
    pub api_keys: Vec<SecretHash>,
    /// Hashes of refresh tokens.
    pub refresh_tokens: Vec<SecretHash>,
}

/// The parts of an [`ImportLookup`] that the registry already has.
#[derive(Clone, Debug, Default)]
pub struct ExistingRecords {
    /// Principals by name.
    pub principals: HashMap<Username, ExistingPrincipal>,
    /// API keys by hash, of any principal.
    pub api_keys: HashMap<SecretHash, HeldApiKey>,
    /// Hashes of refresh tokens, of any principal.
    pub refresh_tokens: HashSet<SecretHash>,
}

/// An existing principal with all its keys and trusts.
#[derive(Clone, Debug)]
pub struct ExistingPrincipal {
    /// The principal's row.
    pub record: PrincipalRecord,
    /// Fingerprints of its keys, each with whether the key is revoked.
    pub keys: HashMap<String, bool>,
    /// URLs of its trusts.
    pub jwks_urls: HashSet<String>,
}

/// What to add for one account.
#[derive(Clone, Debug)]
pub struct AddedAccount {
    /// The principal that receives the rest.
    pub holder: AddedHolder,
    /// Public keys, each with its time of last use.
    pub keys: Vec<(NewKey, Option<UnixMillis>)>,
    /// URLs of trusts, each with its time of last use.
    pub trusts: Vec<(String, Option<UnixMillis>)>,
    /// API keys with their grants.
    pub api_keys: Vec<AddedApiKey>,
    /// Grants without an API key, or with one that the registry already has.
    pub grants: Vec<NewGrant>,
}

/// The principal that receives imported keys, trusts and tokens.
#[derive(Clone, Debug)]
pub enum AddedHolder {
    /// A new principal, with the time at which the account was created.
    New(NewPrincipal, UnixMillis),
    /// An existing principal.
    Known(PrincipalId),
}

/// An API key to add.
#[derive(Clone, Debug)]
pub struct AddedApiKey {
    /// The key's data.
    pub new: NewApiKey,
    /// When the key was added in the other system.
    pub created_at: UnixMillis,
    /// The grants that the key was exchanged for.
    pub grants: Vec<NewGrant>,
}
