//! The state of one replica, from one scrape to the next. Reads no clock.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use super::{exposition::Sample, table::Table};

/// Maximum number of scrapes that a sparkline shows.
const HISTORY: usize = 512;
/// How much the start time of one process, in seconds, may seem to move between two scrapes: it is
/// derived from the clock.
const SAME_START: f64 = 2.0;

/// Whether a replica can be reached, and whether it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Not scraped yet.
    #[default]
    Unknown,
    /// Ready.
    Up,
    /// It answers, but cannot reach these dependencies.
    NotReady(Vec<String>),
    /// It does not answer; with the reason.
    Unreachable(String),
}

/// The metrics of one replica at one time.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) counters: Table,
    pub(super) gauges: Table,
}

/// The result of one scrape of a replica.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) state: State,
    pub(super) reading: Option<Reading>,
}

/// One replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub(super) url: String,
    pub(super) state: State,
    /// The metrics of the last scrape; `None` if they could not be read.
    pub(super) reading: Option<Reading>,
    /// Growth of the counters per second between the last two scrapes. `None` if there is nothing
    /// to compare.
    pub(super) rates: Option<Table>,
    /// Growth of the counters since the view began or was reset.
    pub(super) since: Table,
    /// Decisions per second for each scrape, the newest last.
    pub(super) history: VecDeque<f64>,
    /// Number of restarts seen.
    pub(super) restarts: u32,
}

impl State {
    /// The name in JSON output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::NotReady(_) => "not_ready",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not asked yet"),
            Self::Up => f.write_str("up"),
            Self::NotReady(dependencies) => write!(f, "not ready: {}", dependencies.join(", ")),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
        }
    }
}

impl Reading {
    /// Recognises counters by their names, as Prometheus recommends.
    pub(super) fn of(samples: &[Sample], at: Instant) -> Self {
        let (counters, gauges): (Vec<&Sample>, Vec<&Sample>) = samples.iter().partition(|sample| {
            // The `_sum` of a histogram may shrink if its observations can be negative, and it is
            // not needed here.
            ["_total", "_bucket", "_count"].iter().any(|ending| sample.name.ends_with(ending))
        });
        Self { at, counters: Table::of(counters), gauges: Table::of(gauges) }
    }

    /// Start time of the process, in seconds since 1970.
    pub(super) fn started(&self) -> Option<f64> {
        self.gauges.largest("process_start_time_seconds")
    }

    /// Growth of the counters since `earlier`; `None` if the process has restarted.
    fn growth(&self, earlier: &Self) -> Option<Table> {
        let is_same = match (self.started(), earlier.started()) {
            (Some(now), Some(then)) => (now - then).abs() < SAME_START,
            (None, _) | (_, None) => true,
        };
        is_same.then(|| self.counters.since(&earlier.counters)).flatten()
    }
}

impl Replica {
    pub(super) fn at(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Updates the state with the result of one scrape.
    pub(super) fn take(&mut self, look: Look) {
        self.state = look.state;
        let before = self.reading.take();
        self.rates = None;
        if let (Some(now), Some(then)) = (&look.reading, &before) {
            let apart = now.at.saturating_duration_since(then.at);
            match now.growth(then) {
                Some(growth) if apart > Duration::ZERO => {
                    self.since.add(&growth);
                    self.rates = Some(growth.per_second(apart.as_secs_f64()));
                }
                Some(_) => {}
                None => self.restarts += 1,
            }
        }
        self.reading = look.reading;
        let decided =
            self.rates.as_ref().and_then(|rates| rates.sum("countersign_decisions_total", &[]));
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(decided.unwrap_or_default());
    }

    /// Forgets all but the last scrape.
    pub(super) fn reset(&mut self) {
        self.since = Table::default();
        self.history.clear();
        self.restarts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::exposition::parse;

    fn look(start: Instant, seconds: u64, text: &str) -> Look {
        let at = start + Duration::from_secs(seconds);
        Look { state: State::Up, reading: Some(Reading::of(&parse(text).unwrap(), at)) }
    }

    fn decisions(count: u32, started: u32) -> String {
        format!(
            "countersign_decisions_total{{door=\"http\"}} {count}\nprocess_start_time_seconds {started}\n"
        )
    }

    fn rate(replica: &Replica) -> Option<f64> {
        replica.rates.as_ref()?.sum("countersign_decisions_total", &[])
    }

    #[test]
    fn rates_are_growth_over_the_time_between_two_looks() {
        let (mut replica, start) = (Replica::at("one"), Instant::now());
        replica.take(look(start, 0, &decisions(1_000, 1)));
        assert_eq!(rate(&replica), None, "one look compares to nothing");
        replica.take(look(start, 2, &decisions(1_010, 1)));
        assert_eq!(rate(&replica), Some(5.0));
        replica.take(look(start, 3, &decisions(1_011, 1)));
        assert_eq!(rate(&replica), Some(1.0));
        assert_eq!(replica.since.sum("countersign_decisions_total", &[]), Some(11.0));
        assert_eq!(replica.history, [0.0, 5.0, 1.0]);
    }

    #[test]
    fn a_restart_is_neither_a_fall_nor_a_leap() {
        let (mut replica, start) = (Replica::at("one"), Instant::now());
        replica.take(look(start, 0, &decisions(1_000, 1)));
        replica.take(look(start, 1, &decisions(3, 500)));
        assert_eq!((rate(&replica), replica.restarts), (None, 1), "fewer than before");
        replica.take(look(start, 2, &decisions(9_000, 900)));
        assert_eq!(
            (rate(&replica), replica.restarts),
            (None, 2),
            "more than before, by another process"
        );
        replica.take(look(start, 3, &decisions(9_004, 901)));
        assert_eq!((rate(&replica), replica.restarts), (Some(4.0), 2));
        assert_eq!(replica.since.sum("countersign_decisions_total", &[]), Some(4.0));
    }

    #[test]
    fn after_an_outage_counting_begins_anew() {
        let (mut replica, start) = (Replica::at("one"), Instant::now());
        replica.take(look(start, 0, &decisions(10, 1)));
        replica.take(Look { state: State::Unreachable("refused".to_owned()), reading: None });
        replica.take(look(start, 60, &decisions(20, 1)));
        assert_eq!(rate(&replica), None);
        assert_eq!(replica.restarts, 0);
    }

    #[test]
    fn history_is_bounded() {
        let (mut replica, start) = (Replica::at("one"), Instant::now());
        for second in 0..600 {
            replica.take(look(start, second, &decisions(1, 1)));
        }
        assert_eq!(replica.history.len(), HISTORY);
    }

    /// The sum of clock skews falls if tokens with clocks ahead are followed by tokens with clocks
    /// behind.
    #[test]
    fn a_sum_that_falls_is_no_restart() {
        let (mut replica, start) = (Replica::at("one"), Instant::now());
        replica.take(look(
            start,
            0,
            "countersign_clock_skew_seconds_sum 5\ncountersign_clock_skew_seconds_count 2\n",
        ));
        replica.take(look(
            start,
            1,
            "countersign_clock_skew_seconds_sum -5\ncountersign_clock_skew_seconds_count 3\n",
        ));
        assert_eq!(replica.restarts, 0);
        assert!(replica.rates.is_some());
    }
}
