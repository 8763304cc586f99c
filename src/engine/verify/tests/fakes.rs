//! A verifier with fake ports, and requests for it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, atomic::AtomicI64, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::super::*;
use crate::{
    domain::{
        algorithm::{Algorithm, KeyFamily},
        auth_request::{Body, Door, OriginalRequest},
        decision::Used,
        issuer_keys::{IssuerKeys, SigningKey},
        key::{PrivateKey, VerifyingKey},
        key_set::{KeySet, KeySetContents, MostTrials},
        nonce::NonceClaim,
        principal::{KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, TrustId, Username},
    },
    engine::ports::{Answer, Dependency, FetchFailure},
};

pub(super) const NOW_MS: i64 = 1_800_000_000_500;
pub(super) const NOW: i64 = 1_800_000_000;

pub(super) struct TestClock {
    pub(super) now: AtomicI64,
    pub(super) set_back_from: AtomicI64,
}

impl TestClock {
    pub(super) fn at(now: i64) -> Self {
        Self { now: now.into(), set_back_from: i64::MIN.into() }
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.now.load(Ordering::Relaxed))
    }

    fn set_back_from(&self) -> UnixMillis {
        UnixMillis(self.set_back_from.load(Ordering::Relaxed))
    }
}

/// A directory of the principals that the test adds.
#[derive(Default)]
pub(super) struct TestDirectory {
    principals: HashMap<String, Arc<KnownPrincipal>>,
    is_down: bool,
}

impl TestDirectory {
    fn of(principals: impl IntoIterator<Item = Arc<KnownPrincipal>>) -> Self {
        let principals =
            principals.into_iter().map(|known| (known.username.to_string(), known)).collect();
        Self { principals, is_down: false }
    }
}

impl KeyDirectory for TestDirectory {
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        _: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        Answer::ready(if self.is_down {
            Err(Unavailable::new(Dependency::KeyDirectory, "down"))
        } else {
            Ok(self.principals.get(username.as_str()).cloned())
        })
    }

    fn version(&self) -> u64 {
        0
    }

    fn catch_up(&self, _: u64) -> Answer<'_, bool> {
        Answer::ready(false)
    }

    fn most_keys(&self, family: KeyFamily) -> usize {
        let of_kind = |known: &Arc<KnownPrincipal>| {
            known.keys.iter().filter(|known| known.key.family() == family).count()
        };
        self.principals.values().map(of_kind).max().unwrap_or(0)
    }

    fn most_trusts(&self) -> usize {
        self.principals.values().map(|known| known.trusts.len()).max().unwrap_or(0)
    }

    fn look(&self) {}

    fn check(&self, _: UnixMillis) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// Key sets by URL; missing ones were never fetched.
#[derive(Default)]
pub(super) struct TestKeySets {
    sets: HashMap<String, Arc<KeySet>>,
    /// The trusts that were reported as missed.
    pub(super) missed: Mutex<Vec<TrustId>>,
}

impl TestKeySets {
    pub(super) fn of(sets: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let read = |set: Value| Arc::new(KeySet::parse(set.to_string().as_bytes()).unwrap());
        Self {
            sets: sets.into_iter().map(|(url, set)| (url.to_owned(), read(set))).collect(),
            missed: Mutex::default(),
        }
    }
}

impl KeySetSource for TestKeySets {
    fn set<'a>(&'a self, trust: &'a KnownTrust, _: UnixMillis) -> Answer<'a, Option<Arc<KeySet>>> {
        Answer::ready(self.sets.get(&*trust.url).map(Arc::clone))
    }

    fn missed(&self, trust: &KnownTrust, _: UnixMillis) {
        self.missed.lock().unwrap().push(trust.id);
    }

    fn most_trials(&self, family: KeyFamily) -> MostTrials {
        self.sets
            .values()
            .fold(MostTrials::default(), |most, set| most.max(set.most_trials(family)))
    }

    fn anticipate(&self, _: &[KnownTrust], _: bool) {}

    fn check_url(&self, _: &str) -> Result<(), FetchFailure> {
        Ok(())
    }

    fn refresh<'a>(&'a self, url: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        let contents = self.sets.get(url).map(|set| set.contents().clone());
        Answer::ready(contents.ok_or_else(|| FetchFailure { reason: "not there".to_owned() }))
    }
}

/// The `iss` of our own access tokens.
pub(super) const ISSUER: &str = "https://auth.example";

/// Keys of the service that never change.
pub(super) struct TestIssuerKeys(pub(super) Arc<IssuerKeys>);

impl IssuerKeySource for TestIssuerKeys {
    fn current(&self) -> Arc<IssuerKeys> {
        Arc::clone(&self.0)
    }
}

fn issuer_keys() -> Arc<IssuerKeys> {
    let key = Arc::new(SigningKey::new(new_key(), None));
    Arc::new(IssuerKeys::asymmetric(Arc::clone(&key), vec![key]))
}

/// What was recorded as used.
#[derive(Default)]
pub(super) struct TestUsage(pub(super) Mutex<Vec<(Used, UnixMillis)>>);

