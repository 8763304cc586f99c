//! The cost of each part of a decision, alone and compared with its alternatives.
//!
//! `cargo bench --bench parts`, or `cargo bench --bench parts -- verify` for some of them. Needs
//! `redis-server`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "benches: what fails ends the run, and what criterion's macros generate has no docs"
)]

#[path = "load/tokens.rs"]
mod tokens;

use std::{
    cell::Cell,
    collections::HashMap,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::{
    app::SystemClock,
    config::nonce::NonceSettings,
    domain::{
        algorithm::{Algorithm, KeyFamily},
        auth_request::{AuthRequest, Body, Credentials, Door, OriginalRequest, Reported},
        decision::{Decision, Used},
        fence::{Fence, FenceMode},
        header_value,
        issuer_keys::{IssuerKeys, SigningKey},
        key::{PrivateKey, VerifyingKey},
        key_set::{KeySet, KeySetContents, MostTrials},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::{KeyId, KnownKey, KnownPrincipal, KnownTrust, PrincipalId, Username},
        scope::Scopes,
        time::{Tolerance, UnixMillis},
        token::UntrustedToken,
    },
    engine::{
        ports::{
            Answer, Clock, FetchFailure, IssuerKeySource, KeyDirectory, KeySetSource, NonceStore,
            RegistryError, Unavailable, UsageStore,
        },
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::{
        nonce::{memory::MemoryNonceStore, redis::RedisNonceStore},
        usage::BatchedUsage,
    },
    telemetry::decisions::DecisionObserver,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use deadpool_redis::redis::{self, AsyncConnectionConfig};
use futures_util::{FutureExt, future::join_all};
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use tokens::{Signer, sign};

/// The same allocator as in the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::Rs256, Algorithm::Rs512, Algorithm::EdDsa, Algorithm::Es256];
const SCOPES: &str = "orders:read orders:write";
/// Claims that wait for Redis at the same time.
const IN_FLIGHT: usize = 64;
/// Connections in the pool that claims share.
const POOL_SIZE: usize = 16;

criterion_group!(benches, parse, verify, headers, nonces_in_memory, decide, nonces_in_redis);
criterion_main!(benches);

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for algorithm in ALGORITHMS {
        let token = token(&signer(algorithm));
        group.throughput(Throughput::Bytes(token.len() as u64));
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| UntrustedToken::parse(black_box(&token)).unwrap());
        });
    }
    group.finish();
}

/// Verifying a signature, with our key and with the library's; and reading and verifying a whole
/// token, with our code and with `jsonwebtoken`.
fn verify(criterion: &mut Criterion) {
    #[derive(Deserialize)]
    #[allow(dead_code, reason = "reading them is what takes time")]
    struct Claims {
        username: String,
        time: i64,
        nonce: String,
    }

    let now = UnixMillis::from(SystemTime::now());
    for algorithm in ALGORITHMS {
        let signer = signer(algorithm);
        let (spki, pem) = (signer.public_key().spki(), signer.public_key().to_pem());
        let token = token(&signer);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();

        let ours = VerifyingKey::new(signer.public_key());
        let (theirs, stock, name) = match algorithm {
            Algorithm::Rs256 => (
                ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, spki),
                DecodingKey::from_rsa_pem(pem.as_bytes()),
                "RS256",
            ),
            Algorithm::Rs512 => (
                ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA512, spki),
                DecodingKey::from_rsa_pem(pem.as_bytes()),
                "RS512",
            ),
            Algorithm::EdDsa => (
                ParsedPublicKey::new(&ED25519, spki),
                DecodingKey::from_ed_pem(pem.as_bytes()),
                "EdDSA",
            ),
            Algorithm::Es256 => (
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, spki),
                DecodingKey::from_ec_pem(pem.as_bytes()),
                "ES256",
            ),
            other => panic!("{other} is not measured"),
        };
        let (theirs, stock) = (theirs.unwrap(), stock.unwrap());
        let mut validation = Validation::new(name.parse().unwrap());
        validation.validate_exp = false;
        validation.required_spec_claims.clear();

        let mut group = criterion.benchmark_group(format!("verify {algorithm}"));
        group.bench_function("VerifyingKey", |bencher| {
            bencher.iter(|| {
                assert!(ours.verify(algorithm, black_box(message.as_bytes()), &signature));
            });
        });
        group.bench_function("aws-lc-rs", |bencher| {
            bencher.iter(|| theirs.verify_sig(black_box(message.as_bytes()), &signature).unwrap());
        });
        group.bench_function("UntrustedToken, whole", |bencher| {
            bencher.iter(|| {
                assert!(
                    UntrustedToken::parse(black_box(&token)).unwrap().verify(&ours, now).is_some()
                );
            });
        });
        group.bench_function("jsonwebtoken, whole", |bencher| {
            bencher.iter(|| {
                jsonwebtoken::decode::<Claims>(black_box(&token), &stock, &validation).unwrap()
            });
        });
        group.finish();
    }
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header value");
    let (plain, scopes) = ("orders-service@example.com", Scopes::parse(SCOPES).unwrap());
    group.bench_function("plain name", |bencher| {
        bencher.iter(|| header_value::encode(black_box(plain)));
    });
    group.bench_function("name to be encoded", |bencher| {
        bencher.iter(|| header_value::encode(black_box("Bestell-Dienst Köln 100 %")));
    });
    group.bench_function("scopes", |bencher| {
        bencher.iter(|| header_value::encode_scopes(black_box(&scopes)));
    });
    group.finish();
}

