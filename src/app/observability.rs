//! Metrics and traces of the service, and what they observe.

use std::{sync::Arc, time::Duration};

use crate::{
    config::telemetry::TelemetrySettings,
    engine::readiness::Readiness,
    stores::{cache::CachedDirectory, jwks::JwksCache, nonce::redis::RedisNonceStore},
    telemetry::{TelemetryError, log::LogControl, metrics::Metrics, traces::Traces},
};

/// Timeout for sending the last spans, and again for the last metrics.
const SEND_LAST: Duration = Duration::from_secs(1);

/// Metrics and traces, as the settings specify.
#[derive(Clone, Debug)]
pub(super) struct Observability {
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
}

impl Observability {
    pub(super) fn start(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        Ok(Self { metrics: Metrics::new(settings)?, traces: Traces::new(settings)? })
    }

    /// Registers gauges that read the stores and the log, which do not know about metrics.
    pub(super) fn observe(
        &self,
        directory: &Arc<CachedDirectory>,
        key_sets: &Arc<JwksCache>,
        readiness: &Readiness,
        redis: Option<Arc<RedisNonceStore>>,
        log: LogControl,
    ) {
        let (directory, key_sets, readiness) =
            (Arc::clone(directory), Arc::clone(key_sets), readiness.clone());
        self.metrics.observe_key_cache(move || directory.usage());
        self.metrics.observe_key_sets(move || key_sets.usage());
        self.metrics.observe_stores(move || {
            readiness.last().map(|(dependency, is_up)| (dependency.name(), is_up))
        });
        self.metrics.observe_lost_lines(move || log.lost_lines());
        if let Some(redis) = redis {
            let skewed = Arc::clone(&redis);
            self.metrics.observe_redis_clock_skew(move || skewed.clock_skew_ms());
            self.metrics.observe_nonce_failures(move || {
                redis.failures().map(|(kind, count)| (kind.name(), count)).collect()
            });
        }
    }

    /// Sends what is left of both, on separate threads, and waits for them.
    pub(super) async fn end(self) {
        let sent = tokio::task::spawn_blocking(move || {
            self.traces.shut_down(SEND_LAST);
            self.metrics.shut_down(SEND_LAST);
        });
        drop(sent.await);
    }
}
