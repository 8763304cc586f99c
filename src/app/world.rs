//! A simulated world: several replicas, one store that fails, loses its memory and is slow, clocks
//! that lag and step, and gateways that retry. Whenever and wherever a token is presented, it is
//! never allowed for two different attempts, and never outside its window.
//!
//! Everything that decides is real: the verifiers, the clock that never goes back, the store in
//! memory, and the interpretation of the epochs in Redis. Redis itself, the connections to it, and
//! the steps of a claim are simulated ([`redis`]). Time is simulated, too: nothing here waits.
//!
//! `WORLDS=100000` sets the number of worlds; `WORLD=17` runs one world and prints what happens in
//! it.

#![allow(clippy::print_stderr, reason = "what was tried is told beside the outcome")]

mod redis;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
    time::Duration,
};

use self::{redis::Store, stage::Stage};
use crate::{
    domain::{
        auth_request::{AuthRequest, Credentials, Door, OriginalRequest},
        decision::Decision,
        fence::FenceMode,
        time::Tolerance,
    },
    engine::ports::{Clock, Unavailable},
};

/// Start of each world, in Unix seconds: the first second of tokens.
const BEGINNING: i64 = 1_800_000_000;
/// Tolerances of replicas; a rolling update goes from the first to the second.
const TOLERANCES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];
const REPLICAS: usize = 3;
/// Earlier tokens are fenced: an empty store cannot vouch for tokens signed before it started.
const FIRST_SECOND: i64 = 2;
/// By this time every presentation is over, however long its lookup and its claim take.
const END_MS: i64 = 60_000;
/// How often a replica checks Redis.
const LOOK_EVERY_MS: i64 = 500;

#[test]
fn no_token_passes_twice_or_outside_its_window() {
    let stage = Stage::new();
    if let Some(seed) = number("WORLD") {
        let world = World::of(seed, FenceMode::MintedBefore);
        let World { kind, mode, tolerances, clocks, tokens, .. } = &world;
        eprintln!(
            "{kind:?}, {mode:?}, tolerances {tolerances:?}, clocks {clocks:?}, tokens of {tokens:?}"
        );
        let outcome = world.run(&stage);
        eprintln!("{}", outcome.trace.join("\n"));
        return assert_eq!(outcome.faults(), Vec::<String>::new());
    }
    let (mut allowed, mut refused, mut replays) = (0, 0, 0);
    for seed in 0..number("WORLDS").unwrap_or(3_000) {
        let outcome = World::of(seed, FenceMode::MintedBefore).run(&stage);
        let faults = outcome.faults();
        assert!(faults.is_empty(), "WORLD={seed} shows it: {faults:#?}");
        allowed += outcome.allowed.len();
        refused += outcome.refused;
        replays += outcome.replays;
    }
    eprintln!("{allowed} allowed, {refused} refused, {replays} replays");
    // If nothing were allowed, or no token were presented twice, the worlds would prove nothing.
    assert!(
        allowed * 20 > refused && replays > allowed / 4,
        "{allowed} allowed, {refused} refused, {replays} replays"
    );
}

/// Without a fence after a loss, the worlds must be wild enough to find replays.
#[test]
fn without_the_fence_some_token_passes_twice() {
    let stage = Stage::new();
    let found =
        (0..3_000).find(|seed| !World::of(*seed, FenceMode::Off).run(&stage).faults().is_empty());
    assert!(found.is_some());
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Where the replicas store their nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// In the memory of the only replica.
    Memory,
    /// One Redis, which may restart.
    Redis,
    /// A Redis with replicas that can take over.
    Failover,
}

/// An event in a world.
#[derive(Clone, Debug)]
enum Event {
    Present {
        token: usize,
        replica: usize,
        attempt: Option<&'static str>,
        lookup_ms: i64,
    },
    /// From now on, a replica's clock is ahead of real time by this much.
    Clock {
        replica: usize,
        ahead_ms: i64,
    },
    /// A replica restarts with the tolerance at this index.
    Restart {
        replica: usize,
        tolerance: usize,
    },
    /// A replica checks Redis.
    Look {
        replica: usize,
    },
    /// Redis loses all its data.
    Flush,
    /// Redis writes a snapshot; the next loss affects only later data.
    Snapshot,
    /// Redis crashes, and comes back later with its snapshot, or empty.
    Crash {
        down_ms: i64,
        with_snapshot: bool,
    },
    /// Another Redis takes over, with the data of the snapshot. The replicas notice later.
    Failover,
    Noticed {
        replica: usize,
    },
    /// Redis refuses writes for a while.
    Refuse {
        for_ms: i64,
    },
    /// For a while, replies of Redis are slow, and some are lost.
    Slow {
        for_ms: i64,
    },
}

