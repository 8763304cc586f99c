//! A simulated Redis, or several of which one is the master, and the steps of a replica's claim.
//! The interpretation of an epoch and of a fence is the real store's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{BEGINNING, Event, Kind, stage::Universe, tolerance};
use crate::{
    domain::{
        nonce::{Attempt, Claimed, NonceClaim},
        time::{Tolerance, UnixMillis, remember_for},
    },
    engine::ports::Clock,
    stores::nonce::redis::epoch::{Epoch, Sight},
};

/// Timeout of a claim.
const TIMEOUT_MS: i64 = 1_000;
/// Largest accepted difference between the clocks of a replica and of Redis.
const SKEW_MAX_MS: i64 = 500;
/// How long after a failover other replicas may still claim at the old master.
const TAKEOVER: Duration = Duration::from_millis(750);
/// How many times to read an epoch again because another replica changed it at the same time.
const ROUNDS: usize = 8;

type Failure = &'static str;

/// The servers, the commands on their way to them, and the replies.
pub(super) struct Store {
    servers: Vec<Server>,
    master: usize,
    inbox: Vec<Letter>,
    refuses_until: i64,
    slow_until: i64,
}

#[derive(Clone, Default)]
struct Server {
    number: usize,
    /// Changes at each start.
    generation: u64,
    down_until: i64,
    memory: Memory,
    snapshot: Memory,
}

#[derive(Clone, Default)]
struct Memory {
    /// By nonce: the value, and when it expires.
    nonces: HashMap<Box<str>, (u128, i64)>,
    epoch: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Command {
    Claim { key: Box<str>, value: u128, seconds: u64 },
    Holder { key: Box<str> },
    Expire { key: Box<str>, seconds: u64 },
    Settle,
    Replace { held: Option<Vec<u8>>, new: Vec<u8> },
}

#[derive(Clone, Debug)]
enum Reply {
    /// Whether the nonce was stored, and the epoch.
    Claim(bool, Option<Vec<u8>>),
    Holder(Option<u128>),
    Expire(bool),
    /// The epoch, the `run_id` and the time.
    Settle(Option<Vec<u8>>, String, UnixMillis),
    /// The epoch that is now in effect.
    Replace(Vec<u8>),
    Refused,
    Lost,
}

struct Letter {
    arrives: i64,
    server: usize,
    generation: u64,
    command: Command,
    is_lost_on_return: bool,
    returns: i64,
    answer: Arc<Mutex<Option<(i64, Reply)>>>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            servers: vec![Server::default()],
            master: 0,
            inbox: Vec::new(),
            refuses_until: 0,
            slow_until: 0,
        }
    }

    pub(super) fn master(&self) -> usize {
        self.master
    }

    pub(super) fn suffer(&mut self, now: i64, event: &Event) {
        let number = self.servers.len();
        let master = &mut self.servers[self.master];
        match event {
            Event::Flush => master.memory = Memory::default(),
            Event::Snapshot => master.snapshot = master.memory.clone(),
            Event::Crash { down_ms, with_snapshot } => {
                master.generation += 1;
                master.down_until = now + down_ms;
                let snapshot = std::mem::take(&mut master.snapshot);
                master.memory = if *with_snapshot { snapshot } else { Memory::default() };
            }
            Event::Failover => {
                let memory = std::mem::take(&mut master.snapshot);
                self.servers.push(Server { number, memory, ..Server::default() });
                self.master = number;
            }
            Event::Refuse { for_ms } => self.refuses_until = now + for_ms,
            Event::Slow { for_ms } => self.slow_until = now + for_ms,
            Event::Present { .. }
            | Event::Clock { .. }
            | Event::Restart { .. }
            | Event::Look { .. }
            | Event::Noticed { .. } => {}
        }
    }

    /// Answers the commands that have arrived.
    pub(super) fn answer(&mut self, now: i64) {
        self.inbox.sort_by_key(|letter| letter.arrives);
        let arrived = self.inbox.partition_point(|letter| letter.arrives <= now);
        for letter in self.inbox.drain(..arrived).collect::<Vec<_>>() {
            let server = &mut self.servers[letter.server];
            let reply =
                if server.generation != letter.generation || letter.arrives < server.down_until {
                    Reply::Lost
                } else {
                    server.run(letter.arrives, letter.command, letter.arrives < self.refuses_until)
                };
            let reply = if letter.is_lost_on_return { Reply::Lost } else { reply };
            *letter.answer.lock().unwrap() = Some((letter.returns, reply));
        }
    }
}

