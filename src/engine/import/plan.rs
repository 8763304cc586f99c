//! Decides for each row: import it, skip it because it exists, or refuse it.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
};

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    super::{
        issue::random_uuid,
        ports::{
            AddedAccount, AddedApiKey, AddedHolder, ExistingPrincipal, ExistingRecords,
            ImportLookup, KeyTerms, LegacyAccount, LegacyApiKey, LegacyKey, LegacyRefreshToken,
            LegacyTrust, NewApiKey, NewGrant, NewKey, NewPrincipal, NewRefresh, Origin, Profile,
            RegistryError,
        },
        registry::{Registry, check_profile, new_key},
    },
    ImportReport, Kind, RowOutcome,
};
use crate::domain::{
    decision::Used,
    principal::{ApiKeyId, Username},
    scope::Scopes,
    secret_token::{NoRandomness, SecretHash},
    time::UnixMillis,
};

/// What to look up in the registry for the accounts of a page.
pub(super) fn sought(page: &[LegacyAccount]) -> ImportLookup {
    let api_keys = || page.iter().flat_map(|account| &account.api_keys);
    let tokens = page
        .iter()
        .flat_map(|account| &account.refresh_tokens)
        .chain(api_keys().flat_map(|key| &key.refresh_tokens));
    ImportLookup {
        usernames: page
            .iter()
            .filter_map(|account| Username::new(&account.unverified_username).ok())
            .collect(),
        api_keys: api_keys().filter_map(|key| SecretHash::written(&key.key_hash)).collect(),
        refresh_tokens: tokens.map(hash).collect(),
    }
}

/// What to add for the accounts of one page, and the report about them.
pub(super) struct Plan<'a> {
    standing: &'a ExistingRecords,
    registry: &'a Registry,
    /// The `aud` of our own access tokens, which imported grants get in addition to theirs.
    audience: &'a [String],
    now: UnixMillis,
    added: Vec<AddedAccount>,
    report: ImportReport,
    /// Hashes of the API keys and refresh tokens on this page.
    seen: HashSet<SecretHash>,
}

/// The account that is being processed.
struct Current<'a> {
    known: Option<&'a ExistingPrincipal>,
    /// `None` if the account was refused: nothing is given to a principal that is, or may be,
    /// someone else.
    holder: Option<AddedHolder>,
    scopes: Scopes,
    keys: Vec<(NewKey, Option<UnixMillis>)>,
    trusts: Vec<(String, Option<UnixMillis>)>,
    api_keys: Vec<AddedApiKey>,
    grants: Vec<NewGrant>,
}

