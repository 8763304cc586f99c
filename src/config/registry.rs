//! How principals, keys and trusts from the database are cached, and how changes to them arrive.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Contradiction, values};

/// `registry.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrySettings {
    /// How often each replica polls the database for changes. With Redis, replicas are also
    /// notified of changes. From `10ms` to `1m`. Default `500ms`.
    #[serde(with = "values::duration")]
    pub poll_interval: Duration,
    /// How long cached principals are used for decisions while the database is unreachable; changes
    /// do not arrive during that time. Measured by a monotonic clock. At least twice
    /// `registry.poll_interval`, up to `12h`. Default `5m`.
    #[serde(with = "values::duration")]
    pub max_stale: Duration,
    /// Maximum number of principals in the cache, at least 1. A decision about any other principal
    /// takes a query. Default 100,000.
    pub cache_entries: u64,
}

/// A revoked key must not stay valid for longer than this.
pub const MAX_STALE_LONGEST: Duration = Duration::from_hours(12);

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(500),
            max_stale: Duration::from_mins(5),
            cache_entries: 100_000,
        }
    }
}

impl RegistrySettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add =
            |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        if !(Duration::from_millis(10)..=Duration::from_mins(1)).contains(&self.poll_interval) {
            add("registry.poll_interval", "accepted is a duration from 10ms to 1m");
        }
        if self.max_stale > MAX_STALE_LONGEST {
            add("registry.max_stale", "accepted is a duration up to 12h");
        }
        if self.max_stale < self.poll_interval * 2 {
            add(
                "registry.max_stale",
                "it has to be at least twice `registry.poll_interval`, or every late poll would stop decisions",
            );
        }
        if self.cache_entries == 0 {
            add("registry.cache_entries", "it has to be at least 1");
        }
        found
    }
}
