//! What is measured, in which order.
//!
//! The speed of a machine changes from one second to the next, most of all that of a virtual one. So everything is measured in
//! turns, a tenth of a second each, and what is compared was measured within the same round of turns.

use std::time::{Duration, Instant};

use countersign::domain::algorithm::Algorithm;
use tempfile::TempDir;

use crate::{
    client::{Gateway, Questions},
    floors::{Part, Parts},
    machine::CpuClock,
    report,
    server::{Placement, Server, register},
    tokens::{Signer, sign},
};

/// Connections of the gateway to each server.
const CONNECTIONS: usize = 64;
/// Principals of each kind of key.
const PRINCIPALS: usize = 16;
/// How far in the future tokens are signed, in seconds: less than the service's tolerance of 20, so that they are valid from
/// before they are signed until [`USABLE`].
const AHEAD: i64 = 17;
/// For how long after the first was signed tokens go on being used: less than `AHEAD` and the tolerance.
const USABLE: Duration = Duration::from_secs(33);

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How often tokens are signed, in bulk, and used up in several rounds.
    pub(crate) passes: usize,
    rounds_per_pass: usize,
    pub(crate) only: Option<Case>,
    pub(crate) is_pinned: bool,
}

impl Plan {
    pub(crate) const FULL: Self = Self { passes: 14, rounds_per_pass: 8, only: None, is_pinned: false };
    pub(crate) const QUICK: Self = Self { passes: 3, rounds_per_pass: 6, ..Self::FULL };

    pub(crate) const fn rounds(&self) -> usize {
        self.passes * self.rounds_per_pass
    }
}

/// What one turn does, each about a tenth of a second of work.
mod turn {
    pub(super) const NULL_ANSWERS: usize = 12_000;
    pub(super) const REDIS_CLAIMS: usize = 50_000;
    pub(super) const ED25519_VERIFICATIONS: usize = 3_000;
    pub(super) const RS256_VERIFICATIONS: usize = 7_000;
    pub(super) const ED25519_DECISIONS: usize = 3_000;
    /// Fewer, since the tokens take long to sign.
    pub(super) const RS256_DECISIONS: usize = 2_000;
    pub(super) const DENIALS: usize = 3_000;
    pub(super) const GARBAGE: usize = 8_000;
}

/// A kind of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Ed25519Redis,
    Ed25519Memory,
    Rs256Redis,
    Rs256Memory,
    Garbage,
    UnknownUser,
    Replay,
}

impl Case {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ed25519Redis,
        Self::Ed25519Memory,
        Self::Rs256Redis,
        Self::Rs256Memory,
        Self::Garbage,
        Self::UnknownUser,
        Self::Replay,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ed25519Redis => "ed25519-redis",
            Self::Ed25519Memory => "ed25519-memory",
            Self::Rs256Redis => "rs256-redis",
            Self::Rs256Memory => "rs256-memory",
            Self::Garbage => "garbage",
            Self::UnknownUser => "unknown-user",
            Self::Replay => "replay",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name)
    }

    pub(crate) const fn is_allowed(self) -> bool {
        matches!(self, Self::Ed25519Redis | Self::Ed25519Memory | Self::Rs256Redis | Self::Rs256Memory)
    }

    const fn is_rs256(self) -> bool {
        matches!(self, Self::Rs256Redis | Self::Rs256Memory)
    }

    pub(crate) const fn uses_redis(self) -> bool {
        !matches!(self, Self::Ed25519Memory | Self::Rs256Memory)
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) rounds: Vec<Round>,
}

/// What was measured in one round. The floors are in microseconds of CPU time.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) http: Option<Sample>,
    pub(crate) ed25519: f64,
    pub(crate) rs256: f64,
    pub(crate) redis: f64,
    pub(crate) decisions: Vec<(Case, Sample)>,
}

impl Round {
    pub(crate) fn sample(&self, case: Case) -> Option<&Sample> {
        self.decisions.iter().find(|(measured, _)| *measured == case).map(|(_, sample)| sample)
    }

    /// What the parts of that decision cost at the least.
    pub(crate) fn floor(&self, case: Case) -> Option<f64> {
        let signature = if case.is_rs256() { self.rs256 } else { self.ed25519 };
        Some(self.http.as_ref()?.cpu_us + signature + if case.uses_redis() { self.redis } else { 0.0 })
    }
}

