//! What is measured in a closed loop, and in which order.
//!
//! The speed of a machine changes from one second to the next, especially that of a virtual
//! machine. So everything is measured in turns of a tenth of a second, and only figures from the
//! same round of turns are compared.
//!
//! CPU time per answer is lowest if a server never waits: a server that waits goes to sleep and is
//! woken for every request. To make this the same for all, each is kept busy on its own core (see
//! [`Sample::busy`]), by a client that is always [`awake`].

use std::time::{Duration, Instant};

use countersign::domain::algorithm::Algorithm;
use tempfile::TempDir;

use crate::{
    case::Case,
    check::Envoy,
    client::{Answers, Gateway, Questions, awake},
    decisions,
    floors::{Part, Parts},
    machine::CpuClock,
    server::{self, Placement, Server, access_tokens, register},
    tokens::{Signer, sign},
};

/// Connections of the gateway to each server.
const CONNECTIONS: usize = 64;
/// Connections that ask about unknown users. Before the service denies such a request it checks the
/// registry, and many requests wait for that together, up to 20 ms. There are so many connections
/// that the service is as busy with the next requests during that time as it is with
/// [`CONNECTIONS`] that do not wait. More connections cost it more, and the allow that it is
/// compared with uses the smaller number.
const WAITING_CONNECTIONS: usize = 1024;
/// Principals per type of key.
const PRINCIPALS: usize = 16;
/// How far in the future tokens are signed, in seconds: less than the service's tolerance of 20, so
/// that they are valid from before they are signed until [`USABLE`].
const AHEAD: i64 = 17;
/// How long tokens are used after the first of them was signed: less than `AHEAD` plus the
/// tolerance.
const USABLE: Duration = Duration::from_secs(33);

/// The extent of the measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The number of times that tokens are signed in bulk, and then used in several rounds.
    pub(crate) passes: usize,
    rounds_per_pass: usize,
    pub(crate) only: Option<Case>,
    pub(crate) is_pinned: bool,
}

impl Plan {
    pub(crate) const FULL: Self =
        Self { passes: 4, rounds_per_pass: 4, only: None, is_pinned: true };
    pub(crate) const QUICK: Self = Self { passes: 1, ..Self::FULL };

    pub(crate) const fn rounds(&self) -> usize {
        self.passes * self.rounds_per_pass
    }
}

/// The work of one turn: about a tenth of a second for each.
mod turn {
    pub(super) const NULL_ANSWERS: usize = 12_000;
    pub(super) const NULL_VERIFICATIONS: usize = 4_000;
    pub(super) const NULL_CHECKS: usize = 8_000;
    pub(super) const TOKENS_PARSED: usize = 50_000;
    pub(super) const REDIS_CLAIMS: usize = 50_000;
    pub(super) const ED25519_VERIFICATIONS: usize = 3_000;
    pub(super) const RS256_VERIFICATIONS: usize = 6_000;
    pub(super) const ED25519_DECISIONS: usize = 2_500;
    /// Fewer than fit into the time, since the tokens take long to sign.
    pub(super) const RS256_DECISIONS: usize = 2_000;
    pub(super) const BEARERS: usize = 4_000;
    /// Many times the number of requests that wait together.
    pub(super) const UNKNOWN_USERS: usize = 8_192;
    pub(super) const GARBAGE: usize = 8_000;
}

/// All results.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) rounds: Vec<Round>,
}

/// The results of one round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) floors: Option<Floors>,
    pub(crate) decisions: Vec<(Case, Sample)>,
}

/// The minimum cost of the parts of a decision. Parts that are not servers are in microseconds of
/// CPU time.
#[derive(Debug)]
pub(crate) struct Floors {
    /// A 200 without extra headers.
    pub(crate) http: Sample,
    /// A 200 with the headers of an allow.
    pub(crate) http_with_headers: Sample,
    /// The same, and it verifies an RS256 signature: two floors in one process.
    pub(crate) http_verifying: Sample,
    /// An allow over gRPC.
    pub(crate) check: Sample,
    pub(crate) ed25519: f64,
    /// Parsing a token.
    pub(crate) parse: f64,
    pub(crate) rs256: f64,
    pub(crate) redis: f64,
}

