//! Connections are counted here, by listener, TLS handshakes that fail, and what is refused on them
//! before anybody looks at it.

use std::fmt;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;

pub use super::handshakes::HandshakeFailure;
use super::{handshakes::Handshakes, metrics::Metrics};

/// Which listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerName {
    /// Decisions and tokens over HTTP.
    Http,
    /// Decisions over gRPC.
    Grpc,
    /// Operators.
    Admin,
}

impl ListenerName {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Admin];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Admin => "admin",
        }
    }
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// The TLS handshake did not end.
    Handshake,
    /// Nothing came, or no request.
    Silent,
    /// It was kept alive and not used.
    Idle,
    /// A request's head did not arrive as a whole.
    Head,
    /// A request's body did not arrive as a whole.
    Body,
    /// The answer was not taken.
    Reader,
    /// What it sent took more memory than there is for all of them.
    Memory,
}

impl Overdue {
    const ALL: [Self; 7] = [
        Self::Handshake,
        Self::Silent,
        Self::Idle,
        Self::Head,
        Self::Body,
        Self::Reader,
        Self::Memory,
    ];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Body => "body",
            Self::Reader => "reader",
            Self::Memory => "memory",
        }
    }
}

/// Why something is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is not HTTP/1.
    Syntax,
    /// It has too many headers, or too long ones.
    HeadersTooLarge,
    /// Its target is too long.
    TargetTooLong,
}

impl Malformed {
    const ALL: [Self; 3] = [Self::Syntax, Self::HeadersTooLarge, Self::TargetTooLong];

    const fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::HeadersTooLarge => "headers_too_large",
            Self::TargetTooLong => "uri_too_long",
        }
    }
}

/// What happens to the connections of one listener.
#[derive(Debug)]
pub struct ConnectionCounts {
    listener: ListenerName,
    open: AtomicUsize,
    refused: AtomicU64,
    given_up: [AtomicU64; Overdue::ALL.len()],
    malformed: [AtomicU64; Malformed::ALL.len()],
    handshakes: Handshakes,
    /// Requests that were one too many, but for decisions.
    overloaded: AtomicU64,
    /// What no line of the log tells of yet, and when the last one did.
    untold_malformed: AtomicU64,
    untold_overloaded: AtomicU64,
    told_at: Mutex<Option<Instant>>,
}

/// How often the log tells of what was refused: anyone can send it.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

impl ConnectionCounts {
    /// Counts for `metrics`, one for each listener.
    pub fn of_all(metrics: &Metrics) -> [Arc<Self>; 3] {
        let all = ListenerName::ALL.map(|listener| {
            Arc::new(Self {
                listener,
                open: AtomicUsize::default(),
                refused: AtomicU64::default(),
                given_up: Default::default(),
                malformed: Default::default(),
                handshakes: Handshakes::default(),
                overloaded: AtomicU64::default(),
                untold_malformed: AtomicU64::default(),
                untold_overloaded: AtomicU64::default(),
                told_at: Mutex::default(),
            })
        });
        let label = |counts: &Self| KeyValue::new("listener", counts.listener.name());
        let read = all.clone();
        #[allow(clippy::cast_precision_loss, reason = "a number of connections is far from 2^52")]
        metrics.gauge(
            "countersign.connections",
            "",
            "Connections that are open, by listener.",
            move |observer| {
                for counts in &read {
                    observer.observe(counts.open.load(Ordering::Relaxed) as f64, &[label(counts)]);
                }
            },
        );
        let read = all.clone();
        let description = "Connections that were refused because there were too many, by listener.";
        metrics.counter("countersign.connections.refused", description, move |observer| {
            for counts in &read {
                observer.observe(counts.refused.load(Ordering::Relaxed), &[label(counts)]);
            }
        });
        let read = all.clone();
        let description =
            "Connections that were given up, by listener and by what they were too slow with.";
        metrics.counter("countersign.connections.given_up", description, move |observer| {
            for counts in &read {
                for (reason, count) in Overdue::ALL.iter().zip(&counts.given_up) {
                    let labels = [label(counts), KeyValue::new("reason", reason.name())];
                    observer.observe(count.load(Ordering::Relaxed), &labels);
                }
            }
        });
        let read = all.clone();
        let description = "TLS handshakes that failed, by listener and reason.";
        metrics.counter("countersign.tls.handshakes.failed", description, move |observer| {
            for counts in &read {
                for reason in HandshakeFailure::ALL {
                    let labels = [label(counts), KeyValue::new("reason", reason.name())];
                    observer.observe(counts.handshakes.count(reason), &labels);
                }
            }
        });
        let read = all.clone();
        metrics.counter(
            "countersign.malformed_requests",
            "What is no request, by listener and kind.",
            move |observer| {
                for counts in &read {
                    for (kind, count) in Malformed::ALL.iter().zip(&counts.malformed) {
                        observer.observe(
                            count.load(Ordering::Relaxed),
                            &[label(counts), KeyValue::new("kind", kind.name())],
                        );
                    }
                }
            },
        );
        let read = all.clone();
        let description = "Requests other than decisions that were refused because there were too many, by listener.";
        metrics.counter("countersign.requests.refused", description, move |observer| {
            for counts in &read {
                observer.observe(counts.overloaded.load(Ordering::Relaxed), &[label(counts)]);
            }
        });
        all
    }

