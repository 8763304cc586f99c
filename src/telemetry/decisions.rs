//! Counts, times, traces and logs every decision, once.

mod log;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use opentelemetry::{
    KeyValue,
    metrics::BoundHistogram,
    trace::{Span as _, SpanKind},
};
use opentelemetry_sdk::trace::Span;
use thread_local::ThreadLocal;

pub use self::log::DecisionLogging;
use super::{
    metrics::Metrics,
    traces::{Trace, TraceIds, Traces},
};
use crate::domain::{
    auth_request::{AuthRequest, Door, OriginalRequest},
    decision::{AuthMethod, DecisionId, Denial, DenialReason, Identity},
    nonce::Claimed,
    time::UnixMillis,
};

/// The result of a decision.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The request is allowed.
    Allowed(&'a Identity),
    /// The request is denied.
    Denied(&'a Denial),
    /// No decision was possible.
    Unavailable {
        /// Name of the dependency that was unavailable.
        dependency: &'static str,
        /// Why it was unavailable.
        source: &'a (dyn Error + 'static),
    },
}

impl Outcome<'_> {
    const fn name(self) -> &'static str {
        OUTCOMES[self.kind()]
    }

    const fn kind(self) -> usize {
        match self {
            Self::Allowed(_) => ALLOWED,
            Self::Denied(denial) => kind_of(denial.reason),
            Self::Unavailable { .. } => UNAVAILABLE,
        }
    }

    /// Index of its counter: allowed, then unavailable, then the reasons for denials.
    const fn cell(self) -> usize {
        match self {
            Self::Allowed(_) => 0,
            Self::Unavailable { .. } => 1,
            Self::Denied(denial) => 2 + denial.reason.index(),
        }
    }
}

const OUTCOMES: [&str; 3] = ["allowed", "denied", "unavailable"];
const ALLOWED: usize = 0;
const DENIED: usize = 1;
const UNAVAILABLE: usize = 2;

/// A request that was refused without being checked counts as not decided.
const fn kind_of(reason: DenialReason) -> usize {
    if reason.is_undecided() { UNAVAILABLE } else { DENIED }
}

/// Number of values of [`Outcome::cell`].
const CELLS: usize = DenialReason::ALL.len() + 2;
/// The ways to authenticate, and one for unknown.
const METHODS: usize = AuthMethod::ALL.len() + 1;
const NO_METHOD: usize = AuthMethod::ALL.len();

/// Bounds of the histogram of clock skew, in seconds. Differences under a second do not count,
/// since times in tokens are whole seconds.
const SKEWS: [f64; 20] = [
    -3600.0, -300.0, -60.0, -20.0, -15.0, -10.0, -5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0,
    10.0, 15.0, 20.0, 60.0, 300.0,
];

/// Observes decisions.
#[derive(Debug)]
pub struct DecisionObserver {
    logging: Arc<DecisionLogging>,
    traces: Traces,
    counts: Arc<Counts>,
    /// By door and kind of outcome.
    durations: [[BoundHistogram<f64>; OUTCOMES.len()]; Door::ALL.len()],
    /// First of tokens that were refused only for their time, then of tokens with a valid
    /// signature.
    skews: [BoundHistogram<f64>; 2],
    /// In this order: fresh, replayed, fenced, unavailable.
    claims: [BoundHistogram<f64>; 4],
}

impl DecisionObserver {
    /// Creates an observer that logs, counts and traces with these.
    pub fn new(logging: Arc<DecisionLogging>, metrics: &Metrics, traces: Traces) -> Self {
        let counts = Arc::new(Counts::default());
        let (read, series) = (Arc::clone(&counts), Counts::series());
        metrics.counter(
            "countersign.decisions",
            "Decisions by door, method, outcome and exact reason.",
            move |observer| {
                for (place, labels) in &series {
                    observer.observe(read.sum(*place), labels);
                }
            },
        );
        let durations = Door::ALL.map(|door| {
            let labels = OUTCOMES.map(|outcome| {
                [KeyValue::new("door", door.name()), KeyValue::new("outcome", outcome)]
            });
            metrics.durations(
                "countersign.decision.duration",
                "How long decisions took.",
                labels.each_ref().map(<[_; 2]>::as_slice),
            )
        });
        let verified = ["false", "true"].map(|verified| [KeyValue::new("verified", verified)]);
        let skews = metrics.histogram(
            "countersign.clock.skew",
            "The time of self-signed tokens minus now: of those whose signature holds, and of those refused for their time before anybody looked at it.",
            &SKEWS,
            verified.each_ref().map(<[_; 1]>::as_slice),
        );
        let claimed = ["fresh", "replayed", "fenced", "unavailable"]
            .map(|outcome| [KeyValue::new("outcome", outcome)]);
        let claims = metrics.durations(
            "countersign.nonce_claim.duration",
            "How long claiming a nonce took.",
            claimed.each_ref().map(<[_; 1]>::as_slice),
        );
        Self { logging, traces, counts, durations, skews, claims }
    }

