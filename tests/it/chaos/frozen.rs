//! A store whose process hangs: it neither answers nor closes connections.

use std::time::{Duration, Instant};

use super::{Fault, LONG_TOLERANCE, World};
use crate::harness::{Redis, ReplicatedCluster, Report, Sentinels, Signal};

/// How long the store hangs.
const FROZEN: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs() {
    let redis = Redis::start();
    let world = World::tolerating(&redis.url(), LONG_TOLERANCE);
    let presenter = world.present(14);
    presenter.has_signed_for(3).await;
    redis.signal(Signal::Stop);
    let began = Instant::now();
    presenter.has_signed_for(3 + FROZEN).await;
    let ended = Instant::now();
    redis.signal(Signal::Continue);
    presenter.fault_is_over();
    let fault = Fault { began, ended, returned: Instant::now() };
    let report = presenter.end().await;
    fault.is_outlived(&report);
    fault.is_refused_in_time(&report);
}

/// When it wakes up, it takes itself for the master until a sentinel corrects it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_replace_a_master_that_hangs() {
    let sentinels = Sentinels::start();
    let world = World::tolerating(&sentinels.url(), LONG_TOLERANCE);
    let presenter = world.present(16);
    presenter.has_signed_for(3).await;
    sentinels.first.signal(Signal::Stop);
    let began = Instant::now();
    sentinels.has_failed_over();
    let fault = Fault { began, ended: began, returned: Instant::now() };
    presenter.has_signed_for(3 + FROZEN).await;
    sentinels.first.signal(Signal::Continue);
    presenter.fault_is_over();
    fault.is_outlived(&presenter.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_a_master_that_hangs() {
    let cluster = ReplicatedCluster::start();
    let world = World::tolerating(&cluster.url(), LONG_TOLERANCE);
    let presenter = world.present(16);
    presenter.has_signed_for(3).await;
    cluster.masters[1].signal(Signal::Stop);
    let began = Instant::now();
    cluster.has_failed_over(1);
    let fault = Fault { began, ended: began, returned: Instant::now() };
    presenter.has_signed_for(3 + FROZEN).await;
    cluster.masters[1].signal(Signal::Continue);
    presenter.fault_is_over();
    let report = presenter.end().await;
    fault.is_outlived(&report);
    others_go_on(&report, began);
}

/// Two thirds of the slots are served meanwhile. Nodes treat a silent node as down after a second:
/// this checks the time before that.
fn others_go_on(report: &Report, began: Instant) {
    let meanwhile = began + Duration::from_millis(900);
    let allowed = report.latencies(began, meanwhile, "allowed").len();
    let refused = report.latencies(began, meanwhile, "unavailable").len();
    eprintln!("before the nodes noticed: {allowed} allowed, {refused} unavailable");
    assert!(
        allowed >= refused / 2,
        "two of three slots are served, yet {allowed} were allowed and {refused} were unavailable"
    );
}
