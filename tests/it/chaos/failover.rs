//! Another server takes over, without the latest claims.

use std::time::{Duration, Instant};

use super::{Fault, World};
use crate::harness::{Redis, ReplicatedCluster, Sentinels, eventually};

/// The old master still answers for about ten seconds after the sentinels name the new one, and its
/// claims are thrown away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_hand_over() {
    let sentinels = Sentinels::start();
    let world = World::on(&sentinels.url());
    let presenter = world.present(20);
    presenter.has_signed_for(4).await;
    sentinels.hand_over();
    let fault = Fault::now();
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_replace_a_killed_master() {
    let mut sentinels = Sentinels::start();
    let world = World::on(&sentinels.url());
    let presenter = world.present(12);
    presenter.has_signed_for(3).await;
    sentinels.first.cut_replicas_off();
    presenter.has_signed_for(4).await;
    sentinels.first.stop();
    let began = Instant::now();
    let ended = is_last_a_replica(&sentinels.second, began);
    sentinels.has_failed_over();
    let fault = Fault { began, ended, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_a_killed_master() {
    let mut cluster = ReplicatedCluster::start();
    let world = World::on(&cluster.url());
    let presenter = world.present(12);
    presenter.has_signed_for(3).await;
    cluster.masters[1].cut_replicas_off();
    presenter.has_signed_for(4).await;
    cluster.masters[1].stop();
    let began = Instant::now();
    // The other two thirds of the slots can be claimed in, until their masters notice.
    cluster.has_failed_over(1);
    let fault = Fault { began, ended: began, returned: Instant::now() };
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

/// The last moment after `since` at which `redis` was certainly not a master.
fn is_last_a_replica(redis: &Redis, since: Instant) -> Instant {
    let mut last = since;
    eventually("the replica is promoted", Duration::from_mins(1), || {
        let asked = Instant::now();
        if redis.info("replication").contains("role:master") {
            return Some(());
        }
        last = asked;
        None
    });
    last
}
