//! Every step of a decision, each with the actual and the expected value. Explaining claims no
//! nonce and counts nothing. If a step fails, the next ones are still evaluated as far as possible.

mod access;

use std::{collections::HashMap, sync::Arc};

use url::{Position, Url};

use super::{
    super::ports::{FetchFailure, Unavailable},
    BEARER, Credential, Verifier, binding, check_scopes, concerns_the_registry,
    key_trials::{KeyTrials, ProvenBy},
};
use crate::domain::{
    auth_request::{AuthRequest, Body, Credentials, OriginalRequest, Reported},
    decision::{DenialCode, DenialReason, Identity},
    key::{Fingerprint, VerifyingKey},
    key_set::{KeySet, LeftOutKey},
    nonce::{Attempt, Claimed},
    principal::{CANDIDATE_KEYS_MAX, KnownPrincipal, TrustId, Username},
    time::UnixMillis,
    token::{TokenKeyId, UntrustedToken},
};

/// What [`Verifier::decide`] would answer now, and why.
#[derive(Debug)]
pub struct Explanation {
    /// The time for which the decision is explained.
    pub now: UnixMillis,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The identity that would be allowed; `None` unless every step passed.
    pub identity: Option<Identity>,
}

impl Explanation {
    /// `allow`, `deny` or `unavailable`.
    pub fn verdict(&self) -> &'static str {
        match self.failure().map(|step| step.outcome) {
            Some(StepOutcome::Unavailable) => "unavailable",
            Some(StepOutcome::Denied(_) | StepOutcome::Passed | StepOutcome::Skipped) => "deny",
            None => "allow",
        }
    }

    /// What the client would receive if the request did not pass: the code of a denial, or
    /// `unavailable`.
    pub fn told(&self) -> Option<&'static str> {
        self.failure().map(|step| step.outcome.code().map_or("unavailable", DenialCode::name))
    }

    /// The exact reason if the request would be denied.
    pub fn reason(&self) -> Option<&'static str> {
        self.failure().and_then(|step| step.outcome.reason()).map(DenialReason::name)
    }

    /// The first step that failed or could not be evaluated because of an outage.
    pub fn failure(&self) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| matches!(step.outcome, StepOutcome::Denied(_) | StepOutcome::Unavailable))
    }
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name of the check.
    pub name: &'static str,
    /// The result of the check.
    pub outcome: StepOutcome,
    /// The actual value.
    pub seen: String,
    /// The expected value.
    pub expected: String,
}

/// The URL of a request to explain, in the parts that a gateway would report.
#[derive(Clone, Debug)]
pub struct AskedUrl {
    scheme: String,
    host: Option<String>,
    path: String,
}

impl AskedUrl {
    /// Splits `url` into the parts that a gateway reports.
    pub fn of(url: &Url) -> Self {
        let host = url.host_str().map(|host| {
            url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        });
        let path = url[Position::BeforePath..Position::AfterQuery].to_owned();
        Self { scheme: url.scheme().to_owned(), host, path }
    }

    /// The request to `url` with `method`; anything not given is not reported.
    pub fn request<'a>(url: Option<&'a Self>, method: Option<&'a str>) -> OriginalRequest<'a> {
        OriginalRequest {
            method: method.into(),
            scheme: url.map(|url| url.scheme.as_str()).into(),
            host: url.and_then(|url| url.host.as_deref()).into(),
            path: url.map(|url| url.path.as_str()).into(),
            body: Body::Unseen,
        }
    }
}

/// Which process gives the explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainFrom {
    /// The deciding service itself: it sees what decisions see.
    Inside,
    /// Another process. It fetches key sets itself, and sees used nonces only if they are shared.
    Outside {
        /// Whether used nonces are stored where other processes can read them.
        nonces_are_shared: bool,
    },
}

impl ExplainFrom {
    const fn sees_nonces(self) -> bool {
        match self {
            Self::Inside => true,
            Self::Outside { nonces_are_shared } => nonces_are_shared,
        }
    }
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// The check passed.
    Passed,
    /// The check denies the request.
    Denied(DenialReason),
    /// A dependency of the check is unreachable.
    Unavailable,
    /// Not checked: an earlier step left nothing to check, or the data is in another process.
    Skipped,
}

