//! Numbers by series, and queries on them. Counters, their growth, and rates all use this table.

use std::collections::BTreeMap;

use super::{exposition::Sample, histogram::Histogram};

/// The number of each series, and the queries that panels need. A missing metric is not an error:
/// older and newer versions have different ones, and some appear with their first event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table(BTreeMap<Series, f64>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    /// Sorted.
    labels: Vec<(String, String)>,
}

/// Labels and the values that they must have.
pub(super) type Filter<'a> = &'a [(&'a str, &'a str)];

impl Table {
    /// No series.
    pub(super) const EMPTY: Self = Self(BTreeMap::new());

    /// A table of `samples`. Labels and their values are printed on terminals, so control
    /// characters are removed here.
    pub(super) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut table = Self::default();
        for Sample { name, labels, value } in samples {
            let mut labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| (name.clone(), super::printable(value)))
                .collect();
            labels.sort();
            *table.0.entry(Series { name: name.clone(), labels }).or_default() += value;
        }
        table
    }

    /// Growth of these counters since `earlier`. `None` if one shrank: then the process has
    /// restarted, and what these have counted since is unknown.
    pub(super) fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.0.keys().any(|series| !self.0.contains_key(series)) {
            return None;
        }
        let grown = |(series, now): (&Series, &f64)| {
            let growth = now - earlier.0.get(series).copied().unwrap_or_default();
            (growth >= 0.0).then(|| (series.clone(), growth))
        };
        self.0.iter().map(grown).collect::<Option<_>>().map(Self)
    }

    /// Adds `other`, series by series.
    pub(super) fn add(&mut self, other: &Self) {
        for (series, value) in &other.0 {
            match self.0.get_mut(series) {
                Some(sum) => *sum += value,
                None => drop(self.0.insert(series.clone(), *value)),
            }
        }
    }

    /// Rates per second, if the numbers are the growth over `seconds`.
    pub(super) fn per_second(&self, seconds: f64) -> Self {
        Self(self.0.iter().map(|(series, value)| (series.clone(), value / seconds)).collect())
    }

    /// The sum over the series of `name` that match `filter`. `None` if there are none.
    pub(super) fn sum(&self, name: &str, filter: Filter<'_>) -> Option<f64> {
        self.series(name, filter).map(|(_, value)| value).reduce(|a, b| a + b)
    }

    /// The largest value of the series of `name`. `None` if there are none.
    pub(super) fn largest(&self, name: &str) -> Option<f64> {
        self.series(name, &[]).map(|(_, value)| value).max_by(f64::total_cmp)
    }

    /// The sums over the series of `name`, by the value of `label`.
    pub(super) fn by(&self, name: &str, filter: Filter<'_>, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (series, value) in self.series(name, filter) {
            *sums.entry(series.value_of(label).to_owned()).or_default() += value;
        }
        sums
    }

    /// The histogram `name`, all matching series added up.
    pub(super) fn histogram(&self, name: &str, filter: Filter<'_>) -> Histogram {
        let name = format!("{name}_bucket");
        Histogram::of(
            self.series(&name, filter)
                .filter_map(|(series, count)| Some((series.value_of("le").parse().ok()?, count))),
        )
    }

    fn series(&self, name: &str, filter: Filter<'_>) -> impl Iterator<Item = (&Series, f64)> {
        let first = Series { name: name.to_owned(), labels: Vec::new() };
        let of_name = self.0.range(first..).take_while(move |(series, _)| series.name == name);
        of_name
            .filter(move |(series, _)| {
                filter.iter().all(|(label, wanted)| series.value_of(label) == *wanted)
            })
            .map(|(series, value)| (series, *value))
    }
}

impl Series {
    /// A missing label is empty.
    fn value_of(&self, label: &str) -> &str {
        self.labels.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::top::exposition::parse;

    fn table(text: &str) -> Table {
        Table::of(&parse(text).unwrap())
    }

    #[test]
    fn sums_go_by_label_and_filter() {
        let table = table(
            "n{a=\"x\",b=\"1\"} 1\nn{b=\"2\",a=\"x\"} 2\nn{a=\"y\",b=\"1\"} 4\nna{a=\"x\"} 8\n",
        );
        assert_eq!(table.sum("n", &[]), Some(7.0));
        assert_eq!(table.sum("n", &[("a", "x")]), Some(3.0));
        assert_eq!(table.sum("n", &[("c", "")]), Some(7.0), "a label that is missing is empty");
        assert_eq!(table.sum("m", &[]), None);
        assert_eq!(
            table.by("n", &[("b", "1")], "a"),
            BTreeMap::from([("x".to_owned(), 1.0), ("y".to_owned(), 4.0)])
        );
        assert_eq!(table.largest("n"), Some(4.0));
    }

    #[test]
    fn a_series_that_appears_has_grown_from_nothing() {
        let grown =
            table("n{a=\"x\"} 5\nn{a=\"new\"} 2\n").since(&table("n{a=\"x\"} 3\n")).unwrap();
        assert_eq!(
            grown.by("n", &[], "a"),
            BTreeMap::from([("new".to_owned(), 2.0), ("x".to_owned(), 2.0)])
        );
    }

    #[test]
    fn counters_that_shrink_or_vanish_began_anew() {
        assert_eq!(table("n 2\nm 9\n").since(&table("n 3\nm 1\n")), None);
        assert_eq!(table("m 9\n").since(&table("n 3\nm 1\n")), None);
    }

    #[test]
    fn nothing_of_a_label_steers_a_terminal() {
        assert_eq!(
            table("n{a=\"\u{1b}[2J\\n\"} 1\n").by("n", &[], "a").into_keys().next().unwrap(),
            "\u{fffd}[2J\u{fffd}"
        );
    }

    prop_compose! {
        fn counters()(values in prop::collection::btree_map("[a-c]{1,2}", 0_u32..1000, 0..6)) -> Table {
            Table(values.into_iter().map(|(name, value)| (Series { name, labels: vec![] }, value.into())).collect())
        }
    }

    proptest! {
        #[test]
        fn what_was_before_and_what_was_added_is_what_is_there(before in counters(), added in counters()) {
            let mut after = before.clone();
            after.add(&added);
            let mut sum = before.clone();
            sum.add(&after.since(&before).unwrap());
            prop_assert_eq!(sum, after);
        }

        #[test]
        fn no_growth_is_negative(before in counters(), after in counters()) {
            if let Some(growth) = after.since(&before) {
                prop_assert!(growth.0.values().all(|value| *value >= 0.0));
            }
        }
    }
}
