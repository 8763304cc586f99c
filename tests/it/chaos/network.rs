//! A good Redis behind a bad network.

use std::time::{Duration, Instant};

use super::{Fault, LONG_TOLERANCE, RECOVERY, World, claim_within, is_whole};
use crate::harness::{ChaosProxy, Network, Redis};

/// The slowest answers that are still waited for.
const SLOW: Duration = Duration::from_millis(20);
/// The slowest allow when answers are that slow.
const SLOW_P99: Duration = Duration::from_millis(50);

/// Three replicas and the network between them and their store.
struct Scene {
    world: World,
    proxy: ChaosProxy,
    _redis: Redis,
}

impl Scene {
    async fn new() -> Self {
        let redis = Redis::start();
        let proxy = ChaosProxy::before(redis.address).await;
        let world = World::tolerating(&format!("redis://{}", proxy.address), LONG_TOLERANCE);
        Self { world, proxy, _redis: redis }
    }

    /// A network that lets no claim through: refusals come in time, and decisions recover. It is
    /// bad for as long as it takes to sign the tokens of this many seconds.
    async fn outlives(self, network: Network, seconds: usize) {
        let Self { world, proxy, _redis } = self;
        let presenter = world.present(3 + u32::try_from(seconds).unwrap() + 5);
        presenter.has_signed_for(3).await;
        proxy.becomes(network);
        let began = Instant::now();
        presenter.has_signed_for(3 + seconds).await;
        let ended = Instant::now();
        proxy.becomes(Network::Fine);
        presenter.fault_is_over();
        let fault = Fault { began, ended, returned: Instant::now() };
        let report = presenter.end().await;
        fault.is_outlived(&report);
        fault.is_refused_in_time(&report);
    }
}

/// A network to another region: everything passes, a little later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_20_ms_late() {
    let Scene { world, proxy, _redis } = Scene::new().await;
    let presenter = world.present(10);
    presenter.has_signed_for(3).await;
    let connections = proxy.connections();
    proxy.becomes(Network::Slow(SLOW));
    let began = Instant::now();
    presenter.has_signed_for(7).await;
    let ended = Instant::now();
    // Threads that were idle before make their first connections.
    let new = proxy.connections() - connections;
    assert!(new <= connections, "a slow connection is a good one, yet {new} new ones were made");
    proxy.becomes(Network::Fine);
    presenter.fault_is_over();
    let report = presenter.end().await;
    let fault = Fault { began, ended, returned: ended };
    fault.is_harmless(&report);
    let allowed = report.latencies(began, ended, "allowed");
    let p99 = allowed[allowed.len() * 99 / 100];
    assert!(!is_whole() || p99 <= SLOW_P99, "p99 of allows was {p99:?}");
}

/// Slower than a claim may take: no answer counts, and none is taken for another claim's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_too_late() {
    let Scene { world, proxy, _redis } = Scene::new().await;
    let presenter = world.present(11);
    presenter.has_signed_for(3).await;
    proxy.becomes(Network::Slow(5 * claim_within()));
    let slow = Instant::now();
    // Answers that were on their way before may still arrive.
    let began = slow + claim_within();
    presenter.has_signed_for(6).await;
    let ended = Instant::now();
    proxy.becomes(Network::Fine);
    presenter.fault_is_over();
    let fault = Fault { began, ended, returned: Instant::now() };
    let report = presenter.end().await;
    fault.is_outlived(&report);
    fault.is_refused_in_time(&report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset_in_the_middle_of_an_answer() {
    Scene::new().await.outlives(Network::ResetsAnswers, 3).await;
}

/// Nothing passes, and no connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_a_black_hole() {
    Scene::new().await.outlives(Network::BlackHole, 5).await;
}

/// Like a restarted firewall. The store is there: the outage lasts until the connection is given
/// up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_forgets_connections() {
    let Scene { world, proxy, _redis } = Scene::new().await;
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    proxy.becomes(Network::HalfOpen);
    let fault = Fault::now();
    presenter.has_signed_for(4).await;
    presenter.fault_is_over();
    let report = presenter.end().await;
    fault.is_outlived(&report);
    assert!(report.first_allow_after(fault.returned).is_some_and(|first| first <= RECOVERY));
}
