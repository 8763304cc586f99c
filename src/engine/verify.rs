//! The verification engine: the only place that decides about requests.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;

use super::{
    binding,
    decoy::Decoys,
    ports::{
        Clock, IssuerKeySource, KeyDirectory, KeySetSource, NonceStore, Unavailable, UsageLog,
    },
};
use crate::{
    domain::{
        auth_request::{AuthRequest, Credentials},
        decision::{
            AuthMethod, Decision, DecisionId, Denial, DenialDetail, DenialReason, Identity,
        },
        key::KeyError,
        nonce::{Attempt, Claimed, NonceClaim},
        principal::PrincipalId,
        scope::Scopes,
        target::Authority,
        time::{Tolerance, UnixMillis},
        token::{Claims, TokenFault, UntrustedToken},
    },
    telemetry::decisions::{DecisionObserver, Observation, Outcome},
};

/// The settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The scheme in front of a self-signed token, compared without case.
    pub scheme: Box<str>,
    /// How far a token's time may be from now.
    pub tolerance: Tolerance,
    /// The names of this service; a token's `aud` must contain one of them.
    pub audiences: Box<[Box<str>]>,
    /// The `iss` of access tokens.
    pub issuer: Box<str>,
    /// The only authorities that a token's `htu` may name, and that a request with such a token may
    /// be sent to; any authority if empty.
    pub authorities: Box<[Authority<'static>]>,
    /// Binding claims that every token must have.
    pub required_claims: RequiredClaims,
}

/// Binding claims that every token must have. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each claim")]
pub struct RequiredClaims {
    /// `htm`, the method.
    pub method: bool,
    /// `htu`, the URI.
    pub uri: bool,
    /// `aud`, the audience.
    pub audience: bool,
    /// `htq`, the query.
    pub query: bool,
    /// `content_digest`, the body.
    pub digest: bool,
}

impl RequiredClaims {
    fn are_met_by(self, claims: &Claims) -> bool {
        (!self.method || claims.method.is_some())
            && (!self.uri || claims.uri.is_some())
            && (!self.audience || claims.audience.is_some())
            && (!self.query || claims.query.is_some())
            && (!self.digest || claims.content_digest.is_some())
    }
}

/// A decision with its id. An outage is not a decision: it neither allows a request nor says
/// anything about the credentials.
#[derive(Debug)]
pub struct Verdict {
    /// Id of the decision, also in the log.
    pub id: DecisionId,
    /// The decision, or what was unreachable.
    pub result: Result<Decision, Unavailable>,
}

/// The ports of a verifier.
#[derive(Clone)]
pub struct VerifierPorts {
    /// Reads the time.
    pub clock: Arc<dyn Clock>,
    /// Principals with their keys and trusts.
    pub directory: Arc<dyn KeyDirectory>,
    /// Fetched key sets of the trusts.
    pub key_sets: Arc<dyn KeySetSource>,
    /// The keys of our own access tokens.
    pub issuer_keys: Arc<dyn IssuerKeySource>,
    /// Remembers used nonces.
    pub nonces: Arc<dyn NonceStore>,
    /// Records when keys and trusts were used.
    pub usage: Arc<dyn UsageLog>,
}

/// Decides which requests may pass.
pub struct Verifier {
    policy: Policy,
    ports: VerifierPorts,
    decoys: Decoys,
    observer: Arc<DecisionObserver>,
}

impl Verifier {
    /// Creates a verifier and its decoy keys. Fails only if the system has no randomness.
    pub fn new(
        policy: Policy,
        ports: VerifierPorts,
        observer: Arc<DecisionObserver>,
    ) -> Result<Self, KeyError> {
        Ok(Self { policy, ports, decoys: Decoys::generate()?, observer })
    }

    /// The scheme in front of a self-signed token.
    pub fn scheme(&self) -> &str {
        &self.policy.scheme
    }

