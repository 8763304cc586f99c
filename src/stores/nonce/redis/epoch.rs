//! The epoch of a partition: a record beside its nonces that tells whether all of them are still
//! there.
//!
//! Every claim reads it in the same round trip. It is missing after Redis lost everything, and
//! names another server after a failover or a restart. It is then replaced by an epoch that says
//! since when the store remembers; the [`Fence`] is built from that. It also holds the largest
//! tolerance in use, which determines how long all replicas remember nonces.

use std::{fmt::Write as _, time::Duration};

use crate::domain::{
    fence::{Fence, RaisedTolerance},
    time::{Tolerance, UnixMillis},
};

/// Version of the record's format.
const VERSION: &str = "1";

/// The content of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) fence: Fence,
    /// The `run_id` of the server that holds the nonces.
    pub(crate) run_id: Box<str>,
    /// How many keys that server had evicted when this was written.
    pub(crate) evicted: u64,
}

/// Why an epoch was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There was no epoch: Redis is empty.
    Empty,
    /// There was a value that is no valid epoch.
    Unreadable,
    /// It named another server: a failover, a restart, or a moved slot.
    OtherServer,
    /// The server evicted keys.
    Evicted,
    /// A replica with a larger tolerance started.
    ToleranceRaised,
}

impl Change {
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Empty => "it was empty",
            Self::Unreadable => "its epoch cannot be read",
            Self::OtherServer => "another server took over, or it was restarted",
            Self::Evicted => "it evicted keys",
            Self::ToleranceRaised => "a replica with a larger tolerance began",
        }
    }
}

/// What a replica knows when it checks an epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<'a> {
    /// The `run_id` of the server that was asked.
    pub(crate) run_id: &'a str,
    /// How many keys the server has evicted; 0 if evictions do not matter.
    pub(crate) evicted: u64,
    /// The server's time, read after the epoch.
    pub(crate) now: UnixMillis,
    /// The tolerance of this replica.
    pub(crate) tolerance: Tolerance,
    /// The largest tolerance that this replica knew to be in use, if any.
    pub(crate) known_tolerance: Option<Tolerance>,
    /// How long other replicas may still claim at the previous server after a change of servers.
    pub(crate) takeover: Duration,
}

impl Epoch {
    /// Encodes the record as words separated by spaces; the last one is the server.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Fence { lost_at, tolerance, raised } = self.fence;
        let (from, at) =
            raised.map_or((0, 0), |raised| (raised.from.duration().as_millis(), raised.at.0));
        let mut text = String::with_capacity(96);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{VERSION} {} {} {from} {at} {} {}",
            lost_at.0,
            tolerance.duration().as_millis(),
            self.evicted,
            self.run_id
        );
        text.into_bytes()
    }

    /// Returns `None` if `bytes` are no record of this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let mut next = || words.next();
        if next()? != VERSION {
            return None;
        }
        let tolerance = |text: &str| Tolerance::new(Duration::from_millis(text.parse().ok()?));
        let lost_at = UnixMillis(next()?.parse().ok()?);
        let in_use = tolerance(next()?)?;
        let raised = match (next()?, next()?.parse().ok()?) {
            ("0", _) => None,
            (from, at) => Some(RaisedTolerance { from: tolerance(from)?, at: UnixMillis(at) }),
        };
        let evicted = next()?.parse().ok()?;
        let run_id = next().filter(|run_id| !run_id.is_empty())?.into();
        if next().is_some() {
            return None;
        }
        Some(Self { fence: Fence { lost_at, tolerance: in_use, raised }, run_id, evicted })
    }

    /// The epoch that must replace `held`, and why; `None` if `held` is right.
    pub(crate) fn replacement(held: Option<&[u8]>, sight: Sight<'_>) -> Option<(Self, Change)> {
        // Other replicas may still claim at the previous server after this one has noticed the
        // change.
        let taken_over = sight.now.saturating_add(sight.takeover);
        let anew = |change| {
            let tolerance = longer(sight.tolerance, sight.known_tolerance);
            let fence = Fence::since(taken_over, tolerance);
            Some((Self { fence, run_id: sight.run_id.into(), evicted: sight.evicted }, change))
        };
        let Some(held) = held else { return anew(Change::Empty) };
        let Some(epoch) = Self::decode(held) else { return anew(Change::Unreadable) };
        let raised = epoch.fence.raised_to(sight.tolerance, sight.now);
        let fence = raised.unwrap_or(epoch.fence);
        let lost = |lost_at: UnixMillis, change| {
            let fence = Fence { lost_at: fence.lost_at.max(lost_at), ..fence };
            Some((Self { fence, run_id: sight.run_id.into(), evicted: sight.evicted }, change))
        };
        if *epoch.run_id != *sight.run_id {
            return lost(taken_over, Change::OtherServer);
        }
        if sight.evicted > epoch.evicted {
            return lost(sight.now, Change::Evicted);
        }
        raised.map(|fence| (Self { fence, ..epoch }, Change::ToleranceRaised))
    }
}