impl StepOutcome {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Denied(_) => "denied",
            Self::Unavailable => "unavailable",
            Self::Skipped => "skipped",
        }
    }

    /// The exact reason, if the step denies.
    pub const fn reason(self) -> Option<DenialReason> {
        match self {
            Self::Denied(reason) => Some(reason),
            Self::Passed | Self::Unavailable | Self::Skipped => None,
        }
    }

    /// The code that a client would receive, if the step denies.
    pub const fn code(self) -> Option<DenialCode> {
        match self {
            Self::Denied(reason) => Some(reason.code()),
            Self::Passed | Self::Unavailable | Self::Skipped => None,
        }
    }
}

/// Collects steps in the order in which a decision takes them.
struct Walk {
    steps: Vec<Step>,
}

impl Walk {
    fn step(
        &mut self,
        name: &'static str,
        outcome: StepOutcome,
        seen: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.steps.push(Step { name, outcome, seen: seen.into(), expected: expected.into() });
    }

    fn checked(
        &mut self,
        name: &'static str,
        result: Result<(), DenialReason>,
        seen: String,
        expected: impl Into<String>,
    ) {
        self.step(
            name,
            result.map_or_else(StepOutcome::Denied, |()| StepOutcome::Passed),
            seen,
            expected,
        );
    }
}

impl Verifier {
    /// Runs a request through every step of a decision.
    pub async fn explain(&self, auth_request: &AuthRequest<'_>, from: ExplainFrom) -> Explanation {
        let version = self.ports.directory.version();
        let explanation = self.walk_once(auth_request, from).await;
        // As in a decision: this process may not know yet what was registered a moment ago.
        let reason = explanation.failure().and_then(|step| step.outcome.reason());
        let method = self.credential(auth_request).ok().map(|credential| credential.method());
        let is_about_the_registry =
            reason.is_some_and(|reason| concerns_the_registry(reason, method));
        if is_about_the_registry && self.ports.directory.catch_up(version).await {
            return self.walk_once(auth_request, from).await;
        }
        explanation
    }

    async fn walk_once(&self, auth_request: &AuthRequest<'_>, from: ExplainFrom) -> Explanation {
        let now = self.ports.clock.now();
        let mut walk = Walk { steps: Vec::new() };
        let identity = self.walk(auth_request, from, now, &mut walk).await;
        let explanation = Explanation { now, steps: walk.steps, identity: None };
        let identity = identity.filter(|_| explanation.failure().is_none());
        Explanation { identity, ..explanation }
    }

    async fn walk(
        &self,
        auth_request: &AuthRequest<'_>,
        from: ExplainFrom,
        now: UnixMillis,
        walk: &mut Walk,
    ) -> Option<Identity> {
        if let Some(misconfiguration) = &auth_request.misconfiguration {
            let outcome = StepOutcome::Denied(DenialReason::GatewayMisconfigured);
            walk.step(
                "question",
                outcome,
                misconfiguration.to_string(),
                "a question that asks for scopes, or for nothing",
            );
            return None;
        }
        let scheme = format!(
            "one value of the credentials header, with the scheme {} or {BEARER}",
            self.policy.scheme
        );
        let credential = match self.credential(auth_request) {
            Ok(credential) => credential,
            Err(reason) => {
                let seen = match auth_request.credentials {
                    Credentials::None => "no such header",
                    Credentials::One(_) => "another scheme, or none",
                    Credentials::Unusable => "the header more than once, or bytes that are no text",
                };
                walk.step("credentials", StepOutcome::Denied(reason), seen, scheme);
                return None;
            }
        };
        let (Credential::SelfSigned(text) | Credential::AccessToken(text)) = credential;
        let seen = format!("one, {}, of {} bytes", credential.method().name(), text.len());
        walk.step("credentials", StepOutcome::Passed, seen, scheme);
        match credential {
            Credential::SelfSigned(text) => {
                self.walk_self_signed(auth_request, text, from, now, walk).await
            }
            Credential::AccessToken(text) => {
                self.walk_access_token(auth_request, text, now, walk).await
            }
        }
    }

