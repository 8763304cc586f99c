//! What a decision costs with few principals and with many, and when the principal is not in
//! memory; and how soon a service with many principals is ready.
//!
//! One service for each number of principals, all running at the same time, asked in turns.
//! Decisions are about principals chosen at random among those that the service holds. A key is
//! parsed at the first signature that it verifies, so each of those principals has one token
//! allowed before the measurement. Nonces are in Redis, so that they do not affect the result. All
//! services share one core, which only the service that is asked uses; see
//! [`scenario`](crate::scenario).

use countersign::domain::algorithm::Algorithm;

use super::{AHEAD, CONNECTIONS, CostAgainstPrincipals, Target, seed::Registry, thousands, timed};
use crate::{
    machine::CpuTime,
    resident::{Resident, quiet},
    server::{Placement, Server},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

/// Maximum cost of decisions about principals in memory, as a multiple of the cost with the fewest
/// principals.
const HITS_BOUND: f64 = 1.05;
const START_BOUND_SECONDS: f64 = 1.0;
/// The number of principals for which the bound of the start applies.
const START_BOUND_PRINCIPALS: usize = 100_000;
const PLACEMENT: Placement = Placement { is_pinned: true };
/// Number of starts of each service.
const STARTS: usize = 3;
/// Keys that the principals of one registry share.
const POOL: usize = 64;
/// Decisions per turn.
const DECISIONS: usize = 3_000;

pub(super) struct Plan {
    /// The number of principals in each registry, in ascending order.
    registries: &'static [usize],
    cache_entries: usize,
    rounds: usize,
    rounds_of_misses: usize,
}

pub(super) const FULL: Plan = Plan {
    registries: &[100, 1_000, 10_000, 100_000, 1_000_000],
    cache_entries: 100_000,
    rounds: 24,
    rounds_of_misses: 4,
};
pub(super) const QUICK: Plan = Plan {
    registries: &[100, 2_000, 20_000],
    cache_entries: 2_000,
    rounds: 9,
    rounds_of_misses: 2,
};

pub(super) async fn measure(plan: &Plan) -> (Section, CostAgainstPrincipals) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Server::redis(PLACEMENT, dir.path());
    let mut services = Vec::new();
    for principals in plan.registries {
        services.push(
            Service::start(*principals, plan.cache_entries, &format!("redis://{}", redis.address))
                .await,
        );
    }

    let rounds = hits(&mut services, plan.rounds).await;
    let most = services.last_mut().unwrap();
    let missed = misses(most, plan.rounds_of_misses).await;
    let section = tell(&services, &rounds, &missed);
    let points = services.iter().enumerate();
    let points = points.map(|(place, service)| {
        (service.registry.principals, rounds.iter().map(|round| round[place]).collect())
    });
    (section, points.collect())
}

/// CPU microseconds of a decision by each of `services`, round by round.
async fn hits(services: &mut [Service], rounds: usize) -> Vec<Vec<f64>> {
    for service in &mut *services {
        service.began = Some(service.target.server.cpu.now());
    }
    let mut measured = Vec::new();
    for round in 0..rounds {
        let mut taken = vec![0.0; services.len()];
        // Forwards and backwards, so that no service always follows the same other one.
        let mut order: Vec<usize> = (0..services.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let service = &mut services[place];
            let held = service.held;
            let signers: Vec<Signer> =
                (0..DECISIONS).map(|_| service.registry.signer(fastrand::usize(..held))).collect();
            taken[place] = service.ask(&signers).await;
        }
        let line: Vec<String> = taken.iter().map(|cpu_us| format!("{cpu_us:.1}")).collect();
        println!("principals, round {} of {rounds}: {}", round + 1, line.join(" "));
        measured.push(taken);
    }
    for service in &mut *services {
        // Work after decisions, such as writing the last use of keys, counts as their cost, too.
        quiet(&service.target.server).await;
        let micros = service.target.server.cpu.micros_since(service.began.as_ref().unwrap());
        service.whole_us = micros / (rounds * DECISIONS) as f64;
    }
    measured
}

/// The same for principals that `service` does not hold; each is asked about once.
async fn misses(service: &mut Service, rounds: usize) -> Spread {
    let absent = service.registry.principals - service.held;
    let mut numbers: Vec<usize> = (0..absent).map(|number| service.held + number).collect();
    fastrand::shuffle(&mut numbers);
    let mut measured = Vec::new();
    for numbers in numbers.chunks(DECISIONS).take(rounds) {
        let signers: Vec<Signer> =
            numbers.iter().map(|number| service.registry.signer(*number)).collect();
        measured.push(service.ask(&signers).await);
    }
    measured.into_iter().collect()
}

