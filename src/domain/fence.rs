//! The fence: which tokens to deny because a nonce store may have forgotten their claims.
//!
//! A store that lost claims cannot know whether a token that was created before the loss was used.
//! Such a token is denied until its window has passed. A token that was created after the loss
//! cannot have been used before it, and passes as usual.
//!
//! The same applies to claims that were remembered for a shorter tolerance than the current one: a
//! token that a replica with the shorter tolerance may have accepted passes only within that
//! tolerance.

use std::{str::FromStr, time::Duration};

use serde::Serialize;

use super::time::{Tolerance, UnixMillis};

/// What is denied after a loss of memory (`nonce.fence`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceMode {
    /// Tokens are denied if they were created before the loss, or at the same time.
    #[default]
    MintedBefore,
    /// Also denies tokens of clients whose clocks run ahead by up to the tolerance: nothing passes
    /// until the tolerance has elapsed.
    Strict,
    /// Nothing is denied: every token that the store forgot passes once more.
    Off,
}

impl FromStr for FenceMode {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "minted_before" => Ok(Self::MintedBefore),
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            _ => Err("expected `minted_before`, `strict` or `off`"),
        }
    }
}

/// What a store may have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// When claims were last lost. Claims up to this time may be forgotten.
    pub lost_at: UnixMillis,
    /// The tolerance for which claims are remembered.
    pub tolerance: Tolerance,
    /// Set if claims were remembered for a shorter tolerance before.
    pub raised: Option<RaisedTolerance>,
}

/// An increase of the tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaisedTolerance {
    /// The tolerance before.
    pub from: Tolerance,
    /// When it was raised.
    pub at: UnixMillis,
}

/// Time that may pass between reading the clock for [`RaisedTolerance::at`] and storing the result.
/// Meanwhile replicas may still claim for the shorter tolerance.
const RAISING: Duration = Duration::from_secs(1);

impl Fence {
    /// The fence of a store that remembers nothing from before `lost_at`.
    pub const fn since(lost_at: UnixMillis, tolerance: Tolerance) -> Self {
        Self { lost_at, tolerance, raised: None }
    }

    /// Whether a token of time `token_time` may have been used before and be forgotten by `now`.
    pub fn excludes(&self, token_time: UnixMillis, now: UnixMillis, mode: FenceMode) -> bool {
        let may_be_lost = match mode {
            FenceMode::MintedBefore => token_time <= self.lost_at,
            FenceMode::Strict => {
                token_time <= self.lost_at.saturating_add(self.tolerance.duration())
            }
            FenceMode::Off => false,
        };
        may_be_lost || self.raised.is_some_and(|raised| raised.excludes(token_time, now))
    }

    /// Whether `raised` still matters at `now`, for any token within this tolerance.
    pub fn is_raising(&self, now: UnixMillis) -> bool {
        self.raised.is_some_and(|raised| {
            now <= raised.last_claimable().saturating_add(self.tolerance.duration())
        })
    }

    /// The fence from `now` on, with claims remembered for `tolerance` if that is longer; `None` if
    /// nothing changes.
    pub fn raised_to(&self, tolerance: Tolerance, now: UnixMillis) -> Option<Self> {
        if tolerance.duration() <= self.tolerance.duration() {
            return None;
        }
        // While an earlier increase still matters, the shortest tolerance of all does, too.
        let from = self
            .raised
            .filter(|_| self.is_raising(now))
            .map_or(self.tolerance, |raised| raised.from);
        Some(Self {
            lost_at: self.lost_at,
            tolerance,
            raised: Some(RaisedTolerance { from, at: now }),
        })
    }
}

impl RaisedTolerance {
    /// The latest time of a token that could be claimed for the shorter tolerance.
    fn last_claimable(self) -> UnixMillis {
        self.at.saturating_add(self.from.duration()).saturating_add(RAISING)
    }