impl Floors {
    /// The minimum cost of verifying and claiming in a decision of that kind.
    pub(crate) fn of_parts(&self, case: Case) -> [f64; 2] {
        let signature = if case.signature() == Part::Rs256 { self.rs256 } else { self.ed25519 };
        [signature, if case.uses_redis() { self.redis } else { 0.0 }]
    }

    /// The minimum cost of receiving a request and answering it, over the transport of that kind of
    /// decision.
    pub(crate) const fn transport(&self, case: Case) -> &Sample {
        if case.is_grpc() { &self.check } else { &self.http }
    }

    pub(crate) fn sum(&self, case: Case) -> f64 {
        self.transport(case).cpu_us + self.parse + self.of_parts(case).iter().sum::<f64>()
    }
}

impl Round {
    pub(crate) fn sample(&self, case: Case) -> Option<&Sample> {
        self.decisions.iter().find(|(measured, _)| *measured == case).map(|(_, sample)| sample)
    }
}

/// One server under load.
#[derive(Debug)]
pub(crate) struct Sample {
    /// CPU time of the server per answer, in microseconds.
    pub(crate) cpu_us: f64,
    /// CPU time of Redis per answer, in microseconds.
    pub(crate) redis_us: f64,
    /// The share of one core that the server used: if it is less than 1, the server waited for the
    /// client.
    pub(crate) busy: f64,
    /// Answers per second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) unexpected: usize,
}

impl Results {
    /// Answers that were not as expected.
    pub(crate) fn failures(&self) -> usize {
        let floors = self.rounds.iter().filter_map(|round| round.floors.as_ref());
        let of_floors =
            floors.flat_map(|floors| [&floors.http, &floors.http_with_headers, &floors.check]);
        let of_decisions =
            self.rounds.iter().flat_map(|round| &round.decisions).map(|(_, sample)| sample);
        of_floors.chain(of_decisions).map(|sample| sample.unexpected).sum()
    }
}

/// Runs the measurements of `plan`.
pub(crate) async fn run(plan: &Plan) -> Results {
    let mut bench = Bench::start(plan).await;
    if let Some(case) = plan.only {
        println!("{}: the server is process {}", case.name(), bench.server_of(case).process_id());
    }
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
            println!(
                "round {} of {}: {}",
                results.rounds.len() + 1,
                plan.rounds(),
                decisions::line(&round)
            );
            results.rounds.push(round);
        }
        bench.placement.withdraw(false);
    }
    results
}

struct Signers {
    ed25519: Vec<Signer>,
    rs256: Vec<Signer>,
    unknown_ed25519: Vec<Signer>,
    unknown_rs256: Vec<Signer>,
}

/// Tokens for several rounds.
struct Supply {
    signed_at: Instant,
    ed25519: Vec<String>,
    rs256: Vec<String>,
    unknown_ed25519: Vec<String>,
    unknown_rs256: Vec<String>,
    garbage: Vec<String>,
}

impl Supply {
    fn sign(signers: &Signers, plan: &Plan) -> Self {
        let signed_at = Instant::now();
        let is_wanted = |part| plan.only.is_none_or(|case| case.signature() == part);
        let share = |part, signers: &[Signer], size: usize| {
            if is_wanted(part) {
                sign(signers, plan.rounds_per_pass * size, AHEAD)
            } else {
                Vec::new()
            }
        };
        let unknown_rs256 = sign(&signers.unknown_rs256, WAITING_CONNECTIONS, AHEAD);
        // As long as a token, but not possibly valid.
        let garbage =
            unknown_rs256.iter().map(|authorization| authorization.replace('.', "_")).collect();
        Self {
            signed_at,
            rs256: share(Part::Rs256, &signers.rs256, turn::RS256_DECISIONS),
            ed25519: share(Part::Ed25519, &signers.ed25519, turn::ED25519_DECISIONS),
            unknown_ed25519: sign(&signers.unknown_ed25519, WAITING_CONNECTIONS, AHEAD),
            unknown_rs256,
            garbage,
        }
    }