    async fn walk_self_signed(
        &self,
        auth_request: &AuthRequest<'_>,
        text: &str,
        from: ExplainFrom,
        now: UnixMillis,
        walk: &mut Walk,
    ) -> Option<Identity> {
        let expected = "a compact JWS of at most 8192 bytes with an accepted alg, and claims for user, time and nonce";
        let token = match Self::parse(text) {
            Ok(token) => token,
            Err((reason, fault)) => {
                walk.step("token", StepOutcome::Denied(reason), fault.to_string(), expected);
                return None;
            }
        };
        let kid = token.key_id().map(|kid| kid.text().into_owned());
        let seen = format!("alg {}, kid {}", token.algorithm(), kid.as_deref().unwrap_or("none"));
        walk.step("token", StepOutcome::Passed, seen, expected);

        self.explain_claims(&token, now, walk);
        let principal =
            self.explain_principal(&token.unverified_claims().username, now, walk).await;
        let mut failures = HashMap::new();
        if let (ExplainFrom::Outside { .. }, Some(principal)) = (from, &principal) {
            for (_, trust) in principal.trusts_in_use() {
                if let Err(failure) = self.ports.key_sets.refresh(&trust.url).await {
                    failures.insert(trust.id, failure);
                }
            }
        }
        let proof = self.explain_key(&token, principal.as_deref(), &failures, now, walk).await;
        let claims = token.unverified_claims();

        let bound = binding::check(claims, &auth_request.request, &self.policy);
        let seen = format!(
            "htm {}, htu {}, htq {}, content_digest {}, aud {}",
            or_none(claims.method.as_deref()),
            or_none(claims.uri.as_deref()),
            or_none(claims.query.as_deref()),
            claims.content_digest.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            if claims.audience.is_some() { "present" } else { "none" }
        );
        let request = &auth_request.request;
        let asked = |stated: Reported<'_>| match stated {
            Reported::Value(value) => value.to_owned(),
            Reported::Missing => "not told".to_owned(),
            Reported::Conflicting => "contradictory".to_owned(),
        };
        let mut expected = format!(
            "nothing, or method {}, scheme {}, host {}, path and query {}, audience {}",
            asked(request.method),
            asked(request.scheme),
            asked(request.host),
            asked(request.path),
            or_none(Some(&self.policy.audiences.join(" or ")))
        );
        if !self.policy.authorities.is_empty() {
            let authorities: Vec<String> =
                self.policy.authorities.iter().map(ToString::to_string).collect();
            expected.extend([", at ", &authorities.join(" or ")]);
        }
        walk.checked("binding", bound, seen, expected);

        let identity = principal.and_then(|principal| proof?.identity(principal, &token));
        let Some(identity) = identity else {
            walk.step("scopes", StepOutcome::Skipped, "", "a verified key");
            walk.step("nonce", StepOutcome::Skipped, "", "a verified key");
            return None;
        };
        explain_scopes(auth_request, &identity, walk);

