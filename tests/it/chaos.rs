//! Single use with real servers while the store loses its memory, fails over, fills up, hangs, is
//! behind a bad network, or has a wrong clock: no token passes twice, nothing passes while the
//! store cannot claim, and honest clients pass again soon after it can.
//!
//! Each scenario presents tokens two to four times over three replicas, `CHAOS_TOKENS` of them in
//! total (`make chaos`: 10,000).

mod clocks;
mod database;
mod failover;
mod frozen;
mod lost_memory;
mod network;
mod refusing;
mod soak;
mod tolerance;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{Client, Countersign, Deployment, Key, Plan, Presenter, Report};

/// Long enough for a fault to fall into the window of many tokens.
const TOLERANCE: Duration = Duration::from_secs(4);
/// Long enough for tokens to be valid after a fault of five seconds.
const LONG_TOLERANCE: Duration = Duration::from_secs(9);
/// How soon an honest client passes once the store is back.
const RECOVERY: Duration = Duration::from_secs(2);
/// Used without `CHAOS_TOKENS`.
const PER_SECOND: u32 = 80;
/// The default of `nonce.timeout`, for faults whose answers have to come in time. The quick run
/// shares the machine with other tests: it allows longer.
const CLAIM_WITHIN: Duration = Duration::from_millis(100);
const CLAIM_WITHIN_QUICK: Duration = Duration::from_secs(1);
/// How soon a decision is refused if the store does not answer, in addition to [`CLAIM_WITHIN`].
const REFUSAL_MAX: Duration = Duration::from_millis(200);
/// What two cores can present two to four times in time, even in a debug build.
const PER_SECOND_MAX: u32 = 300;
/// A scenario proves nothing if fewer used tokens come back after the fault.
const REPLAYS_MIN: usize = 50;

/// Three replicas on one store.
struct World {
    deployment: Deployment,
    client: Arc<Client>,
    replicas: Vec<Countersign>,
    tolerance: Duration,
}

impl World {
    fn on(nonce_url: &str) -> Self {
        Self::tolerating(nonce_url, TOLERANCE)
    }

    fn tolerating(nonce_url: &str, tolerance: Duration) -> Self {
        let mut world = Self { tolerance, ..Self::of(deployment(nonce_url, tolerance)) };
        world.replicas = (0..3).map(|_| world.deployment.serve()).collect();
        world
    }

    /// Replicas are not started yet.
    fn of(deployment: Deployment) -> Self {
        let client = Arc::new(enrol(&deployment, "alice"));
        Self { deployment, client, replicas: Vec::new(), tolerance: TOLERANCE }
    }

    /// One more client.
    fn client(&self, username: &str) -> Client {
        enrol(&self.deployment, username)
    }

    /// Signs tokens for `seconds`.
    fn present(&self, seconds: u32) -> Presenter {
        Presenter::start(&self.replicas, &self.client, plan(seconds, self.tolerance))
    }
}

fn enrol(deployment: &Deployment, username: &str) -> Client {
    let key = Key::ed25519();
    Client { username: username.to_owned(), id: deployment.enrol(username, &key), key }
}

/// Whether `make chaos` runs this: it runs one scenario at a time, so timings are meaningful.
fn is_whole() -> bool {
    std::env::var_os("CHAOS_TOKENS").is_some()
}

/// How long a claim may take.
fn claim_within() -> Duration {
    if is_whole() { CLAIM_WITHIN } else { CLAIM_WITHIN_QUICK }
}

fn deployment(nonce_url: &str, tolerance: Duration) -> Deployment {
    settle(Deployment::new(), nonce_url, tolerance)
}

fn settle(deployment: Deployment, nonce_url: &str, tolerance: Duration) -> Deployment {
    let [tolerance, timeout] =
        [tolerance, claim_within()].map(|duration| format!("{}ms", duration.as_millis()));
    deployment
        .set("nonce.url", nonce_url)
        .set("nonce.timeout", &timeout)
        .set("self_signed.tolerance", &tolerance)
}

/// Tokens for at least `seconds`, and at least `CHAOS_TOKENS` of them.
fn plan(seconds: u32, tolerance: Duration) -> Plan {
    let wanted = std::env::var("CHAOS_TOKENS")
        .ok()
        .map(|tokens| tokens.parse::<u32>().expect("CHAOS_TOKENS is no number"));
    let per_second =
        wanted.map_or(PER_SECOND, |tokens| tokens.div_ceil(seconds).min(PER_SECOND_MAX));
    let tokens = wanted.unwrap_or(0).max(per_second * seconds);
    Plan::new(usize::try_from(tokens).unwrap(), per_second, tolerance)
}