#[derive(Debug)]
struct World {
    seed: u64,
    kind: Kind,
    mode: FenceMode,
    /// The initial tolerance of each replica, as an index.
    tolerances: [usize; REPLICAS],
    /// Milliseconds ahead of real time, initially.
    clocks: [i64; REPLICAS],
    /// Times of the tokens, in seconds since [`BEGINNING`].
    tokens: Vec<i64>,
    /// Sorted by time, in milliseconds since [`BEGINNING`].
    events: Vec<(i64, Event)>,
}

impl World {
    fn of(seed: u64, mode: FenceMode) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = [Kind::Memory, Kind::Redis, Kind::Redis, Kind::Failover, Kind::Failover]
            [random.usize(..5)];
        let is_strict = mode == FenceMode::MintedBefore && random.u8(..4) == 0;
        let mode = if is_strict { FenceMode::Strict } else { mode };
        let is_raised = kind != Kind::Memory && random.u8(..3) == 0;
        // The strict fence exists for clients whose clocks are ahead of the clock that dates a
        // loss.
        let may_be_off = kind != Kind::Memory || is_strict;
        let clocks = [(); REPLICAS]
            .map(|()| if may_be_off && random.bool() { random.i64(-250..=250) } else { 0 });
        let mut world = Self {
            seed,
            kind,
            mode,
            tolerances: [0; REPLICAS],
            clocks,
            tokens: Vec::new(),
            events: Vec::new(),
        };
        let replicas = if kind == Kind::Memory { 1 } else { REPLICAS };
        let window_ms = millis(TOLERANCES[usize::from(is_raised)]);
        world.happen(&mut random, replicas, window_ms, is_raised);
        world.present(&mut random, replicas, window_ms);
        if kind != Kind::Memory {
            for replica in 0..REPLICAS {
                let first = random.i64(0..LOOK_EVERY_MS);
                for number in 0..END_MS / LOOK_EVERY_MS {
                    world.events.push((first + number * LOOK_EVERY_MS, Event::Look { replica }));
                }
            }
        }
        world.events.sort_by_key(|(at, _)| *at);
        world
    }

    /// Adds up to three faults, at times that lie in the windows of tokens.
    fn happen(
        &mut self,
        random: &mut fastrand::Rng,
        replicas: usize,
        window_ms: i64,
        is_raised: bool,
    ) {
        if is_raised {
            for replica in 0..replicas {
                if random.u8(..4) > 0 {
                    self.events.push((
                        random.i64(2_000..2 * window_ms),
                        Event::Restart { replica, tolerance: 1 },
                    ));
                }
            }
        }
        let mut is_clock_set = false;
        for _ in 0..random.usize(..4) {
            let at = random.i64(1_000..2 * window_ms);
            let replica = random.usize(..replicas);
            let event = match (self.kind, random.u8(..8)) {
                (_, 0 | 1) => {
                    is_clock_set = true;
                    let back = random.i64(200..20_000);
                    // Usually only for a while.
                    let ahead_ms =
                        if random.u8(..3) == 0 { random.i64(300..60_000) } else { -back };
                    if random.u8(..4) > 0 {
                        self.events.push((
                            at + random.i64(100..8_000),
                            Event::Clock { replica, ahead_ms: 0 },
                        ));
                    }
                    Event::Clock { replica, ahead_ms }
                }
                // A store in memory that starts while the clock is wrong cannot know when it
                // started.
                (Kind::Memory, _) if is_clock_set => continue,
                (Kind::Memory, _) => Event::Restart { replica, tolerance: 0 },
                (_, 2) => Event::Slow { for_ms: random.i64(500..5_000) },
                (_, 3) => Event::Refuse { for_ms: random.i64(100..3_000) },
                (_, 4) => Event::Flush,
                (Kind::Failover, _) => {
                    self.events.push((at - random.i64(1..1_000), Event::Snapshot));
                    let notices_ms = [(); REPLICAS].map(|()| random.i64(1..700));
                    for (replica, notice_ms) in notices_ms.into_iter().enumerate() {
                        self.events.push((at + notice_ms, Event::Noticed { replica }));
                    }
                    Event::Failover
                }
                (Kind::Redis, _) => {
                    self.events.push((at - random.i64(1..1_000), Event::Snapshot));
                    Event::Crash { down_ms: random.i64(1..2_000), with_snapshot: random.bool() }
                }
            };
            self.events.push((at, event));
        }
        if self.kind == Kind::Memory && is_clock_set {
            self.events.retain(|(_, event)| !matches!(event, Event::Restart { .. }));
        }
    }

    fn present(&mut self, random: &mut fastrand::Rng, replicas: usize, window_ms: i64) {
        let faults: Vec<i64> = self.events.iter().map(|(at, _)| *at).collect();
        let loses = self.events.iter().any(|(_, event)| {
            matches!(
                event,
                Event::Flush | Event::Crash { .. } | Event::Failover | Event::Restart { .. }
            )
        });
        let latest = 2 * window_ms / 1000;
        for token in 0..random.usize(1..=3) {
            // Prefer a token with a fault in its window.
            let time = match random.choice(&faults) {
                Some(fault) if random.bool() => {
                    (fault / 1000 + random.i64(-2..=1)).clamp(FIRST_SECOND, latest)
                }
                Some(_) | None => random.i64(FIRST_SECOND..=latest),
            };
            self.tokens.push(time);
            let (minted, ends) = (time * 1000, time * 1000 + window_ms);
            for _ in 0..random.usize(2..=6) {
                let near = |random: &mut fastrand::Rng, moment: i64| moment + random.i64(-700..700);
                let fault =
                    random.choice(&faults).filter(|fault| (minted - 1_000..ends).contains(fault));
                let at = match (random.u8(..8), fault) {
                    (0..4, Some(fault)) => fault + random.i64(-300..1_500),
                    (0..3, None) => minted + random.i64(0..1_000),
                    (3, None) => random.i64(minted - window_ms..ends),
                    (4, _) => random.i64(minted..ends),
                    (5, _) => near(random, minted + millis(TOLERANCES[0])),
                    (6, _) => near(random, ends),
                    _ => random.i64(ends - 1_000..ends + 100),
                };
                // The strict fence exists for tokens of clients whose clocks run ahead.
                let earliest = if loses && self.mode != FenceMode::Strict {
                    minted
                } else {
                    minted - window_ms
                };
                let event = Event::Present {
                    token,
                    replica: random.usize(..replicas),
                    attempt: [None, None, None, Some("a"), Some("b")][random.usize(..5)],
                    lookup_ms: if random.u8(..8) == 0 { random.i64(1..3_000) } else { 0 },
                };
                self.events.push((at.max(earliest).max(1), event));
            }
        }
    }

    fn run(&self, stage: &Stage) -> WorldReport {
        let universe = &*stage.universe;
        universe.begin(self);
        let mut outcome = WorldReport::default();
        let mut under_way: Vec<UnderWay<'_>> = Vec::new();
        let mut events = self.events.iter().peekable();
        let mut number = 0;
        loop {
            let wake = universe.next_wake();
            let Some(next) = events.peek().map(|(at, _)| *at).into_iter().chain(wake).min() else {
                break;
            };
            universe.set_now(next);
            while let Some((_, event)) = events.next_if(|(at, _)| *at <= next) {
                number += 1;
                if !matches!(event, Event::Look { .. }) {
                    outcome.trace.push(format!("{next}: {event:?}"));
                }
                match event {
                    Event::Present { token, replica, attempt, lookup_ms } => {
                        let credentials = stage.token(self.tokens[*token], *token);
                        let attempt_name = attempt
                            .map_or_else(|| format!("unnamed {number}"), ToString::to_string);
                        let verifier =
                            &stage.verifiers[*replica][universe.replica(*replica).tolerance];
                        let auth_request =
                            AuthRequest { attempt: *attempt, ..auth_request(credentials) };
                        let lookup_ms = *lookup_ms;
                        let decide = async move {
                            // Its lookup comes next, since it waits for nothing before that.
                            universe.lookup_ms.store(lookup_ms, Ordering::Relaxed);
                            Some(verifier.decide(&auth_request).await.result)
                        };
                        under_way.push(UnderWay {
                            replica: *replica,
                            what: Some((*token, attempt_name)),
                            future: Box::pin(decide),
                        });
                    }
                    Event::Look { replica } => under_way.push(UnderWay {
                        replica: *replica,
                        what: None,
                        future: Box::pin(async move {
                            universe.look_after(*replica).await;
                            None
                        }),
                    }),
                    Event::Restart { replica, tolerance } => {
                        // The decisions it was working on are lost.
                        under_way.retain(|one| one.replica != *replica);
                        universe.restart(*replica, *tolerance, self.kind == Kind::Memory);
                    }
                    Event::Clock { replica, ahead_ms } => universe.set_clock(*replica, *ahead_ms),
                    Event::Noticed { replica } => universe.notice(*replica),
                    event => universe.store(|store| store.suffer(next, event)),
                }
            }
            universe.store(|store| store.answer(next));
            self.poll(stage, &mut under_way, next, &mut outcome);
        }
        assert!(under_way.is_empty(), "nothing is left that would go on");
        outcome
    }

    /// Polls everything until nothing makes progress, and records what has ended.
    fn poll(
        &self,
        stage: &Stage,
        under_way: &mut Vec<UnderWay<'_>>,
        now: i64,
        outcome: &mut WorldReport,
    ) {
        under_way.retain_mut(|one| {
            let Poll::Ready(ended) =
                one.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            else {
                return true;
            };
            let (Some((token, attempt)), Some(result)) = (&one.what, ended) else { return false };
            let replica = stage.universe.replica(one.replica);
            let told = match result {
                Ok(Decision::Allow(_)) => {
                    let window_ms = millis(TOLERANCES[replica.tolerance]);
                    let off = stage.universe.clock(one.replica).now().0
                        - (BEGINNING + self.tokens[*token]) * 1000;
                    if off.abs() > window_ms {
                        outcome.outside.push(format!(
                            "token {token} {off} ms off its time, by the clock of replica {}",
                            one.replica
                        ));
                    }
                    outcome.allowed.entry(*token).or_default().insert(attempt.clone());
                    "allowed".to_owned()
                }
                Ok(Decision::Deny(denial)) => {
                    outcome.refused += 1;
                    outcome.replays += usize::from(denial.reason.code().name() == "replayed");
                    format!("{:?}", denial.reason)
                }
                Err(_) => {
                    outcome.refused += 1;
                    "unavailable".to_owned()
                }
            };
            outcome.trace.push(format!(
                "{now}: token {token} as {attempt} at replica {}: {told}",
                one.replica
            ));
            false
        });
    }
}

