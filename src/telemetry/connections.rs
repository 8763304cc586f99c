//! Counts connections by listener, failed TLS handshakes, and everything that is refused on a
//! connection before it reaches a handler.

use std::fmt;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;

pub use super::handshakes::HandshakeFailure;
use super::{handshakes::Handshakes, metrics::Metrics};

/// A listener of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerName {
    /// Decisions and tokens over HTTP.
    Http,
    /// Decisions over gRPC.
    Grpc,
    /// The admin API.
    Admin,
}

impl ListenerName {
    /// All listeners, in the order of `as usize`.
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

/// Why a connection was closed by the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// The TLS handshake timed out.
    Handshake,
    /// No request arrived in time.
    Silent,
    /// The connection was kept alive, but idle for too long.
    Idle,
    /// The head of a request was not complete in time.
    Head,
    /// The body of a request was not complete in time.
    Body,
    /// The client did not read the response in time.
    Reader,
    /// Received data exceeded the memory for all connections.
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

/// Why received data is no valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is not HTTP/1.
    Syntax,
    /// It has too many headers, or too long ones.
    HeadersTooLarge,
    /// The request target is too long.
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

/// The counts of one listener.
#[derive(Debug)]
pub struct ConnectionCounts {
    listener: ListenerName,
    open: AtomicUsize,
    refused: AtomicU64,
    given_up: [AtomicU64; Overdue::ALL.len()],
    malformed: [AtomicU64; Malformed::ALL.len()],
    handshakes: Handshakes,
    /// Requests other than decisions that were refused due to overload.
    overloaded: AtomicU64,
    /// Counts that are not logged yet, and when the last line was logged.
    untold_malformed: AtomicU64,
    untold_overloaded: AtomicU64,
    told_at: Mutex<Option<Instant>>,
}

/// Minimum time between log lines about refused input, which anyone can send.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

impl ConnectionCounts {
    /// Creates the counts of every listener, and registers them with `metrics`.
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

    /// The listener that is counted.
    pub const fn listener(&self) -> ListenerName {
        self.listener
    }

    /// Counts a new connection, unless `max` are open. Returns whether it was counted.
    pub fn open(&self, max: usize) -> bool {
        let is_open = self.open.fetch_add(1, Ordering::Relaxed) < max;
        if !is_open {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_open
    }

    /// The number of connections refused because too many were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a closed connection.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that the service closed.
    pub fn given_up(&self, reason: Overdue) {
        self.given_up[reason as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            listener = self.listener.name(),
            reason = reason.name(),
            "a connection was given up"
        );
    }

    /// Counts a TLS handshake with `peer` that failed with the library's `error`. It is logged,
    /// subject to rate limits.
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

    /// Counts input that is no valid request.
    pub fn malformed(&self, kind: Malformed) {
        self.malformed[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.untold_malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request other than a decision that was refused due to overload.
    pub fn overloaded(&self) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
        self.untold_overloaded.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether [`Self::tell`] has something to log.
    pub fn has_untold(&self) -> bool {
        let is_untold = |untold: &AtomicU64| untold.load(Ordering::Relaxed) > 0;
        is_untold(&self.untold_malformed)
            || is_untold(&self.untold_overloaded)
            || self.handshakes.has_untold()
    }

    /// Logs the handshakes that failed, and how much was refused since the last line, at most once
    /// a second.
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
