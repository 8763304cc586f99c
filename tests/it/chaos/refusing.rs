//! The store answers, but does not claim.

use std::time::Instant;

use super::{Fault, World};
use crate::harness::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_full() {
    let redis = Redis::start();
    let world = World::on(&redis.url());
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    redis.fill();
    let began = Instant::now();
    presenter.has_signed_for(4).await;
    let ended = Instant::now();
    redis.make_room();
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

/// As a replica, the store takes the data of its new master, which has none of the claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_demoted_and_promoted_again() {
    let (redis, other) = (Redis::start(), Redis::start());
    let world = World::on(&redis.url());
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    redis.demote_to_replica_of(&other);
    let began = Instant::now();
    presenter.has_signed_for(4).await;
    let ended = Instant::now();
    redis.promote();
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

/// The Redis user of the replicas loses the right to write, and gets it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_takes_the_permission_away() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "countersign", "on", ">a password", "~*", "&*", "+@all"]);
    let world = World::on(&redis.url_of("countersign", "a%20password"));
    let presenter = world.present(9);
    presenter.has_signed_for(3).await;
    redis.command(&["ACL", "SETUSER", "countersign", "-set"]);
    let began = Instant::now();
    presenter.has_signed_for(4).await;
    let ended = Instant::now();
    redis.command(&["ACL", "SETUSER", "countersign", "+set"]);
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}
