//! Every token that is given out, or refused, is counted and logged here, once.

use std::{
    error::Error,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

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
    const ALL: [Self; 5] = [Self::ApiKey, Self::Refresh, Self::Rotation, Self::ClientCredentials, Self::Minted];

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
#[derive(Debug, Default)]
pub struct TokenObserver {
    counts: [[AtomicU64; OUTCOMES.len()]; GrantKind::ALL.len()],
}

impl TokenObserver {
    /// A token was given to `username`.
    pub fn granted(&self, kind: GrantKind, username: &Username, jti: Uuid) {
        self.count(kind, 0);
        tracing::debug!(target: "countersign::token", grant = kind.name(), outcome = "granted", %username, %jti, "granted");
    }

    /// No token was given. What was presented is not logged.
    pub fn not_granted(&self, kind: GrantKind, reason: &'static str, error: &(dyn Error + 'static)) {
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

    /// The counts in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP countersign_token_grants_total Tokens given out or refused, by what was exchanged.\n# TYPE countersign_token_grants_total counter\n",
        );
        for kind in GrantKind::ALL {
            for (outcome, count) in OUTCOMES.iter().zip(&self.counts[kind as usize]) {
                let (grant, count) = (kind.name(), count.load(Ordering::Relaxed));
                // Writing to a String does not fail.
                let _ = writeln!(text, "countersign_token_grants_total{{grant=\"{grant}\",outcome=\"{outcome}\"}} {count}");
            }
        }
        text
    }
}
