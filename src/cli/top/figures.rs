//! The figures shown for one replica, or for several together.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    histogram::Quantiles,
    replica::Replica,
    table::{Filter, Table},
};

/// Numbers by door and outcome, or by grant and outcome.
pub(super) type Matrix = BTreeMap<String, BTreeMap<String, f64>>;

/// The doors, in the order of their rows. Doors that a newer version adds come after them.
const DOORS: [&str; 3] = ["http", "grpc", "token_api"];
const DENIED: Filter<'_> = &[("outcome", "denied")];

/// Everything that the panels show; the names are stable for scripts. Rates are of the last
/// interval; `counted` is since the view began or was reset.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) decisions_per_second: Matrix,
    pub(super) decisions_counted: Matrix,
    /// Since the processes started.
    pub(super) decisions_total: Matrix,
    pub(super) denials_total: BTreeMap<String, f64>,
    pub(super) methods_per_second: BTreeMap<String, f64>,
    pub(super) denials: Vec<DenialReason>,
    pub(super) decision_seconds: Spread,
    pub(super) nonce_claim_seconds: Spread,
    pub(super) nonce_claims_per_second: BTreeMap<String, f64>,
    pub(super) clock_skew_seconds: Spread,
    pub(super) key_cache_hit_share: Option<f64>,
    pub(super) key_cache_entries: Option<f64>,
    pub(super) jwks_age_seconds: Option<f64>,
    pub(super) jwks_fetches_counted: BTreeMap<String, f64>,
    /// `false` if any replica reports the store as down.
    pub(super) stores_up: BTreeMap<String, bool>,
    pub(super) token_grants_per_second: Matrix,
    pub(super) token_grants_counted: Matrix,
    /// 1 means one core.
    pub(super) cpu_cores: Option<f64>,
    pub(super) resident_memory_bytes: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    pub(super) threads: Option<f64>,
    /// Of the replica that started last.
    pub(super) uptime_seconds: Option<f64>,
    pub(super) versions: BTreeSet<String>,
    /// Restarts seen since the view began or was reset.
    pub(super) restarts: u32,
}

/// A reason of denials, by the exact name that the log uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct DenialReason {
    pub(super) reason: String,
    pub(super) per_second: f64,
    pub(super) counted: f64,
}

/// Quantiles of the last interval, and of the time since the view began or was reset.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Spread {
    pub(super) now: Quantiles,
    pub(super) counted: Quantiles,
}

