//! Every decision is counted and logged here, once.

use std::{
    error::Error,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use thread_local::ThreadLocal;

pub use crate::config::telemetry::DecisionLog;
use crate::domain::{
    decision::{AuthMethod, DecisionId, Denial, DenialReason, Identity},
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
/// The ways to authenticate, then none that could be told.
const METHODS: usize = AuthMethod::ALL.len() + 1;
const NO_METHOD: usize = AuthMethod::ALL.len();

/// Counts decisions and writes the decision log.
#[derive(Debug)]
pub struct DecisionObserver {
    log: DecisionLog,
    /// Each thread has its own, so that none waits for another's.
    counts: ThreadLocal<Counts>,
}

/// By door, by method, by outcome.
#[derive(Debug)]
struct Counts([[[AtomicU64; OUTCOMES]; METHODS]; Door::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        let zeros = |_| std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self(std::array::from_fn(zeros))
    }
}

impl DecisionObserver {
    /// An observer that logs what `log` says.
    pub fn new(log: DecisionLog) -> Self {
        Self { log, counts: ThreadLocal::new() }
    }

    /// Counts one decision about credentials of the kind `method`, and logs it where the settings say so. No token, key or nonce is written, and the name that a
    /// refused token claims is marked as unverified.
    pub fn record(&self, presented: &Presented<'_>, method: Option<AuthMethod>, id: DecisionId, outcome: Outcome<'_>) {
        let index = match outcome {
            Outcome::Allowed(_) => ALLOWED,
            Outcome::Denied(denial) => denial.reason.index(),
            Outcome::Unavailable { .. } => UNAVAILABLE,
        };
        let method_index = method.map_or(NO_METHOD, |method| method as usize);
        self.counts.get_or_default().0[presented.door as usize][method_index][index].fetch_add(1, Ordering::Relaxed);
        let wanted = match self.log {
            DecisionLog::All => true,
            DecisionLog::Denied => index != ALLOWED,
            DecisionLog::Off => false,
        };
        if wanted {
            log(presented, method, id, outcome);
        }
    }

    /// The counts in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP countersign_decisions_total Decisions by door, method, outcome and exact reason.\n# TYPE countersign_decisions_total counter\n",
        );
        for (door, method, index, count) in self.each() {
            let (outcome, reason) = match DenialReason::ALL.get(index) {
                Some(reason) => ("denied", reason.name()),
                None if index == ALLOWED => ("allowed", ""),
                None => ("unavailable", ""),
            };
            let (door, method) = (door.name(), method.map_or("none", AuthMethod::name));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "countersign_decisions_total{{door=\"{door}\",method=\"{method}\",outcome=\"{outcome}\",reason=\"{reason}\"}} {count}"
            );
        }
        text
    }

    fn each(&self) -> impl Iterator<Item = (Door, Option<AuthMethod>, usize, u64)> {
        Door::ALL.into_iter().enumerate().flat_map(move |(door_index, door)| {
            (0..METHODS).flat_map(move |method| {
                let sum = move |index: usize| {
                    self.counts.iter().map(|counts| counts.0[door_index][method][index].load(Ordering::Relaxed)).sum()
                };
                (0..OUTCOMES).map(move |index| (door, AuthMethod::ALL.get(method).copied(), index, sum(index)))
            })
        })
    }
}

fn log(presented: &Presented<'_>, auth_method: Option<AuthMethod>, id: DecisionId, outcome: Outcome<'_>) {
    let auth_method = auth_method.map(AuthMethod::name);
    let (door, request) = (presented.door.name(), &presented.request);
    let (method, host) = (request.method.value(), request.host.value());
    // Queries carry secrets more often than paths do.
    let path = request.path.value().map(|path| path.split('?').next().unwrap_or_default());
    let peer = presented.peer.map(tracing::field::display);
    match outcome {
        Outcome::Allowed(identity) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "allowed", method, host, path, peer,
            username = %identity.principal().username, auth_method, key_id = &*identity.encoded_key_id(),
            "allowed"
        ),
        Outcome::Denied(denial) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "denied", method, host, path, peer, auth_method,
            reason = denial.reason.name(), code = denial.reason.code().name(),
            unverified_username = denial.unverified_username.as_ref().map(Username::as_str),
            "denied"
        ),
        Outcome::Unavailable { dependency, source } => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "unavailable", method, host, path, peer, auth_method,
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
            authorization: Credentials::None,
            request: OriginalRequest::default(),
            required_scopes: Vec::new(),
            attempt: None,
            peer: None,
        };
        let denial = Denial::from(DenialReason::NonceClaimed);
        for _ in 0..3 {
            observer.record(&presented, Some(AuthMethod::SelfSigned), DecisionId(uuid::Uuid::nil()), Outcome::Denied(&denial));
        }
        let text = observer.render();
        let line = |door| format!("{{door=\"{door}\",method=\"self_signed\",outcome=\"denied\",reason=\"nonce_claimed\"}}");
        assert!(text.contains(&format!("{} 3\n", line("grpc"))), "{text}");
        assert!(text.contains(&format!("{} 0\n", line("http"))), "{text}");
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), Door::ALL.len() * METHODS * OUTCOMES);
    }
}
