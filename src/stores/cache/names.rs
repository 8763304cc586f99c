//! The usernames that exist.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{PoisonError, RwLock},
};

use crate::domain::principal::Username;

/// The usernames of all principals, as keyed digests of 8 bytes. If the digest of a name is
/// missing, the name does not exist. If it is there, the name exists, existed before, or collides
/// (with a chance of 1 in 2^64 per stored name): then the database is asked.
#[derive(Default)]
pub(super) struct Names {
    state: RwLock<State>,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    digests: HashSet<u64>,
    is_complete: bool,
}

impl Names {
    pub(super) fn add(&self, username: &Username) {
        let digest = self.digest(username);
        self.state.write().unwrap_or_else(PoisonError::into_inner).digests.insert(digest);
    }

    /// Declares the list complete: all usernames are in it, and each new one will be added.
    pub(super) fn are_complete(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).is_complete = true;
    }

    /// Starts over with an empty, incomplete list.
    pub(super) fn forget(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Whether `username` certainly does not exist.
    pub(super) fn lack(&self, username: &Username) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.is_complete && !state.digests.contains(&self.digest(username))
    }

    fn digest(&self, username: &Username) -> u64 {
        self.hasher.hash_one(username.as_str())
    }
}
