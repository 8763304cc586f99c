//! The registry's database is slow, gone, or behind a bad network: decisions about principals in
//! memory continue.

use std::time::{Duration, Instant};

use super::{Fault, TOLERANCE, World, settle};
use crate::harness::{ChaosProxy, Database, Deployment, Network, Redis};

struct Scene {
    world: World,
    proxy: ChaosProxy,
    _redis: Redis,
}

impl Scene {
    async fn new() -> Self {
        let (redis, mut database) = (Redis::start(), Database::postgres());
        let proxy = ChaosProxy::before(database.address()).await;
        database.url = database.url_through(proxy.address);
        let mut world = World::of(settle(Deployment::on(database), &redis.url(), TOLERANCE));
        world.replicas = (0..3).map(|_| world.deployment.serve()).collect();
        Self { world, proxy, _redis: redis }
    }

    async fn outlives(self, network: Network) {
        let Self { world, proxy, _redis } = self;
        let presenter = world.present(10);
        presenter.has_signed_for(3).await;
        proxy.becomes(network);
        let began = Instant::now();
        presenter.has_signed_for(7).await;
        let ended = Instant::now();
        proxy.becomes(Network::Fine);
        presenter.fault_is_over();
        let fault = Fault { began, ended, returned: ended };
        fault.is_harmless(&presenter.end().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_late() {
    Scene::new().await.outlives(Network::Slow(Duration::from_millis(500))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset_in_the_middle_of_an_answer() {
    Scene::new().await.outlives(Network::ResetsAnswers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_a_black_hole() {
    Scene::new().await.outlives(Network::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_forgets_connections() {
    Scene::new().await.outlives(Network::HalfOpen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_killed_and_back() {
    let redis = Redis::start();
    let mut world =
        World::of(settle(Deployment::on(Database::postgres()), &redis.url(), TOLERANCE));
    world.replicas = (0..3).map(|_| world.deployment.serve()).collect();
    let presenter = world.present(10);
    presenter.has_signed_for(3).await;
    world.deployment.lose_the_database();
    let began = Instant::now();
    presenter.has_signed_for(7).await;
    let ended = Instant::now();
    world.deployment.restore_the_database();
    presenter.fault_is_over();
    let fault = Fault { began, ended, returned: ended };
    fault.is_harmless(&presenter.end().await);
}