impl UsageLog for TestUsage {
    fn note(&self, used: Used, now: UnixMillis) {
        self.0.lock().unwrap().push((used, now));
    }
}

/// A store that keeps each claim exactly as long as it was asked to: the minimum that the port
/// promises.
#[derive(Default)]
pub(super) struct TestNonces {
    claims: Mutex<HashMap<(i64, String), (UnixMillis, u128)>>,
    is_down: bool,
    /// The time that the clock shows after a claim, to simulate a slow store.
    pub(super) slow: Mutex<Option<(Arc<TestClock>, i64)>>,
}

impl NonceStore for TestNonces {
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        if self.is_down {
            return Answer::ready(Err(Unavailable::new(Dependency::NonceStore, "down")));
        }
        if let Some((clock, later)) = &*self.slow.lock().unwrap() {
            clock.now.store(*later, Ordering::Relaxed);
        }
        let mut claims = self.claims.lock().unwrap();
        let key = (claim.principal.0, claim.nonce.to_owned());
        if let Some((_, holder)) =
            claims.get(&key).filter(|(forgotten_at, _)| claim.now < *forgotten_at)
        {
            let is_same = matches!(claim.attempt, Attempt::Named(number) if number == *holder);
            return Answer::ready(Ok(if is_same { Claimed::Fresh } else { Claimed::Replayed }));
        }
        claims
            .insert(key, (claim.now.saturating_add(claim.remember_for()), claim.attempt.number()));
        Answer::ready(Ok(Claimed::Fresh))
    }

    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        if self.is_down {
            return Answer::ready(Err(Unavailable::new(Dependency::NonceStore, "down")));
        }
        let claims = self.claims.lock().unwrap();
        let key = (claim.principal.0, claim.nonce.to_owned());
        let is_live = claims.get(&key).is_some_and(|(forgotten_at, _)| claim.now < *forgotten_at);
        Answer::ready(Ok(if is_live { Claimed::Replayed } else { Claimed::Fresh }))
    }

    fn check(&self, _now: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        Answer::ready(Ok(()))
    }
}

pub(super) struct Bench {
    pub(super) key: PrivateKey,
    /// The key `remote` in the key set that `tina` trusts.
    pub(super) remote: PrivateKey,
    pub(super) clock: Arc<TestClock>,
    pub(super) nonces: Arc<TestNonces>,
    pub(super) usage: Arc<TestUsage>,
    pub(super) key_sets: Arc<TestKeySets>,
    pub(super) issuer_keys: Arc<IssuerKeys>,
    pub(super) verifier: Verifier,
}

pub(super) const KEY_SET: &str = "https://keys.example/jwks";
pub(super) const NEVER_FETCHED: &str = "https://down.example/jwks";

pub(super) fn principal(
    id: i64,
    username: &str,
    is_active: bool,
    keys: &[&PrivateKey],
    scopes: &str,
) -> Arc<KnownPrincipal> {
    let keys = keys.iter().zip(1..).map(|(key, number)| {
        KnownKey::new(
            KeyId(number),
            VerifyingKey::new(key.public_key()),
            Scopes::parse(scopes).unwrap(),
            None,
            None,
        )
    });
    Arc::new(keyless(id, username, is_active, scopes).with_keys(keys.collect()))
}

/// A principal that trusts the key sets at `urls` and has no registered keys.
pub(super) fn trusting(id: i64, username: &str, urls: &[&str]) -> Arc<KnownPrincipal> {
    let trusts = urls
        .iter()
        .zip(1..)
        .map(|(url, number)| KnownTrust { id: TrustId(number), url: (*url).into() });
    Arc::new(keyless(id, username, true, "read").with_trusts(trusts.collect()))
}

pub(super) fn keyless(id: i64, username: &str, is_active: bool, scopes: &str) -> KnownPrincipal {
    KnownPrincipal::new(
        PrincipalId(id),
        Username::new(username).unwrap(),
        is_active,
        Scopes::parse(scopes).unwrap(),
    )
}

pub(super) fn policy() -> Policy {
    Policy {
        scheme: "JWT".into(),
        tolerance: Tolerance::DEFAULT,
        audiences: ["us".into()].into(),
        issuer: ISSUER.into(),
        authorities: [].into(),
        required_claims: RequiredClaims::default(),
    }
}

pub(super) fn bench_with(policy: Policy, directory_is_down: bool, nonces_are_down: bool) -> Bench {
    let (key, remote) = (new_key(), new_key());
    let principals = [
        principal(1, "alice", true, &[&key], "read write"),
        principal(2, "dora", false, &[&key], ""),
        trusting(3, "tina", &[KEY_SET]),
        trusting(4, "tom", &[NEVER_FETCHED]),
    ];
    let directory = TestDirectory { is_down: directory_is_down, ..TestDirectory::of(principals) };
    assembled(policy, directory, nonces_are_down, key, remote)
}

/// A bench that knows only `principals`.
pub(super) fn bench_of(principals: impl IntoIterator<Item = Arc<KnownPrincipal>>) -> Bench {
    assembled(policy(), TestDirectory::of(principals), false, new_key(), new_key())
}

