//! The decision log: which decisions are logged, and in what format.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tracing::field::display;

use super::{Outcome, TraceIds};
use crate::{
    config::telemetry::{DecisionLog, Share},
    domain::{
        auth_request::AuthRequest,
        decision::{AuthMethod, DecisionId},
        principal::Username,
    },
};

/// Which decisions are logged; can be changed at run time.
#[derive(Debug)]
pub struct DecisionLogging {
    log: AtomicU8,
    /// The bits of an `f64`: the share of allowed decisions that are logged besides the denied
    /// ones.
    sample: AtomicU64,
}

impl DecisionLogging {
    /// Logs the decisions that `log` names, and a `sample` of the others.
    pub fn new(log: DecisionLog, sample: Share) -> Self {
        let logging = Self { log: AtomicU8::default(), sample: AtomicU64::default() };
        logging.set(log, sample);
        logging
    }

    /// Logs no decisions.
    pub fn off() -> Self {
        Self::new(DecisionLog::Off, Share::default())
    }

    /// Replaces what is logged from now on.
    pub fn set(&self, log: DecisionLog, sample: Share) {
        self.log.store(log as u8, Ordering::Relaxed);
        self.sample.store(sample.get().to_bits(), Ordering::Relaxed);
    }

    /// Returns the current settings.
    pub fn now(&self) -> (DecisionLog, Share) {
        let log = self.log.load(Ordering::Relaxed);
        let log =
            DecisionLog::EVERY.into_iter().find(|known| *known as u8 == log).unwrap_or_default();
        (log, Share::new(f64::from_bits(self.sample.load(Ordering::Relaxed))).unwrap_or_default())
    }

    pub(super) fn wants(&self, outcome: Outcome<'_>) -> bool {
        match (self.now(), outcome) {
            ((DecisionLog::All, _), _)
            | ((DecisionLog::Denied, _), Outcome::Denied(_) | Outcome::Unavailable { .. }) => true,
            ((DecisionLog::Denied, sample), Outcome::Allowed(_)) => {
                sample.get() > 0.0 && fastrand::f64() < sample.get()
            }
            ((DecisionLog::Off, _), _) => false,
        }
    }
}

/// The path without the query, which contains secrets more often than a path does.
pub(super) fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Writes one line, at level info with the target `countersign::decision`.
pub(super) fn write(
    auth_request: &AuthRequest<'_>,
    auth_method: Option<AuthMethod>,
    id: DecisionId,
    outcome: Outcome<'_>,
    ids: Option<TraceIds>,
) {
    let auth_method = auth_method.map(AuthMethod::name);
    let (door, request) = (auth_request.door.name(), &auth_request.request);
    let (method, host) = (request.method.value(), request.host.value());
    let path = request.path.value().map(without_query);
    let (trace_id, span_id) = (ids.map(|ids| display(ids.trace)), ids.map(|ids| display(ids.span)));
    let peer = auth_request.peer.map(display);
    match outcome {
        Outcome::Allowed(identity) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "allowed", method, host, path, peer, trace_id, span_id,
            username = %identity.principal().username, auth_method, key_id = &*identity.encoded_key_id(),
            "allowed"
        ),
        Outcome::Denied(denial) if denial.reason.is_undecided() => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "unavailable", method, host, path, peer, trace_id, span_id,
            reason = denial.reason.name(), code = denial.reason.code().name(), "unavailable"
        ),
        Outcome::Denied(denial) => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "denied", method, host, path, peer, trace_id, span_id, auth_method,
            reason = denial.reason.name(), code = denial.reason.code().name(),
            unverified_username = denial.unverified_username.as_ref().map(Username::as_str),
            detail = denial.detail.as_ref().map(display), "denied"
        ),
        Outcome::Unavailable { dependency, source } => tracing::info!(
            target: "countersign::decision", decision_id = %id, door, outcome = "unavailable", method, host, path, peer, trace_id, span_id, auth_method,
            dependency, error = source.source().map(display), "unavailable"
        ),
    }
}
