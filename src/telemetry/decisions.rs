//! Every decision is counted and logged here, once.

use std::{
    error::Error,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

pub use crate::config::telemetry::DecisionLog;
use crate::domain::{
    decision::{DecisionId, Denial, DenialReason, Identity},
    presented::{Door, Presented},
    principal::Username,
};

/// What came of a decision.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Allowed.
    Allowed(&'a Identity),
    /// Denied.
    Denied(&'a Denial),
    /// Not decided.
    Unavailable {
        /// What was out of reach.
        dependency: &'static str,
        /// The error.
        source: &'a (dyn Error + 'static),
    },
}

/// Reasons for denying, then allowed, then unavailable.
const OUTCOMES: usize = DenialReason::ALL.len() + 2;
const ALLOWED: usize = DenialReason::ALL.len();
const UNAVAILABLE: usize = DenialReason::ALL.len() + 1;

/// Counts decisions and writes the decision log.
#[derive(Debug)]
pub struct DecisionObserver {
    log: DecisionLog,
    counts: [[AtomicU64; OUTCOMES]; Door::ALL.len()],
}

impl DecisionObserver {
    /// An observer that logs what `log` says.
    pub fn new(log: DecisionLog) -> Self {
        Self { log, counts: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))) }
    }

    /// Counts one decision, and logs it where the settings say so. No token, key or nonce is written, and the name that a
    /// refused token claims is marked as unverified.
    pub fn record(&self, presented: &Presented<'_>, id: DecisionId, outcome: Outcome<'_>) {
        let index = match outcome {
            Outcome::Allowed(_) => ALLOWED,
            Outcome::Denied(denial) => denial.reason.index(),
            Outcome::Unavailable { .. } => UNAVAILABLE,
        };
        self.counts[presented.door as usize][index].fetch_add(1, Ordering::Relaxed);
        let wanted = match self.log {
            DecisionLog::All => true,
            DecisionLog::Denied => index != ALLOWED,
            DecisionLog::Off => false,
        };
        if wanted {
            log(presented, id, outcome);
        }
    }

    /// The counts in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP countersign_decisions_total Decisions by door, outcome and exact reason.\n# TYPE countersign_decisions_total counter\n",
        );
        for door in Door::ALL {
            for (index, count) in self.counts[door as usize].iter().enumerate() {
                let (outcome, reason) = match DenialReason::ALL.get(index) {
                    Some(reason) => ("denied", reason.name()),
                    None if index == ALLOWED => ("allowed", ""),
                    None => ("unavailable", ""),
                };
                let (door, count) = (door.name(), count.load(Ordering::Relaxed));
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "countersign_decisions_total{{door=\"{door}\",method=\"self_signed\",outcome=\"{outcome}\",reason=\"{reason}\"}} {count}"
                );
            }
        }
        text
    }
}

fn log(presented: &Presented<'_>, id: DecisionId, outcome: Outcome<'_>) {
    let (door, request) = (presented.door.name(), &presented.request);
    let (method, host) = (request.method.value(), request.host.value());
    // Queries carry secrets more often than paths do.
    let path = request.path.value().map(|path| path.split('?').next().unwrap_or_default());
    let peer = presented.peer.map(tracing::field::display);
    match outcome {
        Outcome::Allowed(identity) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "allowed", method, host, path, peer,
            username = %identity.principal().username, auth_method = identity.method().name(), key_id = identity.encoded_key_id(),
            "allowed"
        ),
        Outcome::Denied(denial) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "denied", method, host, path, peer,
            reason = denial.reason.name(), code = denial.reason.code().name(),
            unverified_username = denial.unverified_username.as_ref().map(Username::as_str),
            "denied"
        ),
        Outcome::Unavailable { dependency, source } => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "unavailable", method, host, path, peer,
            dependency, error = source.source().map(tracing::field::display), "unavailable"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::presented::{Credentials, OriginalRequest};

    #[test]
    fn each_decision_counts_once_under_its_reason() {
        let observer = DecisionObserver::new(DecisionLog::Off);
        let presented = Presented {
            door: Door::Grpc,
            credentials: Credentials::None,
            request: OriginalRequest::default(),
            required_scopes: Vec::new(),
            attempt: None,
            peer: None,
        };
        let denial = Denial::from(DenialReason::NonceClaimed);
        for _ in 0..3 {
            observer.record(&presented, DecisionId(uuid::Uuid::nil()), Outcome::Denied(&denial));
        }
        let text = observer.render();
        let line = |door| format!("{{door=\"{door}\",method=\"self_signed\",outcome=\"denied\",reason=\"nonce_claimed\"}}");
        assert!(text.contains(&format!("{} 3\n", line("grpc"))), "{text}");
        assert!(text.contains(&format!("{} 0\n", line("http"))), "{text}");
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2 * OUTCOMES);
    }
}