    /// Tokens for floors, which do not read them.
    fn unread(&self, count: usize) -> Questions<'_> {
        Questions::over_and_over(&self.unknown_rs256, count)
    }
}

/// A server with a gateway's connections to it.
struct Target<G> {
    server: Server,
    gateway: G,
}

impl Target<Gateway> {
    async fn http(server: Server) -> Self {
        let gateway = Gateway::connect(server.address, CONNECTIONS).await.unwrap();
        Self { server, gateway }
    }

    async fn ask(&mut self, questions: Questions<'_>, expected: u16, redis: &Server) -> Sample {
        sample(&self.server, redis, expected, self.gateway.ask(questions, expected)).await
    }
}

impl Target<Envoy> {
    async fn grpc(server: Server) -> Self {
        let gateway = Envoy::connect(server.grpc).await.unwrap();
        Self { server, gateway }
    }

    async fn ask(&mut self, questions: Questions<'_>, redis: &Server) -> Sample {
        sample(&self.server, redis, 200, self.gateway.ask(questions, 200)).await
    }
}

/// Measures `server`, and the processes around it, while it answers the requests of `asking`.
async fn sample(
    server: &Server,
    redis: &Server,
    expected: u16,
    asking: impl Future<Output = Answers>,
) -> Sample {
    let before = [&server.cpu, &redis.cpu].map(CpuClock::now);
    let answers = awake(asking).await;
    let count = answers.count as f64;
    let [cpu_us, redis_us] = [(&server.cpu, &before[0]), (&redis.cpu, &before[1])]
        .map(|(clock, before)| clock.micros_since(before) / count);
    if let Some(first) = &answers.first_unexpected {
        let log = server.log();
        println!(
            "!! {} of {} answers were not {expected}; the first:\n{first}\n{log}",
            answers.unexpected, answers.count
        );
    }
    let rate = count / answers.elapsed.as_secs_f64();
    Sample {
        cpu_us,
        redis_us,
        busy: cpu_us * rate / 1e6,
        rate,
        p50_us: answers.latency_us(0.5),
        p99_us: answers.latency_us(0.99),
        unexpected: answers.unexpected,
    }
}

/// The servers. Each service is asked over one transport. Since services do not share nonces, the
/// same tokens can be sent to all of them.
struct Bench {
    signers: Signers,
    access_tokens: Vec<String>,
    parts: Parts,
    http_redis: Target<Gateway>,
    http_memory: Target<Gateway>,
    grpc_redis: Target<Envoy>,
    grpc_memory: Target<Envoy>,
    /// Connections to the first of these services.
    waiting: Gateway,
    null: Target<Gateway>,
    null_with_headers: Target<Gateway>,
    null_verifying: Target<Gateway>,
    null_check: Target<Envoy>,
    redis: Server,
    placement: Placement,
    /// A field that is dropped last.
    _dir: TempDir,
}

