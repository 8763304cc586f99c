//! When our signing keys are published, sign, verify and retire.
//!
//! The times of this arithmetic depend on one another. Keys are in the order of their times; a
//! key's successor is the next.
//!
//! - a key starts to sign `delay` after its time, so that everyone with a cached key set has the
//!   key by then. The oldest key signs at once: there is nothing else to sign with;
//! - it signs until its successor starts;
//! - it verifies for `token_lifetime` more, plus [`CLOCKS_MARGIN`]: as long as any token that it
//!   signed is valid.

use std::{fmt, time::Duration};

use super::time::UnixMillis;

/// How much longer a key verifies than its tokens are valid, since the clocks of replicas differ.
pub const CLOCKS_MARGIN: Duration = Duration::from_mins(1);

/// The state of a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// In the key set, but does not sign yet.
    Published,
    /// Signs new tokens.
    Signing,
    /// Does not sign any more; tokens that it signed may still be valid.
    Verifying,
    /// No token that it signed can still be valid. It is not in the key set and does not verify.
    Retired,
}

impl KeyState {
    /// The name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Signing => "signing",
            Self::Verifying => "verifying",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The durations that determine key schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationTimes {
    /// How long a key is published before it signs.
    pub delay: Duration,
    /// How long a token is valid.
    pub token_lifetime: Duration,
}

/// The times of one key, and its current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySchedule {
    /// The current state.
    pub state: KeyState,
    /// When it starts to sign.
    pub signs_from: UnixMillis,
    /// When its successor starts to sign; `None` for the last key.
    pub signs_until: Option<UnixMillis>,
    /// The last moment at which it verifies; `None` for the last key, which has no end yet.
    pub verifies_until: Option<UnixMillis>,
}

