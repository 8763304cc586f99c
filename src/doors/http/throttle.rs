//! Slows down guessing: a client that presents wrong secrets too often has to wait. Only failures
//! count, so that an honest client may ask as often as it likes.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use actix_web::HttpRequest;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use moka::{policy::EvictionPolicy, sync::Cache};
use uuid::Uuid;

use super::peer;
use crate::{domain::principal::Username, doors::listen::Origin};

/// How many peers, and how many claimants, are remembered. Those whose last failure is oldest are
/// forgotten first.
const REMEMBERED_MAX: u64 = 100_000;
/// After how long unused an entry is dropped. By then its failures are forgiven, which takes at
/// most a minute.
const FORGIVEN_AFTER: Duration = Duration::from_mins(2);
/// Bits of an IPv6 address that count as one peer: the prefix that one customer usually gets.
const V6_PREFIX_BITS: u32 = 64;

/// The identity that a secret is presented for. It is not proven: failures in the name of someone
/// else slow that client down, too, while they last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claimant {
    /// The holder of an API key.
    Identifier(Uuid),
    /// The alleged signer of an assertion.
    Username(Username),
}

/// Counts failures per peer and per claimant.
#[derive(Debug)]
pub(super) struct Throttle<C: Clock = MonotonicClock> {
    peers: Option<Limit<Origin, C>>,
    claimants: Option<Limit<Claimant, C>>,
}

/// An attempt to present a secret, not decided yet.
#[derive(Debug)]
#[must_use]
pub(super) struct SecretAttempt<'a, C: Clock = MonotonicClock> {
    throttle: &'a Throttle<C>,
    peer: Option<Origin>,
    claimant: Option<Claimant>,
}

/// Too many wrong secrets were presented. Holds how long to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooManyFailures(Duration);

impl TooManyFailures {
    /// Whole seconds for `Retry-After`, rounded up, at least 1.
    pub(super) fn seconds(self) -> u64 {
        (self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0)).max(1)
    }
}

impl Throttle {
    /// Failures allowed per minute; 0 is no limit.
    pub(super) fn new(per_peer: u32, per_claimant: u32) -> Self {
        Self::with_clock(per_peer, per_claimant, &MonotonicClock)
    }

    /// Admits `request` as an attempt, unless its peer or claimant has failed too often.
    pub(super) fn admit(
        &self,
        request: &HttpRequest,
        claimant: Option<Claimant>,
    ) -> Result<SecretAttempt<'_>, TooManyFailures> {
        self.attempt(peer::origin(request), claimant).map_err(TooManyFailures)
    }
}

impl SecretAttempt<'_> {
    /// Counts a failure. Returns an error if it exceeds the limit, so that concurrent attempts do
    /// not get more answers than the limit allows.
    pub(super) fn failed(&self) -> Result<(), TooManyFailures> {
        self.count().map_err(TooManyFailures)
    }
}

impl<C: Clock + Clone> Throttle<C> {
    fn with_clock(per_peer: u32, per_claimant: u32, clock: &C) -> Self {
        let quota = |failures| NonZeroU32::new(failures).map(Quota::per_minute);
        Self {
            peers: quota(per_peer).map(|quota| Limit::new(quota, clock.clone())),
            claimants: quota(per_claimant).map(|quota| Limit::new(quota, clock.clone())),
        }
    }

    /// The error is how long to wait.
    fn attempt(
        &self,
        peer: Option<Origin>,
        claimant: Option<Claimant>,
    ) -> Result<SecretAttempt<'_, C>, Duration> {
        let attempt = SecretAttempt { throttle: self, peer: peer.map(network), claimant };
        attempt.look(false)?;
        Ok(attempt)
    }
}

impl<C: Clock + Clone> SecretAttempt<'_, C> {
    fn count(&self) -> Result<(), Duration> {
        self.look(true)
    }

    /// Checks both limits; the longer wait counts.
    fn look(&self, counts: bool) -> Result<(), Duration> {
        let Throttle { peers, claimants } = self.throttle;
        let by_peer =
            peers.as_ref().zip(self.peer.as_ref()).map(|(limit, peer)| limit.look(peer, counts));
        let by_claimant = claimants
            .as_ref()
            .zip(self.claimant.as_ref())
            .map(|(limit, claimant)| limit.look(claimant, counts));
        let wait = by_peer.into_iter().chain(by_claimant).filter_map(Result::err).max();
        wait.map_or(Ok(()), Err)
    }
}

/// The addresses of one customer are one peer, and so are the processes of one user.
fn network(peer: Origin) -> Origin {
    let address = match peer {
        Origin::Address(address) => address,
        Origin::User(_) => return peer,
    };
    Origin::Address(match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let prefix = u128::MAX << (u128::BITS - V6_PREFIX_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & prefix))
        }
    })
}

/// What failures are counted by.
trait Key: Hash + Eq + Clone + Send + Sync + 'static {}

impl Key for Origin {}
impl Key for Claimant {}

/// A limit on failures per key.
struct Limit<K: Key, C: Clock> {
    limiter: RateLimiter<Look<K>, Cells<K>, C, NoOpMiddleware<C::Instant>>,
}

