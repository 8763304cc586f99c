//! Principals, keys and trusts: reading and changing them.

mod api_keys;

use std::{fmt, future::Future, sync::Arc, time::Duration};

pub use self::api_keys::{ApiKeyError, ApiKeyTerms, Expiry};
use super::ports::{
    AuditEvent, Author, ChangeHints, Clock, FetchFailure, KeyChange, KeyRecord, KeySetSource,
    KeyTerms, NewKey, NewPrincipal, PrincipalChange, PrincipalRecord, Profile, RegistryError,
    RegistryStore, TrustRecord, Version,
};
use crate::domain::{
    key::{KeyError, PublicKey},
    key_set::KeySetContents,
    principal::{KeyId, PrincipalId, TrustId, Username},
};

/// The number of rows per query if all rows are requested.
pub(super) const PAGE: u64 = 1000;
/// The database timeout for one request of an operator.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum lengths, in characters. The shorter ones fit the columns; the others keep rows and
/// answers small.
const NAME_CHARACTERS_MAX: usize = 255;
const COMMENT_CHARACTERS_MAX: usize = 1000;
const URL_CHARACTERS_MAX: usize = 2000;
const KEY_CHARACTERS_MAX: usize = 16_000;

/// The registry, as operators use it.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn RegistryStore>,
    key_sets: Arc<dyn KeySetSource>,
    hints: Arc<dyn ChangeHints>,
    clock: Arc<dyn Clock>,
    actor: Arc<str>,
}