fn longer(one: Tolerance, other: Option<Tolerance>) -> Tolerance {
    other.filter(|other| other.duration() > one.duration()).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tolerance(seconds: u64) -> Tolerance {
        Tolerance::new(Duration::from_secs(seconds)).unwrap()
    }

    const SIGHT: Sight<'_> = Sight {
        run_id: "one",
        evicted: 0,
        now: UnixMillis(1_000_000),
        tolerance: Tolerance::DEFAULT,
        known_tolerance: None,
        takeover: Duration::from_millis(750),
    };

    fn epoch() -> Epoch {
        Epoch {
            fence: Fence::since(UnixMillis(5), Tolerance::DEFAULT),
            run_id: "one".into(),
            evicted: 0,
        }
    }

    #[test]
    fn an_epoch_that_is_right_stays() {
        assert_eq!(Epoch::replacement(Some(&epoch().encode()), SIGHT), None);
        let smaller = Sight { tolerance: tolerance(5), ..SIGHT };
        assert_eq!(
            Epoch::replacement(Some(&epoch().encode()), smaller),
            None,
            "the largest in use counts"
        );
    }

    #[test]
    fn what_is_gone_was_lost_by_now_or_by_the_time_everybody_left_the_server_before() {
        let single = Sight { takeover: Duration::ZERO, ..SIGHT };
        let (new, change) = Epoch::replacement(None, single).unwrap();
        assert_eq!(
            (new.fence, change),
            (Fence::since(SIGHT.now, Tolerance::DEFAULT), Change::Empty)
        );
        let (new, _) = Epoch::replacement(None, SIGHT).unwrap();
        assert_eq!(
            new.fence.lost_at,
            UnixMillis(1_000_750),
            "the new server was empty when it took over"
        );
        let (new, _) =
            Epoch::replacement(None, Sight { known_tolerance: Some(tolerance(60)), ..SIGHT })
                .unwrap();
        assert_eq!(
            new.fence.tolerance,
            tolerance(60),
            "other replicas may still accept for longer"
        );
        let (new, change) = Epoch::replacement(Some(b"1 5 20000"), SIGHT).unwrap();
        assert_eq!((new.fence.lost_at, change), (UnixMillis(1_000_750), Change::Unreadable));
    }

    #[test]
    fn another_server_may_lack_what_the_one_before_had_until_everybody_left_it() {
        let (new, change) =
            Epoch::replacement(Some(&epoch().encode()), Sight { run_id: "two", ..SIGHT }).unwrap();
        assert_eq!(change, Change::OtherServer);
        assert_eq!((new.fence.lost_at, &*new.run_id), (UnixMillis(1_000_750), "two"));
        assert_eq!(
            Epoch::replacement(Some(&new.encode()), Sight { run_id: "two", ..SIGHT }),
            None,
            "once"
        );
        let later =
            Epoch { fence: Fence::since(UnixMillis(2_000_000), Tolerance::DEFAULT), ..epoch() };
        let (new, _) =
            Epoch::replacement(Some(&later.encode()), Sight { run_id: "two", ..SIGHT }).unwrap();
        assert_eq!(new.fence.lost_at, UnixMillis(2_000_000), "a fence is never lowered");
    }

    #[test]
    fn evictions_are_losses() {
        let (new, change) =
            Epoch::replacement(Some(&epoch().encode()), Sight { evicted: 3, ..SIGHT }).unwrap();
        assert_eq!((new.fence.lost_at, new.evicted, change), (SIGHT.now, 3, Change::Evicted));
        assert_eq!(Epoch::replacement(Some(&new.encode()), Sight { evicted: 3, ..SIGHT }), None);
    }

    #[test]
    fn a_larger_tolerance_is_written_down_with_the_one_before() {
        let (new, change) = Epoch::replacement(
            Some(&epoch().encode()),
            Sight { tolerance: tolerance(60), ..SIGHT },
        )
        .unwrap();
        assert_eq!(change, Change::ToleranceRaised);
        let raised = RaisedTolerance { from: Tolerance::DEFAULT, at: SIGHT.now };
        assert_eq!(
            new.fence,
            Fence { lost_at: UnixMillis(5), tolerance: tolerance(60), raised: Some(raised) }
        );
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        for text in [
            "",
            "1",
            "2 5 20000 0 0 0 one",
            "1 5 20000 0 0 0",
            "1 5 20000 0 0 0 ",
            "1 5 0 0 0 0 one",
            "1 x 20000 0 0 0 one",
            "1 5 20000 0 0 0 one more",
            "1 5 20000 5 0 0 one",
            "1  5 20000 0 0 0 one",
        ] {
            assert_eq!(Epoch::decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Epoch::decode(b"1 5 20000 0 0 0 \xff"), None);
    }

    proptest! {
        #[test]
        fn a_record_reads_as_it_was_written(
            lost_at: i64, in_use in 1_u64..3600, from in proptest::option::of(1_u64..3600), at: i64, evicted: u64, run_id in "[0-9a-f]{1,40}",
        ) {
            let raised = from.map(|from| RaisedTolerance { from: tolerance(from), at: UnixMillis(at) });
            let fence = Fence { lost_at: UnixMillis(lost_at), tolerance: tolerance(in_use), raised };
            let epoch = Epoch { fence, run_id: run_id.into(), evicted };
            prop_assert_eq!(Epoch::decode(&epoch.encode()), Some(epoch));
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Epoch::decode(&bytes);
        }

        /// Replicas that check one after the other converge: what one wrote is right for the next
        /// one that sees the same server.
        #[test]
        fn a_replacement_is_right_for_whoever_looks_next(
            held in proptest::option::of("1 [0-9]{1,7} (1000|20000|60000) 0 0 [0-3] (one|two)"), evicted in 0_u64..4, seconds in 1_u64..100,
        ) {
            let sight = Sight { evicted, tolerance: tolerance(seconds), ..SIGHT };
            if let Some((new, _)) = Epoch::replacement(held.as_deref().map(str::as_bytes), sight) {
                prop_assert_eq!(Epoch::replacement(Some(&new.encode()), sight), None);
            }
        }
    }
}
