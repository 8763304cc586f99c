//! The replicas of a world and their connections. Verifiers and tokens are created once, for all
//! worlds.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    task::Poll,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::{BEGINNING, Kind, REPLICAS, Store, TOLERANCES, World, tolerance};
use crate::{
    domain::{
        algorithm::{Algorithm, KeyFamily},
        decision::Used,
        fence::{Fence, FenceMode},
        forward_clock::{ForwardClock, Reading},
        issuer_keys::{IssuerKeys, SigningKey},
        key::{PrivateKey, VerifyingKey},
        key_set::{KeySet, KeySetContents, MostTrials},
        nonce::{Claimed, NonceClaim},
        principal::{KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::{
        ports::{
            Answer, Clock, Dependency, FetchFailure, IssuerKeySource, KeyDirectory, KeySetSource,
            NonceStore, Unavailable, UsageLog,
        },
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::nonce::memory::MemoryNonceStore,
    telemetry::decisions::DecisionObserver,
};

const USERNAME: &str = "alice";
/// The number of seconds that have tokens, and the number of tokens for each.
const TOKEN_SECONDS: i64 = 31;
const TOKENS_A_SECOND: usize = 3;

pub(super) struct Stage {
    pub(super) universe: Arc<Universe>,
    /// By replica and tolerance.
    pub(super) verifiers: [[Verifier; TOLERANCES.len()]; REPLICAS],
    tokens: HashMap<(i64, usize), String>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let key = PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap();
        let known = KnownKey::new(
            KeyId(1),
            VerifyingKey::new(key.public_key()),
            Scopes::default(),
            None,
            None,
        );
        let principal = KnownPrincipal::new(
            PrincipalId(1),
            Username::new(USERNAME).unwrap(),
            true,
            Scopes::default(),
        );
        let principal = Arc::new(principal.with_keys(vec![known]));
        let own = Arc::new(SigningKey::new(
            PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap(),
            None,
        ));
        let issuer_keys = Arc::new(IssuerKeys::asymmetric(Arc::clone(&own), vec![own]));
        let universe = Arc::new(Universe::new());
        let verifiers = std::array::from_fn(|replica| {
            std::array::from_fn(|number| {
                let place = Arc::new(Place { universe: Arc::clone(&universe), replica });
                let ports = VerifierPorts {
                    clock: universe.clock(replica),
                    directory: Arc::new(OneDirectory {
                        principal: Arc::clone(&principal),
                        universe: Arc::clone(&universe),
                    }),
                    key_sets: Arc::new(NoKeySets),
                    issuer_keys: Arc::new(OwnKeys(Arc::clone(&issuer_keys))),
                    nonces: place,
                    usage: Arc::new(NoNotes),
                };
                let policy = Policy {
                    authorities: Box::default(),
                    scheme: "JWT".into(),
                    tolerance: tolerance(number),
                    audiences: [].into(),
                    issuer: "https://auth.example".into(),
                    required_claims: RequiredClaims::default(),
                };
                Verifier::new(policy, ports, Arc::new(DecisionObserver::unseen())).unwrap()
            })
        });
        let numbers = (0..TOKEN_SECONDS)
            .flat_map(|second| (0..TOKENS_A_SECOND).map(move |number| (second, number)));
        let tokens = numbers
            .map(|(second, number)| ((second, number), sign(&key, second, number)))
            .collect();
        Self { universe, verifiers, tokens }
    }

    /// A token for a second since [`BEGINNING`]; each `number` gives a different one.
    pub(super) fn token(&self, second: i64, number: usize) -> &str {
        &self.tokens[&(second, number)]
    }
}

fn sign(key: &PrivateKey, second: i64, number: usize) -> String {
    let part = |json: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({"alg": "EdDSA", "kid": key.public_key().fingerprint().to_string()}));
    let claims = part(
        json!({"username": USERNAME, "time": BEGINNING + second, "nonce": format!("{second}-{number}")}),
    );
    let input = format!("{header}.{claims}");
    let signature = key.sign(Algorithm::EdDsa, input.as_bytes()).unwrap();
    format!("JWT {input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// All state of a world except its verifiers. Real time is in milliseconds since [`BEGINNING`].
pub(super) struct Universe {
    /// Duration of the next lookup.
    pub(super) lookup_ms: AtomicI64,
    now: AtomicI64,
    wakes: Mutex<BinaryHeap<Reverse<i64>>>,
    random: Mutex<fastrand::Rng>,
    store: Mutex<Store>,
    replicas: Mutex<[Replica; REPLICAS]>,
    clocks: [Arc<ReplicaClock>; REPLICAS],
    kind: Mutex<Kind>,
    memory: Mutex<Arc<MemoryNonceStore>>,
    pub(super) mode: Mutex<FenceMode>,
}

/// The state of one replica.
#[derive(Clone, Default)]
pub(super) struct Replica {
    /// Index of its tolerance.
    pub(super) tolerance: usize,
    /// The server that it considers the master.
    pub(super) server: usize,
    /// The server that it is connected to, and its generation then.
    pub(super) link: Option<(usize, u64)>,
    /// The epoch as stored in Redis.
    pub(super) epoch: Option<Vec<u8>>,
    /// The clock of its server minus real time, as far as the replica can tell.
    pub(super) server_clock: i64,
    /// Whether its clock differs too much from that of Redis.
    pub(super) is_off: bool,
}

impl Universe {
    fn new() -> Self {
        let clocks = std::array::from_fn(|_| Arc::new(ReplicaClock::new()));
        Self {
            lookup_ms: AtomicI64::new(0),
            now: AtomicI64::new(0),
            wakes: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(0)),
            store: Mutex::new(Store::new()),
            replicas: Mutex::default(),
            clocks,
            kind: Mutex::new(Kind::Memory),
            memory: Mutex::new(memory(UnixMillis(0), FenceMode::Off)),
            mode: Mutex::new(FenceMode::Off),
        }
    }

    pub(super) fn begin(&self, world: &World) {
        *self.wakes.lock().unwrap() = BinaryHeap::new();
        *self.random.lock().unwrap() = fastrand::Rng::with_seed(!world.seed);
        *self.store.lock().unwrap() = Store::new();
        *self.kind.lock().unwrap() = world.kind;
        *self.mode.lock().unwrap() = world.mode;
        self.set_now(0);
        for replica in 0..REPLICAS {
            self.clocks[replica].ahead.store(world.clocks[replica], Ordering::Relaxed);
            self.restart(replica, world.tolerances[replica], true);
        }
    }

    pub(super) fn kind(&self) -> Kind {
        *self.kind.lock().unwrap()
    }

    pub(super) fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn set_now(&self, now: i64) {
        self.now.store(now, Ordering::Relaxed);
        let mut wakes = self.wakes.lock().unwrap();
        while wakes.peek().is_some_and(|Reverse(at)| *at <= now) {
            wakes.pop();
        }
        for clock in &self.clocks {
            clock.real.store(now, Ordering::Relaxed);
        }
    }

    /// When the next sleeping task wakes up.
    pub(super) fn next_wake(&self) -> Option<i64> {
        self.wakes.lock().unwrap().peek().map(|Reverse(at)| *at)
    }

    /// Starts the process of a replica with no state. Nonces in memory belong to the only replica.
    pub(super) fn restart(&self, replica: usize, tolerance: usize, has_memory: bool) {
        self.clocks[replica].begin();
        let server = self.store(|store| store.master());
        self.replicas.lock().unwrap()[replica] =
            Replica { tolerance, server, ..Replica::default() };
        if has_memory && replica == 0 {
            let mode = *self.mode.lock().unwrap();
            *self.memory.lock().unwrap() = memory(self.clocks[0].now(), mode);
        }
    }

    pub(super) fn set_clock(&self, replica: usize, ahead_ms: i64) {
        self.clocks[replica].ahead.store(ahead_ms, Ordering::Relaxed);
    }

    pub(super) fn clock(&self, replica: usize) -> Arc<ReplicaClock> {
        Arc::clone(&self.clocks[replica])
    }

    /// The replica learns who is the master, and leaves the previous one.
    pub(super) fn notice(&self, replica: usize) {
        let server = self.store(|store| store.master());
        self.change(replica, |replica| {
            if replica.server != server {
                *replica = Replica { server, link: None, ..replica.clone() };
            }
        });
    }

    pub(super) fn replica(&self, replica: usize) -> Replica {
        self.replicas.lock().unwrap()[replica].clone()
    }

    pub(super) fn change(&self, replica: usize, change: impl FnOnce(&mut Replica)) {
        change(&mut self.replicas.lock().unwrap()[replica]);
    }

    pub(super) fn store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        act(&mut self.store.lock().unwrap())
    }

    pub(super) fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap()
    }

    /// Ends as soon as `condition` returns a value. It is evaluated at time `at` and whenever
    /// something else happens.
    pub(super) async fn wait<T>(&self, at: i64, mut condition: impl FnMut() -> Option<T>) -> T {
        self.wake_at(at);
        poll_fn(move |_| condition().map_or(Poll::Pending, Poll::Ready)).await
    }

    pub(super) fn wake_at(&self, at: i64) {
        self.wakes.lock().unwrap().push(Reverse(at));
    }

    pub(super) async fn sleep(&self, for_ms: i64) {
        let until = self.now() + for_ms;
        if for_ms > 0 {
            self.wait(until, || (self.now() >= until).then_some(())).await;
        }
    }
}

