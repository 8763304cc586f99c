//! Whether the duration of a denial reveals what kind of principal it names: Welch's t-test over
//! interleaved samples.
//!
//! `cargo bench --bench timing`. Takes some minutes; the exit code is 1 if any kind can be
//! distinguished.
//!
//! The engine decides about forged tokens that name principals of different kinds, with the
//! directory in memory that the service uses. Each round takes one sample of every kind in random
//! order, so that other work on the machine affects all kinds alike. There are [`SAMPLES`] samples
//! of each kind, and each kind is compared with a user that does not exist. A difference counts if
//! |t| is at least 4.5, the usual threshold of leakage tests: chance exceeds it once in some
//! 150,000 comparisons. At the end, tokens that do cost more are compared with those that do not: a
//! test that could not distinguish these would prove nothing.
//!
//! Interruptions cause most of the variance and may hide a difference. So the means without the
//! slowest [`CUT_OFF`] are compared, too, and may differ by at most a tenth of a verification
//! ([`VERIFICATION_SHARE`]): the position of a key in the processor's caches, and whether a name is
//! found, make a difference of some hundred nanoseconds that no number of decoys can hide.
//!
//! Denials that depend on the registry also wait for a check of the change feed, up to 20 ms, all
//! alike; that wait is left out, since it would hide everything else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "benches: what fails ends the run, and they print what they find"
)]

