//! Used nonces in the memory of this process: for a single node.

use std::{
    collections::BTreeMap,
    fmt,
    hash::Hasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hashbrown::{HashTable, hash_table::Entry};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    domain::{
        fence::{Fence, FenceMode},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::PrincipalId,
        time::UnixMillis,
    },
    engine::ports::{Answer, Dependency, NonceStore, Unavailable},
};

/// Number of live nonces per shard. Each shard has its own lock, so that workers rarely contend,
/// and is small enough that growing its table does not delay a decision.
const SHARD_ENTRIES: usize = 13_000;
/// Maximum number of nonces in a shard if there are several. Nonces spread unevenly, so this leaves
/// enough headroom for the store to reach its total before any shard is full. It is seven eighths
/// of a power of two: the capacity of a hash table of that size.
const SHARD_ENTRIES_MAX: usize = 14_336;
/// Maximum number of expired nonces that one claim removes. More than the one nonce it adds, so
/// that the store keeps up without pausing to clean.
const CLEARED_PER_CLAIM: usize = 4;

/// A bounded set of live nonces. Nonces claimed before the process started are unknown, so tokens
/// from before the start are fenced.
///
/// Nonces are forgotten by the same clock that validity is judged by, which never goes back: a
/// token whose nonce is forgotten is too old to be accepted.
///
/// An entry takes 32 bytes, plus 8 in the queue of expiries. It holds a keyed 128-bit digest of
/// principal and nonce, so its size does not depend on what clients choose, and clients cannot make
/// two nonces collide.
pub struct MemoryNonceStore {
    hash_key: [u8; 16],
    fence: Fence,
    fence_mode: FenceMode,
    shards: Box<[Mutex<Shard>]>,
}

/// The store already holds the maximum number of live nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the in-memory nonce store is full of live nonces; raise `nonce.memory_entries`, or use Redis (`nonce.url`)"
)]
pub struct NonceStoreFull;

impl MemoryNonceStore {
    /// Creates a store of `entries` live nonces, at least one; a large store may hold up to a tenth
    /// more. `fence` says since when it remembers. Fails only if the system has no randomness.
    pub fn new(
        entries: usize,
        fence: Fence,
        fence_mode: FenceMode,
    ) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut hash_key = [0; 16];
        aws_lc_rs::rand::fill(&mut hash_key)?;
        let shards = entries.div_ceil(SHARD_ENTRIES).max(1);
        let entries_max = if shards == 1 { entries.max(1) } else { SHARD_ENTRIES_MAX };
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(entries_max))).collect();
        Ok(Self { hash_key, fence, fence_mode, shards })
    }

    /// The number of stored nonces, including expired ones that are not yet removed.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).claims.len())
            .sum()
    }

    /// Whether the store holds no nonce.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn digest(&self, principal: PrincipalId, nonce: &str) -> Digest {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write_i64(principal.0);
        hasher.write(nonce.as_bytes());
        let hash = hasher.finish128();
        Digest { place: hash.h1, rest: hash.h2 }
    }

    fn shard(&self, digest: Digest) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(digest.rest % self.shards.len() as u64).unwrap_or(0);
        // A poisoned lock means that another claim panicked halfway; every intermediate state is
        // valid.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_now(&self, claim: &NonceClaim<'_>) -> Result<Claimed, NonceStoreFull> {
        if self.fence.excludes(claim.token_time, claim.now, self.fence_mode) {
            return Ok(Claimed::Fenced);
        }
        let digest = self.digest(claim.principal, claim.nonce);
        self.shard(digest).claim(digest, claim)
    }

    fn look_now(&self, claim: &NonceClaim<'_>) -> Claimed {
        if self.fence.excludes(claim.token_time, claim.now, self.fence_mode) {
            return Claimed::Fenced;
        }
        let digest = self.digest(claim.principal, claim.nonce);
        let live = self
            .shard(digest)
            .claims
            .find(digest.place, |live| live.digest == digest)
            .map(|live| live.forgotten_at);
        if live.is_some_and(|forgotten_at| claim.now.seconds() < forgotten_at) {
            Claimed::Replayed
        } else {
            Claimed::Fresh
        }
    }
}