fn nonces_in_memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim in memory");
    let store = MemoryNonceStore::new(
        1_000_000,
        Fence::since(UnixMillis(0), Tolerance::DEFAULT),
        FenceMode::MintedBefore,
    )
    .unwrap();
    // Time passes so fast that half of the store holds live nonces, and others expire all the time.
    let (mut number, start) = (0_i64, 1_700_000_000_000);
    group.bench_function("fresh, others expiring", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                (format!("{number:022}"), UnixMillis(start + number / 12))
            },
            |(nonce, now)| {
                let claimed = claim(&store, &nonce, now);
                (nonce, claimed)
            },
            BatchSize::SmallInput,
        );
    });
    let now = UnixMillis(start + number / 12);
    claim(&store, "taken", now);
    group.bench_function("replayed", |bencher| {
        bencher.iter(|| claim(&store, black_box("taken"), now));
    });
    group.finish();
}

fn claim(store: &MemoryNonceStore, nonce: &str, now: UnixMillis) -> Claimed {
    store.claim(a_claim(nonce, now)).now_or_never().expect("memory answers at once").unwrap()
}

fn a_claim(nonce: &str, now: UnixMillis) -> NonceClaim<'_> {
    let valid_until = now.saturating_add(Tolerance::DEFAULT.duration());
    NonceClaim {
        principal: PrincipalId(1),
        nonce,
        token_time: now,
        valid_until,
        now,
        attempt: Attempt::Unique(1),
    }
}