    /// Decides about one request, and counts and logs the decision.
    pub async fn decide(&self, auth_request: &AuthRequest<'_>) -> Verdict {
        let observation = self.observer.begin(auth_request);
        let now = self.ports.clock.now();
        let id = new_decision_id(now);
        let version = self.ports.directory.version();
        let credential = self.credential(auth_request);
        let method = credential.as_ref().ok().map(Credential::method);
        let mut judged = self.judge(auth_request, credential, id, now, &observation).await;
        // This replica may not know yet what was registered a moment ago. It decides again only if
        // something changed; the wait to find out is the same for every user, known or not.
        if is_about_the_registry(&judged, method) && self.ports.directory.catch_up(version).await {
            judged = self
                .judge(auth_request, credential, id, self.ports.clock.now(), &observation)
                .await;
        }
        let result = match judged {
            Ok(identity) => Ok(Decision::Allow(identity)),
            Err(Stopped::Denied(denial)) => Ok(Decision::Deny(denial)),
            Err(Stopped::Unavailable(unavailable)) => Err(unavailable),
        };
        observation.end(auth_request, method, id, outcome(&result));
        Verdict { id, result }
    }

    /// Refuses a request for `reason` without deciding about it, cheaply: no store is asked and the
    /// credentials are not looked at. Counted and logged like every decision.
    pub fn refuse(&self, auth_request: &AuthRequest<'_>, reason: DenialReason) -> Verdict {
        let observation = self.observer.begin(auth_request);
        let id = new_decision_id(self.ports.clock.now());
        let result = Ok(Decision::Deny(reason.into()));
        observation.end(auth_request, None, id, outcome(&result));
        Verdict { id, result }
    }

    async fn judge(
        &self,
        auth_request: &AuthRequest<'_>,
        credential: Result<Credential<'_>, DenialReason>,
        id: DecisionId,
        now: UnixMillis,
        observation: &Observation<'_>,
    ) -> Result<Identity, Stopped> {
        if let Some(misconfiguration) = &auth_request.misconfiguration {
            return Err(Denial::from(misconfiguration).into());
        }
        match credential? {
            Credential::SelfSigned(text) => {
                self.judge_self_signed(auth_request, text, id, now, observation).await
            }
            Credential::AccessToken(text) => {
                self.judge_access_token(auth_request, text, now, observation).await
            }
        }
    }

    /// One linear sequence: each step can only refuse, and the nonce is claimed last.
    async fn judge_self_signed(
        &self,
        auth_request: &AuthRequest<'_>,
        text: &str,
        id: DecisionId,
        now: UnixMillis,
        observation: &Observation<'_>,
    ) -> Result<Identity, Stopped> {
        let token = Self::parse(text).map_err(malformed)?;
        let unverified_claims = token.unverified_claims();
        let deny = |reason| Denial {
            unverified_username: Some(unverified_claims.username.clone()),
            ..Denial::from(reason)
        };

        self.check_time(unverified_claims, now).map_err(|reason| {
            if matches!(reason, DenialReason::TooOld | DenialReason::TooNew) {
                observation.token_time(unverified_claims.time.millis(), now, false);
            }
            deny(reason)
        })?;
        if !self.policy.required_claims.are_met_by(unverified_claims) {
            return Err(deny(DenialReason::BindingMissing).into());
        }
        let step = observation.key_lookup();
        let principal = self.ports.directory.lookup(&unverified_claims.username, now).await?;
        drop(step);
        let step = observation.verification();
        let (verified, proof) =
            self.verify(&token, principal.as_deref(), now).await.map_err(|reason| Denial {
                detail: DenialDetail::of_signature(&token),
                ..deny(reason)
            })?;
        drop(step);
        observation.token_time(verified.claims().time.millis(), now, true);
        let identity = principal
            .and_then(|principal| proof.identity(principal, &token))
            .ok_or_else(|| deny(DenialReason::UnknownPrincipal))?;
        binding::check(verified.claims(), &auth_request.request, &self.policy).map_err(deny)?;
        check_scopes(&auth_request.required_scopes, identity.scopes()).map_err(|missing| {
            Denial { missing_scopes: Some(missing), ..deny(DenialReason::InsufficientScope) }
        })?;
        let claim = self.nonce_claim(
            verified.claims(),
            identity.principal().id,
            attempt(auth_request, id),
            now,
        );
        let step = observation.claim();
        let claimed = self.ports.nonces.claim(claim).await;
        step.end(claimed.as_ref().ok());
        match claimed? {
            Claimed::Fresh => {
                // Waiting for stores takes time. If the token's window ended meanwhile, an earlier
                // claim of its nonce may already be forgotten.
                self.check_time(verified.claims(), self.ports.clock.now()).map_err(deny)?;
                if let Some(used) = identity.used() {
                    self.ports.usage.note(used, now);
                }
                Ok(identity)
            }
            Claimed::Replayed => Err(deny(DenialReason::NonceClaimed).into()),
            Claimed::Fenced => Err(deny(DenialReason::Fenced).into()),
        }
    }