    /// The listener that these are of.
    pub const fn listener(&self) -> ListenerName {
        self.listener
    }

    /// One more connection is open, unless `max` are. Whether it is.
    pub fn open(&self, max: usize) -> bool {
        let is_open = self.open.fetch_add(1, Ordering::Relaxed) < max;
        if !is_open {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_open
    }

    /// Connections that were one too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A connection is closed.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was given up.
    pub fn given_up(&self, reason: Overdue) {
        self.given_up[reason as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            listener = self.listener.name(),
            reason = reason.name(),
            "a connection was given up"
        );
    }

    /// A TLS handshake with `peer` failed, which the library calls `error`. The log tells of it, as
    /// often as it may.
    pub fn handshake_failed(
        &self,
        failure: HandshakeFailure,
        peer: &dyn fmt::Display,
        error: String,
        now: Instant,
    ) {
        self.handshakes.failed(failure, peer, error);
        self.handshakes.tell(self.listener, now);
    }

    /// Something came that is no request.
    pub fn malformed(&self, kind: Malformed) {
        self.malformed[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.untold_malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that is no decision was one too many.
    pub fn overloaded(&self) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
        self.untold_overloaded.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether [`Self::tell`] has something to tell.
    pub fn has_untold(&self) -> bool {
        let is_untold = |untold: &AtomicU64| untold.load(Ordering::Relaxed) > 0;
        is_untold(&self.untold_malformed)
            || is_untold(&self.untold_overloaded)
            || self.handshakes.has_untold()
    }

    /// Logs which handshakes failed and how much was refused since it last did, at most once a
    /// second.
    pub fn tell(&self, now: Instant) {
        self.handshakes.tell(self.listener, now);
        if [&self.untold_malformed, &self.untold_overloaded]
            .iter()
            .all(|untold| untold.load(Ordering::Relaxed) == 0)
        {
            return;
        }
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|told_at| now.duration_since(told_at) >= TELL_INTERVAL) {
            *told_at = Some(now);
            let listener = self.listener.name();
            let [malformed, overloaded] = [&self.untold_malformed, &self.untold_overloaded]
                .map(|untold| untold.swap(0, Ordering::Relaxed));
            if malformed > 0 {
                tracing::warn!(listener, count = malformed, "malformed requests were refused");
            }
            if overloaded > 0 {
                tracing::warn!(
                    listener,
                    count = overloaded,
                    "requests were refused because there were too many"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_open_than_may_be() {
        let [counts, ..] = ConnectionCounts::of_all(&Metrics::unseen());
        assert_eq!([counts.open(2), counts.open(2), counts.open(2)], [true, true, false]);
        counts.closed();
        assert_eq!([counts.open(2), counts.open(2)], [true, false]);
        assert_eq!(counts.refused.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_refused_is_told_of_once_a_second() {
        let [counts, ..] = ConnectionCounts::of_all(&Metrics::unseen());
        let start = Instant::now();
        counts.malformed(Malformed::Syntax);
        counts.tell(start);
        assert!(!counts.has_untold());
        counts.malformed(Malformed::HeadersTooLarge);
        counts.tell(start + TELL_INTERVAL / 2);
        assert!(counts.has_untold(), "too early");
        counts.tell(start + TELL_INTERVAL);
        assert!(!counts.has_untold());
        counts.overloaded();
        counts.tell(start + TELL_INTERVAL);
        assert!(counts.has_untold(), "too early");
        counts.tell(start + 2 * TELL_INTERVAL);
        assert!(!counts.has_untold());
    }
}