/// A decision, or a check of Redis, at a replica.
struct UnderWay<'w> {
    replica: usize,
    /// The token and the attempt; `None` for a check of Redis.
    what: Option<(usize, String)>,
    /// Ends with the decision; with `None` for a check of Redis.
    future: Pin<Box<dyn Future<Output = Option<Decided>> + 'w>>,
}

type Decided = Result<Decision, Unavailable>;

#[derive(Default)]
struct WorldReport {
    /// The attempts that were allowed, by token.
    allowed: BTreeMap<usize, BTreeSet<String>>,
    outside: Vec<String>,
    refused: usize,
    replays: usize,
    trace: Vec<String>,
}

impl WorldReport {
    fn faults(&self) -> Vec<String> {
        let twice = self.allowed.iter().filter(|(_, attempts)| attempts.len() > 1);
        let twice =
            twice.map(|(token, attempts)| format!("token {token} was allowed as {attempts:?}"));
        twice.chain(self.outside.iter().cloned()).collect()
    }
}

fn auth_request(credentials: &str) -> AuthRequest<'_> {
    AuthRequest {
        request: OriginalRequest {
            method: Some("GET").into(),
            scheme: Some("https").into(),
            host: Some("api.example").into(),
            path: Some("/").into(),
            ..OriginalRequest::default()
        },
        ..AuthRequest::alone(Door::Http, Credentials::One(credentials))
    }
}

fn tolerance(number: usize) -> Tolerance {
    Tolerance::new(TOLERANCES[number]).unwrap()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}
