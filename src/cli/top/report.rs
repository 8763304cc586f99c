//! One snapshot as text lines, or as JSON for scripts.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{
    figures::{Figures, Matrix, Spread},
    replica::State,
    screen::Snapshot,
    units,
};

#[derive(Serialize)]
struct Report<'a> {
    interval_seconds: f64,
    replicas: Vec<ReplicaReport<'a>>,
    all: Figures,
}

#[derive(Serialize)]
struct ReplicaReport<'a> {
    url: &'a str,
    state: &'static str,
    /// The dependencies that it cannot reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<&'a [String]>,
    /// Why it could not be scraped.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    figures: Figures,
}

/// The snapshot as JSON, for scripts.
pub(super) fn json(snapshot: &Snapshot, interval: Duration) -> serde_json::Result<String> {
    let replicas = snapshot.replicas.iter().map(|replica| ReplicaReport {
        url: &replica.url,
        state: replica.state.name(),
        unavailable: match &replica.state {
            State::NotReady(dependencies) => Some(dependencies),
            State::Unknown | State::Up | State::Unreachable(_) => None,
        },
        error: match &replica.state {
            State::Unreachable(why) => Some(why),
            State::Unknown | State::Up | State::NotReady(_) => None,
        },
        figures: snapshot.figures_of(replica),
    });
    let report = Report {
        interval_seconds: interval.as_secs_f64(),
        replicas: replicas.collect(),
        all: snapshot.figures(),
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

/// The snapshot for people: one line per figure, its name and its value.
pub(super) fn lines(snapshot: &Snapshot, interval: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<20} {}", if value.is_empty() { units::NONE } else { value });
    };
    for replica in &snapshot.replicas {
        line("replica", &format!("{} {}", replica.url, replica.state));
    }
    let figures = snapshot.figures();
    line("interval", &format!("{:.1} s", interval.as_secs_f64()));
    for (door, outcomes) in &figures.decisions_per_second {
        line(&format!("{door} decisions"), &rates(outcomes));
    }
    for (name, spread) in figures.spreads() {
        let Spread { counted, .. } = spread;
        let value = [("p50", counted.p50), ("p90", counted.p90), ("p99", counted.p99)]
            .map(|(name, value)| format!("{name} {}", units::quantile(value)))
            .join(", ");
        line(name, &format!("{value} of {}", units::number(counted.count)));
    }
    for denial in &figures.denials {
        line("denied", &format!("{} {}/s", denial.reason, units::number(denial.per_second)));
    }
    for (name, value) in figures.rows() {
        line(name, &value);
    }
    text
}

impl Figures {
    /// The figures with quantiles, by the names that the panels and the lines use.
    pub(super) fn spreads(&self) -> [(&'static str, &Spread); 3] {
        [
            ("decision", &self.decision_seconds),
            ("nonce claim", &self.nonce_claim_seconds),
            ("clock skew", &self.clock_skew_seconds),
        ]
    }

    /// The figures that fit in a few words each, by name.
    pub(super) fn rows(&self) -> [(&'static str, String); 8] {
        let number =
            |value: Option<f64>| value.map_or_else(|| units::NONE.to_owned(), units::number);
        let of = |value: Option<f64>, unit: fn(f64) -> String| {
            value.map_or_else(|| units::NONE.to_owned(), unit)
        };
        let stores = self
            .stores_up
            .iter()
            .map(|(store, is_up)| format!("{store} {}", if *is_up { "up" } else { "DOWN" }));
        [
            ("stores", stores.collect::<Vec<_>>().join(", ")),
            ("claims", rates(&self.nonce_claims_per_second)),
            (
                "key cache",
                format!(
                    "{} hits, {} entries",
                    of(self.key_cache_hit_share, units::share),
                    number(self.key_cache_entries)
                ),
            ),
            ("key sets", key_sets(self)),
            ("grants", grants(&self.token_grants_per_second, &self.token_grants_counted)),
            ("methods", rates(&self.methods_per_second)),
            (
                "process",
                format!(
                    "CPU {}, {}, {} of {} fds, {} threads",
                    of(self.cpu_cores, units::share),
                    of(self.resident_memory_bytes, units::bytes),
                    number(self.open_fds),
                    number(self.max_fds),
                    number(self.threads)
                ),
            ),
            ("version", version(self)),
        ]
    }
}

fn key_sets(figures: &Figures) -> String {
    let age = figures
        .jwks_age_seconds
        .map_or_else(|| units::NONE.to_owned(), |age| format!("oldest {}", units::duration(age)));
    let fetches = figures
        .jwks_fetches_counted
        .iter()
        .map(|(outcome, count)| format!(", {} {outcome}", units::number(*count)));
    age + &fetches.collect::<String>()
}

fn version(figures: &Figures) -> String {
    let versions = figures.versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let versions = if versions.is_empty() { units::NONE.to_owned() } else { versions };
    figures.uptime_seconds.map_or_else(
        || versions.clone(),
        |uptime| format!("{versions}, up {}", units::duration(uptime)),
    )
}

/// `allowed 12/s, denied 0.5/s`
fn rates(outcomes: &std::collections::BTreeMap<String, f64>) -> String {
    let rates = outcomes.iter().filter(|(outcome, rate)| **rate > 0.0 && !outcome.is_empty());
    rates
        .map(|(outcome, rate)| format!("{outcome} {}/s", units::number(*rate)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Tokens issued per second, and failures since the view began.
fn grants(now: &Matrix, counted: &Matrix) -> String {
    let granted =
        now.iter().filter_map(|(grant, outcomes)| Some((grant, *outcomes.get("granted")?)));
    let granted = granted
        .filter(|(_, rate)| *rate > 0.0)
        .map(|(grant, rate)| format!("{grant} {}/s", units::number(rate)));
    let mut parts: Vec<String> = granted.collect();
    for outcome in ["refused", "unavailable"] {
        let count: f64 = counted.values().filter_map(|outcomes| outcomes.get(outcome)).sum();
        if count > 0.0 {
            parts.push(format!("{} {outcome}", units::number(count)));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests;
