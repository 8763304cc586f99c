//! Every token that is given out, or refused, is counted and logged here, once.

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

/// What was exchanged for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantKind {
    /// An API key.
    ApiKey,
    /// A refresh token, which stays.
    Refresh,
    /// A refresh token, for the next one.
    Rotation,
    /// A client assertion.
    ClientCredentials,
    /// The word of an operator.
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

/// Counts tokens and logs them.
#[derive(Debug)]
pub struct TokenObserver {
    counts: Arc<Counts>,
}

/// By kind of grant, by outcome.
type Counts = [[AtomicU64; OUTCOMES.len()]; GrantKind::ALL.len()];

impl TokenObserver {
    /// An observer that counts for `metrics`.
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

    /// For commands: nobody looks at what it sees.
    pub fn unseen() -> Self {
        Self::new(&Metrics::unseen())
    }

    /// A token was given to `username`.
    pub fn granted(&self, kind: GrantKind, username: &Username, jti: Uuid) {
        self.count(kind, 0);
        tracing::debug!(target: "countersign::token", grant = kind.name(), outcome = "granted", %username, %jti, "granted");
    }

    /// No token was given. What was presented is not logged.
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