/// The engine with a directory and a nonce store that cost nothing. It counts metrics, and its log
/// is discarded.
fn decide(criterion: &mut Criterion) {
    let log =
        tracing_subscriber::fmt::layer().with_writer(std::io::sink).json().flatten_event(true);
    tracing_subscriber::registry()
        .with(EnvFilter::new("info"))
        .with(log.with_current_span(false).with_span_list(false))
        .init();

    let clock = Arc::new(Stopped(SystemTime::now().into()));
    let mut group = criterion.benchmark_group("decide");
    for algorithm in [Algorithm::EdDsa, Algorithm::Rs256] {
        let (known, impostor) = (signer(algorithm), signer(algorithm));
        let key = VerifyingKey::new(known.public_key());
        let key = KnownKey::new(KeyId(1), key, Scopes::parse(SCOPES).unwrap(), None, None);
        let username = Username::new(known.username()).unwrap();
        let principal = Arc::new(
            KnownPrincipal::new(PrincipalId(1), username.clone(), true, Scopes::default())
                .with_keys(vec![key]),
        );
        let own = Arc::new(SigningKey::new(
            PrivateKey::generate(algorithm.family(), 2048).unwrap(),
            Some(algorithm),
        ));
        let own = Arc::new(IssuerKeys::asymmetric(Arc::clone(&own), vec![own]));
        let access_token = access_token(&own, &principal);
        let with = |principals: &[&Arc<KnownPrincipal>], claimed| {
            let directory = Known(
                principals
                    .iter()
                    .map(|principal| (principal.username.clone(), Arc::clone(principal)))
                    .collect(),
            );
            let policy = Policy {
                scheme: "JWT".into(),
                tolerance: Tolerance::DEFAULT,
                audiences: Box::default(),
                issuer: ISSUER.into(),
                authorities: Box::default(),
                required_claims: RequiredClaims::default(),
            };
            let observer = Arc::new(DecisionObserver::unseen());
            let ports = VerifierPorts {
                clock: clock.clone(),
                directory: Arc::new(directory),
                key_sets: Arc::new(NoKeySets),
                issuer_keys: Arc::new(OwnKeys(Arc::clone(&own))),
                nonces: Arc::new(Always(claimed)),
                usage: BatchedUsage::new(Arc::new(Forgotten)).0,
            };
            Verifier::new(policy, ports, observer).unwrap()
        };
        let (token, forged) = (authorization(&known), authorization(&impostor));
        let garbage = token.replace('.', "_");
        for (name, verifier, authorization) in [
            ("allow", with(&[&principal], Claimed::Fresh), &token),
            ("allow access token", with(&[&principal], Claimed::Fresh), &access_token),
            ("deny garbage", with(&[&principal], Claimed::Fresh), &garbage),
            ("deny unknown user", with(&[], Claimed::Fresh), &token),
            ("deny bad signature", with(&[&principal], Claimed::Fresh), &forged),
            ("deny replay", with(&[&principal], Claimed::Replayed), &token),
        ] {
            group.bench_function(format!("{algorithm} {name}"), |bencher| {
                bencher.iter(|| {
                    let verdict = verifier
                        .decide(black_box(&presented(authorization)))
                        .now_or_never()
                        .expect("nothing is waited for");
                    assert_eq!(
                        matches!(verdict.result, Ok(Decision::Allow(_))),
                        name.starts_with("allow")
                    );
                    verdict
                });
            });
        }
    }
    group.finish();
}

fn presented(authorization: &str) -> AuthRequest<'_> {
    AuthRequest {
        request: OriginalRequest {
            method: Reported::Value("GET"),
            scheme: Reported::Value("https"),
            host: Reported::Value("api.example.com"),
            path: Reported::Value("/orders/1017?page=2"),
            body: Body::Unseen,
        },
        ..AuthRequest::alone(Door::Http, Credentials::One(authorization))
    }
}

struct Stopped(UnixMillis);

impl Clock for Stopped {
    fn now(&self) -> UnixMillis {
        self.0
    }
}

struct Known(HashMap<Username, Arc<KnownPrincipal>>);

impl KeyDirectory for Known {
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        _: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        Answer::ready(Ok(self.0.get(username).cloned()))
    }

    fn version(&self) -> u64 {
        0
    }

    fn catch_up(&self, _: u64) -> Answer<'_, bool> {
        Answer::ready(false)
    }

    fn most_keys(&self, _: KeyFamily) -> usize {
        1
    }

    fn most_trusts(&self) -> usize {
        0
    }

    fn look(&self) {}

    fn check(&self, _: UnixMillis) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// The `iss` of our own access tokens.
const ISSUER: &str = "https://auth.example";

struct OwnKeys(Arc<IssuerKeys>);

impl IssuerKeySource for OwnKeys {
    fn current(&self) -> Arc<IssuerKeys> {
        Arc::clone(&self.0)
    }
}

