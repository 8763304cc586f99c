//! Memory for what has arrived of requests that are not answered, bounded for all connections of a
//! worker together.

use std::cell::Cell;

/// Bytes that unanswered requests may hold on one worker.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A connection that holds less is never given up for memory: one read.
const SMALL: usize = 16 * 1024;

/// The bytes that all connections of a worker hold.
#[derive(Debug, Default)]
pub(super) struct Memory {
    held: Cell<usize>,
}

impl Memory {
    /// A connection that holds `own` bytes receives `more`. Whether it may hold them, too.
    pub(super) fn take(&self, own: usize, more: usize) -> bool {
        let held = self.held.get() + more;
        self.held.set(held);
        held <= BYTES_MAX || own + more <= SMALL
    }

    /// Bytes are no longer held.
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