impl<K: Key, C: Clock> Limit<K, C> {
    fn new(quota: Quota, clock: C) -> Self {
        let cells = Cache::builder()
            .max_capacity(REMEMBERED_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(FORGIVEN_AFTER)
            .build();
        Self { limiter: RateLimiter::new(quota, Cells(cells), clock) }
    }

    /// Whether one more failure of `key` is within the limit; if `counts`, it is counted.
    fn look(&self, key: &K, counts: bool) -> Result<(), Duration> {
        let look = Look { key: key.clone(), counts };
        self.limiter
            .check_key(&look)
            .map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

impl<K: Key, C: Clock> std::fmt::Debug for Limit<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit").finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Look<K> {
    key: K,
    counts: bool,
}

/// governor's state per key: bounded in size, and changed only if a failure counts.
struct Cells<K>(Cache<K, Arc<InMemoryState>>);

impl<K: Key> StateStore for Cells<K> {
    type Key = Look<K>;

    fn measure_and_replace<T, F, E>(
        &self,
        Look { key, counts }: &Look<K>,
        measure: F,
    ) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if *counts {
            return self
                .0
                .get_with_by_ref(key, Arc::default)
                .measure_and_replace(&NotKeyed::NonKey, measure);
        }
        let Some(cell) = self.0.get(key) else { return measure(None).map(|(told, _)| told) };
        // governor leaves a cell unchanged if the closure returns an error.
        let looked: Result<(), Result<T, E>> = cell
            .measure_and_replace(&NotKeyed::NonKey, |state| {
                Err(measure(state).map(|(told, _)| told))
            });
        match looked {
            Err(told) => told,
            Ok(()) => measure(None).map(|(told, _)| told),
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const PEER: &str = "192.0.2.1";
    const USER: &str = "uid:1000";

    fn origin(text: &str) -> Origin {
        match text.strip_prefix("uid:") {
            Some(user) => Origin::User(user.parse().unwrap()),
            None => Origin::Address(text.parse().unwrap()),
        }
    }

    struct Setup {
        clock: FakeRelativeClock,
        throttle: Throttle<FakeRelativeClock>,
    }

    fn setup(per_peer: u32, per_claimant: u32) -> Setup {
        let clock = FakeRelativeClock::default();
        clock.advance(Duration::from_hours(1));
        Setup { throttle: Throttle::with_clock(per_peer, per_claimant, &clock), clock }
    }

    impl Setup {
        fn fail(&self, peer: &str, claimant: Option<u128>) -> Result<(), Duration> {
            self.admit(peer, claimant)?.count()
        }

        fn admit(
            &self,
            peer: &str,
            claimant: Option<u128>,
        ) -> Result<SecretAttempt<'_, FakeRelativeClock>, Duration> {
            let claimant =
                claimant.map(|identifier| Claimant::Identifier(Uuid::from_u128(identifier)));
            self.throttle.attempt(Some(origin(peer)), claimant)
        }
    }

    #[test]
    fn waiting_is_told_in_whole_seconds_that_are_enough() {
        let told = |milliseconds| TooManyFailures(Duration::from_millis(milliseconds)).seconds();
        assert_eq!([0, 1, 2000, 2001].map(told), [1, 1, 2, 3]);
    }

    #[test]
    fn whoever_fails_too_often_waits() {
        let setup = setup(3, 0);
        for _ in 0..3 {
            assert_eq!(setup.fail(PEER, None), Ok(()));
        }
        assert_eq!(setup.fail(PEER, None), Err(Duration::from_secs(20)));
        setup.clock.advance(Duration::from_secs(15));
        assert_eq!(
            setup.fail(PEER, None),
            Err(Duration::from_secs(5)),
            "waiting in vain makes it no longer"
        );
        setup.clock.advance(Duration::from_secs(5));
        assert_eq!(setup.fail(PEER, None), Ok(()));
        assert_eq!(setup.fail(PEER, None), Err(Duration::from_secs(20)));
        setup.clock.advance(Duration::from_mins(1));
        for _ in 0..3 {
            assert_eq!(setup.fail(PEER, None), Ok(()), "all is forgiven after a minute");
        }
    }

    #[test]
    fn others_do_not_notice() {
        let setup = setup(1, 1);
        assert_eq!(setup.fail(PEER, Some(1)), Ok(()));
        assert!(setup.admit(PEER, Some(2)).is_err(), "the same peer");
        assert!(setup.admit("192.0.2.2", Some(1)).is_err(), "the same name");
        assert!(setup.admit("192.0.2.2", Some(2)).is_ok());
        assert!(setup.admit("192.0.2.2", None).is_ok());
        assert_eq!(setup.fail(USER, None), Ok(()));
        assert!(setup.admit(USER, None).is_err(), "the same user");
        assert!(setup.admit("uid:1001", None).is_ok());
    }

    #[test]
    fn only_failures_count() {
        let setup = setup(1, 1);
        for _ in 0..10 {
            let _ = setup.admit(PEER, Some(1)).unwrap();
        }
        assert_eq!(setup.fail(PEER, Some(1)), Ok(()));
    }

    #[test]
    fn attempts_at_once_are_no_way_around_it() {
        let setup = setup(2, 0);
        let attempts: Vec<_> = (0..5).map(|_| setup.admit(PEER, None).unwrap()).collect();
        assert_eq!(attempts.iter().filter(|attempt| attempt.count().is_ok()).count(), 2);
    }

    #[test]
    fn nothing_is_counted_where_there_is_no_limit() {
        let setup = setup(0, 0);
        for _ in 0..1000 {
            assert_eq!(setup.fail(PEER, Some(1)), Ok(()));
        }
    }

    #[test]
    fn a_network_is_one_peer() {
        let of = |text: &str| network(origin(text));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let setup = setup(1, 0);
        let limit = setup.throttle.peers.as_ref().unwrap();
        for address in 0..150_000_u32 {
            let _ = limit.look(&Origin::Address(address.to_be_bytes().into()), true);
        }
        let look = |address: u32| limit.look(&Origin::Address(address.to_be_bytes().into()), false);
        assert!(look(149_999).is_err(), "the latest is remembered");
        assert!(look(0).is_ok(), "and the first is not");
    }
}