/// Why a key cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddKeyError {
    /// The text is not a public key of an accepted kind.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The registry failed or refused it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Why a trust cannot be added, or its key set cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The URL is not allowed, or the fetch failed.
    #[error(transparent)]
    Fetch(#[from] FetchFailure),
    /// The registry failed or refused it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The database took too long.
#[derive(Debug, thiserror::Error)]
#[error("the database did not answer within {0:?}")]
struct StoreTimeout(Duration);

impl Registry {
    /// The registry in `store`; audit events name `actor` as the author.
    pub fn new(
        store: Arc<dyn RegistryStore>,
        key_sets: Arc<dyn KeySetSource>,
        hints: Arc<dyn ChangeHints>,
        clock: Arc<dyn Clock>,
        actor: &str,
    ) -> Self {
        Self { store, key_sets, hints, clock, actor: actor.into() }
    }

    /// The same registry, with another author for changes.
    #[must_use]
    pub fn as_actor(&self, actor: &str) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Adds a principal with its first keys and trusts.
    pub async fn add_principal(&self, new: NewPrincipal) -> Result<PrincipalRecord, TrustError> {
        let Profile { given_name, family_name, email } = &new.profile;
        check_profile(given_name.as_deref(), family_name.as_deref(), email.as_deref())?;
        for url in &new.jwks_urls {
            self.check_url(url)?;
        }
        for key in &new.keys {
            self.check_terms(&key.terms)?;
        }
        Ok(self.change(self.store.add_principal(new, self.author())).await?)
    }

    /// The principal of that name.
    pub async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError> {
        in_time(self.store.principal(username)).await
    }

    /// Up to `limit` principals in the order of their ids, starting after `after`.
    pub async fn principals_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<PrincipalRecord>, RegistryError> {
        in_time(self.store.principals(after, limit)).await
    }

    /// All principals.
    pub async fn principals(&self) -> Result<Vec<PrincipalRecord>, RegistryError> {
        every(|after| self.principals_page(after, PAGE), |principal: &PrincipalRecord| principal.id)
            .await
    }

    /// Changes a principal, if its version still is `expected`.
    pub async fn change_principal(
        &self,
        username: &Username,
        change: PrincipalChange,
        expected: Option<Version>,
    ) -> Result<PrincipalRecord, RegistryError> {
        let text = |value: &Option<Option<String>>| value.clone().flatten();
        check_profile(
            text(&change.given_name).as_deref(),
            text(&change.family_name).as_deref(),
            text(&change.email).as_deref(),
        )?;
        self.change(self.store.change_principal(username, change, expected, self.author())).await
    }

    /// Enables or disables a principal; its keys are kept.
    pub async fn set_active(
        &self,
        username: &Username,
        is_active: bool,
    ) -> Result<PrincipalRecord, RegistryError> {
        self.change_principal(
            username,
            PrincipalChange { is_active: Some(is_active), ..PrincipalChange::default() },
            None,
        )
        .await
    }

    /// Removes a principal and everything that belongs to it, if its version still is `expected`.
    pub async fn remove_principal(
        &self,
        username: &Username,
        expected: Option<Version>,
    ) -> Result<(), RegistryError> {
        self.change(self.store.remove_principal(username, expected, self.author())).await
    }

    /// Adds a public key, in any format that [`PublicKey::parse`] reads.
    pub async fn add_key(
        &self,
        username: &Username,
        text: &str,
        terms: KeyTerms,
    ) -> Result<KeyRecord, AddKeyError> {
        let new = new_key(text, terms)?;
        self.check_terms(&new.terms)?;
        Ok(self.change(self.store.add_key(username, new, self.author())).await?)
    }

    /// The key with that id.
    pub async fn key(&self, id: KeyId) -> Result<KeyRecord, RegistryError> {
        in_time(self.store.key(id)).await
    }

    /// Up to `limit` keys, of one principal or of all, including revoked ones, starting after
    /// `after`.
    pub async fn keys_page(
        &self,
        of: Option<&Username>,
        after: Option<KeyId>,
        limit: u64,
    ) -> Result<Vec<KeyRecord>, RegistryError> {
        in_time(self.store.keys(of, after, limit)).await
    }

    /// All keys, of one principal or of all, including revoked ones.
    pub async fn keys(&self, of: Option<&Username>) -> Result<Vec<KeyRecord>, RegistryError> {
        every(|after| self.keys_page(of, after, PAGE), |key: &KeyRecord| key.id).await
    }

    /// Changes a key, if its version still is `expected`.
    pub async fn change_key(
        &self,
        id: KeyId,
        change: KeyChange,
        expected: Option<Version>,
    ) -> Result<KeyRecord, RegistryError> {
        check_text(
            "comment",
            change.comment.iter().flatten().next().map(String::as_str),
            COMMENT_CHARACTERS_MAX,
        )?;
        if change.not_before.is_some() || change.expires_at.is_some() {
            self.check_terms(&change.clone().applied_to(&self.key(id).await?.terms))?;
        }
        self.change(self.store.change_key(id, change, expected, self.author())).await
    }

    /// Revokes a key. This cannot be undone.
    pub async fn revoke_key(
        &self,
        id: KeyId,
        expected: Option<Version>,
    ) -> Result<KeyRecord, RegistryError> {
        self.change_key(id, KeyChange::REVOCATION, expected).await
    }

    /// Adds a trust: the keys of the key set at `url` count as the principal's.
    pub async fn add_trust(
        &self,
        username: &Username,
        url: &str,
    ) -> Result<TrustRecord, TrustError> {
        self.check_url(url)?;
        Ok(self.change(self.store.add_trust(username, url, self.author())).await?)
    }

    /// The trust with that id.
    pub async fn trust(&self, id: TrustId) -> Result<TrustRecord, RegistryError> {
        in_time(self.store.trust(id)).await
    }

    /// Up to `limit` trusts, of one principal or of all, starting after `after`.
    pub async fn trusts_page(
        &self,
        of: Option<&Username>,
        after: Option<TrustId>,
        limit: u64,
    ) -> Result<Vec<TrustRecord>, RegistryError> {
        in_time(self.store.trusts(of, after, limit)).await
    }

    /// All trusts, of one principal or of all.
    pub async fn trusts(&self, of: Option<&Username>) -> Result<Vec<TrustRecord>, RegistryError> {
        every(|after| self.trusts_page(of, after, PAGE), |trust: &TrustRecord| trust.id).await
    }

    /// Adds a trust, and fetches its key set in this process to see what it contains. If the fetch
    /// fails, the trust is still added, and its record says why.
    pub async fn add_trust_and_look(
        &self,
        username: &Username,
        url: &str,
    ) -> Result<TrustRecord, TrustError> {
        let added = self.add_trust(username, url).await?;
        let looked = self.key_sets.refresh(url).await;
        let record = self.trust(added.id).await?;
        Ok(match looked {
            Ok(contents) => TrustRecord { contents: Some(contents), last_error: None, ..record },
            Err(failure) => TrustRecord { last_error: Some(failure.reason), ..record },
        })
    }

    /// Fetches the key set of a trust now, makes every replica fetch it, and returns its contents.
    /// The other replicas fetch it even if this one fails: they may reach what this one cannot.
    pub async fn refresh_trust(
        &self,
        id: TrustId,
    ) -> Result<(TrustRecord, Result<KeySetContents, FetchFailure>), RegistryError> {
        let trust = self.trust(id).await?;
        let fetched = self.key_sets.refresh(&trust.jwks_url).await;
        self.change(self.store.touch_trust(id, self.author())).await?;
        Ok((self.trust(id).await?, fetched))
    }

    /// Removes a trust, if its version still is `expected`.
    pub async fn remove_trust(
        &self,
        id: TrustId,
        expected: Option<Version>,
    ) -> Result<(), RegistryError> {
        self.change(self.store.remove_trust(id, expected, self.author())).await
    }

    /// Up to `limit` audit events, of one principal or of all, newest first, starting before
    /// `before`.
    pub async fn audit(
        &self,
        of: Option<&str>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<AuditEvent>, RegistryError> {
        in_time(self.store.audit(of, before, limit)).await
    }

    pub(super) fn author(&self) -> Author<'_> {
        Author { actor: &self.actor, now: self.clock.now() }
    }

    /// Makes a change, and tells the replicas to read it.
    async fn change<T>(
        &self,
        change: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let done = in_time(change).await?;
        self.announce().await;
        Ok(done)
    }

    /// Tells the replicas to read the change feed.
    pub(super) async fn announce(&self) {
        self.hints.announce().await;
    }

    pub(super) fn check_url(&self, url: &str) -> Result<(), TrustError> {
        check_text("jwks_url", Some(url), URL_CHARACTERS_MAX)?;
        Ok(self.key_sets.check_url(url)?)
    }

    pub(super) fn check_terms(&self, terms: &KeyTerms) -> Result<(), RegistryError> {
        check_text("comment", terms.comment.as_deref(), COMMENT_CHARACTERS_MAX)?;
        if terms.expires_at.is_some_and(|until| {
            until <= self.clock.now() || terms.not_before.is_some_and(|from| until <= from)
        }) {
            return Err(RegistryError::NeverUsable);
        }
        Ok(())
    }
}

/// Parses a public key, in any format that [`PublicKey::parse`] reads.
pub fn new_key(text: &str, terms: KeyTerms) -> Result<NewKey, AddKeyError> {
    let is_odd = |character: char| character.is_control() && !character.is_ascii_whitespace();
    if text.len() > KEY_CHARACTERS_MAX || text.contains(is_odd) {
        return Err(
            RegistryError::BadText { what: "key", characters_max: KEY_CHARACTERS_MAX }.into()
        );
    }
    let parsed = PublicKey::parse(text)?;
    let terms = KeyTerms { comment: terms.comment.or(parsed.comment), ..terms };
    Ok(NewKey { as_given: text.trim().to_owned(), key: parsed.key, terms })
}

pub(super) fn check_profile(
    given_name: Option<&str>,
    family_name: Option<&str>,
    email: Option<&str>,
) -> Result<(), RegistryError> {
    check_text("given_name", given_name, NAME_CHARACTERS_MAX)?;
    check_text("family_name", family_name, NAME_CHARACTERS_MAX)?;
    check_text("email", email, NAME_CHARACTERS_MAX)
}

fn check_text(
    what: &'static str,
    text: Option<&str>,
    characters_max: usize,
) -> Result<(), RegistryError> {
    let is_good = |text: &str| {
        (1..=characters_max).contains(&text.chars().count()) && !text.contains(char::is_control)
    };
    if text.is_none_or(is_good) {
        Ok(())
    } else {
        Err(RegistryError::BadText { what, characters_max })
    }
}

/// The result of a database call, or an error after `STORE_TIMEOUT`.
pub(super) async fn in_time<T>(
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    within(STORE_TIMEOUT, work).await
}

/// The same with another timeout.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let result = tokio::time::timeout(limit, work).await;
    result.unwrap_or_else(|_| Err(RegistryError::Store(StoreTimeout(limit).into())))
}

/// Reads page after page, until one is not full.
pub(super) async fn every<T, I, F>(
    page: impl Fn(Option<I>) -> F,
    id: impl Fn(&T) -> I,
) -> Result<Vec<T>, RegistryError>
where
    F: Future<Output = Result<Vec<T>, RegistryError>>,
{
    let mut all: Vec<T> = Vec::new();
    loop {
        let found = page(all.last().map(&id)).await?;
        let is_last = (found.len() as u64) < PAGE;
        all.extend(found);
        if is_last {
            return Ok(all);
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("actor", &self.actor).finish_non_exhaustive()
    }
}