use std::{hint::black_box, process::ExitCode, sync::Arc, time::Instant};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::{
    config::registry::RegistrySettings,
    domain::{
        algorithm::{Algorithm, KeyFamily},
        auth_request::{AuthRequest, Credentials, Door},
        decision::{Decision, DenialCode, Used},
        issuer_keys::{IssuerKeys, SigningKey},
        key::{Jwk, PrivateKey, PublicKey, VerifyingKey},
        key_set::{KeySet, KeySetContents, MostTrials},
        nonce::{Claimed, NonceClaim},
        principal::{KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, TrustId, Username},
        scope::Scopes,
        time::{Tolerance, UnixMillis},
    },
    engine::{
        ports::{
            Answer, Clock, FetchFailure, IssuerKeySource, KeyDirectory, KeySetSource, NonceStore,
            PrincipalSource, RegistryChange, RegistryError, Unavailable, UsageLog,
        },
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::cache::CachedDirectory,
    telemetry::decisions::DecisionObserver,
};
use futures_util::FutureExt;
use serde_json::{Value, json};

/// The same allocator as in the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Samples of each kind of principal, for each kind of token.
const SAMPLES: usize = 20_000;
/// The share of the slowest samples that is left out when means are compared.
const CUT_OFF: f64 = 0.05;
/// Maximum difference of these means, as a share of the time of a verification.
const VERIFICATION_SHARE: f64 = 0.1;
/// From this |t| on, there is a difference.
const THRESHOLD: f64 = 4.5;
/// Rounds before anything is measured.
const WARM_UP: usize = 500;

/// The kinds of principals. The first does not exist, and all others are compared with it.
const KINDS: [&str; 5] =
    ["nobody", "one key", "five keys", "disabled, five keys", "one key, one trust"];
/// Names of each kind, so that the effect of a single name is not mistaken for an effect of its
/// kind.
const NAMES: usize = 4;
/// How a token names its key. A name selects a key of the trusted set.
const KEY_IDS: [&str; 3] = ["none", "a name", "a fingerprint"];
/// The name of the key in the key set.
const NAME: &str = "signing-key-1";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut can_be_told = false;
    let mut are_alike = false;
    println!(
        "{:<8} {:<14} {:<36} {:>10} {:>10} {:>8}",
        "alg", "kid", "kind", "mean us", "diff ns", "t"
    );
    for algorithm in [Algorithm::EdDsa, Algorithm::Rs256] {
        let verifier = runtime.block_on(verifier(algorithm));
        let forger = PrivateKey::generate(algorithm.family(), 2048).unwrap();
        // The time of one verification, the unit of all comparisons.
        let nobody: Vec<String> = (0..NAMES)
            .map(|number| forged(&forger, algorithm, &username(0, number), "a fingerprint"))
            .collect();
        let one = measure(&verifier, &std::array::from_fn(|_| nobody.clone()))[0].clone();
        let verification = quick_mean(&one);
        for key_id in KEY_IDS {
            let tokens: [Vec<String>; KINDS.len()] = std::array::from_fn(|kind| {
                (0..NAMES)
                    .map(|number| forged(&forger, algorithm, &username(kind, number), key_id))
                    .collect()
            });
            let samples = measure(&verifier, &tokens);
            for (kind, theirs) in KINDS.iter().zip(&samples).skip(1) {
                let difference = Difference::between(&samples[0], theirs, verification);
                difference.print(algorithm, key_id, &format!("{kind} against {}", KINDS[0]));
                can_be_told |= difference.is_there();
            }
            if key_id == "none" {
                let control = Difference::between(&one, &samples[0], verification);
                control.print(algorithm, "control", "several verifications against one");
                are_alike |= !control.is_there();
            }
        }
    }
    if can_be_told {
        eprintln!("some kind of principal can be told by the time of a refusal");
    }
    if are_alike {
        eprintln!("the test cannot tell one verification from several: the machine is too busy");
    }
    if can_be_told || are_alike { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds for each token, in [`SAMPLES`] rounds.
fn measure(verifier: &Verifier, tokens: &[Vec<String>; KINDS.len()]) -> [Vec<f64>; KINDS.len()] {
    let mut samples = KINDS.map(|_| Vec::with_capacity(SAMPLES));
    let mut order: Vec<usize> = (0..KINDS.len()).collect();
    for round in 0..WARM_UP + SAMPLES {
        fastrand::shuffle(&mut order);
        for kind in &order {
            let presented = AuthRequest::alone(
                Door::Http,
                Credentials::One(&tokens[*kind][fastrand::usize(..NAMES)]),
            );
            let began = Instant::now();
            let verdict = verifier
                .decide(black_box(&presented))
                .now_or_never()
                .expect("nothing is waited for");
            let took = began.elapsed();
            let Ok(Decision::Deny(denial)) = verdict.result else { panic!("{verdict:?}") };
            assert_eq!(denial.reason.code(), DenialCode::InvalidToken, "{denial:?}");
            if round >= WARM_UP {
                samples[*kind].push(took.as_secs_f64() * 1e9);
            }
        }
    }
    samples
}

struct Difference {
    mean: f64,
    nanoseconds: f64,
    t: f64,
    /// The time of a verification.
    verification: f64,
}

impl Difference {
    fn between(ours: &[f64], theirs: &[f64], verification: f64) -> Self {
        let mean = quick_mean(theirs);
        Self { mean, nanoseconds: mean - quick_mean(ours), t: welch(ours, theirs), verification }
    }

    fn is_there(&self) -> bool {
        self.t.abs() >= THRESHOLD
            || self.nanoseconds.abs() >= self.verification * VERIFICATION_SHARE
    }

    fn print(&self, algorithm: Algorithm, key_id: &str, kind: &str) {
        let mark = if self.is_there() { "  <" } else { "" };
        let (name, mean) = (algorithm.name(), self.mean / 1e3);
        println!(
            "{name:<8} {key_id:<14} {kind:<36} {mean:>10.2} {:>10.1} {:>8.2}{mark}",
            self.nanoseconds, self.t
        );
    }
}

/// The mean without the slowest samples.
fn quick_mean(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number of samples"
    )]
    sorted.truncate((samples.len() as f64 * (1.0 - CUT_OFF)) as usize);
    mean(&sorted)
}

/// Welch's t: the difference of two means over its standard error, without assuming equal
/// variances.
fn welch(ours: &[f64], theirs: &[f64]) -> f64 {
    (mean(theirs) - mean(ours)) / (variance_of_mean(ours) + variance_of_mean(theirs)).sqrt()
}