impl Bench {
    async fn start(plan: &Plan) -> Self {
        server::allow_files(4 * WAITING_CONNECTIONS);
        let placement = Placement { is_pinned: plan.is_pinned };
        let make = |kind: &str, algorithm| -> Vec<Signer> {
            (0..PRINCIPALS)
                .map(|number| Signer::new(format!("{kind}-{number:02}@example.com"), algorithm))
                .collect()
        };
        let signers = Signers {
            ed25519: make("ed25519", Algorithm::EdDsa),
            rs256: make("rs256", Algorithm::Rs256),
            unknown_ed25519: make("unknown-e", Algorithm::EdDsa),
            unknown_rs256: make("unknown-r", Algorithm::Rs256),
        };
        let dir = tempfile::tempdir().unwrap();
        register(dir.path(), &signers.ed25519);
        register(dir.path(), &signers.rs256);
        let access_tokens = access_tokens(dir.path(), &signers.rs256);
        let redis = Server::redis(placement, dir.path());
        // Several requests per connection, so that every worker has its connections and knows every
        // key; and right after opening them, since servers close connections on which nothing
        // arrives.
        let tokens = [&signers.ed25519, &signers.rs256]
            .map(|signers| sign(signers, 4 * CONNECTIONS, AHEAD))
            .concat();
        let (once, again) =
            (Questions::once(&tokens), Questions::over_and_over(&tokens, 8 * CONNECTIONS));
        let service = |nonce_url: &str| Server::countersign(placement, dir.path(), nonce_url);
        let redis_url = format!("redis://{}", redis.address);
        let mut http_redis = Target::http(service(&redis_url)).await;
        http_redis.ask(once, 200, &redis).await;
        let mut waiting =
            Gateway::connect(http_redis.server.address, WAITING_CONNECTIONS).await.unwrap();
        waiting.ask(Questions::over_and_over(&tokens, WAITING_CONNECTIONS), 401).await;
        let mut http_memory = Target::http(service("memory:")).await;
        http_memory.ask(once, 200, &redis).await;
        let mut grpc_redis = Target::grpc(service(&(redis_url + "/1"))).await;
        grpc_redis.ask(once, &redis).await;
        let mut grpc_memory = Target::grpc(service("memory:")).await;
        grpc_memory.ask(once, &redis).await;

        let token = sign(&signers.ed25519, 1, 0);
        let headers = http_redis.gateway.headers(&token[0]).await;
        let allow = grpc_redis.gateway.allow(&token[0]).await;
        let mut null = Target::http(Server::null(placement, &[])).await;
        null.ask(again, 200, &redis).await;
        let mut null_with_headers = Target::http(Server::null(placement, &headers)).await;
        null_with_headers.ask(again, 200, &redis).await;
        let mut null_verifying = Target::http(Server::null_verifying(placement, &headers)).await;
        null_verifying.ask(again, 200, &redis).await;
        let mut null_check = Target::grpc(Server::null_check(placement, &allow)).await;
        null_check.ask(again, &redis).await;
        Self {
            parts: Parts::start(placement, redis.address),
            signers,
            access_tokens,
            http_redis,
            http_memory,
            grpc_redis,
            grpc_memory,
            waiting,
            null,
            null_with_headers,
            null_verifying,
            null_check,
            redis,
            placement,
            _dir: dir,
        }
    }

    async fn round(&mut self, supply: &Supply, number: usize, only: Option<Case>) -> Round {
        let mut round = Round::default();
        if let Some(case) = only {
            if let Some(allow) =
                case.denial_of().filter(|_| matches!(case, Case::ReplayEd25519 | Case::ReplayRs256))
            {
                self.decide(supply, allow, number).await;
            }
            round.decisions.push((case, self.decide(supply, case, number).await));
            return round;
        }
        let rs256 = self.parts.measure(Part::Rs256, turn::RS256_VERIFICATIONS);
        let http = self.null.ask(supply.unread(turn::NULL_ANSWERS), 200, &self.redis).await;
        self.decide_all(
            &mut round,
            supply,
            number,
            &[Case::Rs256Redis, Case::Rs256Memory, Case::Bearer],
        )
        .await;
        let redis = self.parts.measure(Part::Redis, turn::REDIS_CLAIMS);
        let parse = self.parts.measure(Part::Parse, turn::TOKENS_PARSED);
        let ed25519 = self.parts.measure(Part::Ed25519, turn::ED25519_VERIFICATIONS);
        self.decide_all(&mut round, supply, number, &[Case::Ed25519Redis, Case::Ed25519Memory])
            .await;
        let http_with_headers =
            self.null_with_headers.ask(supply.unread(turn::NULL_ANSWERS), 200, &self.redis).await;
        let http_verifying = self
            .null_verifying
            .ask(supply.unread(turn::NULL_VERIFICATIONS), 200, &self.redis)
            .await;
        let check = self.null_check.ask(supply.unread(turn::NULL_CHECKS), &self.redis).await;
        self.decide_all(
            &mut round,
            supply,
            number,
            &[Case::GrpcRs256Redis, Case::GrpcEd25519Redis, Case::GrpcEd25519Memory],
        )
        .await;
        let denials = [
            Case::Garbage,
            Case::UnknownRs256,
            Case::UnknownEd25519,
            Case::ReplayRs256,
            Case::ReplayEd25519,
        ];
        self.decide_all(&mut round, supply, number, &denials).await;
        round.floors = Some(Floors {
            http,
            http_with_headers,
            http_verifying,
            check,
            ed25519,
            parse,
            rs256,
            redis,
        });
        round
    }

