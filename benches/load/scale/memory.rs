//! How much memory the service uses, and how much of it per principal, key and nonce.

use std::{
    env,
    fmt::{self, Write as _},
    process::{self, Command, ExitCode},
    time::{Instant, SystemTime},
};

use countersign::{
    domain::{
        algorithm::Algorithm,
        fence::{Fence, FenceMode},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::PrincipalId,
        time::{Tolerance, UnixMillis},
    },
    engine::ports::NonceStore,
    stores::nonce::memory::MemoryNonceStore,
};
use futures_util::FutureExt;

use super::{CONNECTIONS, Target, seed::Registry, thousands};
use crate::{
    resident::Resident,
    server::{Placement, Server},
    table::{Row, Section},
    tokens::Signer,
};

/// First argument of the process that only holds nonces, followed by their number.
pub(crate) const NONCES: &str = "--nonces";

const IDLE_BOUND_MEGABYTES: f64 = 30.0;
const PRINCIPALS_BOUND_MEGABYTES: f64 = 150.0;
const NONCES_BOUND_MEGABYTES: f64 = 100.0;
/// The number of principals for which the bounds apply.
const PRINCIPALS_OF_BOUND: usize = 100_000;
const NONCES_OF_BOUND: usize = 1_000_000;
const ED25519_POOL: usize = 64;
/// RSA keys take long to make.
const RSA_POOL: usize = 8;
/// Keys per principal for measuring the memory of a key.
const MANY_KEYS: usize = 3;

pub(super) struct Plan {
    principals: usize,
    rsa_principals: usize,
    /// Nonces that the service itself stores.
    nonces: usize,
}

pub(super) const FULL: Plan = Plan { principals: 100_000, rsa_principals: 10_000, nonces: 200_000 };
pub(super) const QUICK: Plan = Plan { principals: 20_000, rsa_principals: 2_000, nonces: 20_000 };

pub(super) async fn measure(plan: &Plan) -> Section {
    let mut section = Section::default();
    let (idle, taken) = idle_and_nonces(plan).await;
    section.rows.push(Row::limited(
        "RSS, idle, one principal",
        idle.megabytes(),
        IDLE_BOUND_MEGABYTES,
        "MB",
    ));

    let store = Nonces::measure(NONCES_OF_BOUND);
    let figure = format!("RSS, {} live in-memory nonces more", thousands(NONCES_OF_BOUND));
    section.rows.push(Row::limited(figure, store.grown / 1e6, NONCES_BOUND_MEGABYTES, "MB"));

    let dir = tempfile::tempdir().unwrap();
    let redis = Server::redis(Placement { is_pinned: false }, dir.path());
    let ed25519 =
        Each::measure(&redis, plan.principals, Algorithm::EdDsa, ED25519_POOL, idle).await;
    if plan.principals == PRINCIPALS_OF_BOUND {
        let figure =
            format!("RSS, {} principals in memory, every key used", thousands(plan.principals));
        section.rows.push(Row::limited(
            figure,
            ed25519.used.megabytes(),
            PRINCIPALS_BOUND_MEGABYTES,
            "MB",
        ));
    }
    let rsa = Each::measure(&redis, plan.rsa_principals, Algorithm::Rs256, RSA_POOL, idle).await;
    section.notes.push(format!(
        "Memory: idle {idle}. A nonce takes {:.0} bytes of the store ({} of them, measured in a process that does nothing else; peak {:.0} \
         MB more than before, {:.2} µs a claim on one thread), {:.0} bytes of the service (after {} decisions).",
        store.grown / NONCES_OF_BOUND as f64,
        thousands(NONCES_OF_BOUND),
        store.grown_at_peak / 1e6,
        store.claim_us,
        taken / plan.nonces as f64,
        thousands(plan.nonces),
    ));
    section.notes.push(format!("A principal in memory: {ed25519}; {rsa}."));
    section
}

/// The service with one principal, and by how many bytes it grew with decisions whose nonces
/// are all live.
async fn idle_and_nonces(plan: &Plan) -> (Resident, f64) {
    let registry = Registry::new(1, 1, Algorithm::EdDsa, 1).await;
    // Nonces live for twice as long as this, which is longer than the measurement.
    let settings = [("COUNTERSIGN_SELF_SIGNED__TOLERANCE", "10m")];
    let server = Server::countersign_with(
        Placement { is_pinned: false },
        registry.dir(),
        "memory:",
        &settings,
    );
    let idle = Resident::of_quiet(&server).await;
    let mut target = Target::of(server).await;
    let signers: Vec<Signer> = (0..plan.nonces).map(|_| registry.signer(0)).collect();
    // Do not count memory for connections and the first decisions as memory for nonces.
    target.ask_each(&signers[..plan.nonces / 20]).await;
    let before = Resident::of_quiet(&target.server).await;
    target.ask_each(&signers).await;
    (idle, Resident::of_quiet(&target.server).await.since(before))
}

/// Bytes of a principal and its keys, from services that differ in nothing else.
struct Each {
    algorithm: Algorithm,
    principals: usize,
    /// Without its keys.
    principal: f64,
    /// A key after it was read.
    key: f64,
    /// What the first use of a key adds.
    use_of_key: f64,
    /// The service with all principals and one key each, all of them used.
    used: Resident,
    /// In the database file, with one key.
    in_file: f64,
}

