//! A clock that never goes back, built from the system's clock, which may, and a monotonic one.
//!
//! A claimed nonce is forgotten after some real time has passed. If the clock that checks windows
//! were set back, or ran slower than real time, a token could still be within its window when its
//! nonce is forgotten. So this clock runs at least as fast as the monotonic one. If the system's
//! clock is set back by more than [`SET_BACK_MIN`], this clock stands still until the system's has
//! caught up with the last time shown. Until then no token is accepted, and afterwards none that
//! was created before ([`ForwardClock::set_back_from`]).

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use super::time::UnixMillis;

/// Smaller corrections of the system's clock are ignored: they are covered by the extra second for
/// which nonces are remembered.
pub const SET_BACK_MIN: Duration = Duration::from_millis(250);
const SET_BACK_MIN_MS: i64 = 250;
const _: () = assert!(SET_BACK_MIN.as_millis() == SET_BACK_MIN_MS.unsigned_abs() as u128);

/// One reading of both clocks, in milliseconds. The monotonic clock is read before and after the
/// system's, since the thread may be paused in between.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The monotonic clock, before the system's.
    pub monotonic_before: i64,
    /// The system's clock.
    pub system: UnixMillis,
    /// The monotonic clock, after the system's.
    pub monotonic_after: i64,
}

/// A change that is worth logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The system's clock was set back by this much.
    SetBack(Duration),
    /// The system's clock has caught up.
    CaughtUp,
}

/// A clock that never goes back; see the module documentation.
#[derive(Debug)]
pub struct ForwardClock {
    /// The system's clock minus the monotonic one: the largest difference since the system's clock
    /// was last set back.
    offset: AtomicI64,
    is_catching_up: AtomicBool,
    /// The last time shown before the system's clock was set back; `i64::MIN` if it never was.
    set_back_from: AtomicI64,
    changing: Mutex<()>,
}

impl ForwardClock {
    /// Starts with `reading`.
    pub const fn new(reading: Reading) -> Self {
        Self {
            offset: AtomicI64::new(reading.system.0 - reading.monotonic_after),
            is_catching_up: AtomicBool::new(false),
            set_back_from: AtomicI64::new(i64::MIN),
            changing: Mutex::new(()),
        }
    }

    /// The time, if both clocks have advanced equally. They nearly always have, so one reading of
    /// each is enough.
    pub fn steady(&self, monotonic: i64, system: UnixMillis) -> Option<UnixMillis> {
        let kept = self.offset.load(Ordering::Acquire);
        let is_steady = (kept - SET_BACK_MIN_MS..=kept).contains(&(system.0 - monotonic));
        (is_steady && !self.is_catching_up.load(Ordering::Acquire))
            .then_some(UnixMillis(monotonic + kept))
    }

    /// The time according to `reading`, and a change to log, if any.
    pub fn now(&self, reading: Reading) -> (UnixMillis, Option<Step>) {
        let offset_at_least = reading.system.0 - reading.monotonic_after;
        let offset_at_most = reading.system.0 - reading.monotonic_before;
        let kept = self.offset.load(Ordering::Acquire);
        if self.is_catching_up.load(Ordering::Acquire) || offset_at_most < kept - SET_BACK_MIN_MS {
            return self.behind(reading);
        }
        if offset_at_least > kept {
            self.offset.fetch_max(offset_at_least, Ordering::AcqRel);
        }
        (UnixMillis(reading.monotonic_after + kept.max(offset_at_least)), None)
    }

    /// Tokens created up to this time may have been used and forgotten: all tokens while the
    /// system's clock catches up, and after that those from before it was set back. `i64::MIN` if
    /// it never was.
    pub fn set_back_from(&self) -> UnixMillis {
        if self.is_catching_up.load(Ordering::Acquire) {
            return UnixMillis(i64::MAX);
        }
        UnixMillis(self.set_back_from.load(Ordering::Acquire))
    }

