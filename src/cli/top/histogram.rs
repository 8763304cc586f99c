//! Quantiles of a histogram, estimated as Prometheus does: by linear interpolation within a bucket.

use serde::{Serialize, Serializer};

/// Upper bounds, each with the cumulative number of observations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram(Vec<(f64, f64)>);

/// An estimate, or the limit of the scale if the quantile lies beyond it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    Near(f64),
    AtMost(f64),
    Above(f64),
}

/// The figures shown for a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) count: f64,
    pub(super) p50: Option<Quantile>,
    pub(super) p90: Option<Quantile>,
    pub(super) p99: Option<Quantile>,
}

impl Histogram {
    /// Takes the buckets in any order, and adds up those with the same bound. Replicas of different
    /// versions may have different bounds; then a sum may be smaller than that of a lower bound,
    /// which is corrected here.
    pub(super) fn of(buckets: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut all: Vec<(f64, f64)> = buckets
            .into_iter()
            .filter(|(bound, count)| !bound.is_nan() && count.is_finite())
            .collect();
        all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let mut merged: Vec<(f64, f64)> = Vec::with_capacity(all.len());
        for (bound, count) in all {
            match merged.last_mut() {
                Some((last, sum)) if last.total_cmp(&bound).is_eq() => *sum += count,
                _ => merged.push((bound, count)),
            }
        }
        let mut most = 0.0_f64;
        for (_, count) in &mut merged {
            most = most.max(*count);
            *count = most;
        }
        Self(merged)
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let count = self.0.last().map_or(0.0, |(_, count)| *count);
        Quantiles {
            count,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
        }
    }

    /// `None` if nothing was observed.
    pub(super) fn quantile(&self, q: f64) -> Option<Quantile> {
        let total = self.0.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        let rank = q * total;
        let index = self.0.iter().position(|(_, count)| *count > 0.0 && *count >= rank)?;
        let (upper, count) = *self.0.get(index)?;
        let below = index.checked_sub(1).and_then(|below| self.0.get(below)).copied();
        Some(match below {
            _ if upper.is_infinite() => below
                .map_or(Quantile::Above(f64::NEG_INFINITY), |(bound, _)| Quantile::Above(bound)),
            // How far the lowest bucket extends below its bound is unknown, unless its values
            // cannot be negative.
            None if upper <= 0.0 => Quantile::AtMost(upper),
            None => Quantile::Near(upper * rank / count),
            Some((lower, before)) => Quantile::Near(
                lower + (upper - lower) * ((rank - before) / (count - before)).clamp(0.0, 1.0),
            ),
        })
    }
}

impl Quantile {
    /// The estimate, or the limit of the scale.
    pub(super) fn value(self) -> f64 {
        match self {
            Self::Near(value) | Self::AtMost(value) | Self::Above(value) => value,
        }
    }
}

impl Serialize for Quantile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.value())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quantile_lies_on_the_line_through_its_bucket() {
        let histogram =
            Histogram::of([(0.1, 50.0), (0.2, 90.0), (0.4, 100.0), (f64::INFINITY, 100.0)]);
        assert_eq!(histogram.quantile(0.5), Some(Quantile::Near(0.1)));
        assert_eq!(histogram.quantile(0.25), Some(Quantile::Near(0.05)));
        assert_eq!(histogram.quantile(0.7).map(|q| (q.value() * 1e6).round()), Some(150_000.0));
        assert_eq!(histogram.quantiles().p50, histogram.quantile(0.5));
    }

    #[test]
    fn beyond_the_bounds_the_nearest_one_is_told() {
        let beyond = Histogram::of([(0.1, 0.0), (1.0, 1.0), (f64::INFINITY, 10.0)]);
        assert_eq!(beyond.quantile(0.99), Some(Quantile::Above(1.0)));
        let skew = Histogram::of([(-5.0, 6.0), (0.0, 9.0), (5.0, 10.0), (f64::INFINITY, 10.0)]);
        assert_eq!(skew.quantile(0.5), Some(Quantile::AtMost(-5.0)));
        assert!(
            matches!(skew.quantile(0.8), Some(Quantile::Near(value)) if (-5.0..0.0).contains(&value))
        );
    }

    #[test]
    fn without_observations_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
        assert_eq!(Histogram::of([(1.0, 0.0), (f64::INFINITY, 0.0)]).quantile(0.5), None);
    }

    fn buckets() -> impl Strategy<Value = Vec<(f64, f64)>> {
        prop::collection::vec((-20_i16..20, 0_u16..50), 1..12).prop_map(|pairs| {
            pairs
                .into_iter()
                .map(|(bound, count)| (f64::from(bound) / 4.0, f64::from(count)))
                .collect()
        })
    }

    proptest! {
        /// Holds for any values, in any order.
        #[test]
        fn quantiles_never_fall_and_stay_within_the_bounds(pairs in buckets(), a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
            let histogram = Histogram::of(pairs.iter().copied());
            let (low, high) = (histogram.quantile(a.min(b)), histogram.quantile(a.max(b)));
            prop_assert_eq!(low.is_some(), high.is_some());
            if let (Some(low), Some(high)) = (low, high) {
                prop_assert!(low.value() <= high.value() + 1e-9, "{:?} {:?}", low, high);
                let largest = pairs.iter().map(|(bound, _)| *bound).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!(high.value() <= largest);
            }
        }

        /// The estimate lies in the bucket that contains the observation of that rank.
        #[test]
        fn a_quantile_is_as_near_as_its_bucket(observed in prop::collection::vec(0.0..10.0_f64, 1..60), q in 0.01..1.0_f64) {
            let bounds = [0.5, 1.0, 2.0, 5.0, 10.0];
            let at_most = |bound: f64| observed.iter().filter(|value| **value <= bound).count();
            let histogram = Histogram::of(bounds.map(|bound| (bound, f64::from(u32::try_from(at_most(bound)).unwrap()))));
            let mut sorted = observed.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = (q * f64::from(u32::try_from(sorted.len()).unwrap())).ceil();
            let exact = sorted.iter().zip(1_u32..).find(|(_, index)| f64::from(*index) >= rank).map(|(value, _)| *value).unwrap();
            let upper = bounds.into_iter().find(|bound| exact <= *bound).unwrap();
            let lower = bounds.into_iter().rev().find(|bound| *bound < upper).unwrap_or(0.0);
            let estimate = histogram.quantile(q).unwrap().value();
            prop_assert!((lower - 1e-9..=upper + 1e-9).contains(&estimate), "{estimate} for {exact} in {lower}..{upper}");
        }
    }
}
