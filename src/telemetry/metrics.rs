//! Metrics: one meter, exposed at `/metrics` and, if a collector is configured, sent to it.
//!
//! Names follow Prometheus; over OTLP they have dots, and no suffixes for units and totals. Labels
//! have few values, all known beforehand: nothing that clients choose, and no usernames.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue, global,
    metrics::{AsyncInstrument, BoundHistogram, Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use super::{TelemetryError, otlp, process};
use crate::config::telemetry::TelemetrySettings;

/// Name of the meter.
const NAME: &str = env!("CARGO_PKG_NAME");

/// Bucket bounds of histograms of durations, in seconds: from 50 µs, about the time of a decision,
/// to 1 s.
const DURATIONS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0,
];

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    provider: Option<SdkMeterProvider>,
    meter: Meter,
}

/// How a cache is used, and its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Lookups answered from memory.
    pub hits: u64,
    /// Lookups not answered from memory.
    pub misses: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Counts of fetches of key sets, and the age of the sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySetUse {
    /// Number of successful fetches.
    pub fetched: u64,
    /// Number of failed fetches.
    pub failed: u64,
    /// Age of the oldest set in memory; `None` if there are no sets.
    pub oldest_age: Option<Duration>,
}

impl Metrics {
    /// Sets up `/metrics`, and the export to a collector if `settings` name one. Call it within a
    /// Tokio runtime, which must keep running.
    pub fn new(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let scraped = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        let mut builder =
            SdkMeterProvider::builder().with_resource(otlp::resource()).with_reader(scraped);
        if let Some(exporter) = otlp::metric_exporter(settings)? {
            builder = builder.with_periodic_exporter(exporter);
        }
        let provider = builder.build();
        let metrics = Self { registry, meter: provider.meter(NAME), provider: Some(provider) };
        process::observe(&metrics);
        let version = [KeyValue::new("version", env!("CARGO_PKG_VERSION"))];
        metrics.gauge(
            "countersign.build_info",
            "",
            "Always 1; its labels tell what runs.",
            move |observer| {
                observer.observe(1.0, &version);
            },
        );
        Ok(metrics)
    }

    /// Creates metrics for commands, which are not exposed.
    pub fn unseen() -> Self {
        // No global provider is ever set, so its meters do nothing.
        Self { registry: Registry::new(), provider: None, meter: global::meter(NAME) }
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Sends the remaining data.
    pub fn shut_down(&self, timeout: Duration) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(timeout)
        {
            tracing::warn!(error = %error, "the last metrics could not be sent");
        }
    }

    /// Registers the metrics of the cache of principals.
    pub fn observe_key_cache(&self, read: impl Fn() -> CacheUse + Send + Sync + 'static) {
        let read = Arc::new(read);
        let (hits, misses, entries) = (Arc::clone(&read), Arc::clone(&read), read);
        self.counter(
            "countersign.key_cache.hits",
            "Principals looked up and answered from memory.",
            move |observer| {
                observer.observe(hits().hits, &[]);
            },
        );
        self.counter(
            "countersign.key_cache.misses",
            "Principals looked up that memory could not answer.",
            move |observer| {
                observer.observe(misses().misses, &[]);
            },
        );
        #[allow(
            clippy::cast_precision_loss,
            reason = "a number of principals in memory is far from 2^52"
        )]
        self.gauge("countersign.key_cache.entries", "", "Principals in memory.", move |observer| {
            observer.observe(entries().entries as f64, &[]);
        });
    }

    /// Registers the metrics of the trusted key sets.
    pub fn observe_key_sets(&self, read: impl Fn() -> KeySetUse + Send + Sync + 'static) {
        let read = Arc::new(read);
        let age = Arc::clone(&read);
        let (fetched, failed) =
            ([KeyValue::new("outcome", "fetched")], [KeyValue::new("outcome", "failed")]);
        self.counter(
            "countersign.jwks.fetches",
            "Fetches of trusted key sets, by outcome.",
            move |observer| {
                let now = read();
                observer.observe(now.fetched, &fetched);
                observer.observe(now.failed, &failed);
            },
        );
        self.gauge(
            "countersign.jwks.age",
            "s",
            "Age of the oldest trusted key set in memory.",
            move |observer| {
                if let Some(age) = age().oldest_age {
                    observer.observe(age.as_secs_f64(), &[]);
                }
            },
        );
    }

    /// Registers whether each store was last reachable, by its name.
    pub fn observe_stores<const N: usize>(
        &self,
        read: impl Fn() -> [(&'static str, bool); N] + Send + Sync + 'static,
    ) {
        self.gauge(
            "countersign.store.up",
            "",
            "Whether a store was in reach when it was last looked at.",
            move |observer| {
                for (store, is_up) in read() {
                    observer.observe(f64::from(u8::from(is_up)), &[KeyValue::new("store", store)]);
                }
            },
        );
    }

    /// Registers the counter of lost log lines.
    pub fn observe_lost_lines(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.counter(
            "countersign.log.lines_dropped",
            "Lines of the log that were dropped, because nobody took them.",
            move |observer| {
                observer.observe(read(), &[]);
            },
        );
    }

    /// Registers the failures of the nonce store: the name and number of each kind.
    pub fn observe_nonce_failures(
        &self,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.counter(
            "countersign.nonce.failures",
            "Claims and checks that the nonce store did not answer, by kind.",
            move |observer| {
                for (kind, count) in read() {
                    observer.observe(count, &[KeyValue::new("kind", kind)]);
                }
            },
        );
    }

    /// Registers the clock skew to Redis: milliseconds by which this process is ahead.
    pub fn observe_redis_clock_skew(&self, read: impl Fn() -> i64 + Send + Sync + 'static) {
        #[allow(clippy::cast_precision_loss, reason = "some milliseconds")]
        self.gauge(
            "countersign.redis.clock_skew",
            "s",
            "How far the clock is ahead of that of Redis.",
            move |observer| {
                observer.observe(read() as f64 / 1000.0, &[]);
            },
        );
    }

    /// A counter whose value is read on collection, so that counting has no cost besides the
    /// source's own.
    pub(super) fn counter(
        &self,
        name: &'static str,
        description: &'static str,
        read: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        self.meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(read)
            .build();
    }

    pub(super) fn gauge(
        &self,
        name: &'static str,
        unit: &'static str,
        description: &'static str,
        read: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        self.meter
            .f64_observable_gauge(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(read)
            .build();
    }

    /// A histogram of durations for each set of labels.
    pub(super) fn durations<const N: usize>(
        &self,
        name: &'static str,
        description: &'static str,
        labels: [&[KeyValue]; N],
    ) -> [BoundHistogram<f64>; N] {
        self.histogram(name, description, &DURATIONS, labels)
    }

    /// A histogram in seconds for each set of labels.
    pub(super) fn histogram<const N: usize>(
        &self,
        name: &'static str,
        description: &'static str,
        bounds: &[f64],
        labels: [&[KeyValue]; N],
    ) -> [BoundHistogram<f64>; N] {
        let builder = self.meter.f64_histogram(name).with_unit("s").with_description(description);
        let histogram = builder.with_boundaries(bounds.to_vec()).build();
        labels.map(|labels| histogram.bind(labels))
    }

    pub(super) const fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