    fn behind(&self, reading: Reading) -> (UnixMillis, Option<Step>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = reading.system.0 - reading.monotonic_before;
        if self.is_catching_up.load(Ordering::Acquire) {
            let shown = self.set_back_from.load(Ordering::Acquire);
            if reading.system.0 <= shown {
                return (UnixMillis(shown), None);
            }
            self.offset.store(offset, Ordering::Release);
            self.is_catching_up.store(false, Ordering::Release);
            return (reading.system, Some(Step::CaughtUp));
        }
        let kept = self.offset.load(Ordering::Acquire);
        if offset >= kept - SET_BACK_MIN_MS {
            // Another thread saw that the clock has caught up.
            return (UnixMillis(reading.monotonic_after + kept), None);
        }
        let shown = reading.monotonic_after + kept;
        // The time must be stored before it takes effect.
        self.set_back_from.store(shown, Ordering::Release);
        self.is_catching_up.store(true, Ordering::Release);
        let by = Duration::from_millis((shown - reading.system.0).unsigned_abs());
        (UnixMillis(shown), Some(Step::SetBack(by)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn reading(monotonic: i64, system: i64) -> Reading {
        Reading {
            monotonic_before: monotonic,
            system: UnixMillis(system),
            monotonic_after: monotonic,
        }
    }

    #[test]
    fn it_shows_the_system_clock_and_follows_it_forward() {
        let clock = ForwardClock::new(reading(0, 1_000_000));
        assert_eq!(clock.now(reading(10, 1_000_010)), (UnixMillis(1_000_010), None));
        assert_eq!(
            clock.now(reading(20, 1_060_020)),
            (UnixMillis(1_060_020), None),
            "set forward by a minute"
        );
        assert_eq!(clock.set_back_from(), UnixMillis(i64::MIN));
    }

    #[test]
    fn one_look_is_enough_while_both_clocks_go_on() {
        let clock = ForwardClock::new(reading(0, 1_000_000));
        assert_eq!(clock.steady(10, UnixMillis(1_000_010)), Some(UnixMillis(1_000_010)));
        assert_eq!(
            clock.steady(10, UnixMillis(999_800)),
            Some(UnixMillis(1_000_010)),
            "a small correction"
        );
        assert_eq!(
            clock.steady(10, UnixMillis(1_000_011)),
            None,
            "set forward, or held up in between"
        );
        assert_eq!(clock.steady(10, UnixMillis(999_759)), None, "set back");
        clock.now(reading(1000, 986_000));
        assert_eq!(clock.steady(1000, UnixMillis(1_001_000)), None, "while it catches up");
    }

    #[test]
    fn a_small_correction_is_run_through() {
        let clock = ForwardClock::new(reading(0, 1_000_000));
        assert_eq!(
            clock.now(reading(100, 999_900)),
            (UnixMillis(1_000_100), None),
            "set back by 200 ms"
        );
        assert_eq!(clock.now(reading(200, 1_000_000)), (UnixMillis(1_000_200), None));
        let (now, step) = clock.now(reading(300, 1_000_000));
        assert_eq!(
            (now, step),
            (UnixMillis(1_000_300), Some(Step::SetBack(Duration::from_millis(300)))),
            "a second one adds up"
        );
    }

    #[test]
    fn set_back_it_stands_still_and_nothing_is_good_until_it_has_caught_up() {
        let clock = ForwardClock::new(reading(0, 1_000_000));
        let (now, step) = clock.now(reading(1000, 986_000));
        assert_eq!(
            (now, step),
            (UnixMillis(1_001_000), Some(Step::SetBack(Duration::from_secs(15))))
        );
        assert_eq!(clock.set_back_from(), UnixMillis(i64::MAX));
        assert_eq!(clock.now(reading(16_000, 1_001_000)), (UnixMillis(1_001_000), None));
        assert_eq!(
            clock.now(reading(16_001, 1_001_001)),
            (UnixMillis(1_001_001), Some(Step::CaughtUp))
        );
        assert_eq!(
            clock.set_back_from(),
            UnixMillis(1_001_000),
            "what was minted before stays denied"
        );
        assert_eq!(clock.now(reading(17_000, 1_002_000)), (UnixMillis(1_002_000), None));
    }

    #[test]
    fn a_thread_that_is_held_up_between_the_readings_sees_no_step() {
        let clock = ForwardClock::new(reading(0, 1_000_000));
        let held_up_before = Reading {
            monotonic_before: 1000,
            system: UnixMillis(1_003_000),
            monotonic_after: 3000,
        };
        assert_eq!(clock.now(held_up_before), (UnixMillis(1_003_000), None));
        let held_up_after = Reading {
            monotonic_before: 4000,
            system: UnixMillis(1_004_000),
            monotonic_after: 6000,
        };
        assert_eq!(clock.now(held_up_after), (UnixMillis(1_006_000), None));
    }

    proptest! {
        /// Whatever happens to the system's clock, this one never goes back, and while tokens are
        /// accepted it is never slower than real time.
        #[test]
        fn it_never_goes_back_and_never_runs_slow(
            steps in proptest::collection::vec((0_i64..5_000, -20_000_i64..20_000, proptest::bool::weighted(0.2)), 1..100),
        ) {
            let (mut monotonic, mut system) = (0, 1_000_000);
            let clock = ForwardClock::new(reading(monotonic, system));
            let mut last = (monotonic, UnixMillis(system), true);
            for (passes, step, is_set) in steps {
                monotonic += passes;
                system += passes + if is_set { step } else { 0 };
                let steady = clock.steady(monotonic, UnixMillis(system));
                let (now, _) = clock.now(reading(monotonic, system));
                prop_assert!(steady.is_none_or(|steady| steady == now));
                prop_assert!(now >= last.1);
                let is_good = clock.set_back_from() != UnixMillis(i64::MAX);
                if is_good && last.2 {
                    prop_assert!(now.0 - last.1.0 >= monotonic - last.0);
                }
                last = (monotonic, now, is_good);
            }
        }
    }
}