impl Server {
    fn run(&mut self, now: i64, command: Command, refuses: bool) -> Reply {
        self.memory.nonces.retain(|_, (_, expires)| now < *expires);
        let expires = |seconds: u64| now + i64::try_from(seconds).unwrap() * 1000;
        match command {
            Command::Claim { .. } | Command::Expire { .. } | Command::Replace { .. } if refuses => {
                Reply::Refused
            }
            Command::Claim { key, value, seconds } => {
                let is_free = !self.memory.nonces.contains_key(&key);
                if is_free {
                    self.memory.nonces.insert(key, (value, expires(seconds)));
                }
                Reply::Claim(is_free, self.memory.epoch.clone())
            }
            Command::Holder { key } => {
                Reply::Holder(self.memory.nonces.get(&key).map(|(value, _)| *value))
            }
            Command::Expire { key, seconds } => {
                let held = self.memory.nonces.get_mut(&key);
                Reply::Expire(held.map(|(_, until)| *until = expires(seconds)).is_some())
            }
            Command::Settle => {
                let run_id = format!("{}-{}", self.number, self.generation);
                Reply::Settle(self.memory.epoch.clone(), run_id, UnixMillis(BEGINNING * 1000 + now))
            }
            Command::Replace { held, new } => {
                if self.memory.epoch == held {
                    self.memory.epoch = Some(new);
                }
                Reply::Replace(self.memory.epoch.clone().unwrap_or_default())
            }
        }
    }
}

impl Universe {
    /// Claims a nonce for a replica, within the timeout. The command may still arrive after that.
    pub(super) async fn claim(
        &self,
        replica: usize,
        claim: NonceClaim<'_>,
    ) -> Result<Claimed, Failure> {
        let deadline = self.now() + TIMEOUT_MS;
        let mut claiming = std::pin::pin!(self.claim_once(replica, claim));
        let mut waits = false;
        std::future::poll_fn(move |context| {
            if let std::task::Poll::Ready(claimed) = claiming.as_mut().poll(context) {
                return std::task::Poll::Ready(claimed);
            }
            if !waits {
                self.wake_at(deadline);
                waits = true;
            }
            if self.now() < deadline {
                return std::task::Poll::Pending;
            }
            // The connection is kept, unless it may be dead.
            if self.random().bool() {
                self.change(replica, |replica| replica.link = None);
            }
            std::task::Poll::Ready(Err("no answer in time"))
        })
        .await
    }

    async fn claim_once(&self, replica: usize, claim: NonceClaim<'_>) -> Result<Claimed, Failure> {
        let link = self.link(replica).await?;
        let used = self.tolerance_in_use(replica);
        match self.ask(link, self.command(replica, &claim, used)).await {
            Reply::Claim(is_free, epoch) => {
                self.read_claim(replica, link, &claim, used, is_free, epoch).await
            }
            Reply::Lost => {
                self.change(replica, |replica| replica.link = None);
                let again = NonceClaim { attempt: Attempt::Named(claim.attempt.number()), ..claim };
                let link = self.link(replica).await?;
                let used = self.tolerance_in_use(replica);
                match self.ask(link, self.command(replica, &again, used)).await {
                    Reply::Claim(is_free, epoch) => {
                        self.read_claim(replica, link, &again, used, is_free, epoch).await
                    }
                    _ => Err("lost again"),
                }
            }
            _ => Err("refused"),
        }
    }

    fn command(&self, replica: usize, claim: &NonceClaim<'_>, used: Tolerance) -> Command {
        let (key, value) = (claim.nonce.into(), claim.attempt.number());
        Command::Claim { key, value, seconds: self.remember_for(replica, claim, used) }
    }

    fn remember_for(&self, replica: usize, claim: &NonceClaim<'_>, used: Tolerance) -> u64 {
        let longer =
            used.duration().saturating_sub(tolerance(self.replica(replica).tolerance).duration());
        // Relative to the server's time, because the server expires the nonce by its own clock.
        let now = UnixMillis(self.now() + self.replica(replica).server_clock);
        remember_for(claim.valid_until.saturating_add(longer), now).as_secs()
    }

    fn tolerance_in_use(&self, replica: usize) -> Tolerance {
        let replica = self.replica(replica);
        let own = tolerance(replica.tolerance);
        let known =
            replica.epoch.as_deref().and_then(Epoch::decode).map(|epoch| epoch.fence.tolerance);
        known.filter(|known| known.duration() > own.duration()).unwrap_or(own)
    }

