//! How much garbage slows honest requests down: a gateway's connections send requests that are
//! allowed, first alone, and then beside ten times as many connections that send requests that are
//! denied, as fast as they are answered.
//!
//! The server has a core to itself. Honest and hostile clients share the others with the reader of
//! the log.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use countersign::domain::algorithm::Algorithm;

use crate::{
    check::Envoy,
    client::{Answers, Gateway, Questions, awake},
    server::{self, Placement, Server, register},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

/// Minimum share of the throughput that honest requests have when they are alone.
const BOUND: f64 = 0.8;
const TIMES: usize = 10;
const CONNECTIONS: usize = 64;
/// Connections for gRPC, with many calls on each.
const CHECK_CONNECTIONS: usize = 2;
const PRINCIPALS: usize = 16;
/// Honest requests per turn.
const DECISIONS: usize = 6_000;
const ROUNDS_FULL: usize = 12;
const ROUNDS_QUICK: usize = 4;
/// The same as in [`scenario`](crate::scenario).
const AHEAD: i64 = 17;
const PLACEMENT: Placement = Placement { is_pinned: true };
/// No turn takes that long; if one did, its result would mean nothing.
const TURN_MAX: Duration = Duration::from_mins(1);

/// One door, alone and beside garbage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Http,
    Grpc,
}

/// `baseline` is another build of the service to measure as well.
pub(crate) async fn run(is_quick: bool, baseline: Option<&Path>) -> Section {
    server::allow_files(4 * TIMES * CONNECTIONS);
    let dir = tempfile::tempdir().unwrap();
    let signers: Vec<Signer> = (0..PRINCIPALS)
        .map(|number| Signer::new(format!("flood-{number:02}@example.com"), Algorithm::EdDsa))
        .collect();
    register(dir.path(), &signers);
    let own = Path::new(env!("CARGO_BIN_EXE_countersign"));
    let mut section = Section::default();
    let builds = [Some(("", own)), baseline.map(|baseline| (", the baseline", baseline))];
    for (label, program) in builds.into_iter().flatten() {
        for door in [Door::Http, Door::Grpc] {
            // A baseline must not migrate the database.
            let settings = [("COUNTERSIGN_DATABASE__AUTO_MIGRATE", "false")];
            let server =
                Server::countersign_from(program, PLACEMENT, dir.path(), "memory:", &settings);
            let rounds =
                measure(&server, door, &signers, if is_quick { ROUNDS_QUICK } else { ROUNDS_FULL })
                    .await;
            tell(&rounds, door, label, &mut section);
        }
    }
    section.notes.push(format!(
        "Flood: {DECISIONS} honest requests in each turn, Ed25519, nonces in memory, default logging, in a closed loop; then the same beside {TIMES} times \
         as many connections with tokens that are none, in a closed loop as well. The server has one core and one worker."
    ));
    section
}

/// The results of one round.
struct Round {
    alone: f64,
    flooded: f64,
    /// Garbage requests answered per honest request.
    garbage: f64,
    p99_us: f64,
}

async fn measure(server: &Server, door: Door, signers: &[Signer], count: usize) -> Vec<Round> {
    // As long as a token, but not possibly valid.
    let garbage: Vec<String> =
        sign(signers, 256, 0).iter().map(|token| token.replace('.', "_")).collect();
    let mut rounds = Vec::new();
    for number in 0..count {
        let tokens = sign(signers, 2 * DECISIONS, AHEAD);
        let (first, second) = tokens.split_at(DECISIONS);
        PLACEMENT.withdraw(true);
        let measured = tokio::time::timeout(TURN_MAX, async {
            match door {
                Door::Http => {
                    let mut honest = Gateway::connect(server.address, CONNECTIONS).await.unwrap();
                    let alone = awake(honest.ask(Questions::once(first), 200)).await;
                    let mut hostile =
                        Gateway::connect(server.address, TIMES * CONNECTIONS).await.unwrap();
                    let answered = Cell::new(0);
                    let flood = hostile.flood(&garbage, &answered);
                    let flooded =
                        beside(flood, &answered, honest.ask(Questions::once(second), 200)).await;
                    (alone, flooded)
                }
                Door::Grpc => {
                    let mut honest =
                        Envoy::connect_times(server.grpc, CHECK_CONNECTIONS).await.unwrap();
                    let alone = awake(honest.ask(Questions::once(first), 200)).await;
                    let mut hostile =
                        Envoy::connect_times(server.grpc, TIMES * CHECK_CONNECTIONS).await.unwrap();
                    let answered = Cell::new(0);
                    let flood = hostile.flood(&garbage, &answered);
                    let flooded =
                        beside(flood, &answered, honest.ask(Questions::once(second), 200)).await;
                    (alone, flooded)
                }
            }
        });
        let (alone, (flooded, garbage)) = measured.await.expect("a turn has an end");
        PLACEMENT.withdraw(false);
        assert_eq!(
            (alone.unexpected, flooded.unexpected),
            (0, 0),
            "honest requests are allowed: {:?}",
            flooded.first_unexpected
        );
        let round = Round {
            alone: rate(&alone),
            flooded: rate(&flooded),
            garbage: garbage as f64 / DECISIONS as f64,
            p99_us: flooded.latency_us(0.99),
        };
        println!(
            "flood, {}, round {} of {count}: {:.0}/s alone, {:.0}/s beside {:.2} times as much garbage",
            name(door),
            number + 1,
            round.alone,
            round.flooded,
            round.garbage
        );
        rounds.push(round);
    }
    rounds
}

/// The results of `honest` while `flood` runs, and how much of the flood was answered during that
/// time. The flood starts before.
async fn beside(
    flood: impl Future<Output = ()>,
    answered: &Cell<usize>,
    honest: impl Future<Output = Answers>,
) -> (Answers, usize) {
    let asking = async {
        let begun = Instant::now();
        while answered.get() < 100 * TIMES * CONNECTIONS && begun.elapsed() < Duration::from_secs(2)
        {
            tokio::task::yield_now().await;
        }
        let before = answered.get();
        let answers = honest.await;
        (answers, answered.get() - before)
    };
    tokio::select! {
        () = flood => panic!("a flood has no end"),
        answers = awake(asking) => answers,
    }
}

fn rate(answers: &Answers) -> f64 {
    answers.count as f64 / answers.elapsed.as_secs_f64()
}

const fn name(door: Door) -> &'static str {
    match door {
        Door::Http => "HTTP",
        Door::Grpc => "gRPC",
    }
}

fn tell(rounds: &[Round], door: Door, label: &str, section: &mut Section) {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Spread>();
    section.rows.push(Row::new(
        format!(
            "honest requests beside {TIMES} times as many connections with garbage, {}{label}",
            name(door)
        ),
        format!(
            "{:.0}/s, p99 {:.1} ms",
            of(|round| round.flooded).median(),
            of(|round| round.p99_us).median() / 1000.0
        ),
        format!("alone, {:.0}/s", of(|round| round.alone).median()),
        of(|round| round.flooded / round.alone),
        Some(Bound::AtLeast(BOUND)),
    ));
    section.notes.push(format!(
        "Flood, {}{label}: {:.2} garbage requests were answered for each honest one.",
        name(door),
        of(|round| round.garbage).median()
    ));
}