fn assembled(
    policy: Policy,
    directory: TestDirectory,
    nonces_are_down: bool,
    key: PrivateKey,
    remote: PrivateKey,
) -> Bench {
    let key_sets =
        Arc::new(TestKeySets::of([(KEY_SET, json!({"keys": [jwk(&remote, "remote")]}))]));
    let (clock, usage) = (Arc::new(TestClock::at(NOW_MS)), Arc::new(TestUsage::default()));
    let nonces = Arc::new(TestNonces { is_down: nonces_are_down, ..TestNonces::default() });
    let issuer_keys = issuer_keys();
    let ports = VerifierPorts {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        directory: Arc::new(directory),
        key_sets: Arc::clone(&key_sets) as Arc<dyn KeySetSource>,
        issuer_keys: Arc::new(TestIssuerKeys(Arc::clone(&issuer_keys))),
        nonces: Arc::clone(&nonces) as Arc<dyn NonceStore>,
        usage: Arc::clone(&usage) as Arc<dyn UsageLog>,
    };
    let verifier = Verifier::new(policy, ports, Arc::new(DecisionObserver::unseen())).unwrap();
    Bench { key, remote, clock, nonces, usage, key_sets, issuer_keys, verifier }
}

/// The public key as an entry of a key set (JWK).
pub(super) fn jwk(key: &PrivateKey, kid: &str) -> Value {
    let mut jwk = serde_json::to_value(key.public_key().to_jwk()).unwrap();
    jwk["kid"] = kid.into();
    jwk
}

pub(super) fn verifier_of(principals: impl IntoIterator<Item = Arc<KnownPrincipal>>) -> Verifier {
    verifier_with(principals, TestKeySets::default())
}

pub(super) fn verifier_with(
    principals: impl IntoIterator<Item = Arc<KnownPrincipal>>,
    key_sets: TestKeySets,
) -> Verifier {
    let ports = VerifierPorts {
        clock: Arc::new(TestClock::at(NOW_MS)),
        directory: Arc::new(TestDirectory::of(principals)),
        key_sets: Arc::new(key_sets),
        issuer_keys: Arc::new(TestIssuerKeys(issuer_keys())),
        nonces: Arc::new(TestNonces::default()),
        usage: Arc::new(TestUsage::default()),
    };
    Verifier::new(policy(), ports, Arc::new(DecisionObserver::unseen())).unwrap()
}

pub(super) fn new_key() -> PrivateKey {
    PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap()
}

pub(super) fn bench() -> Bench {
    bench_with(policy(), false, false)
}

pub(super) fn sign(
    key: &PrivateKey,
    algorithm: Algorithm,
    header: &Value,
    claims: &Value,
) -> String {
    let mut header = header.clone();
    header["alg"] = algorithm.name().into();
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let input = format!("{}.{}", part(&header), part(claims));
    let signature = key.sign(algorithm, input.as_bytes()).unwrap();
    format!("JWT {input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

pub(super) fn claims(nonce: &str) -> Value {
    json!({"username": "alice", "time": NOW, "nonce": nonce})
}

pub(super) fn auth_request(credentials: &str) -> AuthRequest<'_> {
    AuthRequest {
        request: OriginalRequest {
            method: Some("GET").into(),
            scheme: Some("https").into(),
            host: Some("api.example").into(),
            path: Some("/orders?page=1").into(),
            body: Body::Unseen,
        },
        ..AuthRequest::alone(Door::Http, Credentials::One(credentials))
    }
}

/// Every fake answers at once, so no runtime is needed.
pub(super) fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a decision that has everything in memory waits for nothing"),
    }
}

impl Bench {
    pub(super) fn sign(&self, claims: &Value) -> String {
        sign(&self.key, Algorithm::EdDsa, &json!({}), claims)
    }

    /// Decides, and checks that the explanation made just before agrees with the decision.
    pub(super) fn decide(&self, auth_request: &AuthRequest<'_>) -> Result<(), DenialReason> {
        let claimed = self.claimed();
        let explanation = now_or_never(self.verifier.explain(auth_request, ExplainFrom::Inside));
        assert_eq!(self.claimed(), claimed, "explaining claims nothing");
        let decided = match now_or_never(self.verifier.decide(auth_request)).result.unwrap() {
            Decision::Allow(identity) => {
                assert!(matches!(identity.principal().username.as_str(), "alice" | "tina"));
                Ok(())
            }
            Decision::Deny(denial) => Err(denial.reason),
        };
        let explained =
            explanation.failure().map_or(Ok(()), |step| Err(step.outcome.reason().unwrap()));
        // A retry of the same attempt passes; an explanation is not an attempt.
        if auth_request.attempt.is_none() || decided.is_err() {
            assert_eq!(explained, decided, "{explanation:#?}");
            assert_eq!(explanation.identity.is_some(), decided.is_ok());
        }
        decided
    }

    pub(super) fn present(&self, credentials: &str) -> Result<(), DenialReason> {
        self.decide(&auth_request(credentials))
    }

    pub(super) fn claimed(&self) -> usize {
        self.nonces.claims.lock().unwrap().len()
    }
}