impl NonceStore for MemoryNonceStore {
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        let claimed = self.claim_now(&claim);
        Answer::ready(claimed.map_err(|full| Unavailable::new(Dependency::NonceStore, full)))
    }

    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        Answer::ready(Ok(self.look_now(&claim)))
    }

    /// A nonce may fall into any shard, so one full shard is enough for claims to fail.
    fn check(&self, now: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        let has_room = |shard: &Mutex<Shard>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).has_room(now.seconds())
        };
        let checked = if self.shards.iter().all(has_room) { Ok(()) } else { Err(NonceStoreFull) };
        Answer::ready(checked.map_err(|full| Unavailable::new(Dependency::NonceStore, full)))
    }
}

impl fmt::Debug for MemoryNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNonceStore")
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

/// Digest of a principal and a nonce. Both halves are uniformly distributed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest {
    /// The hash of the entry within its shard.
    place: u64,
    /// Selects the shard, and tells apart entries with the same hash.
    rest: u64,
}

struct Shard {
    entries_max: usize,
    claims: HashTable<Live>,
    /// [`Digest::place`]s by the second at which they expire.
    expiries: BTreeMap<i64, Vec<u64>>,
}

struct Live {
    digest: Digest,
    /// The second from which the nonce is forgotten.
    forgotten_at: i64,
    /// The low half of the attempt's number; the whole number would make the entry half as large
    /// again.
    attempt: u64,
}

impl Shard {
    fn new(entries_max: usize) -> Self {
        Self { entries_max, claims: HashTable::new(), expiries: BTreeMap::new() }
    }

    fn claim(&mut self, digest: Digest, claim: &NonceClaim<'_>) -> Result<Claimed, NonceStoreFull> {
        let now = claim.now.seconds();
        self.clear_expired(now);
        // `remember_for` is in whole seconds counted from `now`, which may be within a second:
        // round up.
        let remember = i64::try_from(claim.remember_for().as_secs()).unwrap_or(i64::MAX);
        let forgotten_at = now.saturating_add(remember).saturating_add(1);
        let live = Live { digest, forgotten_at, attempt: low_half(claim.attempt) };
        let is_full = self.claims.len() >= self.entries_max;
        match self.claims.entry(
            digest.place,
            |held| held.digest == digest,
            |held| held.digest.place,
        ) {
            Entry::Occupied(held) if now < held.get().forgotten_at => {
                let is_same = matches!(claim.attempt, Attempt::Named(_))
                    && held.get().attempt == live.attempt;
                return Ok(if is_same { Claimed::Fresh } else { Claimed::Replayed });
            }
            Entry::Occupied(mut expired) => *expired.get_mut() = live,
            Entry::Vacant(_) if is_full => return Err(NonceStoreFull),
            Entry::Vacant(free) => drop(free.insert(live)),
        }
        self.expiries.entry(forgotten_at).or_default().push(digest.place);
        Ok(Claimed::Fresh)
    }

    /// Whether another nonce could be claimed at `now`, perhaps by removing an expired one.
    fn has_room(&self, now: i64) -> bool {
        self.claims.len() < self.entries_max
            || self.expiries.first_key_value().is_some_and(|(forgotten_at, _)| *forgotten_at <= now)
    }