    fn excludes(self, token_time: UnixMillis, now: UnixMillis) -> bool {
        token_time <= self.last_claimable() && now > token_time.saturating_add(self.from.duration())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tolerance(seconds: u64) -> Tolerance {
        Tolerance::new(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_token_from_before_the_loss_is_denied_and_one_from_after_it_is_not() {
        let fence = Fence::since(UnixMillis(100_000), tolerance(20));
        let now = UnixMillis(100_500);
        for (time, mode, excluded) in [
            (99_999, FenceMode::MintedBefore, true),
            (100_000, FenceMode::MintedBefore, true),
            (100_001, FenceMode::MintedBefore, false),
            (100_001, FenceMode::Strict, true),
            (120_000, FenceMode::Strict, true),
            (120_001, FenceMode::Strict, false),
            (1, FenceMode::Off, false),
        ] {
            assert_eq!(fence.excludes(UnixMillis(time), now, mode), excluded, "{time} {mode:?}");
        }
    }

    #[test]
    fn a_tolerance_is_raised_for_tokens_that_nobody_could_claim_for_the_shorter_one() {
        let fence = Fence::since(UnixMillis(0), tolerance(20));
        assert_eq!(fence.raised_to(tolerance(20), UnixMillis(5)), None);
        assert_eq!(fence.raised_to(tolerance(10), UnixMillis(5)), None);
        let raised = fence.raised_to(tolerance(60), UnixMillis(100_000)).unwrap();
        // Claimed for 20 s at 100 s at the latest: the store remembers it for these 20 s, and not
        // after that.
        assert!(!raised.excludes(
            UnixMillis(100_000),
            UnixMillis(120_000),
            FenceMode::MintedBefore
        ));
        assert!(raised.excludes(UnixMillis(100_000), UnixMillis(120_001), FenceMode::MintedBefore));
        assert!(
            raised.excludes(UnixMillis(100_000), UnixMillis(120_001), FenceMode::Off),
            "this is no loss that one may accept"
        );
        // Too far in the future to have been claimed by then.
        assert!(!raised.excludes(
            UnixMillis(121_001),
            UnixMillis(181_001),
            FenceMode::MintedBefore
        ));
        assert!(raised.is_raising(UnixMillis(181_000)) && !raised.is_raising(UnixMillis(181_001)));
        let again = raised.raised_to(tolerance(120), UnixMillis(150_000)).unwrap();
        assert_eq!(
            again.raised,
            Some(RaisedTolerance { from: tolerance(20), at: UnixMillis(150_000) })
        );
        let later = raised.raised_to(tolerance(120), UnixMillis(500_000)).unwrap();
        assert_eq!(
            later.raised,
            Some(RaisedTolerance { from: tolerance(60), at: UnixMillis(500_000) })
        );
    }

    proptest! {
        /// Replicas with a short tolerance claim until it is raised, replicas with the long one
        /// look after that: every claim that was made and forgotten is excluded.
        #[test]
        fn nothing_claimed_for_the_shorter_tolerance_passes_when_it_is_forgotten(
            // Up to a second after the increase, and for a token anywhere in the window of the
            // shorter tolerance.
            claimed_at in 0_i64..=101_000,
            place_in_window in -1.0_f64..=1.0,
            short in 1_u64..30,
            longer in 1_u64..100,
            later in 0_i64..400_000,
        ) {
            let (short, long) = (tolerance(short), tolerance(short + longer));
            let raised_at = UnixMillis(100_000);
            let fence = Fence::since(UnixMillis(-1), short).raised_to(long, raised_at).unwrap();
            #[allow(clippy::cast_possible_truncation, reason = "some milliseconds")]
            let offset = (short.duration().as_secs_f64() * 1000.0 * place_in_window) as i64;
            let (token_time, claimed_at) = (UnixMillis(claimed_at + offset), UnixMillis(claimed_at));
            let within = |tolerance: Tolerance, now: UnixMillis| u128::from(token_time.0.abs_diff(now.0)) <= tolerance.duration().as_millis();
            let forgotten_after = token_time.saturating_add(short.duration());
            let now = claimed_at.saturating_add(Duration::from_millis(later.unsigned_abs()));
            if within(long, now) && now > forgotten_after {
                prop_assert!(fence.excludes(token_time, now, FenceMode::MintedBefore));
            }
        }

        #[test]
        fn no_moment_overflows(lost: i64, time: i64, now: i64, at: i64) {
            let raised = Some(RaisedTolerance { from: tolerance(20), at: UnixMillis(at) });
            let fence = Fence { lost_at: UnixMillis(lost), tolerance: tolerance(60), raised };
            for mode in [FenceMode::MintedBefore, FenceMode::Strict, FenceMode::Off] {
                let _ = fence.excludes(UnixMillis(time), UnixMillis(now), mode);
            }
            let _ = fence.is_raising(UnixMillis(now));
        }
    }
}