/// One server under load.
#[derive(Debug)]
pub(crate) struct Sample {
    /// CPU time of the server for each answer, in microseconds.
    pub(crate) cpu_us: f64,
    /// CPU time of Redis for each answer, in microseconds.
    pub(crate) redis_us: f64,
    /// CPU time of the client for each answer, in microseconds.
    pub(crate) client_us: f64,
    /// Answers in a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) unexpected: usize,
}

impl Results {
    /// Answers that were not what they should have been.
    pub(crate) fn failures(&self) -> usize {
        self.rounds.iter().flat_map(|round| &round.decisions).map(|(_, sample)| sample.unexpected).sum()
    }
}

/// Measures what `plan` says.
pub(crate) async fn run(plan: &Plan) -> Results {
    let mut bench = Bench::start(plan).await;
    let mut results = Results::default();
    for _ in 0..plan.passes {
        let supply = Supply::sign(&bench.signers, plan);
        bench.placement.withdraw(true);
        for number in 0..plan.rounds_per_pass {
            if supply.signed_at.elapsed() > USABLE {
                println!("the tokens grow old: this pass has {number} rounds only");
                break;
            }
            let round = bench.round(&supply, number, plan.only).await;
            println!("round {} of {}: {}", results.rounds.len() + 1, plan.rounds(), report::line(&round));
            results.rounds.push(round);
        }
        bench.placement.withdraw(false);
    }
    results
}

struct Signers {
    ed25519: Vec<Signer>,
    rs256: Vec<Signer>,
    strangers: Vec<Signer>,
}

/// Tokens for some rounds.
struct Supply {
    signed_at: Instant,
    ed25519: Vec<String>,
    rs256: Vec<String>,
    strangers: Vec<String>,
    garbage: Vec<String>,
}

impl Supply {
    fn sign(signers: &Signers, plan: &Plan) -> Self {
        let signed_at = Instant::now();
        let rs256 = match plan.only {
            Some(case) if !case.is_rs256() => Vec::new(),
            Some(_) | None => sign(&signers.rs256, plan.rounds_per_pass * turn::RS256_DECISIONS, AHEAD),
        };
        let ed25519 = sign(&signers.ed25519, plan.rounds_per_pass * turn::ED25519_DECISIONS, AHEAD);
        let strangers = sign(&signers.strangers, turn::DENIALS, AHEAD);
        // As long as tokens are, and nothing that could be one.
        let garbage = strangers.iter().map(|authorization| authorization.replace('.', "_")).collect();
        Self { signed_at, ed25519, rs256, strangers, garbage }
    }

    /// What is asked in round `number` of these tokens. The same tokens go to the service with Redis and to the one without,
    /// which know nothing of each other's nonces; neither is given one twice, but to see it deny a replay.
    fn questions(&self, case: Case, number: usize) -> Questions<'_> {
        let share = |tokens, size| Questions::once(<[String]>::chunks(tokens, size).nth(number).unwrap_or_default());
        match case {
            Case::Ed25519Redis | Case::Ed25519Memory | Case::Replay => share(&self.ed25519, turn::ED25519_DECISIONS),
            Case::Rs256Redis | Case::Rs256Memory => share(&self.rs256, turn::RS256_DECISIONS),
            Case::UnknownUser => Questions::once(&self.strangers),
            Case::Garbage => Questions::over_and_over(&self.garbage, turn::GARBAGE),
        }
    }
}

/// A server with the gateway's connections to it.
struct Target {
    server: Server,
    gateway: Gateway,
}

impl Target {
    async fn of(server: Server) -> Self {
        let gateway = Gateway::connect(server.address, CONNECTIONS).await.unwrap();
        Self { server, gateway }
    }