fn memory(now: UnixMillis, mode: FenceMode) -> Arc<MemoryNonceStore> {
    Arc::new(MemoryNonceStore::new(1_000, Fence::since(now, tolerance(0)), mode).unwrap())
}

/// A system clock that may be wrong, and the monotonic clock of its machine, which is not.
pub(super) struct ReplicaClock {
    real: AtomicI64,
    ahead: AtomicI64,
    forward: Mutex<ForwardClock>,
}

impl ReplicaClock {
    fn new() -> Self {
        let reading = Reading { monotonic_before: 0, system: UnixMillis(0), monotonic_after: 0 };
        Self {
            real: AtomicI64::new(0),
            ahead: AtomicI64::new(0),
            forward: Mutex::new(ForwardClock::new(reading)),
        }
    }

    fn begin(&self) {
        *self.forward.lock().unwrap() = ForwardClock::new(self.read());
    }

    fn read(&self) -> Reading {
        let real = self.real.load(Ordering::Relaxed);
        let system = UnixMillis(BEGINNING * 1000 + real + self.ahead.load(Ordering::Relaxed));
        Reading { monotonic_before: real, system, monotonic_after: real }
    }
}

impl Clock for ReplicaClock {
    fn now(&self) -> UnixMillis {
        self.forward.lock().unwrap().now(self.read()).0
    }