impl Figures {
    /// The figures of all `replicas` together, at `now` in seconds since 1970.
    pub(super) fn of<'a>(replicas: impl IntoIterator<Item = &'a Replica>, now: f64) -> Self {
        let [mut rates, mut counted, mut total, mut gauges] = [const { Table::EMPTY }; 4];
        let mut latest_start = None;
        let mut fewest_max_fds: Option<f64> = None;
        let mut stores_up = BTreeMap::new();
        let mut jwks_age: Option<f64> = None;
        let mut restarts = 0;
        for replica in replicas {
            restarts += replica.restarts;
            counted.add(&replica.since);
            if let Some(of_replica) = &replica.rates {
                rates.add(of_replica);
            }
            let Some(reading) = &replica.reading else { continue };
            gauges.add(&reading.gauges);
            total.add(&reading.counters);
            latest_start = larger(latest_start, reading.started());
            jwks_age = larger(jwks_age, reading.gauges.largest("countersign_jwks_age_seconds"));
            if let Some(limit) = reading.gauges.largest("process_max_fds") {
                fewest_max_fds = Some(fewest_max_fds.map_or(limit, |fewest| fewest.min(limit)));
            }
            for (store, up) in reading.gauges.by("countersign_store_up", &[], "store") {
                let is_up = stores_up.entry(store).or_insert(true);
                *is_up &= up >= 1.0;
            }
        }
        let gauge = |name| gauges.sum(name, &[]);
        let spread = |name| Spread {
            now: rates.histogram(name, &[]).quantiles(),
            counted: counted.histogram(name, &[]).quantiles(),
        };
        Self {
            decisions_per_second: matrix(&rates, "countersign_decisions_total", "door"),
            decisions_counted: matrix(&counted, "countersign_decisions_total", "door"),
            decisions_total: matrix(&total, "countersign_decisions_total", "door"),
            denials_total: total
                .by("countersign_decisions_total", DENIED, "reason")
                .into_iter()
                .filter(|(_, n)| *n > 0.0)
                .collect(),
            methods_per_second: rates.by("countersign_decisions_total", &[], "method"),
            denials: denials(&rates, &counted),
            decision_seconds: spread("countersign_decision_duration_seconds"),
            nonce_claim_seconds: spread("countersign_nonce_claim_duration_seconds"),
            nonce_claims_per_second: rates.by(
                "countersign_nonce_claim_duration_seconds_count",
                &[],
                "outcome",
            ),
            clock_skew_seconds: spread("countersign_clock_skew_seconds"),
            key_cache_hit_share: hit_share(&rates).or_else(|| hit_share(&counted)),
            key_cache_entries: gauge("countersign_key_cache_entries"),
            jwks_age_seconds: jwks_age,
            jwks_fetches_counted: counted.by("countersign_jwks_fetches_total", &[], "outcome"),
            stores_up,
            token_grants_per_second: matrix(&rates, "countersign_token_grants_total", "grant"),
            token_grants_counted: matrix(&counted, "countersign_token_grants_total", "grant"),
            cpu_cores: rates.sum("process_cpu_seconds_total", &[]),
            resident_memory_bytes: gauge("process_resident_memory_bytes"),
            open_fds: gauge("process_open_fds"),
            max_fds: fewest_max_fds,
            threads: gauge("process_threads"),
            uptime_seconds: latest_start.map(|start| (now - start).max(0.0)),
            versions: gauges
                .by("countersign_build_info", &[], "version")
                .into_keys()
                .filter(|version| !version.is_empty())
                .collect(),
            restarts,
        }
    }

    /// Decisions per second with this outcome, at one door or at all of them.
    pub(super) fn decided(&self, door: Option<&str>, outcome: &str) -> f64 {
        let doors = self
            .decisions_per_second
            .iter()
            .filter(|(name, _)| door.is_none_or(|door| door == *name));
        doors.filter_map(|(_, outcomes)| outcomes.get(outcome)).sum()
    }

    /// The doors to show.
    pub(super) fn doors(&self) -> Vec<&str> {
        let others = self
            .decisions_counted
            .keys()
            .chain(self.decisions_per_second.keys())
            .map(String::as_str);
        let others: BTreeSet<&str> = others.filter(|door| !DOORS.contains(door)).collect();
        DOORS.into_iter().chain(others).collect()
    }
}

/// The values of the counter `name`, by `label` and outcome.
fn matrix(table: &Table, name: &str, label: &str) -> Matrix {
    let rows = table.by(name, &[], label).into_keys();
    rows.map(|row| (row.clone(), table.by(name, &[(label, &row)], "outcome"))).collect()
}

/// Sorted by frequency, the most frequent first.
fn denials(rates: &Table, counted: &Table) -> Vec<DenialReason> {
    let now = rates.by("countersign_decisions_total", DENIED, "reason");
    let reasons = counted.by("countersign_decisions_total", DENIED, "reason").into_iter();
    let mut denials: Vec<DenialReason> = reasons
        .filter(|(reason, counted)| *counted > 0.0 && !reason.is_empty())
        .map(|(reason, counted)| DenialReason {
            per_second: now.get(&reason).copied().unwrap_or_default(),
            reason,
            counted,
        })
        .collect();
    denials.sort_by(|a, b| b.counted.total_cmp(&a.counted).then_with(|| a.reason.cmp(&b.reason)));
    denials
}

/// `None` if nothing was looked up.
fn hit_share(table: &Table) -> Option<f64> {
    let sum = |name| table.sum(name, &[]).unwrap_or_default();
    let (hits, misses) =
        (sum("countersign_key_cache_hits_total"), sum("countersign_key_cache_misses_total"));
    (hits + misses > 0.0).then(|| hits / (hits + misses))
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests;
