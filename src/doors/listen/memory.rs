//! Memory for what has arrived of unanswered requests, limited for all connections of a worker
//! together.

use std::cell::Cell;

/// Bytes that unanswered requests may hold on one worker.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A connection that holds no more than this, one read, is never dropped for memory.
const SMALL: usize = 16 * 1024;

/// Bytes held by all connections of a worker.
#[derive(Debug, Default)]
pub(super) struct Memory {
    held: Cell<usize>,
}

impl Memory {
    /// Adds `more` bytes to a connection that holds `own`. Returns whether it may hold them.
    pub(super) fn take(&self, own: usize, more: usize) -> bool {
        let held = self.held.get() + more;
        self.held.set(held);
        held <= BYTES_MAX || own + more <= SMALL
    }

    /// Subtracts bytes that are no longer held.
    pub(super) fn give_back(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_request_is_the_first_to_go() {
        let memory = Memory::default();
        assert!(memory.take(0, BYTES_MAX), "there is room");
        assert!(memory.take(0, SMALL), "a small one always has room");
        assert!(!memory.take(SMALL, 1), "there is no room");
        memory.give_back(BYTES_MAX / 2);
        assert!(memory.take(SMALL + 1, 1), "there is room again");
    }
}