    fn set_back_from(&self) -> UnixMillis {
        self.forward.lock().unwrap().set_back_from()
    }
}

/// The nonce store as one replica sees it.
struct Place {
    universe: Arc<Universe>,
    replica: usize,
}

impl NonceStore for Place {
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        if self.universe.kind() == Kind::Memory {
            let memory = Arc::clone(&self.universe.memory.lock().unwrap());
            return Answer::pending(async move { memory.claim(claim).await });
        }
        Answer::pending(async move {
            let claimed = self.universe.claim(self.replica, claim).await;
            claimed.map_err(|error| Unavailable::new(Dependency::NonceStore, error))
        })
    }

    fn look<'a>(&'a self, _: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(Claimed::Replayed))
    }

    fn check(&self, _now: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        Answer::ready(Ok(()))
    }
}

struct OneDirectory {
    principal: Arc<KnownPrincipal>,
    universe: Arc<Universe>,
}

impl KeyDirectory for OneDirectory {
    fn lookup<'a>(
        &'a self,
        _: &'a Username,
        _: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        let takes_ms = self.universe.lookup_ms.swap(0, Ordering::Relaxed);
        Answer::pending(async move {
            self.universe.sleep(takes_ms).await;
            Ok(Some(Arc::clone(&self.principal)))
        })
    }

    fn version(&self) -> u64 {
        0
    }

    fn catch_up(&self, _: u64) -> Answer<'_, bool> {
        Answer::ready(false)
    }

    fn most_keys(&self, family: KeyFamily) -> usize {
        usize::from(family == KeyFamily::Ed25519)
    }

    fn most_trusts(&self) -> usize {
        0
    }

    fn look(&self) {}

    fn check(&self, _: UnixMillis) -> Result<(), Unavailable> {
        Ok(())
    }
}

struct NoKeySets;

impl KeySetSource for NoKeySets {
    fn set<'a>(&'a self, _: &'a KnownTrust, _: UnixMillis) -> Answer<'a, Option<Arc<KeySet>>> {
        Answer::ready(None)
    }

    fn missed(&self, _: &KnownTrust, _: UnixMillis) {}

    fn most_trials(&self, _: KeyFamily) -> MostTrials {
        MostTrials::default()
    }

    fn anticipate(&self, _: &[KnownTrust], _: bool) {}

    fn check_url(&self, _: &str) -> Result<(), FetchFailure> {
        Ok(())
    }

    fn refresh<'a>(&'a self, _: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        Answer::ready(Ok(KeySetContents::default()))
    }
}

struct OwnKeys(Arc<IssuerKeys>);

impl IssuerKeySource for OwnKeys {
    fn current(&self) -> Arc<IssuerKeys> {
        Arc::clone(&self.0)
    }
}

struct NoNotes;

impl UsageLog for NoNotes {
    fn note(&self, _: Used, _: UnixMillis) {}
}