        let (outcome, seen) = if from.sees_nonces() {
            let attempt = Attempt::Unique(fastrand::u128(..));
            match self.ports.nonces.look(self.nonce_claim(claims, identity.principal().id, attempt, now)).await {
                Ok(Claimed::Fresh) => (StepOutcome::Passed, "not used yet".to_owned()),
                Ok(Claimed::Replayed) => (StepOutcome::Denied(DenialReason::NonceClaimed), "used before".to_owned()),
                Ok(Claimed::Fenced) => (
                    StepOutcome::Denied(DenialReason::Fenced),
                    "not known: the store lost its memory after the token was signed, or began with none".to_owned(),
                ),
                Err(unavailable) => (StepOutcome::Unavailable, described(&unavailable)),
            }
        } else {
            (
                StepOutcome::Skipped,
                "used nonces are in the memory of the serving process; ask its admin API"
                    .to_owned(),
            )
        };
        walk.step(
            "nonce",
            outcome,
            seen,
            "a nonce that was not used before; looked at, not claimed",
        );
        Some(identity)
    }

    fn explain_claims(&self, token: &UntrustedToken<'_>, now: UnixMillis, walk: &mut Walk) {
        let claims = token.unverified_claims();
        let offset_ms = now.0.saturating_sub(claims.time.millis().0);
        let (sign, distance_ms) =
            (if offset_ms < 0 { "ahead" } else { "ago" }, offset_ms.unsigned_abs());
        let mut seen = format!("signed {}.{:03} s {sign}", distance_ms / 1000, distance_ms % 1000);
        for (name, at) in [("exp", claims.expires_at), ("nbf", claims.not_before)] {
            if let Some(at) = at {
                seen.extend([", ", name, " ", &at.millis().to_rfc3339()]);
            }
        }
        let expected = format!(
            "at most {:?} from {}, before its exp, not before its nbf",
            self.policy.tolerance.duration(),
            now.to_rfc3339()
        );
        walk.checked("time", self.check_time(claims, now), seen, expected);

        let required = self.policy.required_claims;
        let result =
            if required.are_met_by(claims) { Ok(()) } else { Err(DenialReason::BindingMissing) };
        let claims = [
            ("htm", required.method, claims.method.is_some()),
            ("htu", required.uri, claims.uri.is_some()),
            ("htq", required.query, claims.query.is_some()),
            ("content_digest", required.digest, claims.content_digest.is_some()),
            ("aud", required.audience, claims.audience.is_some()),
        ];
        let seen = claims
            .map(|(name, _, there)| format!("{name} {}", if there { "present" } else { "absent" }))
            .join(", ");
        let asked: Vec<&str> = claims
            .iter()
            .filter(|(_, is_required, _)| *is_required)
            .map(|(name, ..)| *name)
            .collect();
        let expected =
            if asked.is_empty() { "none is required".to_owned() } else { asked.join(", ") };
        walk.checked("required_claims", result, seen, expected);
    }

    async fn explain_principal(
        &self,
        username: &Username,
        now: UnixMillis,
        walk: &mut Walk,
    ) -> Option<Arc<KnownPrincipal>> {
        let expected = "a principal that is there and enabled";
        match self.ports.directory.lookup(username, now).await {
            Err(unavailable) => {
                walk.step("principal", StepOutcome::Unavailable, described(&unavailable), expected);
                None
            }
            Ok(None) => {
                let outcome = StepOutcome::Denied(DenialReason::UnknownPrincipal);
                walk.step(
                    "principal",
                    outcome,
                    format!("{username:?}, which nobody is called", username = username.as_str()),
                    expected,
                );
                None
            }
            Ok(Some(principal)) => {
                let (id, is_active) = (principal.id, principal.is_active);
                let result = if is_active { Ok(()) } else { Err(DenialReason::DisabledPrincipal) };
                let state = if is_active { "enabled" } else { "disabled" };
                let (keys, trusts) = (principal.keys.len(), principal.trusts.len());
                let seen = format!(
                    "{:?}, id {id}, {state}, with {keys} unrevoked keys and {trusts} trusts",
                    username.as_str()
                );
                walk.checked("principal", result, seen, expected);
                Some(principal)
            }
        }
    }

    async fn explain_trusts(
        &self,
        token: &UntrustedToken<'_>,
        principal: &KnownPrincipal,
        failures: &HashMap<TrustId, FetchFailure>,
        now: UnixMillis,
        attempts: &mut Attempts,
        seen: &mut Vec<String>,
    ) {
        for (_, trust) in principal.trusts_in_use() {
            let finding = match self.ports.key_sets.set(trust, now).await {
                Some(set) => explain_set(token, &set, now, attempts),
                None => "no key set: never fetched, or too old".to_owned(),
            };
            let failure = failures
                .get(&trust.id)
                .map_or_else(String::new, |failure| format!("; fetching it failed: {failure}"));
            seen.push(format!("trust {} ({}): {finding}{failure}", trust.id, trust.url));
        }
    }

    /// Tries the keys that a decision would try, in the same order, and reports on each, including
    /// why key sets could not be fetched just now.
    async fn explain_key(
        &self,
        token: &UntrustedToken<'_>,
        principal: Option<&KnownPrincipal>,
        failures: &HashMap<TrustId, FetchFailure>,
        now: UnixMillis,
        walk: &mut Walk,
    ) -> Option<ProvenBy> {
        let Some(principal) = principal else {
            walk.step("key", StepOutcome::Skipped, "", "a principal");
            return None;
        };
        let expected = format!(
            "a signature by one of the principal's keys or trusts, at most {CANDIDATE_KEYS_MAX} of which are tried"
        );
        let mut attempts =
            Attempts { is_active: principal.is_active, failed: Vec::new(), is_proven: false };
        let mut seen: Vec<String> =
            token.signature_fault().iter().map(ToString::to_string).collect();
        // The order matters: a decision stops at the first key that verifies, and at the eighth
        // that does not.
        let trusts_come_first = token.key_id().is_some() && principal.named_key(token).is_none();
        if trusts_come_first {
            self.explain_trusts(token, principal, failures, now, &mut attempts, &mut seen).await;
        }
        let named = principal.named_key(token);
        for known in &principal.keys {
            let finding = if named.is_some_and(|named| named != known.key.fingerprint()) {
                "not the one that kid names".to_owned()
            } else if !known.is_current(now) {
                "not in its time of use".to_owned()
            } else {
                attempts.finding(token, &known.key, now)
            };
            seen.push(format!(
                "key {} ({} {}): {finding}",
                known.id,
                known.key.family(),
                known.key.fingerprint()
            ));
        }
        if !trusts_come_first {
            self.explain_trusts(token, principal, failures, now, &mut attempts, &mut seen).await;
        }
        if token.key_id().is_some() {
            for (_, trust) in principal.trusts_in_use() {
                let Some(set) = self.ports.key_sets.set(trust, now).await else { continue };
                let findings = set.nameless().map(|key| attempts.finding(token, key, now));
                seen.extend(findings.map(|finding| {
                    format!("trust {} ({}): a key without kid, {finding}", trust.id, trust.url)
                }));
            }
        }
        let seen =
            if seen.is_empty() { "no keys and no trusts".to_owned() } else { seen.join("; ") };
        let mut trials = KeyTrials::default();
        let proof = if principal.is_active {
            self.try_everything(token, principal, now, &mut trials).await
        } else {
            None
        };
        let outcome = match &proof {
            Some(_) => StepOutcome::Passed,
            None => StepOutcome::Denied(trials.reason(Some(principal))),
        };
        walk.step("key", outcome, seen, expected);
        proof.map(|(_, proof)| proof)
    }
}