/// What happened to the store.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// From here on the store could not claim, and earlier claims may be lost.
    began: Instant,
    /// Until here the store could not claim. Equal to `began` for an instantaneous fault.
    ended: Instant,
    /// From here on the store could claim.
    returned: Instant,
}

impl Fault {
    /// A fault that takes no time.
    fn now() -> Self {
        let now = Instant::now();
        Self { began: now, ended: now, returned: now }
    }

    /// Single use held, nothing passed during the fault, and every fresh token passes after it.
    fn is_outlived(self, report: &Report) {
        report.tells();
        self.tells(report);
        report.allows_no_token_twice();
        let meanwhile = report.allows_between(self.began, self.ended);
        assert!(
            meanwhile.is_empty(),
            "{} allowed while the store could not claim: {}",
            meanwhile.len(),
            report.describe(meanwhile[0])
        );
        let first = report.first_allow_after(self.returned);
        let replays = report.replays_across(self.began, self.returned);
        eprintln!(
            "{replays} presentations of tokens used before; the first allow came {first:?} after the store's return"
        );
        assert!(
            first.is_some_and(|first| first <= RECOVERY),
            "the first allow came {first:?} after the store's return"
        );
        assert!(replays >= REPLAYS_MIN, "too few to show anything");
        self.is_forgotten(report);
    }

    /// Single use held, and every fresh token passed, also during the fault.
    fn is_harmless(self, report: &Report) {
        report.tells();
        self.tells(report);
        report.allows_no_token_twice();
        let (refused, never) = report.refused_since(self.began.checked_sub(RECOVERY).unwrap());
        assert!(
            refused.is_empty(),
            "{} of fresh tokens refused: {}",
            refused.len(),
            report.describe(refused[0])
        );
        assert_eq!(never, 0, "fresh tokens that never passed");
        assert!(
            report.allows_between(self.began, self.ended).len() >= REPLAYS_MIN,
            "too few to show anything"
        );
    }

    /// Refusals came in time, checked only if the run's timings are meaningful.
    fn is_refused_in_time(self, report: &Report) {
        let slowest = report.latencies(self.began, self.ended, "unavailable").last().copied();
        let slowest = slowest.expect("nothing was refused");
        assert!(!is_whole() || slowest <= REFUSAL_MAX, "a refusal took {slowest:?}");
    }

    /// A row for the report of a run.
    fn tells(self, report: &Report) {
        let every = report.latencies(self.began, self.ended, "");
        let at = |part: usize| {
            every.get((every.len().saturating_sub(1)) * part / 100).copied().unwrap_or_default()
        };
        eprintln!(
            "while it lasted ({:.1?}): {} answers, {} allowed, {} unavailable; p50 {:.1?}, p99 {:.1?}, slowest {:.1?}; \
             first allow after it {:.1?}",
            self.ended - self.began,
            every.len(),
            report.latencies(self.began, self.ended, "allowed").len(),
            report.latencies(self.began, self.ended, "unavailable").len(),
            at(50),
            at(99),
            at(100),
            report.first_allow_after(self.returned),
        );
    }

    /// Every fresh token passes after the fault.
    fn is_forgotten(self, report: &Report) {
        let since = self.returned + RECOVERY;
        let (refused, never) = report.refused_since(since);
        assert!(
            refused.is_empty(),
            "{} of fresh tokens refused: {}",
            refused.len(),
            report.describe(refused[0])
        );
        assert_eq!(never, 0, "fresh tokens that never passed");
        assert!(report.signed_since(since) >= REPLAYS_MIN, "too few to show anything");
    }
}

impl Report {
    fn tells(&self) {
        eprintln!("{self}");
    }

    fn allows_no_token_twice(&self) {
        let twice = self.allowed_more_than_once();
        let Some(first) = twice.first() else { return };
        let described: Vec<String> =
            first.iter().map(|presentation| self.describe(presentation)).collect();
        panic!(
            "{} tokens were allowed more than once, one of them so: {described:#?}",
            twice.len()
        );
    }
}
