//! Time, and the arithmetic that decides how long a token may be used and how long its nonce is
//! remembered.
//!
//! The constants of this arithmetic depend on one another. With `T` the tolerance and `t` the
//! token's time:
//!
//! - a token may be used while `|now - t| <= T` ([`Tolerance::admits`]), so never after `t + T`;
//! - `valid_until = t + T` ([`Tolerance::valid_until`]);
//! - its nonce is remembered until at least `valid_until + 1 s` ([`remember_for`]), that is for up
//!   to `2T + 1 s` after its first use. The extra second covers rounding to whole seconds and
//!   replicas whose clocks differ by up to a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// Unix time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// 9999-12-31T23:59:59.999Z: the last moment that RFC 3339 and every database can represent.
    pub const LAST_WRITABLE: Self = Self(253_402_300_799_999);

    /// The same moment as an `OffsetDateTime` in UTC, for tables and output.
    pub fn to_utc(self) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    }

    /// The same moment in RFC 3339 format.
    pub fn to_rfc3339(self) -> String {
        self.to_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
    }

    /// Unix time in whole seconds, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment `duration` later, or the last representable one.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The moment `duration` earlier, or the first representable one.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Serialized in RFC 3339 format.
impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl From<SystemTime> for UnixMillis {
    /// A clock before 1970 reads as 1970: every token is then outside its window.
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A `NumericDate` (RFC 7519 section 2) in whole seconds, from a token: any value is possible until
/// it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// Unix time in milliseconds. Saturates, so that no claimed time can overflow.
    pub const fn millis(self) -> UnixMillis {
        UnixMillis(self.0.saturating_mul(1000))
    }
}

/// When a token claims to be signed. Exact even between two milliseconds, since JSON numbers may
/// have any number of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTime {
    floor: UnixMillis,
    is_between: bool,
}

impl TokenTime {
    /// The moment `floor`, or if `is_between` one between it and the next millisecond.
    pub const fn new(floor: UnixMillis, is_between: bool) -> Self {
        Self { floor, is_between }
    }

    /// Unix time in milliseconds, rounded down.
    pub const fn millis(self) -> UnixMillis {
        self.floor
    }

    /// Unix time in milliseconds, rounded up.
    pub const fn millis_rounded_up(self) -> UnixMillis {
        if self.is_between { UnixMillis(self.floor.0.saturating_add(1)) } else { self.floor }
    }

    /// Unix time in seconds, rounded down.
    pub const fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.floor.seconds())
    }

    /// Unix time in seconds, rounded up.
    pub const fn seconds_rounded_up(self) -> UnixSeconds {
        UnixSeconds(self.millis_rounded_up().0.saturating_sub(1).div_euclid(1000).saturating_add(1))
    }

    /// Whether `other` is at most `distance` away, to the millisecond.
    pub fn is_within(self, distance: Duration, other: Self) -> bool {
        u128::from(self.floor.0.abs_diff(other.floor.0)) <= distance.as_millis()
    }
}

impl From<UnixSeconds> for TokenTime {
    fn from(seconds: UnixSeconds) -> Self {
        Self::new(seconds.millis(), false)
    }
}

/// How far a token's time may be from now, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance(Duration);

impl Tolerance {
    /// The tolerance of `asymmetric_jwt_auth`.
    pub const DEFAULT: Self = Self(Duration::from_secs(20));

    /// With a longer tolerance, a nonce store would have to remember for hours.
    pub const LONGEST: Duration = Duration::from_hours(1);

    /// `None` unless between one second and [`Tolerance::LONGEST`].
    pub fn new(tolerance: Duration) -> Option<Self> {
        (Duration::from_secs(1)..=Self::LONGEST).contains(&tolerance).then_some(Self(tolerance))
    }

    /// The tolerance as a duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether a token of time `token_time` may be used at `now`:
    /// `|now - token_time| <= tolerance`.
    pub fn admits(self, token_time: impl Into<TokenTime>, now: UnixMillis) -> bool {
        let token_time = token_time.into();
        // `now` and the edges of the window are whole milliseconds, so a time is inside if both its
        // roundings are.
        let is_near = |millis: UnixMillis| {
            (i128::from(now.0) - i128::from(millis.0)).unsigned_abs() <= self.0.as_millis()
        };
        is_near(token_time.millis()) && is_near(token_time.millis_rounded_up())
    }

