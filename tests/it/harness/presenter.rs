//! A stream of fresh tokens, each presented several times to several replicas at both doors:
//! immediately, a little later, as soon as a fault is over, and at the end of its window. A
//! [`Report`] has the result of each presentation, and whether single use was enforced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::load::Asker;
use super::{Claims, Client, Countersign, ExtAuthz, SetClock};

/// Interval at which it checks what is due.
const TICK: Duration = Duration::from_millis(5);
/// Maximum number of simultaneous presentations; any further one waits.
const IN_FLIGHT_MAX: usize = 256;
/// Timeout of one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Delay of the presentations that come a little later.
const LATER: Duration = Duration::from_secs(1);
/// Presentations that are due when the fault is over are spread over this time.
const SPREAD: Duration = Duration::from_millis(500);

/// Prefix of outcomes without an answer.
const NO_ANSWER: &str = "no answer";

/// When a token is presented. Each token is presented two to four times.
#[derive(Clone, Copy)]
enum When {
    /// As soon as it is signed.
    Fresh,
    Later,
    /// As soon as the fault is over, or at the end of its window if that comes first.
    AfterTheFault,
    /// At one of the times of [`Plan::last`], in turn.
    Last,
}

/// Used by the tokens in turn.
const PATTERNS: [&[When]; 6] = [
    &[When::Fresh, When::Fresh],
    &[When::Fresh, When::AfterTheFault],
    &[When::Fresh, When::Fresh, When::AfterTheFault, When::Last],
    &[When::Fresh, When::Later, When::Last],
    &[When::Fresh, When::AfterTheFault, When::Last],
    &[When::Fresh, When::Fresh, When::Later, When::AfterTheFault],
];

/// The number of tokens, and when they are presented last.
#[derive(Clone)]
pub struct Plan {
    pub tokens: usize,
    pub per_second: u32,
    /// How long after its time a token is valid, by a correct clock.
    pub tolerance: Duration,
    /// When a token is presented for the last time, relative to its own time: one of these.
    pub last: Vec<Duration>,
    /// The client's clock, if it is not the machine's.
    pub clock: Option<Arc<SetClock>>,
}

impl Plan {
    /// A plan that presents tokens last just before their window ends.
    pub fn new(tokens: usize, per_second: u32, tolerance: Duration) -> Self {
        let last = vec![tolerance.saturating_sub(Duration::from_millis(100))];
        Self { tokens, per_second, tolerance, last, clock: None }
    }
}

/// One presentation of one token.
#[derive(Clone, Debug)]
pub struct Presentation {
    /// The token's number.
    pub token: usize,
    pub target: usize,
    pub started: Instant,
    pub ended: Instant,
    /// `allowed`, the code of the denial, or the failure.
    pub outcome: String,
}

impl Presentation {
    fn is_allowed(&self) -> bool {
        self.outcome == "allowed"
    }
}

pub struct Presenter {
    per_second: usize,
    minted: Arc<AtomicUsize>,
    fault_over: watch::Sender<Option<Instant>>,
    run: JoinHandle<Report>,
}

