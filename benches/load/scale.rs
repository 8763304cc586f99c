//! How cost grows with principals, nonces and workers.
//!
//! - [`principals`]: what a decision costs with few principals and with a million, and how much
//!   memory they take
//! - [`memory`]: how much memory the service uses when it is empty, per key, and per nonce
//! - [`redis`]: how much memory nonces use in Redis
//! - [`claims`]: a separate part: what claims in Redis cost compared with another build
//! - [`telemetry`]: a separate part: what telemetry costs
//! - [`sockets`]: a separate part: Unix sockets compared with TCP
//! - [`workers`]: two workers compared with one
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
/// Tokens that are signed together and then used, well before they expire.
const BATCH: usize = 20_000;

/// The CPU time of a decision, in microseconds, by how many principals are registered.
pub(crate) type CostAgainstPrincipals = Vec<(usize, Spread)>;

/// Measures everything; less, and with fewer principals, if `is_quick`.
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

/// A service, with the gateway's connections to it.
struct Target {
    server: Server,
    gateway: Asking,
}

/// The protocol that a gateway uses.
enum Asking {
    Http(Gateway),
    Grpc(Envoy),
}

/// The cost of decisions.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// CPU time of the service per decision, in microseconds.
    cpu_us: f64,
    /// How many cores of the service were busy.
    cores: f64,
    /// Decisions per second.
    rate: f64,
}

impl Target {
    async fn of(server: Server) -> Self {
        let place = server.address.into();
        Self::over_http(server, &place).await
    }

    /// Connects over HTTP at `place`.
    async fn over_http(server: Server, place: &Place) -> Self {
        let gateway = Asking::Http(Gateway::connect_to(place, CONNECTIONS).await.unwrap());
        Self { server, gateway }
    }

    /// Connects over gRPC at `place`.
    async fn over_grpc(server: Server, place: &Place) -> Self {
        let gateway = Asking::Grpc(Envoy::connect_to(place, check::CONNECTIONS).await.unwrap());
        Self { server, gateway }
    }

    /// Sends each of `authorizations` once; all must be allowed.
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

    /// Sends one token of each of `signers`, which must be allowed.
    async fn ask_each(&mut self, signers: &[Signer]) {
        for signers in signers.chunks(BATCH) {
            self.ask(&sign(signers, signers.len(), AHEAD)).await;
        }
    }
}

/// The result of `work`, and how long it took.
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
