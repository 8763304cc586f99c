//! Under load, with one fault after another, for as long as you like: what a process holds does not
//! grow.
//!
//! `make soak` takes 20 minutes; the quick run, half a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{TOLERANCE, World, settle};
use crate::harness::{
    ChaosProxy, Client, Database, Deployment, Load, Network, Redis, Signal, Usage,
};

/// Used without `SOAK_SECONDS`.
const QUICK: Duration = Duration::from_secs(30);
/// Parts of a run, each with its own fault. Later parts are compared with the end of the fourth.
const QUICK_PART: Duration = Duration::from_secs(5);
const PART: Duration = Duration::from_secs(30);
const WARM_UP_PARTS: usize = 4;
/// The share of the machine's full decision rate, in this build, that is asked for.
const LOAD_PERCENT: usize = 70;
const PER_SECOND_MAX: u32 = 2_000;
/// Memory may grow by this much after the warm-up.
const GROWTH_PERCENT: u64 = 10;
/// Connections to the stores are closed and reopened; a few more or fewer when they are counted do
/// not count as growth.
const DESCRIPTORS_MORE: usize = 16;
const THREADS_MORE: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Nonces(Network),
    Registry(Network),
    RedisHangs,
}

const FAULTS: [Fault; 8] = [
    Fault::Nonces(Network::Slow(Duration::from_millis(20))),
    Fault::Registry(Network::ResetsAnswers),
    Fault::Nonces(Network::ResetsAnswers),
    Fault::Nonces(Network::HalfOpen),
    Fault::Registry(Network::BlackHole),
    Fault::Nonces(Network::BlackHole),
    Fault::RedisHangs,
    Fault::Registry(Network::HalfOpen),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows() {
    let seconds = std::env::var("SOAK_SECONDS")
        .ok()
        .map(|seconds| seconds.parse().expect("SOAK_SECONDS is no number"));
    let (whole, part) =
        seconds.map_or((QUICK, QUICK_PART), |seconds| (Duration::from_secs(seconds), PART));
    let parts = usize::try_from(whole.as_secs() / part.as_secs()).unwrap().max(WARM_UP_PARTS + 2);

    let (redis, mut database) = (Redis::start(), Database::postgres());
    let nonces = ChaosProxy::before(redis.address).await;
    let registry = ChaosProxy::before(database.address()).await;
    database.url = database.url_through(registry.address);
    let mut world = World::of(settle(
        Deployment::on(database),
        &format!("redis://{}", nonces.address),
        TOLERANCE,
    ));
    world.replicas = vec![world.deployment.serve()];
    let clients: Arc<Vec<Client>> =
        Arc::new((0..20).map(|number| world.client(&format!("client-{number}"))).collect());

    let busy = Load::start(&world.replicas, &clients, PER_SECOND_MAX);
    busy.has_decided(1_000, None, Instant::now()).await;
    let (_, most) = busy.end().await;
    let per_second = u32::try_from(most * LOAD_PERCENT / 100).unwrap();

    let mut held: Vec<Usage> = Vec::new();
    for number in 0..parts {
        let fault = FAULTS[number % FAULTS.len()];
        let became = |network| match fault {
            Fault::Nonces(bad) => {
                nonces.becomes(if network == Network::Fine { network } else { bad });
            }
            Fault::Registry(bad) => {
                registry.becomes(if network == Network::Fine { network } else { bad });
            }
            Fault::RedisHangs => {
                redis.signal(if network == Network::Fine {
                    Signal::Continue
                } else {
                    Signal::Stop
                });
            }
        };
        let load = Load::start(&world.replicas, &clients, per_second);
        tokio::time::sleep(part / 3).await;
        became(Network::BlackHole);
        tokio::time::sleep(part / 6).await;
        became(Network::Fine);
        tokio::time::sleep(part / 3).await;
        let since = Instant::now();
        load.has_decided(20, None, since).await;
        let (samples, rate) = load.end().await;
        let usage = world.replicas[0].usage();
        let allowed = samples.iter().filter(|sample| sample.outcome == "allowed").count();
        eprintln!(
            "part {number} of {parts}, {fault:?}: {rate} decisions a second, {allowed} of {} allowed; {usage:?}",
            samples.len()
        );
        let late: Vec<_> = samples
            .iter()
            .filter(|sample| sample.started >= since && sample.outcome != "allowed")
            .collect();
        assert!(
            late.is_empty(),
            "{} refused long after {fault:?}, the first of them: {:?}",
            late.len(),
            late[0]
        );
        held.push(usage);
    }
    let (before, after) = (held[WARM_UP_PARTS - 1], held[parts - 1]);
    assert!(after.descriptors <= before.descriptors + DESCRIPTORS_MORE, "descriptors: {held:#?}");
    assert!(after.threads <= before.threads + THREADS_MORE, "threads: {held:#?}");
    let bound = before.resident_kib * (100 + GROWTH_PERCENT) / 100;
    assert!(after.resident_kib <= bound, "memory: {held:#?}");
}
