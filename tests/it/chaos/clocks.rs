//! Clocks of replicas that are wrong, or are set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Fault, World, deployment, plan};
use crate::harness::{
    Claims, Countersign, Door, Key, Plan, Presenter, Question, Redis, SetClock, Sluice,
};

const TOLERANCE: Duration = Duration::from_secs(2);
const WRONG_MS: i64 = 3000;

/// A replica 3 s behind takes a token for fresh that all others have already forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_behind() {
    let redis = Redis::start();
    let clock = SetClock::ahead(-WRONG_MS);
    let world = with_one_by(&redis, &clock, TOLERANCE);
    let mut plan = plan(12, TOLERANCE);
    plan.last = when_the_store_has_forgotten();
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    let began = Instant::now();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    // The two others decide as usual.
    assert!(
        report.allows_between(began, Instant::now()).len() > super::REPLAYS_MIN,
        "too few to show anything"
    );
}

/// A replica 3 s ahead makes the store remember a token for less than its window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_ahead() {
    const TOLERANCE: Duration = Duration::from_secs(6);
    let redis = Redis::start();
    let clock = SetClock::ahead(WRONG_MS);
    let world = with_one_by(&redis, &clock, TOLERANCE);
    let mut plan = plan(12, TOLERANCE);
    plan.last = [5200, 5600, 5900].map(Duration::from_millis).to_vec();
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    let began = Instant::now();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    assert!(
        report.allows_between(began, Instant::now()).len() > super::REPLAYS_MIN,
        "too few to show anything"
    );
}

/// If its clock is set forward while it decides, a replica must not make the store forget early
/// what it claims before it notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_replica_is_set_forward() {
    const TOLERANCE: Duration = Duration::from_secs(6);
    let redis = Redis::start();
    let clock = SetClock::ahead(0);
    let world = with_one_by(&redis, &clock, TOLERANCE);
    let mut plan = plan(16, TOLERANCE);
    plan.last = [5200, 5600, 5900].map(Duration::from_millis).to_vec();
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    let mut fault = Fault::now();
    for second in [2, 8] {
        presenter.has_signed_for(second).await;
        let began = Instant::now();
        clock.set(WRONG_MS);
        presenter.has_signed_for(second + 1).await;
        clock.set(0);
        // It is not set back by itself.
        fault = Fault {
            began,
            ended: began,
            returned: Instant::now() + Duration::from_millis(WRONG_MS.unsigned_abs()),
        };
    }
    presenter.fault_is_over();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    fault.is_forgotten(&report);
}

/// While its clock is 3 s behind, a replica may not decide; once the clock is right again, it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_replica_is_set_back() {
    let redis = Redis::start();
    let clock = SetClock::ahead(0);
    let world = with_one_by(&redis, &clock, TOLERANCE);
    let mut plan = plan(15, TOLERANCE);
    plan.last = when_the_store_has_forgotten();
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    presenter.has_signed_for(4).await;
    let began = Instant::now();
    clock.set(-WRONG_MS);
    presenter.has_signed_for(9).await;
    clock.set(0);
    let fault = Fault { began, ended: began, returned: Instant::now() };
    presenter.fault_is_over();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    fault.is_forgotten(&report);
}

/// A clock far ahead makes the store in memory forget what counts once the clock is back. The
/// client's clock does the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_replica_with_nonces_in_memory_leaps_and_is_back() {
    const TOLERANCE: Duration = Duration::from_secs(6);
    const LEAP_SECONDS: i64 = 8;
    let clock = Arc::new(SetClock::ahead(0));
    let mut world = World::of(deployment("memory:", TOLERANCE));
    world.replicas = vec![Countersign::start_by(&world.deployment, &clock)];
    let plan = Plan { clock: Some(Arc::clone(&clock)), ..plan(24, TOLERANCE) };
    let presenter = Presenter::start(&world.replicas, &world.client, plan);
    presenter.has_signed_for(4).await;
    let began = Instant::now();
    clock.set(LEAP_SECONDS * 1000);
    presenter.has_signed_for(6).await;
    clock.set(0);
    presenter.fault_is_over();
    let back = Instant::now();
    let report = presenter.end().await;
    report.tells();
    report.allows_no_token_twice();
    // The clock used for decisions stands still until the other has caught up.
    let returned = back + Duration::from_secs(LEAP_SECONDS.unsigned_abs());
    Fault { began, ended: began, returned }.is_forgotten(&report);
}

/// A token whose claim returns after its window has ended is not allowed, whatever the clock said
/// at the start. Only the clock jumps, so the claim itself takes no time that a timeout would
/// notice.
#[tokio::test]
async fn a_claim_comes_back_when_the_window_is_over() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let clock = SetClock::ahead(0);
    let mut world = World::of(deployment(&format!("redis://{}", sluice.address()), TOLERANCE));
    world.replicas = vec![Countersign::start_by(&world.deployment, &clock)];
    let question = |key: &Key| Question::with(Claims::of("alice").authorization(key));
    crate::harness::eventually_async("fresh tokens pass", Duration::from_secs(10), async || {
        Door::Http
            .ask(&world.replicas[0], &question(&world.client.key))
            .await
            .allowed()
            .then_some(())
    })
    .await;

    sluice.shut();
    let asked = question(&world.client.key);
    let (verdict, ()) = tokio::join!(Door::Http.ask(&world.replicas[0], &asked), async {
        sluice.holds(1).await;
        clock.set(60_000);
        sluice.open();
    });
    assert_eq!(
        (verdict.status, verdict.code()),
        (401, Some("timestamp_outside_tolerance")),
        "{verdict:?}"
    );
    clock.set(0);
    assert!(!Door::Http.ask(&world.replicas[0], &asked).await.allowed());
}

/// Two replicas on the machine's clock, and one on `clock`.
fn with_one_by(redis: &Redis, clock: &SetClock, tolerance: Duration) -> World {
    let mut world = World::of(deployment(&redis.url(), tolerance));
    world.replicas = vec![
        world.deployment.serve(),
        world.deployment.serve(),
        Countersign::start_by(&world.deployment, clock),
    ];
    world
}

/// A token with `TOLERANCE` that was used at once is remembered for a second more.
fn when_the_store_has_forgotten() -> Vec<Duration> {
    [1900, 4200, 4600].map(Duration::from_millis).to_vec()
}