impl RotationTimes {
    /// The schedule of each key at `now`. `times` must be in ascending order; of two keys with the
    /// same time, the later one in this order is the newer. Exactly one key signs, unless there are
    /// none.
    ///
    /// Keys that share the oldest time have no order in time (for example after a folder was
    /// copied): the last of them signs, and tokens of the others stay valid as if they had signed
    /// until that time.
    pub fn schedules(self, times: &[UnixMillis], now: UnixMillis) -> Vec<KeySchedule> {
        let oldest = times.first().copied();
        let signs_from = |time: UnixMillis| {
            if Some(time) == oldest { time } else { time.saturating_add(self.delay) }
        };
        let signing =
            times.iter().rposition(|time| Some(*time) == oldest || signs_from(*time) <= now);
        let schedule = |(place, time): (usize, &UnixMillis)| {
            let signs_until = times.get(place + 1).map(|successor| signs_from(*successor));
            let verifies_until = signs_until
                .map(|end| end.saturating_add(self.token_lifetime).saturating_add(CLOCKS_MARGIN));
            let state = match Some(place).cmp(&signing) {
                std::cmp::Ordering::Greater => KeyState::Published,
                std::cmp::Ordering::Equal => KeyState::Signing,
                std::cmp::Ordering::Less if verifies_until.is_some_and(|end| end < now) => {
                    KeyState::Retired
                }
                std::cmp::Ordering::Less => KeyState::Verifying,
            };
            KeySchedule { state, signs_from: signs_from(*time), signs_until, verifies_until }
        };
        times.iter().enumerate().map(schedule).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROTATION: RotationTimes =
        RotationTimes { delay: Duration::from_mins(5), token_lifetime: Duration::from_mins(30) };

    fn states(times: &[i64], now: i64) -> Vec<KeyState> {
        let times: Vec<UnixMillis> =
            times.iter().map(|seconds| UnixMillis(seconds * 1000)).collect();
        ROTATION
            .schedules(&times, UnixMillis(now * 1000))
            .iter()
            .map(|schedule| schedule.state)
            .collect()
    }

    #[test]
    fn a_key_is_published_signs_verifies_and_retires() {
        use KeyState::{Published, Retired, Signing, Verifying};

        let times = [0, 10_000, 20_000];
        for (now, expected) in [
            (9_999, [Signing, Published, Published]),
            (10_299, [Signing, Published, Published]),
            (10_300, [Verifying, Signing, Published]),
            (10_300 + 1_800 + 60, [Verifying, Signing, Published]),
            (10_300 + 1_800 + 61, [Retired, Signing, Published]),
            (20_299, [Retired, Signing, Published]),
            (20_300, [Retired, Verifying, Signing]),
            (20_300 + 1_800 + 61, [Retired, Retired, Signing]),
            (i64::MAX / 1000, [Retired, Retired, Signing]),
        ] {
            assert_eq!(states(&times, now), expected, "{now}");
        }
    }

    #[test]
    fn a_key_without_an_older_one_signs_at_once() {
        assert_eq!(states(&[], 0), []);
        for now in [0, 1_000, 2_000] {
            assert_eq!(states(&[1_000], now), [KeyState::Signing], "{now}");
        }
    }

    #[test]
    fn keys_of_the_same_time_are_in_the_order_of_their_names() {
        use KeyState::{Published, Retired, Signing, Verifying};

        assert_eq!(states(&[1_000, 1_000], 0), [Verifying, Signing]);
        assert_eq!(states(&[1_000, 1_000], 1_000 + 1_860), [Verifying, Signing]);
        assert_eq!(states(&[1_000, 1_000], 1_000 + 1_861), [Retired, Signing]);
        assert_eq!(states(&[0, 1_000, 1_000], 1_299), [Signing, Published, Published]);
        assert_eq!(states(&[0, 1_000, 1_000], 1_300), [Verifying, Verifying, Signing]);
    }

    fn folder() -> impl Strategy<Value = (RotationTimes, Vec<UnixMillis>)> {
        let times = proptest::collection::vec(
            (0_i64..100_000).prop_map(|seconds| UnixMillis(seconds * 1000)),
            1..8,
        );
        (0_u64..10_000, 1_u64..10_000, times).prop_map(|(delay, token_lifetime, mut times)| {
            times.sort();
            let rotation = RotationTimes {
                delay: Duration::from_secs(delay),
                token_lifetime: Duration::from_secs(token_lifetime),
            };
            (rotation, times)
        })
    }

    proptest! {
        #[test]
        fn exactly_one_key_signs_and_the_newer_ones_wait((rotation, times) in folder(), now: i64) {
            let schedules = rotation.schedules(&times, UnixMillis(now));
            let signing = schedules.iter().position(|schedule| schedule.state == KeyState::Signing).unwrap();
            for (place, schedule) in schedules.iter().enumerate() {
                match schedule.state {
                    KeyState::Published => prop_assert!(place > signing),
                    KeyState::Signing => prop_assert_eq!(place, signing),
                    KeyState::Verifying | KeyState::Retired => prop_assert!(place < signing),
                }
            }
        }

        /// Everyone who fetched the key set within the delay before has the key that signs.
        #[test]
        fn a_key_was_published_for_the_delay_before_it_signs((rotation, times) in folder(), now in 0_i64..120_000_000) {
            let schedules = rotation.schedules(&times, UnixMillis(now));
            let signing = schedules.iter().position(|schedule| schedule.state == KeyState::Signing).unwrap();
            if times[signing] > times[0] {
                let published_for = UnixMillis(now).since(times[signing]);
                prop_assert!(published_for >= rotation.delay, "{published_for:?}");
                let before = UnixMillis(now - i64::try_from(rotation.delay.as_millis()).unwrap());
                prop_assert!(rotation.schedules(&times, before)[signing].state != KeyState::Retired);
            }
        }

        /// A token signed at any moment verifies until it expires, also by a clock that is a minute
        /// ahead.
        #[test]
        fn what_was_signed_verifies_to_its_end(
            (rotation, times) in folder(),
            signed_at in 100_000_000_i64..120_000_000,
            after_ms in 0_u64..10_000_000,
            ahead_ms in 0_u64..=60_000,
        ) {
            let signing = rotation
                .schedules(&times, UnixMillis(signed_at))
                .iter()
                .position(|schedule| schedule.state == KeyState::Signing)
                .unwrap();
            let after = Duration::from_millis(after_ms).min(rotation.token_lifetime);
            let later = UnixMillis(signed_at).saturating_add(after).saturating_add(Duration::from_millis(ahead_ms));
            prop_assert!(rotation.schedules(&times, later)[signing].state != KeyState::Retired);
        }

        #[test]
        fn no_time_overflows(mut times: Vec<i64>, now: i64, delay: u64, token_lifetime: u64) {
            times.sort_unstable();
            let times: Vec<UnixMillis> = times.into_iter().map(UnixMillis).collect();
            let rotation = RotationTimes { delay: Duration::from_secs(delay), token_lifetime: Duration::from_secs(token_lifetime) };
            prop_assert_eq!(rotation.schedules(&times, UnixMillis(now)).len(), times.len());
        }
    }
}