/// The value of an `Authorization` header with an access token like those of the service.
fn access_token(keys: &IssuerKeys, principal: &KnownPrincipal) -> String {
    let now = UnixMillis::from(SystemTime::now()).seconds();
    let claims = serde_json::json!({
        "iss": ISSUER, "sub": "0".repeat(64), "iat": now, "nbf": now, "exp": now + 3600, "ttype": "T", "scope": SCOPES,
        "jti": uuid::Uuid::from_u128(7), "username": principal.username.as_str(), "principal_id": principal.id.0,
    });
    format!("Bearer {}", keys.sign(claims.to_string().as_bytes()).unwrap())
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

struct Forgotten;

#[async_trait]
impl UsageStore for Forgotten {
    async fn write_usage(&self, _: &[(Used, UnixMillis)]) -> Result<(), RegistryError> {
        Ok(())
    }
}

struct Always(Claimed);

impl NonceStore for Always {
    fn claim<'a>(&'a self, _: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(self.0))
    }

    fn look<'a>(&'a self, _: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(self.0))
    }

    fn check(&self, _now: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        Answer::ready(Ok(()))
    }
}

/// Wall-clock time with 64 claims in flight, so that the server's part is included.
fn nonces_in_redis(criterion: &mut Criterion) {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let mut group = criterion.benchmark_group("claim in Redis, 64 in flight");
    let next = Cell::new(0_u64);
    let run = fastrand::u64(..);
    let nonce = || format!("{run:016x}{:06x}", next.replace(next.get() + 1));

    let settings = NonceSettings {
        url: server.url.parse().unwrap(),
        timeout: Duration::from_secs(5),
        ..NonceSettings::default()
    };
    let store = RedisNonceStore::new(&settings, Tolerance::DEFAULT, Arc::new(SystemClock))
        .unwrap()
        .unwrap();
    group.bench_function("RedisNonceStore", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(in_flight(count, async || {
                let claimed = store.claim(a_claim(&nonce(), SystemTime::now().into())).await;
                assert_eq!(claimed.unwrap(), Claimed::Fresh);
            }))
        });
    });

    let client = redis::Client::open(&*server.url).unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection =
        runtime.block_on(client.get_multiplexed_async_connection_with_config(&config)).unwrap();
    group.bench_function("redis-rs, one shared connection", |bencher| {
        bencher.iter_custom(|count| {
            runtime
                .block_on(in_flight(count, async || set(&nonce(), &mut connection.clone()).await))
        });
    });

    let pool = deadpool_redis::Pool::builder(deadpool_redis::Manager::new(&*server.url).unwrap())
        .max_size(POOL_SIZE)
        .build()
        .unwrap();
    group.bench_function("deadpool, 16 connections, as it comes", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(in_flight(count, async || {
                let mut connection = pool.get().await.unwrap();
                set(&nonce(), &mut connection).await;
            }))
        });
    });
    group.finish();
}

async fn set(nonce: &str, connection: &mut impl redis::aio::ConnectionLike) {
    let mut command = redis::cmd("SET");
    command
        .arg(format!("countersign:nonce:1:n{nonce}"))
        .arg([0_u8; 16].as_slice())
        .arg("NX")
        .arg("EX")
        .arg(21);
    let answer: Option<redis::Value> = command.query_async(connection).await.unwrap();
    assert!(answer.is_some());
}

/// How long it takes to run `work` `count` times, [`IN_FLIGHT`] at the same time.
async fn in_flight(count: u64, work: impl AsyncFn()) -> Duration {
    let begun = Cell::new(0);
    let start = Instant::now();
    join_all((0..IN_FLIGHT).map(async |_| {
        while begun.replace(begun.get() + 1) < count {
            work().await;
        }
    }))
    .await;
    start.elapsed()
}

/// A Redis without persistence, which ends when it is dropped.
struct RedisServer {
    url: String,
    process: Child,
}

impl RedisServer {
    fn start() -> Self {
        let address = SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
        ));
        let process = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &address.port().to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Self { url: format!("redis://{address}"), process };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "Redis does not start");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signer(algorithm: Algorithm) -> Signer {
    Signer::new(format!("{}@example.com", algorithm.name().to_lowercase()), algorithm)
}

fn authorization(signer: &Signer) -> String {
    sign(std::slice::from_ref(signer), 1, 0).remove(0)
}

fn token(signer: &Signer) -> String {
    authorization(signer)["JWT ".len()..].to_owned()
}