    /// Removes a few nonces that are expired at `now`; if the store is full, the next call removes
    /// more.
    fn clear_expired(&mut self, now: i64) {
        let mut budget = CLEARED_PER_CLAIM;
        while budget > 0 {
            let Some(mut earliest) = self.expiries.first_entry() else { return };
            if now < *earliest.key() {
                return;
            }
            let forgotten_at = *earliest.key();
            match earliest.get_mut().pop() {
                Some(place) => {
                    // The same nonce may have been claimed again after it expired; then the later
                    // expiry counts. If two with the same hash expire at the same time, each is
                    // found in turn.
                    let is_it = |live: &Live| {
                        live.digest.place == place && live.forgotten_at == forgotten_at
                    };
                    if let Ok(forgotten) = self.claims.find_entry(place, is_it) {
                        forgotten.remove();
                    }
                    budget -= 1;
                }
                None => drop(earliest.remove()),
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low_half(attempt: Attempt) -> u64 {
    attempt.number() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        principal::PrincipalId,
        time::{Tolerance, UnixMillis},
    };

    fn store(entries: usize) -> MemoryNonceStore {
        let fence = Fence::since(UnixMillis(-1), Tolerance::DEFAULT);
        MemoryNonceStore::new(entries, fence, FenceMode::MintedBefore).unwrap()
    }

    fn claim(nonce: &str, now: i64, valid_until: i64) -> NonceClaim<'_> {
        NonceClaim {
            principal: PrincipalId(1),
            nonce,
            token_time: UnixMillis(valid_until - 20_000),
            valid_until: UnixMillis(valid_until),
            now: UnixMillis(now),
            attempt: Attempt::Unique(u128::try_from(now).unwrap()),
        }
    }

    #[test]
    fn a_full_store_refuses_and_forgets_nothing_that_lives() {
        let store = store(10);
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        for name in &names {
            assert_eq!(store.claim_now(&claim(name, 0, 20_000)), Ok(Claimed::Fresh));
        }
        assert_eq!(store.claim_now(&claim("one more", 1_000, 21_000)), Err(NonceStoreFull));
        let is_ready = |now| store.shards.iter().all(|shard| shard.lock().unwrap().has_room(now));
        assert!(!is_ready(1) && !is_ready(21), "readiness says so");
        assert!(is_ready(22), "and that there is room again, without a claim that finds it");
        for name in &names {
            assert_eq!(
                store.claim_now(&claim(name, 20_000, 20_000)),
                Ok(Claimed::Replayed),
                "{name}"
            );
        }
        assert_eq!(
            store.claim_now(&claim("one more", 22_000, 42_000)),
            Ok(Claimed::Fresh),
            "expired ones made room"
        );
    }

    #[test]
    fn what_was_signed_before_the_store_began_is_fenced() {
        let fence = Fence::since(UnixMillis(1_000_000), Tolerance::DEFAULT);
        let store = MemoryNonceStore::new(10, fence, FenceMode::MintedBefore).unwrap();
        let at = |token_time: i64| claim("n", 1_000_100, token_time + 20_000);
        for before in [at(999_000), at(1_000_000)] {
            assert_eq!(store.claim_now(&before), Ok(Claimed::Fenced));
            assert_eq!(store.look_now(&before), Claimed::Fenced);
        }
        assert!(store.is_empty(), "what is fenced takes no room");
        assert_eq!(store.claim_now(&at(1_001_000)), Ok(Claimed::Fresh));
        assert_eq!(store.claim_now(&at(1_001_000)), Ok(Claimed::Replayed));
    }

    #[test]
    fn a_store_holds_as_many_as_it_should_and_not_many_more() {
        for entries in [1, 2, 1024, 13_000, 13_001, 200_000] {
            let store = store(entries);
            let claimed = (0..2 * entries + SHARD_ENTRIES_MAX)
                .take_while(|n| store.claim_now(&claim(&format!("{n}"), 0, 20_000)).is_ok())
                .count();
            assert!(claimed >= entries, "{entries}: full at {claimed}");
            let bound: usize =
                store.shards.iter().map(|shard| shard.lock().unwrap().entries_max).sum();
            assert!(
                store.shards.len() == 1 && bound == entries
                    || bound <= entries + entries / 8 + SHARD_ENTRIES_MAX,
                "{entries}: {bound}"
            );
        }
    }

    #[test]
    fn an_entry_is_as_small_as_the_documentation_says() {
        assert_eq!(size_of::<Live>(), 32);
    }

    #[test]
    fn what_has_expired_is_cleared_while_claims_come_in() {
        let store = store(1_000_000);
        for second in 0_u32..200 {
            for n in 0..100 {
                let now = i64::from(second) * 1000;
                assert_eq!(
                    store.claim_now(&claim(&format!("{second}-{n}"), now, now + 20_000)),
                    Ok(Claimed::Fresh)
                );
            }
        }
        assert!(store.len() < 100 * 30, "{}", store.len());
    }

    proptest! {
        /// Compares with a list that forgets nothing: in any order and at any time of claims, no
        /// nonce is fresh twice while it is valid.
        #[test]
        fn no_nonce_is_fresh_twice_while_its_token_is_valid(
            steps in proptest::collection::vec((0_u8..6, 0_i64..3_000, -20_000_i64..=20_000), 1..200),
        ) {
            let store = store(1_000_000);
            let mut now = 1_000_000;
            let mut claimed: Vec<(u8, i64)> = Vec::new();
            for (nonce, wait, offset) in steps {
                now += wait;
                let token_time = now + offset;
                let valid_until = token_time + 20_000;
                let name = nonce.to_string();
                let outcome = store.claim_now(&claim(&name, now, valid_until)).unwrap();
                let is_live = claimed.iter().any(|(held, until)| *held == nonce && now <= *until);
                if is_live {
                    prop_assert_eq!(outcome, Claimed::Replayed);
                }
                if outcome == Claimed::Fresh {
                    claimed.push((nonce, valid_until));
                }
            }
        }
    }
}
