//! Which names there are.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{PoisonError, RwLock},
};

use crate::domain::principal::Username;

/// The names of all principals, as keyed digests of 8 bytes. A name whose digest is missing is
/// nobody's; one whose digest is there is somebody's, or (once in 2^64 for each name held) by
/// chance, or was somebody's: then the database is asked.
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

    /// From now on every name is held, and each new one will be added.
    pub(super) fn are_complete(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).is_complete = true;
    }

    /// Starts anew.
    pub(super) fn forget(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Whether `username` is nobody's for certain.
    pub(super) fn lack(&self, username: &Username) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.is_complete && !state.digests.contains(&self.digest(username))
    }

    fn digest(&self, username: &Username) -> u64 {
        self.hasher.hash_one(username.as_str())
    }
}
