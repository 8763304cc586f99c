//! Principals and keys: looking at them and changing them.

use std::sync::Arc;

use super::ports::{Clock, KeyRecord, NewKey, NewPrincipal, PrincipalRecord, RegistryError, RegistryStore};
use crate::domain::{
    key::{KeyError, PublicKey},
    principal::{KeyId, Username},
    scope::Scopes,
    time::UnixMillis,
};

/// How many rows one look at the store takes.
const PAGE: u64 = 1000;

/// The registry, as operators use it.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn RegistryStore>,
    clock: Arc<dyn Clock>,
}

/// A key could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddKeyError {
    /// What was given is not a public key that we take.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It would never be usable.
    #[error("the key would expire before it may be used; give an expiry that lies after its start and after now")]
    NeverUsable,
    /// The registry refused it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What goes with a new key.
#[derive(Clone, Debug, Default)]
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

impl Registry {
    /// The registry in `store`.
    pub fn new(store: Arc<dyn RegistryStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Adds a principal, enabled.
    pub async fn add_principal(&self, username: Username, scopes: Scopes) -> Result<PrincipalRecord, RegistryError> {
        self.store.add_principal(NewPrincipal { username, scopes }, self.clock.now()).await
    }

    /// The principal of that name.
    pub async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        self.store.principal(username).await
    }

    /// Every principal.
    pub async fn principals(&self) -> Result<Vec<PrincipalRecord>, RegistryError> {
        let mut all: Vec<PrincipalRecord> = Vec::new();
        loop {
            let page = self.store.principals(all.last().map(|last| last.id), PAGE).await?;
            let is_last = (page.len() as u64) < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Lets a principal pass again.
    pub async fn enable(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        self.store.set_active(username, true, self.clock.now()).await
    }

    /// Lets a principal pass no more, keeping its keys.
    pub async fn disable(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        self.store.set_active(username, false, self.clock.now()).await
    }

    /// Removes a principal with all that belongs to it.
    pub async fn remove_principal(&self, username: &Username) -> Result<(), RegistryError> {
        self.store.remove_principal(username, self.clock.now()).await
    }

    /// Adds a public key, in any format that [`PublicKey::parse`] reads.
    pub async fn add_key(&self, username: &Username, text: &str, terms: KeyTerms) -> Result<KeyRecord, AddKeyError> {
        let parsed = PublicKey::parse(text)?;
        let now = self.clock.now();
        if terms.expires_at.is_some_and(|until| until <= now || terms.not_before.is_some_and(|from| until <= from)) {
            return Err(AddKeyError::NeverUsable);
        }
        let new = NewKey {
            as_given: text.trim().to_owned(),
            key: parsed.key,
            comment: terms.comment.or(parsed.comment),
            scopes: terms.scopes,
            not_before: terms.not_before,
            expires_at: terms.expires_at,
        };
        Ok(self.store.add_key(username, new, now).await?)
    }

    /// Every key, of one principal or of all, revoked ones too.
    pub async fn keys(&self, of: Option<&Username>) -> Result<Vec<KeyRecord>, RegistryError> {
        let mut all: Vec<KeyRecord> = Vec::new();
        loop {
            let page = self.store.keys(of, all.last().map(|last| last.id), PAGE).await?;
            let is_last = (page.len() as u64) < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Revokes a key, for good.
    pub async fn revoke_key(&self, id: KeyId) -> Result<KeyRecord, RegistryError> {
        self.store.revoke_key(id, self.clock.now()).await
    }
}