#[allow(clippy::cast_precision_loss, reason = "thousands")]
fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

#[allow(clippy::cast_precision_loss, reason = "thousands")]
fn variance_of_mean(samples: &[f64]) -> f64 {
    let (mean, count) = (mean(samples), samples.len() as f64);
    samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (count - 1.0) / count
}

/// All have the same length, so that the tokens have, too.
fn username(kind: usize, number: usize) -> String {
    format!("user-{kind}-{number:02}")
}

/// A forged token: the signature is made with another key.
fn forged(key: &PrivateKey, algorithm: Algorithm, username: &str, key_id: &str) -> String {
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let header = match key_id {
        "none" => json!({ "alg": algorithm.name() }),
        "a name" => json!({ "alg": algorithm.name(), "kid": NAME }),
        _ => json!({ "alg": algorithm.name(), "kid": key.public_key().fingerprint().to_string() }),
    };
    let time = NOW.seconds();
    let input = format!(
        "{}.{}",
        part(&header),
        part(&json!({ "username": username, "time": time, "nonce": "0123456789" }))
    );
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(algorithm, input.as_bytes()).unwrap());
    format!("JWT {input}.{signature}")
}

/// A verifier whose directory has read the whole registry.
async fn verifier(algorithm: Algorithm) -> Verifier {
    let key_sets = Arc::new(OneKeySet::of(new_key(algorithm).public_key()));
    let source = Arc::new(Registry(algorithm));
    let (directory, mut follower) =
        CachedDirectory::start(source, Arc::clone(&key_sets) as _, &RegistrySettings::default())
            .await
            .unwrap();
    // The principals, then the answer that there are no more, then their names.
    for _ in 0..3 {
        follower.warm().await.unwrap();
    }
    let own =
        Arc::new(SigningKey::new(PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap(), None));
    let policy = Policy {
        authorities: Box::default(),
        scheme: "JWT".into(),
        tolerance: Tolerance::DEFAULT,
        audiences: Box::default(),
        issuer: "https://auth.example".into(),
        required_claims: RequiredClaims::default(),
    };
    let ports = VerifierPorts {
        clock: Arc::new(Stopped),
        directory: Arc::new(Unhurried(directory)),
        key_sets,
        issuer_keys: Arc::new(OwnKeys(Arc::new(IssuerKeys::asymmetric(
            Arc::clone(&own),
            vec![own],
        )))),
        nonces: Arc::new(NoNonces),
        usage: Arc::new(NoUsage),
    };
    Verifier::new(policy, ports, Arc::new(DecisionObserver::unseen())).unwrap()
}

fn new_key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::generate(algorithm.family(), 2048).unwrap()
}

/// Principals of all kinds.
struct Registry(Algorithm);

impl Registry {
    fn principal(&self, kind: usize, number: usize) -> KnownPrincipal {
        let (is_active, keys, trusts) = match kind {
            1 => (true, 1, 0),
            2 => (true, 5, 0),
            3 => (false, 5, 0),
            _ => (true, 1, 1),
        };
        let id = PrincipalId(i64::try_from(kind * NAMES + number).unwrap());
        let key = |id| {
            KnownKey::new(
                KeyId(id),
                VerifyingKey::new(new_key(self.0).public_key()),
                Scopes::default(),
                None,
                None,
            )
        };
        let trust = |id| KnownTrust { id: TrustId(id), url: "https://keys.example/".into() };
        let username = Username::new(&username(kind, number)).unwrap();
        let known = KnownPrincipal::new(id, username, is_active, Scopes::default());
        known.with_keys((0..keys).map(key).collect()).with_trusts((0..trusts).map(trust).collect())
    }
}

#[async_trait]
impl PrincipalSource for Registry {
    async fn load(&self, _: &Username) -> Result<Option<KnownPrincipal>, RegistryError> {
        Err(RegistryError::Store("everything was read".into()))
    }

