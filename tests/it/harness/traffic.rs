//! Clients of a gateway, each with a kept-alive connection and a fresh token for each request, with
//! the result of every request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::http::{Connection, Request};
use super::{Claims, Key, eventually_async};

/// How many clients there are, each with one request at a time.
pub const CLIENTS: usize = 8;
/// Requests of all clients together. Low enough for a machine with two cores that has other work as
/// well.
const PER_SECOND: u32 = 150;
/// A client ends after this many requests.
const REQUESTS_MAX: usize = 3_000;
/// One request in this many is repeated immediately with the same token.
const REPLAY_EVERY: usize = 8;
/// Longer than any gateway waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub started: Instant,
    pub ended: Instant,
    /// Whether its token was sent before.
    pub is_replay: bool,
    /// `allowed`, the status and the code of the denial, or the failure.
    pub outcome: String,
}

impl Exchange {
    /// Whether an honest client was refused, or a replay was allowed.
    pub fn is_wrong(&self) -> bool {
        self.outcome != if self.is_replay { "401 replayed" } else { "allowed" }
    }
}

pub struct Traffic {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Traffic {
    /// Starts clients of `alice`, who has `key`, through `gateway`.
    pub fn start(gateway: SocketAddr, key: &Arc<Key>) -> Self {
        let (exchanges, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                number,
                gateway,
                key: Arc::clone(key),
                connection: None,
                exchanges: Arc::clone(&exchanges),
                stop: Arc::clone(&stop),
            };
            clients.spawn(client.run());
        }
        Self { exchanges, stop, clients }
    }

    /// Waits until `count` requests have ended that started after this call.
    pub async fn goes_on_for(&self, count: usize) {
        let moment = Instant::now();
        eventually_async("requests are answered", Duration::from_mins(1), async || {
            let exchanges = self.exchanges.lock().unwrap();
            (exchanges.iter().filter(|exchange| exchange.started >= moment).count() >= count)
                .then_some(())
        })
        .await;
    }

    /// Ends the traffic, and returns every request.
    pub async fn end(self) -> Vec<Exchange> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        std::mem::take(&mut *self.exchanges.lock().unwrap())
    }
}

/// Requests with a wrong result: the result of each, when it started, and how long it took.
pub fn wrong(exchanges: &[Exchange]) -> Vec<String> {
    let Some(began) = exchanges.iter().map(|exchange| exchange.started).min() else {
        return Vec::new();
    };
    let wrong = exchanges.iter().filter(|exchange| exchange.is_wrong());
    wrong
        .map(|Exchange { started, ended, is_replay, outcome }| {
            let what = if *is_replay { "replay: " } else { "" };
            format!("{what}{outcome} after {:.1?}, in {:.1?}", *started - began, *ended - *started)
        })
        .collect()
}

struct Client {
    number: usize,
    gateway: SocketAddr,
    key: Arc<Key>,
    connection: Option<Connection>,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn run(mut self) {
        let pace = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / PER_SECOND;
        let first = tokio::time::Instant::now()
            + pace * u32::try_from(self.number).unwrap() / u32::try_from(CLIENTS).unwrap();
        let mut ticks = tokio::time::interval_at(first, pace);
        // Otherwise it would send many requests at once when it is late.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0..REQUESTS_MAX {
            ticks.tick().await;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let authorization = Claims::of("alice").authorization(&self.key);
            let is_allowed = self.exchange(&authorization, false).await;
            if is_allowed && round % REPLAY_EVERY == self.number % REPLAY_EVERY {
                self.exchange(&authorization, true).await;
            }
        }
    }

    async fn exchange(&mut self, authorization: &str, is_replay: bool) -> bool {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(PATIENCE, self.send(authorization)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => format!("no answer: {error}"),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        let is_allowed = outcome == "allowed";
        self.exchanges.lock().unwrap().push(Exchange {
            started,
            ended: Instant::now(),
            is_replay,
            outcome,
        });
        is_allowed
    }

    /// `allowed`, or the status and the code of a denial.
    async fn send(&mut self, authorization: &str) -> std::io::Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.gateway).await?,
        };
        let answer = connection.send(&Request::get("/orders").authorization(authorization)).await?;
        if !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        let code = answer.header("x-auth-error").filter(|code| !code.is_empty());
        Ok(match (answer.status, code) {
            (200, None) if answer.text().contains("x-auth-username") => "allowed".to_owned(),
            (status, code) => format!("{status} {}", code.unwrap_or("without a code")),
        })
    }
}
