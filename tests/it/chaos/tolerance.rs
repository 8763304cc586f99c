//! The tolerance changes while replicas with the old and the new value run side by side.

use std::time::{Duration, Instant};

use super::{Fault, World, deployment, plan};
use crate::harness::{Presenter, Redis};

const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_raises_the_tolerance() {
    let redis = Redis::start();
    let mut world = World::of(deployment(&redis.url(), BEFORE));
    world.replicas = (0..3).map(|_| world.deployment.serve()).collect();
    world.deployment = world.deployment.set("self_signed.tolerance", "6s");
    let mut plan = plan(20, AFTER);
    // Around the time when no token that was used at once under the old tolerance is remembered,
    // and around the end of the new tolerance.
    plan.last = [3300, 3700, 4500, 5900].map(Duration::from_millis).to_vec();
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    let mut fault = Fault::now();
    for number in 0..3 {
        presenter.has_signed_for(3 + 3 * number).await;
        let began = Instant::now();
        world.replicas[number].replace(&world.deployment);
        fault = Fault { began, ended: began, returned: Instant::now() };
    }
    presenter.fault_is_over();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    fault.is_forgotten(&report);
}