    async fn ask(&mut self, questions: Questions<'_>, expected: u16, redis: &Server) -> Sample {
        let client = CpuClock::of_this_process();
        let before = [&self.server.cpu, &redis.cpu, &client].map(CpuClock::now);
        let answers = self.gateway.ask(questions, expected).await;
        let count = answers.count as f64;
        let [cpu_us, redis_us, client_us] = [(&self.server.cpu, &before[0]), (&redis.cpu, &before[1]), (&client, &before[2])]
            .map(|(clock, before)| clock.micros_since(before) / count);
        if let Some(first) = &answers.first_unexpected {
            let log = self.server.log();
            println!("!! {} of {} answers were not {expected}; the first:\n{first}\n{log}", answers.unexpected, answers.count);
        }
        Sample {
            cpu_us,
            redis_us,
            client_us,
            rate: count / answers.elapsed.as_secs_f64(),
            p50_us: answers.latency_us(0.5),
            p99_us: answers.latency_us(0.99),
            unexpected: answers.unexpected,
        }
    }
}

struct Bench {
    signers: Signers,
    parts: Parts,
    with_redis: Target,
    with_memory: Target,
    null: Target,
    redis: Server,
    placement: Placement,
    /// Deleted last.
    _dir: TempDir,
}

impl Bench {
    async fn start(plan: &Plan) -> Self {
        let placement = Placement { is_pinned: plan.is_pinned };
        let make = |kind: &str, algorithm| -> Vec<Signer> {
            (0..PRINCIPALS).map(|number| Signer::new(format!("{kind}-{number:02}@example.com"), algorithm)).collect()
        };
        let signers = Signers {
            ed25519: make("ed25519", Algorithm::EdDsa),
            rs256: make("rs256", Algorithm::Rs256),
            strangers: make("unknown", Algorithm::EdDsa),
        };
        let dir = tempfile::tempdir().unwrap();
        register(dir.path(), &signers.ed25519);
        register(dir.path(), &signers.rs256);
        let redis = Server::redis(placement, dir.path());
        let mut with_redis = Target::of(Server::countersign(placement, dir.path(), &format!("redis://{}", redis.address))).await;
        let mut with_memory = Target::of(Server::countersign(placement, dir.path(), "memory:")).await;
        if let Some(case) = plan.only {
            let target = if case.uses_redis() { &with_redis } else { &with_memory };
            println!("{}: the server is process {}", case.name(), target.server.process_id());
        }

        // Several questions on each connection, so that every worker has its connections and knows every key.
        for tokens in [&signers.ed25519, &signers.rs256].map(|signers| sign(signers, 4 * CONNECTIONS, 0)) {
            for target in [&mut with_redis, &mut with_memory] {
                target.ask(Questions::once(&tokens), 200, &redis).await;
            }
        }
        let token = sign(&signers.ed25519, 1, 0);
        let headers = with_redis.gateway.headers(&token[0]).await;
        let mut null = Target::of(Server::null(placement, &headers)).await;
        null.ask(Questions::over_and_over(&token, 4 * CONNECTIONS), 200, &redis).await;
        Self { parts: Parts::start(placement, redis.address), null, signers, with_redis, with_memory, redis, placement, _dir: dir }
    }

    async fn round(&mut self, supply: &Supply, number: usize, only: Option<Case>) -> Round {
        let mut round = Round::default();
        if let Some(case) = only {
            if case == Case::Replay {
                self.decide(supply, Case::Ed25519Redis, number).await;
            }
            round.decisions.push((case, self.decide(supply, case, number).await));
            return round;
        }
        let questions = Questions::over_and_over(&supply.strangers, turn::NULL_ANSWERS);
        for case in [Case::Ed25519Redis, Case::Ed25519Memory] {
            round.decisions.push((case, self.decide(supply, case, number).await));
        }
        round.ed25519 = self.parts.measure(Part::Ed25519, turn::ED25519_VERIFICATIONS);
        round.http = Some(self.null.ask(questions, 200, &self.redis).await);
        round.redis = self.parts.measure(Part::Redis, turn::REDIS_CLAIMS);
        round.rs256 = self.parts.measure(Part::Rs256, turn::RS256_VERIFICATIONS);
        for case in [Case::Rs256Redis, Case::Rs256Memory, Case::Garbage, Case::UnknownUser, Case::Replay] {
            round.decisions.push((case, self.decide(supply, case, number).await));
        }
        round
    }

    async fn decide(&mut self, supply: &Supply, case: Case, number: usize) -> Sample {
        let target = if case.uses_redis() { &mut self.with_redis } else { &mut self.with_memory };
        target.ask(supply.questions(case, number), if case.is_allowed() { 200 } else { 401 }, &self.redis).await
    }
}