    /// Creates an observer for commands, which discards everything.
    pub fn unseen() -> Self {
        Self::new(Arc::new(DecisionLogging::off()), &Metrics::unseen(), Traces::default())
    }

    /// Begins the observation of a decision.
    pub fn begin(&self, auth_request: &AuthRequest<'_>) -> Observation<'_> {
        Observation {
            observer: self,
            began: Instant::now(),
            trace: self.traces.begin("decision", auth_request.trace),
        }
    }
}

/// Observes one decision while it is made.
pub struct Observation<'o> {
    observer: &'o DecisionObserver,
    began: Instant,
    trace: Option<Box<Trace>>,
}

impl Observation<'_> {
    /// Begins the lookup of the principal, which ends when the step is dropped.
    pub fn key_lookup(&self) -> Step {
        self.step("key_lookup")
    }

    /// Begins the verification of signatures, which ends when the step is dropped.
    pub fn verification(&self) -> Step {
        self.step("verification")
    }

    fn step(&self, name: &'static str) -> Step {
        Step(self.trace.as_deref().map(|trace| trace.step(name, SpanKind::Internal)))
    }

    /// Begins the claim of a nonce; [`ClaimObservation::end`] ends it.
    pub fn claim(&self) -> ClaimObservation<'_> {
        let span = self.trace.as_deref().map(|trace| trace.step("nonce_claim", SpanKind::Client));
        ClaimObservation { durations: &self.observer.claims, began: Instant::now(), span }
    }

    /// Records the clock skew of a token that is `verified`, or that was refused only for its time.
    pub fn token_time(&self, time: UnixMillis, now: UnixMillis, verified: bool) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "what is lost of a skew of thousands of years is not missed"
        )]
        self.observer.skews[usize::from(verified)]
            .record(time.0.saturating_sub(now.0) as f64 / 1000.0);
    }

    /// Ends a decision: counts it under `method`, and logs it if the settings say so. No token, key
    /// or nonce is written, and the username of a refused token is marked as unverified.
    pub fn end(
        self,
        auth_request: &AuthRequest<'_>,
        method: Option<AuthMethod>,
        id: DecisionId,
        outcome: Outcome<'_>,
    ) {
        let observer = self.observer;
        observer.counts.add(auth_request.door, method, outcome);
        observer.durations[auth_request.door as usize][outcome.kind()]
            .record(self.began.elapsed().as_secs_f64());
        if observer.logging.wants(outcome) {
            let ids = self
                .trace
                .as_deref()
                .map(Trace::ids)
                .or_else(|| TraceIds::of_parent(auth_request.trace));
            log::write(auth_request, method, id, outcome, ids);
        }
        if let Some(trace) = self.trace {
            let failure = match outcome {
                Outcome::Unavailable { dependency, .. } => {
                    Some(format!("the {dependency} is out of reach"))
                }
                Outcome::Denied(denial) if denial.reason.is_undecided() => {
                    Some(denial.reason.name().to_owned())
                }
                Outcome::Allowed(_) | Outcome::Denied(_) => None,
            };
            trace.end(attributes(auth_request, method, id, outcome), failure);
        }
    }
}

/// A step of a decision. It ends when this is dropped.
#[must_use = "it ends when it is dropped"]
#[derive(Debug)]
pub struct Step(#[allow(dead_code, reason = "a span ends when it is dropped")] Option<Box<Span>>);

/// Observes the claim of a nonce while it is made.
#[must_use = "it ends with what came of it"]
#[derive(Debug)]
pub struct ClaimObservation<'o> {
    durations: &'o [BoundHistogram<f64>; 4],
    began: Instant,
    span: Option<Box<Span>>,
}