    fn nonce_claim<'a>(
        &self,
        claims: &'a Claims,
        principal: PrincipalId,
        attempt: Attempt,
        now: UnixMillis,
    ) -> NonceClaim<'a> {
        let valid_until = self.policy.tolerance.valid_until(claims.time);
        NonceClaim {
            principal,
            nonce: &claims.nonce,
            token_time: claims.time.millis(),
            valid_until,
            now,
            attempt,
        }
    }

    fn credential<'a>(
        &self,
        auth_request: &AuthRequest<'a>,
    ) -> Result<Credential<'a>, DenialReason> {
        Credential::of(auth_request, &self.policy.scheme)
    }

    fn parse(text: &str) -> Result<UntrustedToken<'_>, (DenialReason, TokenFault)> {
        UntrustedToken::parse(text).map_err(|fault| (reason_of(text, &fault), fault))
    }

    /// Checks the token's times before anything expensive is done. Can only deny.
    fn check_time(&self, claims: &Claims, now: UnixMillis) -> Result<(), DenialReason> {
        if !self.policy.tolerance.admits(claims.time, now) {
            return Err(if claims.time.millis() < now {
                DenialReason::TooOld
            } else {
                DenialReason::TooNew
            });
        }
        if claims.time.millis() <= self.ports.clock.set_back_from() {
            return Err(DenialReason::Fenced);
        }
        if claims.expires_at.is_some_and(|expires_at| expires_at.millis() <= now) {
            return Err(DenialReason::Expired);
        }
        if claims.not_before.is_some_and(|not_before| now < not_before.millis()) {
            return Err(DenialReason::NotYetValid);
        }
        Ok(())
    }
}

/// Why `text` is not a token. A gateway joins repeated headers with commas, and tokens contain
/// neither commas nor spaces.
fn reason_of(text: &str, fault: &TokenFault) -> DenialReason {
    if text.contains([',', ' ', '\t']) {
        DenialReason::SeveralCredentials
    } else {
        DenialReason::from(fault)
    }
}

fn malformed((reason, fault): (DenialReason, TokenFault)) -> Denial {
    Denial { detail: Some(DenialDetail::Token(fault)), ..Denial::from(reason) }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The credential that follows the scheme.
#[derive(Clone, Copy, Debug)]
enum Credential<'a> {
    /// A self-signed token.
    SelfSigned(&'a str),
    /// An access token issued by this service.
    AccessToken(&'a str),
}

impl<'a> Credential<'a> {
    /// The credential, of the kind that its scheme names. If credentials come in a header of their
    /// own, `Authorization` belongs to the application, except for access tokens.
    fn of(auth_request: &AuthRequest<'a>, scheme: &str) -> Result<Self, DenialReason> {
        let value = match auth_request.credentials {
            Credentials::One(value) if !is_empty(value) => value,
            Credentials::Unusable => return Err(DenialReason::SeveralCredentials),
            // A gateway that always sets the header sends it empty if the client sent none.
            Credentials::One(_) | Credentials::None => {
                return match auth_request.authorization {
                    Credentials::One(value) => behind(BEARER, value)
                        .map(Credential::AccessToken)
                        .ok_or(DenialReason::NoCredentials),
                    Credentials::None => Err(DenialReason::NoCredentials),
                    Credentials::Unusable => Err(DenialReason::SeveralCredentials),
                };
            }
        };
        let self_signed = behind(scheme, value).map(Credential::SelfSigned);
        self_signed
            .or_else(|| behind(BEARER, value).map(Credential::AccessToken))
            .ok_or(DenialReason::WrongScheme)
    }

    const fn method(&self) -> AuthMethod {
        match self {
            Self::SelfSigned(_) => AuthMethod::SelfSigned,
            Self::AccessToken(_) => AuthMethod::AccessToken,
        }
    }
}

/// The scheme of access tokens (RFC 6750 section 2.1).
const BEARER: &str = "Bearer";

/// White space around a header's value is not part of it (RFC 9110 section 5.5).
const WHITE_SPACE: [char; 2] = [' ', '\t'];

fn is_empty(value: &str) -> bool {
    value.trim_matches(WHITE_SPACE).is_empty()
}

/// The text after `scheme`, which is compared without case.
fn behind<'a>(scheme: &str, value: &'a str) -> Option<&'a str> {
    let (found, token) = value.trim_matches(WHITE_SPACE).split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| token.trim_start_matches(' '))
}

