//! Accounts of another system: what its database holds, what the registry has of it, and what of it
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
    /// Its table.
    pub table: Arc<str>,
    /// Its primary key.
    pub id: String,
}

/// The table and the number, as in `asymmetric_jwt_auth_publickey 17`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.id)
    }
}

/// An account as the other system has it. Nothing of it is checked.
#[derive(Clone, Debug)]
pub struct LegacyAccount {
    /// Where it stands.
    pub origin: Origin,
    /// Its place among the accounts, from which the next page is asked for.
    pub cursor: String,
    /// What it is called there.
    pub unverified_username: String,
    /// Who it is; none where that system does not know.
    pub person: Option<LegacyPerson>,
    /// When it was added there.
    pub created_at: Option<UnixMillis>,
    /// Its public keys.
    pub keys: Vec<LegacyKey>,
    /// The key sets that it trusts.
    pub trusts: Vec<LegacyTrust>,
    /// Its API keys.
    pub api_keys: Vec<LegacyApiKey>,
    /// Its refresh tokens that belong to no API key, and are not over.
    pub refresh_tokens: Vec<LegacyRefreshToken>,
}

/// Who an account is.
#[derive(Clone, Debug)]
pub struct LegacyPerson {
    /// Whether it may pass.
    pub is_active: bool,
    /// What people call it.
    pub profile: Profile,
}

/// A public key as the other system has it.
#[derive(Clone, Debug)]
pub struct LegacyKey {
    /// Where it stands.
    pub origin: Origin,
    /// The key.
    pub text: String,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// When it was used last.
    pub last_used_on: Option<UnixMillis>,
}

/// A trusted key set as the other system has it.
#[derive(Clone, Debug)]
pub struct LegacyTrust {
    /// Where it stands.
    pub origin: Origin,
    /// Where the key set is.
    pub url: String,
    /// When a key of it was used last.
    pub last_used_on: Option<UnixMillis>,
}

/// An API key as the other system has it.
#[derive(Clone, Debug)]
pub struct LegacyApiKey {
    /// Where it stands.
    pub origin: Origin,
    /// SHA-512 of the key, in hexadecimal digits.
    pub key_hash: String,
    /// What its holder names together with it.
    pub identifier: String,
    /// Until when it may be used; none where that cannot be read.
    pub expires_at: Option<UnixMillis>,
    /// When it was added there.
    pub created_at: Option<UnixMillis>,
    /// The refresh tokens that it was exchanged for, and that are not over.
    pub refresh_tokens: Vec<LegacyRefreshToken>,
}

/// A refresh token as the other system has it.
#[derive(Clone, Debug)]
pub struct LegacyRefreshToken {
    /// Where it stands.
    pub origin: Origin,
    /// The token.
    pub text: SecretString,
    /// The `aud` of the access tokens that it is exchanged for.
    pub audience: Vec<String>,
    /// The session at the back end that asked for it.
    pub sid: Option<String>,
    /// When it was given out.
    pub issued_at: Option<UnixMillis>,
    /// Until when it may be used; none where that cannot be read.
    pub expires_at: Option<UnixMillis>,
}

/// How much there is in the other system's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyTotals {
    /// How many accounts are to be taken over.
    pub accounts: u64,
    /// How many rows are not, as nothing depends on them.
    pub passed_over: u64,
    /// What kind of rows those are.
    pub passed_over_kind: &'static str,
}

/// Why the other system's database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// It cannot be reached. The URL, which may hold a password, is not shown.
    #[error("the database to import from cannot be reached; check the URL that --database gives")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// It has not the tables of that system.
    #[error("the database to import from has no {missing}; is it the one of {system}?")]
    AnotherSystem {
        /// The table or column.
        missing: String,
        /// The system.
        system: &'static str,
    },
    /// It failed.
    #[error("the database to import from failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// What to look for in the registry.
#[derive(Clone, Debug, Default)]
pub struct ImportLookup {
    /// Principals, with their keys and trusts.
    pub usernames: Vec<Username>,
    /// API keys.
    pub api_keys: Vec<SecretHash>,
    /// Refresh tokens.
    pub refresh_tokens: Vec<SecretHash>,
}

/// What the registry has of it.
#[derive(Clone, Debug, Default)]
pub struct ExistingRecords {
    /// Principals by name.
    pub principals: HashMap<Username, ExistingPrincipal>,
    /// API keys, whosever they are.
    pub api_keys: HashMap<SecretHash, HeldApiKey>,
    /// Refresh tokens, whosever they are.
    pub refresh_tokens: HashSet<SecretHash>,
}

/// A principal with all its keys and trusts.
#[derive(Clone, Debug)]
pub struct ExistingPrincipal {
    /// The principal.
    pub record: PrincipalRecord,
    /// The fingerprints of its keys, and whether each is revoked.
    pub keys: HashMap<String, bool>,
    /// The URLs of its trusts.
    pub jwks_urls: HashSet<String>,
}

/// What is to be added of one account.
#[derive(Clone, Debug)]
pub struct AddedAccount {
    /// To whom.
    pub holder: AddedHolder,
    /// Public keys, and when each was used last.
    pub keys: Vec<(NewKey, Option<UnixMillis>)>,
    /// URLs of trusts, and when each was used last.
    pub trusts: Vec<(String, Option<UnixMillis>)>,
    /// API keys.
    pub api_keys: Vec<AddedApiKey>,
    /// Grants that belong to no API key, or to one that the registry has.
    pub grants: Vec<NewGrant>,
}

/// To whom something is added.
#[derive(Clone, Debug)]
pub enum AddedHolder {
    /// A principal that is added, and when it began.
    New(NewPrincipal, UnixMillis),
    /// One that is there.
    Known(PrincipalId),
}

/// An API key that is added.
#[derive(Clone, Debug)]
pub struct AddedApiKey {
    /// The key.
    pub new: NewApiKey,
    /// When it was added in the other system.
    pub created_at: UnixMillis,
    /// What it was exchanged for.
    pub grants: Vec<NewGrant>,
}