impl ClaimObservation<'_> {
    /// Ends the claim with its result; `None` if the store is unavailable.
    pub fn end(self, claimed: Option<&Claimed>) {
        let (index, name) = match claimed {
            Some(Claimed::Fresh) => (0, "fresh"),
            Some(Claimed::Replayed) => (1, "replayed"),
            Some(Claimed::Fenced) => (2, "fenced"),
            None => (3, "unavailable"),
        };
        self.durations[index].record(self.began.elapsed().as_secs_f64());
        if let Some(mut span) = self.span {
            span.set_attribute(KeyValue::new("countersign.claim", name));
            span.end();
        }
    }
}

/// The attributes of a decision's span; named after OpenTelemetry conventions if there are any.
/// They never include an unverified username.
fn attributes(
    auth_request: &AuthRequest<'_>,
    method: Option<AuthMethod>,
    id: DecisionId,
    outcome: Outcome<'_>,
) -> impl IntoIterator<Item = KeyValue> {
    let OriginalRequest { method: http_method, scheme, host, path, body: _ } =
        &auth_request.request;
    let told = [
        ("http.request.method", http_method.value()),
        ("url.scheme", scheme.value()),
        ("server.address", host.value()),
        ("url.path", path.value().map(log::without_query)),
    ];
    let (reason, username) = match outcome {
        Outcome::Allowed(identity) => (None, Some(identity.principal().username.to_string())),
        Outcome::Denied(denial) => (Some(denial.reason.name()), None),
        Outcome::Unavailable { dependency, .. } => (Some(dependency), None),
    };
    let mut attributes = vec![
        KeyValue::new("countersign.decision_id", id.to_string()),
        KeyValue::new("countersign.door", auth_request.door.name()),
        KeyValue::new("countersign.outcome", outcome.name()),
        KeyValue::new("countersign.method", method.map_or("none", AuthMethod::name)),
    ];
    attributes.extend(
        told.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?.to_owned()))),
    );
    attributes.extend(reason.map(|reason| KeyValue::new("countersign.reason", reason)));
    attributes.extend(username.map(|username| KeyValue::new("user.name", username)));
    attributes
}

/// Counters of decisions.
#[derive(Debug, Default)]
struct Counts {
    /// Each thread has its own, so that threads do not contend.
    by_thread: ThreadLocal<Cells>,
}

/// By door, by method, by [`Outcome::cell`].
#[derive(Debug)]
struct Cells([[[AtomicU64; CELLS]; METHODS]; Door::ALL.len()]);

/// Indexes of a door, a method and a cell.
type Place = (usize, usize, usize);

impl Default for Cells {
    fn default() -> Self {
        let zeros = |_| std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self(std::array::from_fn(zeros))
    }
}

impl Counts {
    fn add(&self, door: Door, method: Option<AuthMethod>, outcome: Outcome<'_>) {
        let method = method.map_or(NO_METHOD, |method| method as usize);
        self.by_thread.get_or_default().0[door as usize][method][outcome.cell()]
            .fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, (door, method, cell): Place) -> u64 {
        self.by_thread.iter().map(|cells| cells.0[door][method][cell].load(Ordering::Relaxed)).sum()
    }

    /// All places with their labels, so that each series exists before its first decision.
    fn series() -> Vec<(Place, [KeyValue; 4])> {
        let reasons =
            DenialReason::ALL.iter().map(|reason| (OUTCOMES[kind_of(*reason)], reason.name()));
        let cells: Vec<_> = [(OUTCOMES[ALLOWED], ""), (OUTCOMES[UNAVAILABLE], "")]
            .into_iter()
            .chain(reasons)
            .collect();
        let mut series = Vec::with_capacity(Door::ALL.len() * METHODS * CELLS);
        for door in Door::ALL {
            for method in 0..METHODS {
                for (cell, (outcome, reason)) in cells.iter().enumerate() {
                    let labels = [
                        KeyValue::new("door", door.name()),
                        KeyValue::new(
                            "method",
                            AuthMethod::ALL.get(method).map_or("none", |method| method.name()),
                        ),
                        KeyValue::new("outcome", *outcome),
                        KeyValue::new("reason", *reason),
                    ];
                    series.push(((door as usize, method, cell), labels));
                }
            }
        }
        series
    }
}

#[cfg(test)]
mod tests;