impl Current<'_> {
    /// `None` if there is nothing to add.
    fn into_added(self) -> Option<AddedAccount> {
        let Self { holder, keys, trusts, api_keys, grants, .. } = self;
        let holder = holder?;
        let is_new = matches!(holder, AddedHolder::New(..));
        let is_empty =
            keys.is_empty() && trusts.is_empty() && api_keys.is_empty() && grants.is_empty();
        (is_new || !is_empty).then_some(AddedAccount { holder, keys, trusts, api_keys, grants })
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        standing: &'a ExistingRecords,
        registry: &'a Registry,
        audience: &'a [String],
        now: UnixMillis,
    ) -> Self {
        Self {
            standing,
            registry,
            audience,
            now,
            added: Vec::new(),
            report: ImportReport::default(),
            seen: HashSet::new(),
        }
    }

    pub(super) fn into_parts(self) -> (Vec<AddedAccount>, ImportReport) {
        (self.added, self.report)
    }

    pub(super) fn account(&mut self, account: &LegacyAccount) -> Result<(), NoRandomness> {
        let name = account.unverified_username.as_str();
        let (mut current, outcome) = self.holder(account);
        self.report.note(Kind::Principal, &account.origin, name, outcome);
        let mut fingerprints = HashMap::new();
        for key in &account.keys {
            let outcome = self.key(&mut current, key, &mut fingerprints);
            self.report.note(Kind::Key, &key.origin, name, outcome);
        }
        for trust in &account.trusts {
            let outcome = self.trust(&mut current, trust);
            self.report.note(Kind::Trust, &trust.origin, name, outcome);
        }
        for key in &account.api_keys {
            self.api_key(&mut current, name, key)?;
        }
        let tokens = account.refresh_tokens.iter().map(|token| (token, None));
        let grants = self.grants(&current, name, tokens)?;
        current.grants.extend(grants);
        self.added.extend(current.into_added());
        Ok(())
    }

    fn holder(&self, account: &LegacyAccount) -> (Current<'a>, RowOutcome) {
        let profile = account.person.as_ref().map(|person| cleaned(&person.profile));
        let username = Username::new(&account.unverified_username);
        let known =
            username.as_ref().ok().and_then(|username| self.standing.principals.get(username));
        let (holder, outcome) = match (username, known) {
            (Err(error), _) => (None, RowOutcome::Refused(error.to_string())),
            (Ok(_), Some(known)) => {
                let is_active = account.person.as_ref().map(|person| person.is_active);
                match &differing(known, is_active, profile.as_ref())[..] {
                    [] => (Some(AddedHolder::Known(known.record.id)), RowOutcome::AlreadyThere),
                    parts => {
                        let reason = format!(
                            "there is a principal of that name with another {}",
                            parts.join(", ")
                        );
                        (None, RowOutcome::Refused(reason))
                    }
                }
            }
            (Ok(username), None) => {
                match self.new_principal(account, username, profile.unwrap_or_default()) {
                    Ok(new) => (Some(new), RowOutcome::TakenOver),
                    Err(error) => (None, RowOutcome::Refused(error.to_string())),
                }
            }
        };
        let scopes = known.map_or_else(Scopes::default, |known| known.record.scopes.clone());
        (
            Current {
                known,
                holder,
                scopes,
                keys: Vec::new(),
                trusts: Vec::new(),
                api_keys: Vec::new(),
                grants: Vec::new(),
            },
            outcome,
        )
    }

    fn new_principal(
        &self,
        account: &LegacyAccount,
        username: Username,
        profile: Profile,
    ) -> Result<AddedHolder, RegistryError> {
        let Profile { given_name, family_name, email } = &profile;
        check_profile(given_name.as_deref(), family_name.as_deref(), email.as_deref())?;
        let is_active = account.person.as_ref().is_none_or(|person| person.is_active);
        let created_at = account.created_at.unwrap_or(self.now).min(self.now);
        Ok(AddedHolder::New(
            NewPrincipal { is_active, profile, ..NewPrincipal::named(username) },
            created_at,
        ))
    }

    fn key(
        &self,
        current: &mut Current<'_>,
        key: &LegacyKey,
        seen: &mut HashMap<String, Origin>,
    ) -> RowOutcome {
        let terms =
            KeyTerms { comment: key.comment.as_deref().and_then(clean), ..KeyTerms::default() };
        let new = match new_key(&key.text, terms) {
            Ok(new) => new,
            Err(error) => return RowOutcome::Refused(with_causes(&error)),
        };
        let fingerprint = new.key.fingerprint().to_string();
        match current.known.and_then(|known| known.keys.get(&fingerprint)) {
            Some(true) => return RowOutcome::Refused("that key was revoked here".to_owned()),
            Some(false) => return RowOutcome::AlreadyThere,
            None => {}
        }
        if let Some(first) = seen.get(&fingerprint) {
            return RowOutcome::Duplicate(format!("the same key as {first}"));
        }
        if let Err(error) = self.registry.check_terms(&new.terms) {
            return RowOutcome::Refused(error.to_string());
        }
        if current.holder.is_none() {
            return orphaned("principal");
        }
        seen.insert(fingerprint, key.origin.clone());
        current.keys.push((new, key.last_used_on));
        RowOutcome::TakenOver
    }

    fn trust(&self, current: &mut Current<'_>, trust: &LegacyTrust) -> RowOutcome {
        if current.known.is_some_and(|known| known.jwks_urls.contains(&trust.url)) {
            return RowOutcome::AlreadyThere;
        }
        if let Err(error) = self.registry.check_url(&trust.url) {
            return RowOutcome::Refused(with_causes(&error));
        }
        if current.holder.is_none() {
            return orphaned("principal");
        }
        current.trusts.push((trust.url.clone(), trust.last_used_on));
        RowOutcome::TakenOver
    }

    fn api_key(
        &mut self,
        current: &mut Current<'_>,
        name: &str,
        key: &LegacyApiKey,
    ) -> Result<(), NoRandomness> {
        let judged = self.judged(current, key);
        let (outcome, new, known) = match judged {
            Ok(ApiKeyPlan::Known(id)) => (RowOutcome::AlreadyThere, None, Some(id)),
            Ok(ApiKeyPlan::New(new)) => (RowOutcome::TakenOver, Some(new), None),
            Err(reason) => (RowOutcome::Refused(reason), None, None),
        };
        let is_refused = matches!(outcome, RowOutcome::Refused(_));
        self.report.note(Kind::ApiKey, &key.origin, name, outcome);
        if is_refused {
            for token in &key.refresh_tokens {
                let outcome = if self.standing.refresh_tokens.contains(&hash(token)) {
                    RowOutcome::AlreadyThere
                } else {
                    orphaned("API key")
                };
                self.report.note(Kind::RefreshToken, &token.origin, name, outcome);
            }
            return Ok(());
        }
        let grants =
            self.grants(current, name, key.refresh_tokens.iter().map(|token| (token, known)))?;
        match new {
            Some(new) => {
                let created_at = key.created_at.unwrap_or(self.now).min(self.now);
                current.api_keys.push(AddedApiKey { new, created_at, grants });
            }
            None => current.grants.extend(grants),
        }
        Ok(())
    }

    fn judged(&mut self, current: &Current<'_>, key: &LegacyApiKey) -> Result<ApiKeyPlan, String> {
        let hash = SecretHash::written(&key.key_hash)
            .ok_or("its key_hash is no SHA-512 in hexadecimal digits")?;
        let identifier = Uuid::parse_str(&key.identifier)
            .map_err(|error| format!("its identifier is no UUID: {error}"))?;
        let expires_at = key.expires_at.ok_or(UNREADABLE_EXPIRY)?.min(UnixMillis::LAST_WRITABLE);
        if let Some(held) = self.standing.api_keys.get(&hash) {
            let is_same = held.key.identifier == identifier && held.key.revoked_at.is_none();
            return if is_same {
                Ok(ApiKeyPlan::Known(held.key.id))
            } else {
                Err(RegistryError::ApiKeyExists.to_string())
            };
        }
        // Its refresh tokens may live longer than the key: they need its row, which stores the
        // identifier.
        if expires_at <= self.now && key.refresh_tokens.is_empty() {
            return Err(format!("it expired at {}", expires_at.to_rfc3339()));
        }
        if current.holder.is_none() {
            return Err(ORPHANED_FROM_PRINCIPAL.to_owned());
        }
        if !self.seen.insert(hash.clone()) {
            return Err("another row has the same key".to_owned());
        }
        Ok(ApiKeyPlan::New(NewApiKey { hash, identifier, comment: None, expires_at }))
    }

    fn grants<'t>(
        &mut self,
        current: &Current<'_>,
        name: &str,
        tokens: impl Iterator<Item = (&'t LegacyRefreshToken, Option<ApiKeyId>)>,
    ) -> Result<Vec<NewGrant>, NoRandomness> {
        let mut grants = Vec::new();
        for (token, api_key) in tokens {
            let hash = hash(token);
            let outcome = if self.standing.refresh_tokens.contains(&hash) {
                RowOutcome::AlreadyThere
            } else if token.text.expose_secret().is_empty() {
                RowOutcome::Refused("it is empty".to_owned())
            } else if current.holder.is_none() {
                orphaned("principal")
            } else if self.audience.is_empty() && !token.audience.is_empty() {
                let theirs = token.audience.join(" ");
                RowOutcome::Refused(format!(
                    "access tokens for {theirs:?} are refused here unless issuer.audience is set"
                ))
            } else if !self.seen.insert(hash.clone()) {
                RowOutcome::Duplicate("another row has the same token".to_owned())
            } else if let Some(expires_at) = token.expires_at {
                let expires_at = expires_at.min(UnixMillis::LAST_WRITABLE);
                grants.push(self.grant(
                    token,
                    hash,
                    expires_at,
                    api_key,
                    current.scopes.clone(),
                )?);
                RowOutcome::TakenOver
            } else {
                RowOutcome::Refused(UNREADABLE_EXPIRY.to_owned())
            };
            self.report.note(Kind::RefreshToken, &token.origin, name, outcome);
        }
        Ok(grants)
    }

    /// The access token that belonged to it was not issued by us: it gets a `jti` here, and counts
    /// as expired from the start.
    fn grant(
        &self,
        token: &LegacyRefreshToken,
        hash: SecretHash,
        expires_at: UnixMillis,
        api_key: Option<ApiKeyId>,
        scopes: Scopes,
    ) -> Result<NewGrant, NoRandomness> {
        let issued_at = token.issued_at.unwrap_or(self.now).min(self.now);
        let ours = self.audience.iter().filter(|ours| !token.audience.contains(ours));
        Ok(NewGrant {
            family: random_uuid()?,
            access_jti: random_uuid()?,
            refresh: Some(NewRefresh {
                jti: random_uuid()?,
                hash,
                seed: random_uuid()?,
                expires_at,
            }),
            audience: token.audience.iter().chain(ours).cloned().collect(),
            sid: token.sid.as_deref().and_then(clean),
            scopes,
            proven_by: api_key.map(Used::ApiKey),
            is_minted: false,
            issued_at,
            access_expires_at: issued_at,
        })
    }
}

