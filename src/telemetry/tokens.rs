//! Counts and logs every token that is issued or refused, once.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry::KeyValue;
use uuid::Uuid;

use super::metrics::Metrics;
use crate::domain::principal::Username;

/// How a token was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantKind {
    /// With an API key.
    ApiKey,
    /// With a refresh token that remains valid.
    Refresh,
    /// With a refresh token that is replaced by a new one.
    Rotation,
    /// With a client assertion.
    ClientCredentials,
    /// By an operator.
    Minted,
}

impl GrantKind {
    const ALL: [Self; 5] =
        [Self::ApiKey, Self::Refresh, Self::Rotation, Self::ClientCredentials, Self::Minted];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Refresh => "refresh",
            Self::Rotation => "rotation",
            Self::ClientCredentials => "client_credentials",
            Self::Minted => "minted",
        }
    }
}

const OUTCOMES: [&str; 3] = ["granted", "refused", "unavailable"];

/// Counts and logs tokens.
#[derive(Debug)]
pub struct TokenObserver {
    counts: Arc<Counts>,
}

/// By kind of grant, by outcome.
type Counts = [[AtomicU64; OUTCOMES.len()]; GrantKind::ALL.len()];

impl TokenObserver {
    /// Creates an observer that counts for `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let counts: Arc<Counts> = Arc::default();
        let read = Arc::clone(&counts);
        metrics.counter(
            "countersign.token_grants",
            "Tokens given out or refused, by what was exchanged.",
            move |observer| {
                for kind in GrantKind::ALL {
                    for (outcome, count) in OUTCOMES.iter().zip(&read[kind as usize]) {
                        let labels = [
                            KeyValue::new("grant", kind.name()),
                            KeyValue::new("outcome", *outcome),
                        ];
                        observer.observe(count.load(Ordering::Relaxed), &labels);
                    }
                }
            },
        );
        Self { counts }
    }

    /// Creates an observer for commands, whose counts are not exposed.
    pub fn unseen() -> Self {
        Self::new(&Metrics::unseen())
    }

    /// Records that a token was issued to `username`.
    pub fn granted(&self, kind: GrantKind, username: &Username, jti: Uuid) {
        self.count(kind, 0);
        tracing::debug!(target: "countersign::token", grant = kind.name(), outcome = "granted", %username, %jti, "granted");
    }

    /// Records that a token was refused. The credential is not logged.
    pub fn not_granted(
        &self,
        kind: GrantKind,
        reason: &'static str,
        error: &(dyn Error + 'static),
    ) {
        if reason == "unavailable" {
            self.count(kind, 2);
            tracing::error!(target: "countersign::token", grant = kind.name(), outcome = "unavailable", error, "no token could be given");
        } else {
            self.count(kind, 1);
            tracing::info!(target: "countersign::token", grant = kind.name(), outcome = "refused", reason, "refused");
        }
    }

    fn count(&self, kind: GrantKind, outcome: usize) {
        self.counts[kind as usize][outcome].fetch_add(1, Ordering::Relaxed);
    }
}