fn tell(services: &[Service], rounds: &[Vec<f64>], missed: &Spread) -> Section {
    let mut section = Section::default();
    let (fewest, most) = (services.first().unwrap(), services.last().unwrap());
    let few = thousands(fewest.registry.principals);
    let base: Spread = rounds.iter().map(|round| round[0]).collect();
    for (place, service) in services.iter().enumerate().skip(1) {
        let [registered, held] = [service.registry.principals, service.held].map(thousands);
        let cpu: Spread = rounds.iter().map(|round| round[place]).collect();
        section.rows.push(Row::new(
            format!(
                "allow, Ed25519, Redis nonces, {registered} principals, any of {held} in memory"
            ),
            format!("{} µs CPU", cpu.with_range(1)),
            format!("with {few} principals, {:.1} µs", base.median()),
            rounds.iter().map(|round| round[place] / round[0]).collect(),
            Some(Bound::AtMost(HITS_BOUND)),
        ));
    }
    let [registered, held] = [most.registry.principals, most.held].map(thousands);
    section.rows.push(Row::new(
        format!("the same with all that follows, such as writing when {held} keys were used"),
        format!("{:.1} µs CPU", most.whole_us),
        format!("with {few} principals, {:.1} µs", fewest.whole_us),
        Spread::from_iter([most.whole_us / fewest.whole_us]),
        None,
    ));
    let in_memory: Spread = rounds.iter().map(|round| *round.last().unwrap()).collect();
    section.rows.push(Row::new(
        format!("the same about a principal not in memory, of {registered}"),
        format!("{} µs CPU", missed.with_range(0)),
        format!("in memory, {:.1} µs", in_memory.median()),
        Spread::from_iter([missed.median() / in_memory.median()]),
        None,
    ));
    for service in services {
        service.tell(&mut section);
    }
    section.notes.push(format!(
        "Principals: one service for each number of them, all running, {} rounds of turns of {DECISIONS} decisions over {CONNECTIONS} \
         connections; SQLite, one Ed25519 key each. Every principal asked about was decided about once before. With one worker: {}.",
        rounds.len(),
        services.iter().map(Service::in_words).collect::<Vec<_>>().join("; "),
    ));
    section
}

/// A service with its registry.
struct Service {
    registry: Registry,
    target: Target,
    /// The number of principals in memory.
    held: usize,
    /// Time from each start until it was ready.
    starts: Spread,
    /// Once every key of the principals in memory was used.
    in_use: Resident,
    /// CPU time before the measured decisions, and the cost of each, including the work after it.
    began: Option<CpuTime>,
    whole_us: f64,
    /// The share of its core that it used, turn by turn.
    busy: Vec<f64>,
}

impl Service {
    async fn start(principals: usize, cache_entries: usize, nonce_url: &str) -> Self {
        let registry = Registry::new(principals, 1, Algorithm::EdDsa, POOL).await;
        let entries = cache_entries.to_string();
        let settings = [("COUNTERSIGN_REGISTRY__CACHE_ENTRIES", entries.as_str())];
        let start =
            |placement| Server::countersign_with(placement, registry.dir(), nonce_url, &settings);
        // On any core, as in normal operation.
        let starts = (0..STARTS)
            .map(|_| timed(|| start(Placement { is_pinned: false })).1.as_secs_f64())
            .collect();
        let server = start(PLACEMENT);
        quiet(&server).await;

        let (mut target, held) = (Target::of(server).await, principals.min(cache_entries));
        // Several requests per connection, too, so that every worker has its connections.
        let signers: Vec<Signer> =
            (0..held.max(4 * CONNECTIONS)).map(|number| registry.signer(number % held)).collect();
        target.ask_each(&signers).await;
        let in_use = Resident::of_quiet(&target.server).await;
        println!("{} principals: {in_use}", thousands(principals));
        Self {
            registry,
            target,
            held,
            starts,
            in_use,
            began: None,
            whole_us: 0.0,
            busy: Vec::new(),
        }
    }

    /// CPU microseconds of a decision about each of `signers`.
    async fn ask(&mut self, signers: &[Signer]) -> f64 {
        let tokens = sign(signers, signers.len(), AHEAD);
        PLACEMENT.withdraw(true);
        let taken = self.target.ask(&tokens).await;
        PLACEMENT.withdraw(false);
        self.busy.push(taken.cores);
        taken.cpu_us
    }

    fn tell(&self, section: &mut Section) {
        let registered = thousands(self.registry.principals);
        let seconds = self.starts.median();
        if self.registry.principals == START_BOUND_PRINCIPALS {
            let figure =
                format!("start to ready, {registered} principals, SQLite, median of {STARTS}");
            section.rows.push(Row::limited(figure, seconds, START_BOUND_SECONDS, "s"));
        } else if self.registry.principals > START_BOUND_PRINCIPALS {
            let (figure, limit) =
                (format!("start to ready, {registered} principals, SQLite"), START_BOUND_SECONDS);
            let times = Spread::from_iter([seconds / limit]);
            section.rows.push(Row::new(
                figure,
                format!("{seconds:.2} s"),
                format!("{limit} s"),
                times,
                None,
            ));
        }
    }

    fn in_words(&self) -> String {
        let (registered, held) = (thousands(self.registry.principals), thousands(self.held));
        let (in_use, busy) =
            (self.in_use, self.busy.iter().copied().collect::<Spread>().median() * 100.0);
        format!("{registered} registered, {held} in memory, RSS {in_use}, {busy:.0} % of its core")
    }
}