    async fn decide_all(
        &mut self,
        round: &mut Round,
        supply: &Supply,
        number: usize,
        cases: &[Case],
    ) {
        for case in cases {
            round.decisions.push((*case, self.decide(supply, *case, number).await));
        }
    }

    /// No service receives a token twice in any round, except to deny a replay.
    async fn decide(&mut self, supply: &Supply, case: Case, number: usize) -> Sample {
        let Self { redis, access_tokens, .. } = self;
        let share = |tokens, size| {
            Questions::once(<[String]>::chunks(tokens, size).nth(number).unwrap_or_default())
        };
        let rs256 = share(&supply.rs256, turn::RS256_DECISIONS);
        let ed25519 = share(&supply.ed25519, turn::ED25519_DECISIONS);
        // Tokens denied for an unknown user claim no nonce, so they stay unused.
        let unknown = |tokens| Questions::over_and_over(tokens, turn::UNKNOWN_USERS);
        match case {
            Case::Rs256Redis => self.http_redis.ask(rs256, 200, redis).await,
            Case::Ed25519Redis => self.http_redis.ask(ed25519, 200, redis).await,
            Case::Rs256Memory => self.http_memory.ask(rs256, 200, redis).await,
            Case::Ed25519Memory => self.http_memory.ask(ed25519, 200, redis).await,
            Case::Bearer => {
                self.http_memory
                    .ask(Questions::over_and_over(access_tokens, turn::BEARERS), 200, redis)
                    .await
            }
            Case::GrpcRs256Redis => self.grpc_redis.ask(rs256, redis).await,
            Case::GrpcEd25519Redis => self.grpc_redis.ask(ed25519, redis).await,
            Case::GrpcEd25519Memory => self.grpc_memory.ask(ed25519, redis).await,
            Case::Garbage => {
                self.http_redis
                    .ask(Questions::over_and_over(&supply.garbage, turn::GARBAGE), 401, redis)
                    .await
            }
            Case::UnknownRs256 => self.ask_waiting(unknown(&supply.unknown_rs256)).await,
            Case::UnknownEd25519 => self.ask_waiting(unknown(&supply.unknown_ed25519)).await,
            Case::ReplayRs256 => self.http_redis.ask(rs256, 401, redis).await,
            Case::ReplayEd25519 => self.http_redis.ask(ed25519, 401, redis).await,
        }
    }

    async fn ask_waiting(&mut self, questions: Questions<'_>) -> Sample {
        sample(&self.http_redis.server, &self.redis, 401, self.waiting.ask(questions, 401)).await
    }

    fn server_of(&self, case: Case) -> &Server {
        match (case.is_grpc(), case.uses_redis()) {
            (false, true) => &self.http_redis.server,
            (false, false) => &self.http_memory.server,
            (true, true) => &self.grpc_redis.server,
            (true, false) => &self.grpc_memory.server,
        }
    }
}
