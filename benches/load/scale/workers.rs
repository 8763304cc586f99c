//! Two workers compared with one: how much each adds, and how much they slow each other down.
//!
//! Client and Redis need the same cores, so decisions per second cannot show this. CPU time can:
//! the number of cores over the CPU time of a decision is the number of decisions that the service
//! can make per second if it has the cores to itself. It grows less than the number of cores if
//! workers wait for one another, spin, wake each other, or invalidate each other's cache lines. All
//! of that is CPU time, and happens here, because all workers are busy at the same time. Workers
//! that sleep while they wait for one another would not show, but then they would not be busy,
//! which is measured, too.
//!
//! The comparison favours the single worker: it has its core to itself, with client and Redis on
//! the others; several workers share their cores with both.

use std::thread;

use countersign::domain::algorithm::Algorithm;

use super::{AHEAD, CONNECTIONS, Taken, Target, seed::Registry};
use crate::{
    server::{Placement, Server},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

/// Minimum share of what the cores would allow: two workers do 1.8 times as much as one.
const BOUND: f64 = 0.9;
const PRINCIPALS: usize = 16;
/// Decisions per turn.
const DECISIONS: usize = 4_000;
const ROUNDS_FULL: usize = 16;
const ROUNDS_QUICK: usize = 6;

const ONE: Placement = Placement { is_pinned: true };
const SEVERAL: Placement = Placement { is_pinned: false };

/// Two services with the same nonce store.
struct Pair {
    nonces: &'static str,
    one: Target,
    several: Target,
    rounds: Vec<[Taken; 2]>,
}

pub(super) async fn measure(is_quick: bool) -> Section {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let registry = Registry::new(PRINCIPALS, 1, Algorithm::EdDsa, PRINCIPALS).await;
    let signers: Vec<Signer> = (0..PRINCIPALS).map(|number| registry.signer(number)).collect();
    let [apart, anywhere] =
        [ONE, SEVERAL].map(|placement| Server::redis(placement, registry.dir()));
    let urls = [
        ("Redis", [&apart, &anywhere].map(|redis| format!("redis://{}", redis.address))),
        ("in-memory", ["memory:"; 2].map(str::to_owned)),
    ];
    let mut pairs = Vec::new();
    for (nonces, [one, several]) in urls {
        let start = |placement, url: &str| Server::countersign(placement, registry.dir(), url);
        let mut pair = Pair {
            nonces,
            one: Target::of(start(ONE, &one)).await,
            several: Target::of(start(SEVERAL, &several)).await,
            rounds: Vec::new(),
        };
        let tokens = sign(&signers, 8 * CONNECTIONS, 0);
        pair.one.ask(&tokens).await;
        pair.several.ask(&tokens).await;
        pairs.push(pair);
    }
    let rounds = if is_quick { ROUNDS_QUICK } else { ROUNDS_FULL };
    for round in 0..rounds {
        let tokens = sign(&signers, DECISIONS, AHEAD);
        for pair in &mut pairs {
            ONE.withdraw(true);
            let one = pair.one.ask(&tokens).await;
            ONE.withdraw(false);
            let several = pair.several.ask(&tokens).await;
            println!(
                "workers, round {} of {rounds}: {} {:.1} {:.1}",
                round + 1,
                pair.nonces,
                one.cpu_us,
                several.cpu_us
            );
            pair.rounds.push([one, several]);
        }
    }
    let mut section = Section::default();
    for pair in &pairs {
        pair.tell(cores, &mut section);
    }
    section
}

impl Pair {
    fn tell(&self, cores: usize, section: &mut Section) {
        let of =
            |figure: fn(&[Taken; 2]) -> f64| self.rounds.iter().map(figure).collect::<Spread>();
        let [one, several] = [of(|[one, _]| one.cpu_us), of(|[_, several]| several.cpu_us)];
        let capacity = |workers: usize, cpu_us: f64| {
            format!("{:.0} decisions/s", workers as f64 * 1e6 / cpu_us)
        };
        let ratios =
            self.rounds.iter().map(|[one, several]| cores as f64 * one.cpu_us / several.cpu_us);
        let nonces = self.nonces;
        section.rows.push(Row::new(
            format!("{cores} workers on {cores} cores, HTTP, Ed25519, {nonces} nonces: cores / CPU per decision"),
            capacity(cores, several.median()),
            format!("one worker on one core, {}", capacity(1, one.median())),
            ratios.collect(),
            Some(Bound::AtLeast(BOUND * cores as f64)),
        ));
        let [one_busy, several_busy] =
            [of(|[one, _]| one.cores), of(|[_, several]| several.cores)].map(|busy| busy.median());
        let [one_rate, several_rate] =
            [of(|[one, _]| one.rate), of(|[_, several]| several.rate)].map(|rate| rate.median());
        section.notes.push(format!(
            "Workers, {nonces} nonces: {:.1} µs of CPU per decision with one, {:.1} with {cores}, medians of {} rounds. The service kept \
             {one_busy:.2} cores busy with one worker, which had its core for itself, and {several_busy:.2} with {cores}, which shared theirs \
             with client and Redis. Counting these, the machine made {one_rate:.0} decisions/s with one worker and {several_rate:.0} with {cores}.",
            one.median(),
            several.median(),
            self.rounds.len(),
        ));
    }
}
