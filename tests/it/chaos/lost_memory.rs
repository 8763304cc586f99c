//! The store loses its data.

use std::time::Instant;

use super::{Fault, World};
use crate::harness::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_back_empty() {
    let mut redis = Redis::start();
    let world = World::on(&redis.url());
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    redis.stop();
    let began = Instant::now();
    presenter.has_signed_for(4).await;
    let ended = Instant::now();
    redis.restart();
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_flushed() {
    let redis = Redis::start();
    let world = World::on(&redis.url());
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    redis.command(&["FLUSHALL"]);
    let fault = Fault::now();
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

/// It claimed for a second between its snapshot and its death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_back_from_an_old_snapshot() {
    let mut redis = Redis::start();
    let world = World::on(&redis.url());
    let presenter = world.present(10);
    presenter.has_signed_for(3).await;
    redis.save_snapshot();
    presenter.has_signed_for(4).await;
    redis.stop();
    let began = Instant::now();
    presenter.has_signed_for(5).await;
    let ended = Instant::now();
    redis.restart();
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

/// Earlier claims are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_nonces_in_memory_restarts() {
    let mut world = World::of(super::deployment("memory:", super::TOLERANCE));
    world.replicas = vec![world.deployment.serve()];
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    let began = Instant::now();
    world.replicas[0].replace(&world.deployment);
    let fault = Fault { began, ended: began, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}