    /// The last moment at which a token of time `token_time` may be used.
    pub fn valid_until(self, token_time: impl Into<TokenTime>) -> UnixMillis {
        token_time.into().millis_rounded_up().saturating_add(self.0)
    }
}

/// How long a nonce claimed at `now` must be remembered so that its token cannot pass again: until
/// `valid_until`, rounded up to whole seconds, plus one second. At least one second.
pub fn remember_for(valid_until: UnixMillis, now: UnixMillis) -> Duration {
    Duration::from_secs(
        valid_until
            .since(now)
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX)
            .saturating_add(1),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Tolerance = Tolerance::DEFAULT;

    #[test]
    fn the_window_includes_its_edges() {
        let time = UnixSeconds(1_000_000);
        for (now_ms, admitted) in [
            (999_980_000, true),
            (999_979_999, false),
            (1_000_000_000, true),
            (1_000_020_000, true),
            (1_000_020_001, false),
        ] {
            assert_eq!(T.admits(time, UnixMillis(now_ms)), admitted, "{now_ms}");
        }
    }

    #[test]
    fn the_window_ends_between_milliseconds_too() {
        let (now, edge) = (UnixMillis(1_000_020_000), UnixMillis(1_000_000_000));
        assert!(T.admits(TokenTime::new(edge, false), now));
        assert!(T.admits(TokenTime::new(edge, true), now), "a moment later");
        assert!(!T.admits(TokenTime::new(UnixMillis(edge.0 - 1), true), now), "a moment too early");
        let ahead = UnixMillis(now.0 + 20_000);
        assert!(T.admits(TokenTime::new(ahead, false), now));
        assert!(!T.admits(TokenTime::new(ahead, true), now), "a moment too late");
        assert_eq!(T.valid_until(TokenTime::new(edge, true)), UnixMillis(1_000_020_001));
    }

    #[test]
    fn a_nonce_outlives_its_token_by_at_least_a_second() {
        let valid_until = T.valid_until(UnixSeconds(100));
        assert_eq!(remember_for(valid_until, UnixMillis(100_000)), Duration::from_secs(21));
        assert_eq!(remember_for(valid_until, UnixMillis(100_001)), Duration::from_secs(21));
        assert_eq!(remember_for(valid_until, UnixMillis(80_000)), Duration::from_secs(41));
        assert_eq!(remember_for(valid_until, UnixMillis(120_000)), Duration::from_secs(1));
    }

    #[test]
    fn tolerances_have_bounds() {
        assert_eq!(Tolerance::new(Duration::from_millis(999)), None);
        assert_eq!(Tolerance::new(Duration::from_secs(3601)), None);
        assert!(Tolerance::new(Duration::from_secs(1)).is_some());
    }

    proptest! {
        #[test]
        fn no_time_overflows(token_time: i64, now: i64) {
            let (token_time, now) = (UnixSeconds(token_time), UnixMillis(now));
            let _ = T.admits(token_time, now);
            let _ = remember_for(T.valid_until(token_time), now);
        }

        /// The window is covered: whenever a token is admitted a second time, even by a replica
        /// whose clock is off by up to a second, the nonce claimed the first time is still
        /// remembered.
        #[test]
        fn a_nonce_is_remembered_for_as_long_as_its_token_is_admitted(
            token_time in 1_000_000_i64..2_000_000,
            tolerance_ms in 1_000_u64..3_600_000,
            first_offset_ms in -3_600_000_i64..3_600_000,
            later_ms in 0_i64..8_000_000,
            skew_ms in -1_000_i64..=1_000,
        ) {
            let tolerance = Tolerance::new(Duration::from_millis(tolerance_ms)).unwrap();
            let token_time = UnixSeconds(token_time);
            let first = UnixMillis(token_time.0 * 1000 + first_offset_ms);
            let second = UnixMillis(first.0 + later_ms);
            let second_by_another_clock = UnixMillis(second.0 + skew_ms);
            if tolerance.admits(token_time, first) && tolerance.admits(token_time, second_by_another_clock) {
                let forgotten_at = first.saturating_add(remember_for(tolerance.valid_until(token_time), first));
                prop_assert!(second <= forgotten_at);
            }
        }
    }
}