enum ApiKeyPlan {
    New(NewApiKey),
    Known(ApiKeyId),
}

const UNREADABLE_EXPIRY: &str = "its expires_at is missing or cannot be read";
const ORPHANED_FROM_PRINCIPAL: &str = "its principal was not taken over";

fn orphaned(from: &str) -> RowOutcome {
    RowOutcome::Refused(format!("its {from} was not taken over"))
}

fn hash(token: &LegacyRefreshToken) -> SecretHash {
    SecretHash::of(token.text.expose_secret())
}

/// The differences between a principal and an account of the same name.
fn differing(
    known: &ExistingPrincipal,
    is_active: Option<bool>,
    profile: Option<&Profile>,
) -> Vec<&'static str> {
    let record = &known.record;
    let mut differing = Vec::new();
    if is_active.is_some_and(|is_active| is_active != record.is_active) {
        differing.push("is_active");
    }
    let Some(profile) = profile else { return differing };
    let parts = [
        ("given_name", &profile.given_name, &record.profile.given_name),
        ("family_name", &profile.family_name, &record.profile.family_name),
        ("email", &profile.email, &record.profile.email),
    ];
    differing.extend(
        parts.into_iter().filter(|(_, theirs, ours)| theirs != ours).map(|(name, ..)| name),
    );
    differing
}

fn cleaned(profile: &Profile) -> Profile {
    let text = |text: &Option<String>| text.as_deref().and_then(clean);
    Profile {
        given_name: text(&profile.given_name),
        family_name: text(&profile.family_name),
        email: text(&profile.email),
    }
}

/// A text for people, without the control characters that other systems allow; `None` if nothing is
/// left.
fn clean(text: &str) -> Option<String> {
    let text = text.replace(char::is_control, " ");
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