    async fn load_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<KnownPrincipal>, RegistryError> {
        let all = (1..KINDS.len()).flat_map(|kind| (0..NAMES).map(move |number| (kind, number)));
        let all = all
            .map(|(kind, number)| self.principal(kind, number))
            .filter(|known| after.is_none_or(|after| known.id > after));
        Ok(all.take(limit.try_into().unwrap()).collect())
    }

    async fn names_page(
        &self,
        _: Option<PrincipalId>,
        _: u64,
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        Ok(Vec::new())
    }

    async fn newest_change(&self) -> Result<i64, RegistryError> {
        Ok(0)
    }

    async fn changes(&self, _: i64, _: u64) -> Result<Vec<RegistryChange>, RegistryError> {
        Ok(Vec::new())
    }

    async fn unnumbered_changes(&self) -> Result<Vec<RegistryChange>, RegistryError> {
        Ok(Vec::new())
    }

    async fn usernames(
        &self,
        _: &[PrincipalId],
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        Ok(Vec::new())
    }

    async fn forget_changes(&self, _: i64, _: &[i64]) -> Result<(), RegistryError> {
        Ok(())
    }
}

/// The directory in memory, without the wait for the change feed.
struct Unhurried(Arc<CachedDirectory>);

impl KeyDirectory for Unhurried {
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        now: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        self.0.lookup(username, now)
    }

    fn version(&self) -> u64 {
        self.0.version()
    }

    fn catch_up(&self, _: u64) -> Answer<'_, bool> {
        Answer::ready(false)
    }

    fn most_keys(&self, family: KeyFamily) -> usize {
        self.0.most_keys(family)
    }

    fn most_trusts(&self) -> usize {
        self.0.most_trusts()
    }

    fn look(&self) {}

    fn check(&self, now: UnixMillis) -> Result<(), Unavailable> {
        self.0.check(now)
    }
}

/// One key set, already fetched.
struct OneKeySet(Arc<KeySet>);

impl OneKeySet {
    /// A set of one key, with the name [`NAME`].
    fn of(key: &PublicKey) -> Self {
        let jwk = Jwk { kid: Some(NAME.to_owned()), alg: None, ..key.to_jwk() };
        Self(Arc::new(KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap()))
    }
}

impl KeySetSource for OneKeySet {
    fn set<'a>(&'a self, _: &'a KnownTrust, _: UnixMillis) -> Answer<'a, Option<Arc<KeySet>>> {
        Answer::ready(Some(Arc::clone(&self.0)))
    }

    fn missed(&self, _: &KnownTrust, _: UnixMillis) {}

    fn most_trials(&self, family: KeyFamily) -> MostTrials {
        self.0.most_trials(family)
    }

    fn anticipate(&self, _: &[KnownTrust], _: bool) {}

    fn check_url(&self, _: &str) -> Result<(), FetchFailure> {
        Ok(())
    }

    fn refresh<'a>(&'a self, _: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        Answer::ready(Ok(self.0.contents().clone()))
    }
}

/// A stopped clock: tokens do not expire, however long the run takes.
struct Stopped;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

impl Clock for Stopped {
    fn now(&self) -> UnixMillis {
        NOW
    }
}

struct OwnKeys(Arc<IssuerKeys>);

impl IssuerKeySource for OwnKeys {
    fn current(&self) -> Arc<IssuerKeys> {
        Arc::clone(&self.0)
    }
}

struct NoUsage;

impl UsageLog for NoUsage {
    fn note(&self, _: Used, _: UnixMillis) {}
}

/// No denied request reaches the nonce store.
struct NoNonces;

impl NonceStore for NoNonces {
    fn claim<'a>(&'a self, _: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(Claimed::Replayed))
    }

    fn look<'a>(&'a self, _: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(Claimed::Replayed))
    }

    fn check(&self, _: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        Answer::ready(Ok(()))
    }
}