impl Presenter {
    /// Presents tokens of `client` to `replicas`, as `plan` says.
    pub fn start(replicas: &[Countersign], client: &Arc<Client>, plan: Plan) -> Self {
        let minted = Arc::new(AtomicUsize::new(0));
        let (fault_over, over) = watch::channel(None);
        let per_second = plan.per_second as usize;
        let run = Run {
            client: Arc::clone(client),
            targets: targets(replicas),
            plan,
            minted: Arc::clone(&minted),
            over,
            due: BinaryHeap::new(),
            waiting: Vec::new(),
            signed: Vec::new(),
            presented: Arc::default(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        };
        Self { per_second, minted, fault_over, run: tokio::spawn(run.run()) }
    }

    /// Waits until the tokens of this many seconds are signed.
    pub async fn has_signed_for(&self, seconds: usize) {
        let count = self.per_second * seconds;
        super::eventually_async("tokens are presented", Duration::from_mins(2), async || {
            assert!(
                !self.run.is_finished() || self.minted.load(Ordering::SeqCst) >= count,
                "the presenter ended before"
            );
            (self.minted.load(Ordering::SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Presents the tokens that were signed during the fault.
    pub fn fault_is_over(&self) {
        self.fault_over.send_replace(Some(Instant::now()));
    }

    /// Waits until every token was presented as many times as planned.
    pub async fn end(self) -> Report {
        let missing = self.fault_over.borrow().is_none();
        if missing {
            self.fault_is_over();
        }
        self.run.await.unwrap()
    }
}

/// One door of one replica, and the idle connections to it.
struct Target {
    name: String,
    http: SocketAddr,
    grpc: Option<ExtAuthz>,
    idle: Mutex<Vec<Asker>>,
}

impl Target {
    async fn ask(&self, authorization: &str) -> String {
        let idle = self.idle.lock().unwrap().pop();
        if let Some(asker) = idle {
            let outcome = self.ask_over(asker, authorization).await;
            if !outcome.starts_with(NO_ANSWER) {
                return outcome;
            }
        }
        // There was no connection, or the replica had closed it, for example because it was
        // replaced.
        let asker = match &self.grpc {
            Some(channel) => Asker::Grpc(channel.clone()),
            None => Asker::Http(self.http, None),
        };
        self.ask_over(asker, authorization).await
    }

    async fn ask_over(&self, mut asker: Asker, authorization: &str) -> String {
        let Ok(outcome) = tokio::time::timeout(PATIENCE, asker.ask(authorization)).await else {
            return format!("{NO_ANSWER} within {PATIENCE:?}");
        };
        if !outcome.starts_with(NO_ANSWER) {
            self.idle.lock().unwrap().push(asker);
        }
        outcome
    }
}

/// In an order in which each differs from the previous one in replica and door, if possible.
fn targets(replicas: &[Countersign]) -> Arc<Vec<Target>> {
    let doors = [false, true];
    let all = (0..replicas.len() * doors.len()).map(|number| {
        let (replica, is_grpc) = (number % replicas.len(), number % 2 == 1);
        // With an even number of replicas, each would otherwise be asked at one door only.
        let is_grpc = is_grpc ^ (replicas.len().is_multiple_of(2) && number >= replicas.len());
        let Countersign { http, .. } = replicas[replica];
        Target {
            name: format!("replica {replica} over {}", if is_grpc { "gRPC" } else { "HTTP" }),
            http,
            grpc: is_grpc.then(|| replicas[replica].ext_authz()),
            idle: Mutex::default(),
        }
    });
    Arc::new(all.collect())
}

struct Signed {
    at: Instant,
    /// End of its window, by a correct clock.
    expires: Instant,
    authorization: Arc<str>,
}

struct Run {
    client: Arc<Client>,
    targets: Arc<Vec<Target>>,
    plan: Plan,
    minted: Arc<AtomicUsize>,
    over: watch::Receiver<Option<Instant>>,
    /// By time: which token to present, and to which target.
    due: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    /// What to present when the fault is over: the latest time, the token and the target.
    waiting: Vec<(Instant, usize, usize)>,
    signed: Vec<Signed>,
    presented: Arc<Mutex<Vec<Presentation>>>,
    permits: Arc<Semaphore>,
}

impl Run {
    async fn run(mut self) -> Report {
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        // Otherwise it would sign many tokens at once when it is late.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.signed.len() < self.plan.tokens
            || !self.due.is_empty()
            || !self.waiting.is_empty()
        {
            ticks.tick().await;
            let planned = began.elapsed().as_millis() * u128::from(self.plan.per_second) / 1000;
            let planned = usize::try_from(planned).unwrap().min(self.plan.tokens);
            while self.signed.len() < planned {
                self.sign();
                self.present_what_is_due().await;
            }
            self.release();
            self.present_what_is_due().await;
        }
        // Every presentation in flight holds a permit.
        let _all = self.permits.acquire_many(u32::try_from(IN_FLIGHT_MAX).unwrap()).await.unwrap();
        let presented = std::mem::take(&mut *self.presented.lock().unwrap());
        let targets = self.targets.iter().map(|target| target.name.clone()).collect();
        Report { signed: self.signed, targets, presented, took: began.elapsed() }
    }

    fn sign(&mut self) {
        let number = self.signed.len();
        let ahead_ms = self.plan.clock.as_ref().map_or(0, |clock| clock.ahead_ms());
        let at = Instant::now();
        let now_ms = super::tokens::now_ms() + ahead_ms;
        let claims = Claims::of(&self.client.username).with("time", now_ms.div_euclid(1000));
        let within_its_second = Duration::from_millis(now_ms.rem_euclid(1000).unsigned_abs());
        let expires = at + self.plan.tolerance.saturating_sub(within_its_second);
        self.signed.push(Signed {
            at,
            expires,
            authorization: claims.authorization(&self.client.key).into(),
        });
        self.minted.store(number + 1, Ordering::SeqCst);
        let last = self.plan.last[number / PATTERNS.len() % self.plan.last.len()]
            .saturating_sub(within_its_second);
        for (place, when) in PATTERNS[number % PATTERNS.len()].iter().enumerate() {
            // Makes each pattern start at each target in turn.
            let target = (number + number / PATTERNS.len() + place) % self.targets.len();
            match when {
                When::Fresh => self.due.push(Reverse((at, number, target))),
                When::Later => self.due.push(Reverse((at + LATER, number, target))),
                When::AfterTheFault => self.waiting.push((at + last, number, target)),
                When::Last => self.due.push(Reverse((at + last, number, target))),
            }
        }
    }

    /// Makes presentations due that wait for the end of the fault, if it is over or if they cannot
    /// wait longer.
    fn release(&mut self) {
        let now = Instant::now();
        let over = *self.over.borrow_and_update();
        let mut kept = Vec::new();
        for (number, (latest, token, target)) in self.waiting.drain(..).enumerate() {
            // Tokens signed after the fault wait no longer than others.
            match over {
                Some(over) => {
                    let spread = SPREAD * u32::try_from(number % 64).unwrap() / 64;
                    let at = (self.signed[token].at + LATER).max(over + spread).min(latest);
                    self.due.push(Reverse((at, token, target)));
                }
                None if latest <= now => self.due.push(Reverse((latest, token, target))),
                None => kept.push((latest, token, target)),
            }
        }
        self.waiting = kept;
    }

    async fn present_what_is_due(&mut self) {
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
            let Some(Reverse((_, token, target))) = self.due.pop() else { return };
            let permit = Arc::clone(&self.permits).acquire_owned().await.unwrap();
            tokio::spawn(present(
                token,
                Arc::clone(&self.signed[token].authorization),
                (Arc::clone(&self.targets), target),
                Arc::clone(&self.presented),
                permit,
            ));
        }
    }
}

async fn present(
    token: usize,
    authorization: Arc<str>,
    (targets, target): (Arc<Vec<Target>>, usize),
    presented: Arc<Mutex<Vec<Presentation>>>,
    _permit: OwnedSemaphorePermit,
) {
    let started = Instant::now();
    let outcome = targets[target].ask(&authorization).await;
    presented.lock().unwrap().push(Presentation {
        token,
        target,
        started,
        ended: Instant::now(),
        outcome,
    });
}

/// The results of all tokens.
pub struct Report {
    signed: Vec<Signed>,
    targets: Vec<String>,
    pub presented: Vec<Presentation>,
    took: Duration,
}

impl Report {
    /// The presentations of each token that was allowed more than once.
    pub fn allowed_more_than_once(&self) -> Vec<Vec<&Presentation>> {
        let mut allowed: BTreeMap<usize, Vec<&Presentation>> = BTreeMap::new();
        for presentation in self.presented.iter().filter(|presentation| presentation.is_allowed()) {
            allowed.entry(presentation.token).or_default().push(presentation);
        }
        allowed.into_values().filter(|presentations| presentations.len() > 1).collect()
    }

    /// Allows that began and ended between these moments.
    pub fn allows_between(&self, began: Instant, ended: Instant) -> Vec<&Presentation> {
        let within = |presentation: &&Presentation| {
            presentation.started > began && presentation.ended < ended
        };
        self.presented
            .iter()
            .filter(|presentation| presentation.is_allowed())
            .filter(within)
            .collect()
    }

    /// How long answers took that began between these moments, sorted: those with this `outcome`,
    /// or all.
    pub fn latencies(&self, began: Instant, ended: Instant, outcome: &str) -> Vec<Duration> {
        let wanted = self.presented.iter().filter(|presentation| {
            let is_within = presentation.started > began && presentation.started < ended;
            is_within && (outcome.is_empty() || presentation.outcome == outcome)
        });
        let mut latencies: Vec<Duration> =
            wanted.map(|presentation| presentation.ended - presentation.started).collect();
        latencies.sort_unstable();
        latencies
    }

    /// How long after `returned` the first token was allowed.
    pub fn first_allow_after(&self, returned: Instant) -> Option<Duration> {
        let later = self
            .presented
            .iter()
            .filter(|presentation| presentation.is_allowed() && presentation.started >= returned);
        later.map(|presentation| presentation.ended - returned).min()
    }

    /// Presentations of tokens signed at `moment` or later that were neither allowed nor replays,
    /// although they were answered within the window; and how many such tokens were never
    /// allowed.
    pub fn refused_since(&self, moment: Instant) -> (Vec<&Presentation>, usize) {
        let refused = self.presented.iter().filter(|presentation| {
            let token = &self.signed[presentation.token];
            let is_fine = presentation.is_allowed() || presentation.outcome == "replayed";
            token.at >= moment && presentation.ended < token.expires && !is_fine
        });
        let mut passed = vec![false; self.signed.len()];
        for presentation in self.presented.iter().filter(|presentation| presentation.is_allowed()) {
            passed[presentation.token] = true;
        }
        let never = self
            .signed
            .iter()
            .zip(passed)
            .filter(|(token, passed)| token.at >= moment && !passed)
            .count();
        (refused.collect(), never)
    }

    /// How many tokens were signed at `moment` or later.
    pub fn signed_since(&self, moment: Instant) -> usize {
        self.signed.iter().filter(|token| token.at >= moment).count()
    }

    /// Presentations, after `ended` and within their window, of tokens that had been allowed before
    /// `began`.
    pub fn replays_across(&self, began: Instant, ended: Instant) -> usize {
        let mut used = vec![false; self.signed.len()];
        for presentation in self
            .presented
            .iter()
            .filter(|presentation| presentation.is_allowed() && presentation.ended < began)
        {
            used[presentation.token] = true;
        }
        let again = self
            .presented
            .iter()
            .filter(|presentation| presentation.started > ended && used[presentation.token]);
        again
            .filter(|presentation| presentation.ended < self.signed[presentation.token].expires)
            .count()
    }

    /// Describes a presentation, with times relative to the signing of its token.
    pub fn describe(&self, presentation: &Presentation) -> String {
        let signed = self.signed[presentation.token].at;
        let Presentation { token, target, started, ended, outcome } = presentation;
        let (from, to) =
            (started.saturating_duration_since(signed), ended.saturating_duration_since(signed));
        format!("token {token}: {outcome} at {} from {from:.1?} to {to:.1?}", self.targets[*target])
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        for presentation in &self.presented {
            let outcome = if presentation.outcome.starts_with(NO_ANSWER) {
                NO_ANSWER
            } else {
                &presentation.outcome
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
        let twice = self.allowed_more_than_once().len();
        write!(
            f,
            "{} tokens, {} presentations in {:.1?}, {twice} tokens allowed more than once; {outcomes:?}",
            self.signed.len(),
            self.presented.len(),
            self.took
        )
    }
}