/// Why no identity was verified.
enum Stopped {
    Denied(Denial),
    Unavailable(Unavailable),
}

impl From<Denial> for Stopped {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<DenialReason> for Stopped {
    fn from(reason: DenialReason) -> Self {
        Self::Denied(reason.into())
    }
}

impl From<Unavailable> for Stopped {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

/// Whether a change in the registry could have led to another outcome. A refusal of this kind has
/// not claimed a nonce.
fn is_about_the_registry(judged: &Result<Identity, Stopped>, method: Option<AuthMethod>) -> bool {
    matches!(judged, Err(Stopped::Denied(denial)) if concerns_the_registry(denial.reason, method))
}

/// Whether a change in the registry could fix `reason`. Keys of principals only sign self-signed
/// tokens: a forged access token stays forged whatever is registered, so it must not cause a look
/// at the registry.
const fn concerns_the_registry(reason: DenialReason, method: Option<AuthMethod>) -> bool {
    if matches!(reason, DenialReason::UnknownPrincipal | DenialReason::DisabledPrincipal) {
        return true;
    }
    matches!(method, Some(AuthMethod::SelfSigned))
        && matches!(
            reason,
            DenialReason::NoMatchingKey | DenialReason::NoKeySet | DenialReason::BadSignature
        )
}

fn outcome(result: &Result<Decision, Unavailable>) -> Outcome<'_> {
    match result {
        Ok(Decision::Allow(identity)) => Outcome::Allowed(identity),
        Ok(Decision::Deny(denial)) => Outcome::Denied(denial),
        Err(unavailable) => {
            Outcome::Unavailable { dependency: unavailable.dependency.name(), source: unavailable }
        }
    }
}

/// Every scope of every list is required. Returns the missing ones.
fn check_scopes(required: &[&str], held: &Scopes) -> Result<(), Scopes> {
    let missing: Vec<&str> = required
        .iter()
        .flat_map(|list| list.split_ascii_whitespace())
        .filter(|token| !held.contains(token))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    // A name outside the grammar cannot be held, and is not repeated to the client.
    Err(Scopes::parse(&missing.join(" ")).unwrap_or_default())
}

/// The gateway's id of a request identifies an attempt only together with the request's method,
/// host and path: the same id with another request is another attempt.
fn attempt(auth_request: &AuthRequest<'_>, id: DecisionId) -> Attempt {
    let Some(name) = auth_request.attempt.filter(|name| !name.is_empty()) else {
        return Attempt::Unique(id.0.as_u128());
    };
    let request = &auth_request.request;
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [Some(name), request.method.value(), request.host.value(), request.path.value()] {
        let part = part.unwrap_or_default();
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    Attempt::Named(
        digest
            .as_ref()
            .first_chunk()
            .map_or_else(|| id.0.as_u128(), |bytes| u128::from_be_bytes(*bytes)),
    )
}

fn new_decision_id(now: UnixMillis) -> DecisionId {
    let random: [u8; 16] = fastrand::u128(..).to_ne_bytes();
    let random = random.first_chunk().copied().unwrap_or_default();
    DecisionId(uuid::Builder::from_unix_timestamp_millis(now.0.unsigned_abs(), &random).into_uuid())
}

mod access;
mod explain;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod key_trials;

pub use explain::{AskedUrl, ExplainFrom, Explanation, Step, StepOutcome};

#[cfg(test)]
mod tests;