    async fn read_claim(
        &self,
        replica: usize,
        link: (usize, u64),
        claim: &NonceClaim<'_>,
        used: Tolerance,
        is_free: bool,
        epoch: Option<Vec<u8>>,
    ) -> Result<Claimed, Failure> {
        if self.replica(replica).server != link.0 {
            return Err("replaced");
        }
        let knows = || epoch.is_some() && self.replica(replica).epoch == epoch;
        if !knows() {
            self.settle(replica, link).await?;
            if !knows() {
                return Err("the epoch changed");
            }
            let in_use = self.tolerance_in_use(replica);
            if in_use.duration() > used.duration() && is_free {
                let seconds = self.remember_for(replica, claim, in_use);
                match self.ask(link, Command::Expire { key: claim.nonce.into(), seconds }).await {
                    Reply::Expire(true) => {}
                    _ => return Err("the claim is gone"),
                }
            }
        }
        let Some(fence) =
            self.replica(replica).epoch.as_deref().and_then(Epoch::decode).map(|epoch| epoch.fence)
        else {
            return Ok(Claimed::Fenced);
        };
        if fence.excludes(claim.token_time, self.clock(replica).now(), *self.mode.lock().unwrap()) {
            return Ok(Claimed::Fenced);
        }
        match claim.attempt {
            _ if is_free => Ok(Claimed::Fresh),
            Attempt::Unique(_) => Ok(Claimed::Replayed),
            Attempt::Named(number) => {
                match self.ask(link, Command::Holder { key: claim.nonce.into() }).await {
                    Reply::Holder(Some(holder)) if holder == number => Ok(Claimed::Fresh),
                    Reply::Holder(_) => Ok(Claimed::Replayed),
                    _ => Err("the holder is not told"),
                }
            }
        }
    }

    /// The connection of a replica; connects and settles if there is none.
    async fn link(&self, replica: usize) -> Result<(usize, u64), Failure> {
        let known = self.replica(replica);
        if known.is_off {
            return Err("the clock is off");
        }
        if let Some(link) = known.link {
            return Ok(link);
        }
        let link = (known.server, self.store(|store| store.servers[known.server].generation));
        self.settle(replica, link).await?;
        let settled = self.replica(replica);
        if settled.is_off || settled.server != link.0 {
            return Err("the clock is off, or the server was replaced");
        }
        self.change(replica, |replica| replica.link = Some(link));
        Ok(link)
    }

    /// Checks the server of a replica, which happens twice per second.
    pub(super) async fn look_after(&self, replica: usize) {
        let known = self.replica(replica);
        let link = known.link.unwrap_or_else(|| {
            (known.server, self.store(|store| store.servers[known.server].generation))
        });
        let _ = self.settle(replica, link).await;
    }

    async fn settle(&self, replica: usize, link: (usize, u64)) -> Result<(), Failure> {
        for _ in 0..ROUNDS {
            let sent = self.clock(replica).now();
            let Reply::Settle(held, run_id, now) = self.ask(link, Command::Settle).await else {
                return Err("no settling");
            };
            let received = self.clock(replica).now();
            let off = if now < sent { sent.0 - now.0 } else { (now.0 - received.0).max(0) };
            let known = self.replica(replica);
            let server_clock = now.0 - self.now();
            self.change(replica, |replica| {
                replica.is_off = off > SKEW_MAX_MS;
                replica.server_clock = server_clock;
            });
            let known_tolerance =
                known.epoch.as_deref().and_then(Epoch::decode).map(|epoch| epoch.fence.tolerance);
            let takeover = if self.kind() == Kind::Failover { TAKEOVER } else { Duration::ZERO };
            let tolerance = tolerance(known.tolerance);
            let sight =
                Sight { run_id: &run_id, evicted: 0, now, tolerance, known_tolerance, takeover };
            let Some((new, _)) = Epoch::replacement(held.as_deref(), sight) else {
                self.change(replica, |replica| replica.epoch = held);
                return Ok(());
            };
            let new = new.encode();
            let Reply::Replace(counts) =
                self.ask(link, Command::Replace { held, new: new.clone() }).await
            else {
                return Err("no settling");
            };
            if counts == new {
                self.change(replica, |replica| replica.epoch = Some(new));
                return Ok(());
            }
        }
        Err("the epochs change too fast")
    }

    /// Sends a command, and waits for its reply or the end of the connection.
    async fn ask(&self, (server, generation): (usize, u64), command: Command) -> Reply {
        let now = self.now();
        let is_slow = self.store(|store| now < store.slow_until);
        let (to, back, is_lost_on_return) = {
            let mut random = self.random();
            let way = |random: &mut fastrand::Rng| {
                if is_slow { random.i64(1..900) } else { random.i64(0..4) }
            };
            (way(&mut random), way(&mut random), is_slow && random.u8(..6) == 0)
        };
        let (arrives, returns) = (now + to, now + to + back);
        let answer = Arc::new(Mutex::new(None));
        let letter = Letter {
            arrives,
            server,
            generation,
            command,
            is_lost_on_return,
            returns,
            answer: Arc::clone(&answer),
        };
        self.store(|store| store.inbox.push(letter));
        self.wake_at(arrives);
        self.wait(returns, || {
            let answer = answer.lock().unwrap();
            answer
                .as_ref()
                .filter(|(returns, _)| *returns <= self.now())
                .map(|(_, reply)| reply.clone())
        })
        .await
    }
}