impl Each {
    /// The nonces are in `redis`, so that they do not count.
    async fn measure(
        redis: &Server,
        principals: usize,
        algorithm: Algorithm,
        pool: usize,
        idle: Resident,
    ) -> Self {
        let service = |registry: &Registry| {
            let entries = principals.to_string();
            let settings = [("COUNTERSIGN_REGISTRY__CACHE_ENTRIES", entries.as_str())];
            let nonce_url = format!("redis://{}", redis.address);
            Server::countersign_with(
                Placement { is_pinned: false },
                registry.dir(),
                &nonce_url,
                &settings,
            )
        };
        let with_one = Registry::new(principals, 1, algorithm, pool).await;
        let in_file = with_one.bytes() as f64 / principals as f64;
        let server = service(&with_one);
        let one = Resident::of_quiet(&server).await;
        let mut target = Target::of(server).await;
        let signers: Vec<Signer> = (0..principals).map(|number| with_one.signer(number)).collect();
        // Do not count memory for connections as memory for keys.
        target.ask_each(&signers[..4 * CONNECTIONS]).await;
        let unused = Resident::of_quiet(&target.server).await;
        target.ask_each(&signers).await;
        let used = Resident::of_quiet(&target.server).await;
        drop((target, with_one));

        let with_many = Registry::new(principals, MANY_KEYS, algorithm, pool).await;
        let many = Resident::of_quiet(&service(&with_many)).await;
        println!(
            "{algorithm}, {principals} principals: one key {one}, used {used}, {MANY_KEYS} keys {many}"
        );
        let count = principals as f64;
        let key = many.since(one) / (MANY_KEYS - 1) as f64 / count;
        Self {
            algorithm,
            principals,
            principal: one.since(idle) / count - key,
            key,
            use_of_key: used.since(unused) / count,
            used,
            in_file,
        }
    }
}

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, principals, principal, key, use_of_key, used, in_file } = self;
        let principals = thousands(*principals);
        write!(
            f,
            "{principal:.0} bytes without its keys, {key:.0} more for each {algorithm} key, {use_of_key:.0} more once that "
        )?;
        write!(
            f,
            "was used ({principals} principals with 1 and with {MANY_KEYS} keys; with 1, every one used, {used}); {in_file:.0} with one key in SQLite's file"
        )
    }
}

/// The results of a process that only holds nonces.
struct Nonces {
    /// Growth in bytes, and how much higher the peak was.
    grown: f64,
    grown_at_peak: f64,
    /// Microseconds per claim.
    claim_us: f64,
}

impl Nonces {
    fn measure(count: usize) -> Self {
        let output = Command::new(env::current_exe().unwrap())
            .arg(NONCES)
            .arg(count.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let figures = String::from_utf8(output.stdout).unwrap();
        let figures: Vec<f64> =
            figures.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        let [grown, grown_at_peak, claim_us] = figures[..] else {
            panic!("three figures were expected")
        };
        Self { grown, grown_at_peak, claim_us }
    }
}

/// Claims as many nonces as the argument says, all of them live in the end. Prints by how many
/// bytes this process grew, by how many at its peak, and the microseconds per claim.
pub(crate) fn nonces(arguments: &[String]) -> ExitCode {
    /// Half of the longest lifetime of a nonce with default settings: its token may be this far
    /// ahead, and is valid until it is this far behind.
    const TOLERANCE_MILLIS: i64 = 20_000;
    /// Nonces of many principals, as in the service.
    const PRINCIPALS: usize = 100_000;

    let count: usize = arguments[0].parse().unwrap();
    // The limit applies to each shard, and nonces are not spread over them evenly.
    let store = MemoryNonceStore::new(
        count + count / 10,
        Fence::since(UnixMillis(0), Tolerance::DEFAULT),
        FenceMode::MintedBefore,
    )
    .unwrap();
    let (before, mut millis) = (Resident::of_process(process::id()), 0.0);
    // Spread over some time, as in the service.
    let start = UnixMillis::from(SystemTime::now()).0;
    let mut nonce = String::new();
    for number in 0..count {
        let now =
            UnixMillis(start + (number as f64 / count as f64 * TOLERANCE_MILLIS as f64) as i64);
        nonce.clear();
        let _ = write!(nonce, "{:022x}", u128::from(fastrand::u64(..)) << 20 | number as u128);
        let claim = NonceClaim {
            principal: PrincipalId(i64::try_from(1 + number % PRINCIPALS).unwrap()),
            nonce: &nonce,
            token_time: UnixMillis(now.0 + TOLERANCE_MILLIS),
            valid_until: UnixMillis(now.0 + 2 * TOLERANCE_MILLIS),
            now,
            attempt: Attempt::Unique(fastrand::u128(..)),
        };
        let begun = Instant::now();
        let claimed = store.claim(claim).now_or_never().expect("memory answers at once");
        millis += begun.elapsed().as_secs_f64() * 1e3;
        assert!(matches!(claimed, Ok(Claimed::Fresh)), "{claimed:?}");
    }
    let after = Resident::of_process(process::id());
    assert_eq!(store.len(), count, "all of them are live");
    println!(
        "{} {} {}",
        after.since(before),
        after.peak as f64 - before.bytes as f64,
        millis * 1e3 / count as f64
    );
    ExitCode::SUCCESS
}
