//! How cost grows: with principals, with nonces, with workers.
//!
//! - [`principals`]: what a decision costs with few principals and with a million, and how much
//!   memory they take
//! - [`memory`]: what the service takes with next to nothing to hold, what a key takes, what nonces
//!   take
//! - [`redis`]: what nonces take in Redis
//! - [`claims`]: a part of its own, what claims in Redis cost beside another build
//! - [`telemetry`]: a part of its own, what watching decisions costs
//! - [`sockets`]: a part of its own, Unix sockets beside TCP
//! - [`workers`]: two workers against one
//! - [`seed`]: databases of many principals

pub(crate) mod claims;
mod memory;
mod principals;
mod redis;
mod seed;
mod side_by_side;
pub(crate) mod sockets;
pub(crate) mod telemetry;
mod workers;

use std::time::{Duration, Instant};

pub(crate) use memory::{NONCES, nonces};
pub(crate) use telemetry::{COLLECTOR, collector};

use crate::{
    check::{self, Envoy},
    client::{Gateway, Questions, awake},
    server::Server,
    table::{Section, Spread},
    tokens::{Signer, sign},
    wire::Place,
};

/// Connections of the gateway to each server.
const CONNECTIONS: usize = 64;
/// How far in the future tokens are signed, in seconds, as in [`scenario`](crate::scenario).
const AHEAD: i64 = 17;
/// Tokens that are signed at a time and then used, well before they expire.
const BATCH: usize = 20_000;

/// The CPU time of a decision, in microseconds, by how many principals are registered.
pub(crate) type CostAgainstPrincipals = Vec<(usize, Spread)>;

/// Measures all of it. Less, and with fewer principals, if it `is_quick`.
pub(crate) async fn run(is_quick: bool) -> (Section, CostAgainstPrincipals) {
    let mut all = Section::default();
    let (section, points) =
        principals::measure(if is_quick { &principals::QUICK } else { &principals::FULL }).await;
    let parts = [
        section,
        memory::measure(if is_quick { &memory::QUICK } else { &memory::FULL }).await,
        redis::measure(if is_quick { 20_000 } else { 200_000 }).await,
        workers::measure(is_quick).await,
    ];
    for mut part in parts {
        all.rows.append(&mut part.rows);
        all.notes.append(&mut part.notes);
    }
    (all, points)
}

/// A service with the gateway's connections to it.
struct Target {
    server: Server,
    gateway: Asking,
}

/// How a gateway asks.
enum Asking {
    Http(Gateway),
    Grpc(Envoy),
}

/// What decisions took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// CPU time of the service for each, in microseconds.
    cpu_us: f64,
    /// How many cores of the service were busy.
    cores: f64,
    /// Decisions in a second.
    rate: f64,
}

impl Target {
    async fn of(server: Server) -> Self {
        let place = server.address.into();
        Self::over_http(server, &place).await
    }

    /// Asked over HTTP at `place`.
    async fn over_http(server: Server, place: &Place) -> Self {
        let gateway = Asking::Http(Gateway::connect_to(place, CONNECTIONS).await.unwrap());
        Self { server, gateway }
    }

    /// Asked over gRPC at `place`.
    async fn over_grpc(server: Server, place: &Place) -> Self {
        let gateway = Asking::Grpc(Envoy::connect_to(place, check::CONNECTIONS).await.unwrap());
        Self { server, gateway }
    }

    /// Asks about each of `authorizations` once, of which every one is to be allowed.
    async fn ask(&mut self, authorizations: &[String]) -> Taken {
        let before = self.server.cpu.now();
        let questions = Questions::once(authorizations);
        let answers = match &mut self.gateway {
            Asking::Http(gateway) => awake(gateway.ask(questions, 200)).await,
            Asking::Grpc(envoy) => awake(envoy.ask(questions, 200)).await,
        };
        let micros = self.server.cpu.micros_since(&before);
        if let Some(first) = &answers.first_unexpected {
            panic!(
                "{} of {} were not allowed; the first:\n{first}\n{}",
                answers.unexpected,
                answers.count,
                self.server.log()
            );
        }
        let (count, seconds) = (answers.count as f64, answers.elapsed.as_secs_f64());
        Taken { cpu_us: micros / count, cores: micros / 1e6 / seconds, rate: count / seconds }
    }

    /// Has a token of each of `signers` allowed.
    async fn ask_each(&mut self, signers: &[Signer]) {
        for signers in signers.chunks(BATCH) {
            self.ask(&sign(signers, signers.len(), AHEAD)).await;
        }
    }
}

/// What `work` gives, and how long it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    (done, begun.elapsed())
}

/// `1,000,000`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let grouped =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    grouped.collect::<Vec<_>>().join(",")
}
