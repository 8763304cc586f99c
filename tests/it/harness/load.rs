//! A stream of decisions over several replicas, as steady as the machine allows, with the result of
//! each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::http::Connection;
use super::{
    Claims, Countersign, ExtAuthz, Key, check_request, decision_request, eventually_async,
};

/// Workers per replica; a refusal that waits delays only its own worker.
const WORKERS_PER_REPLICA: u32 = 6;
/// A load ends after at most this many decisions.
const DECISIONS_MAX: u32 = 50_000;

/// The principal that decisions are about.
pub struct Client {
    pub username: String,
    pub key: Key,
    /// The key's id in the registry.
    pub id: String,
}

impl Client {
    /// A value for `Authorization`, fresh.
    pub fn authorization(&self, names_its_key: bool) -> String {
        let claims = Claims::of(&self.username);
        let claims =
            if names_its_key { claims.with_header("kid", self.key.fingerprint()) } else { claims };
        claims.authorization(&self.key)
    }
}

/// One decision.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The number of the client.
    pub client: usize,
    /// When the request was about to be written; its token was signed before.
    pub started: Instant,
    pub ended: Instant,
    /// `allowed`, the code of the denial, or the failure.
    pub outcome: String,
}

pub struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    workers: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// Asks the replicas `per_second` times per second in total, with a fresh token each time.
    /// Every fourth request is for the first client, and one worker of three asks over gRPC like
    /// Envoy.
    pub fn start(replicas: &[Countersign], clients: &Arc<Vec<Client>>, per_second: u32) -> Self {
        let (samples, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let workers_count = WORKERS_PER_REPLICA * u32::try_from(replicas.len()).unwrap();
        let pace = Duration::from_secs(1) * workers_count / per_second;
        let mut workers = JoinSet::new();
        for number in 0..workers_count {
            let replica = &replicas[number as usize % replicas.len()];
            let asker = if number % 3 == 2 {
                Asker::Grpc(replica.ext_authz())
            } else {
                Asker::Http(replica.http, None)
            };
            let worker = Worker {
                number,
                asker,
                clients: Arc::clone(clients),
                samples: Arc::clone(&samples),
                stop: Arc::clone(&stop),
            };
            workers.spawn(worker.run(pace, DECISIONS_MAX / workers_count));
        }
        Self { samples, stop, workers, began: Instant::now() }
    }

    /// Waits until `count` decisions for `client`, or for any client, have ended that started at
    /// `moment` or later.
    pub async fn has_decided(&self, count: usize, client: Option<usize>, moment: Instant) {
        eventually_async("decisions go on", Duration::from_mins(1), async || {
            let samples = self.samples.lock().unwrap();
            let late = samples.iter().rev().take_while(|sample| sample.ended >= moment);
            let wanted = late.filter(|sample| {
                sample.started >= moment && client.is_none_or(|client| sample.client == client)
            });
            (wanted.count() >= count).then_some(())
        })
        .await;
    }

    /// Ends it, and returns every decision and the number of decisions per second.
    pub async fn end(self) -> (Vec<Sample>, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let took = self.began.elapsed();
        self.workers.join_all().await;
        let samples = std::mem::take(&mut *self.samples.lock().unwrap());
        let rate = samples.len() * 1000 / usize::try_from(took.as_millis()).unwrap().max(1);
        (samples, rate)
    }
}

struct Worker {
    number: u32,
    asker: Asker,
    clients: Arc<Vec<Client>>,
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    async fn run(mut self, pace: Duration, most: u32) {
        let mut ticks = tokio::time::interval(pace);
        for round in 0..most {
            ticks.tick().await;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let turn = (round + self.number) as usize;
            let others = self.clients.len() - 1;
            let client = if turn.is_multiple_of(4) { 0 } else { 1 + (turn - turn / 4) % others };
            let authorization = self.clients[client].authorization(round.is_multiple_of(2));
            let started = Instant::now();
            let outcome = self.asker.ask(&authorization).await;
            self.samples.lock().unwrap().push(Sample {
                client,
                started,
                ended: Instant::now(),
                outcome,
            });
        }
    }
}

/// One kept-alive connection, opened when needed.
pub(super) enum Asker {
    Http(SocketAddr, Option<Connection>),
    Grpc(ExtAuthz),
}

impl Asker {
    /// `allowed`, the code of the denial, or the failure.
    pub(super) async fn ask(&mut self, authorization: &str) -> String {
        match self {
            Self::Http(server, connection) => {
                match ask_over_http(*server, connection, authorization).await {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        *connection = None;
                        format!("no answer: {error}")
                    }
                }
            }
            Self::Grpc(ext_authz) => {
                match ext_authz.try_check(check_request(authorization)).await {
                    Ok(answer) if answer.code() == 0 => "allowed".to_owned(),
                    Ok(answer) => code(answer.denied().headers.iter().filter_map(|option| {
                        let header = option.header.as_ref()?;
                        Some((header.key.as_str(), header.value.as_str()))
                    })),
                    Err(status) => format!("no answer: {status}"),
                }
            }
        }
    }
}

async fn ask_over_http(
    server: SocketAddr,
    kept: &mut Option<Connection>,
    authorization: &str,
) -> std::io::Result<String> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(server).await?),
    };
    let answer = connection.send(&decision_request().authorization(authorization)).await?;
    let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(if answer.status == 200 { "allowed".to_owned() } else { code(headers) })
}

fn code<'a>(mut headers: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let found = headers.find(|(name, _)| name.eq_ignore_ascii_case("x-auth-error"));
    found.map_or_else(|| "no code".to_owned(), |(_, code)| code.to_owned())
}