/// The result for each key of the set that the token names, or for all keys if it names none, and
/// the unusable entries that the token may have meant.
fn explain_set(
    token: &UntrustedToken<'_>,
    set: &KeySet,
    now: UnixMillis,
    attempts: &mut Attempts,
) -> String {
    let kid = token.key_id().map(TokenKeyId::text);
    let mut found: Vec<String> = if let Some(kid) = &kid {
        set.named(kid)
            .map(|key| format!("kid found, {}", attempts.finding(token, key, now)))
            .collect()
    } else {
        let finding =
            |key: &VerifyingKey| format!("a key ({} {}), ", key.family(), key.fingerprint());
        set.keys().map(|key| finding(key) + &attempts.finding(token, key, now)).collect()
    };
    if found.is_empty() {
        found.push(
            if kid.is_some() { "no usable key of that kid" } else { "no usable key" }.to_owned(),
        );
    }
    let is_meant = |left_out: &&LeftOutKey| {
        kid.is_none() || left_out.kid.is_none() || left_out.kid.as_deref() == kid.as_deref()
    };
    found.extend(
        set.contents()
            .left_out
            .iter()
            .filter(is_meant)
            .map(|left_out| format!("left out: {left_out}")),
    );
    found.join(", ")
}

/// The verifications that a decision would make, in order.
struct Attempts {
    is_active: bool,
    failed: Vec<Fingerprint>,
    is_proven: bool,
}

impl Attempts {
    /// The result for `key`, which is tried only if a decision would try it.
    fn finding(
        &mut self,
        token: &UntrustedToken<'_>,
        key: &VerifyingKey,
        now: UnixMillis,
    ) -> String {
        if !token.fits(key) {
            return "of another kind or size, or not for this alg".to_owned();
        }
        if !self.is_active {
            return "not tried, the principal is disabled".to_owned();
        }
        if self.is_proven {
            return "not tried, another one verified before".to_owned();
        }
        if self.failed.contains(&key.fingerprint()) {
            return "does not verify, as before".to_owned();
        }
        if self.failed.len() >= CANDIDATE_KEYS_MAX {
            return format!("not tried, {CANDIDATE_KEYS_MAX} were before");
        }
        if token.verify(key, now).is_some() {
            self.is_proven = true;
            return "verifies".to_owned();
        }
        self.failed.push(key.fingerprint());
        token.other_pss_salt(key).map_or_else(
            || "does not verify".to_owned(),
            |found| {
                let algorithm = token.algorithm();
                format!(
                    "does not verify: it signed this, with a salt of {found} bytes, and {algorithm} wants as many as its digest has \
                     (RFC 7518 section 3.5), which your library has an option for"
                )
            },
        )
    }
}

fn explain_scopes(auth_request: &AuthRequest<'_>, identity: &Identity, walk: &mut Walk) {
    let required = auth_request.required_scopes.join(" ");
    let held = check_scopes(&auth_request.required_scopes, identity.scopes())
        .map_err(|_| DenialReason::InsufficientScope);
    let expected = if required.is_empty() {
        "nothing is asked for".to_owned()
    } else {
        format!("all of: {required}")
    };
    walk.checked("scopes", held, or_none(Some(identity.scopes().as_str())).to_owned(), expected);
}

fn or_none(value: Option<&str>) -> &str {
    value.filter(|value| !value.is_empty()).unwrap_or("none")
}

fn described(unavailable: &Unavailable) -> String {
    format!("{unavailable}: {}", unavailable.source)
}
