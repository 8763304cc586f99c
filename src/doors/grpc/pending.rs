//! Memory for messages that arrive in parts, shared by all connections.
//!
//! An honest message is complete within milliseconds. A sender that withholds the end of its
//! messages would otherwise fill this memory for seconds, again and again. So if there is none
//! left, the messages that have waited longest are dropped for the newest.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

use crate::doors::in_flight::Room;

/// The messages that have begun to arrive and are not complete.
#[derive(Debug)]
pub(super) struct Pending {
    bytes: Room,
    /// In the order in which they began. Some may have ended.
    begun: Mutex<VecDeque<Weak<State>>>,
}

/// The memory that one message holds.
#[derive(Debug)]
pub(super) struct Held {
    state: Arc<State>,
    of: Arc<Pending>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that it holds of the shared memory.
    bytes: AtomicUsize,
    is_given_up: AtomicBool,
    waker: AtomicWaker,
}

impl Pending {
    /// Memory of `bytes` bytes in total.
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Room::new(bytes), begun: Mutex::default() })
    }

    /// Registers a new message, which holds `bytes` from the start; `None` if there is no room.
    pub(super) fn begin(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let state = Arc::<State>::default();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        while begun.front().is_some_and(|first| first.strong_count() == 0) {
            begun.pop_front();
        }
        begun.push_back(Arc::downgrade(&state));
        drop(begun);
        let held = Held { state, of: Arc::clone(self) };
        held.add(bytes).then_some(held)
    }

    /// Takes `bytes`. If there are not enough, drops the oldest messages first, but never `newest`
    /// or messages that began after it.
    fn take(&self, bytes: usize, newest: &Arc<State>) -> bool {
        while !self.bytes.take(bytes) {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(oldest) = begun.pop_front() else { return false };
            let Some(oldest) = oldest.upgrade() else { continue };
            if Arc::ptr_eq(&oldest, newest) {
                begun.push_front(Arc::downgrade(&oldest));
                return false;
            }
            drop(begun);
            // The message frees its memory as soon as it is polled.
            oldest.is_given_up.store(true, Ordering::Release);
            oldest.waker.wake();
            self.bytes.give_back(oldest.bytes.swap(0, Ordering::Relaxed));
        }
        true
    }
}

impl Held {
    /// Takes `bytes` more. False if there is no room.
    #[must_use = "bytes for which there is no room may not be kept"]
    pub(super) fn add(&self, bytes: usize) -> bool {
        let has_room = self.of.take(bytes, &self.state);
        if has_room {
            self.state.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        has_room
    }

    /// Shrinks to at most `bytes`.
    pub(super) fn keep(&self, bytes: usize) {
        let held = self.state.bytes.swap(0, Ordering::Relaxed);
        let kept = held.min(bytes);
        self.state.bytes.fetch_add(kept, Ordering::Relaxed);
        self.of.bytes.give_back(held - kept);
    }

    /// Whether the message was dropped to make room; if not, `waker` is woken when it is.
    pub(super) fn is_given_up(&self, waker: &Waker) -> bool {
        self.state.waker.register(waker);
        self.state.is_given_up.load(Ordering::Acquire)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.bytes.give_back(self.state.bytes.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_given_up(held: &Held) -> bool {
        held.is_given_up(Waker::noop())
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let room = Pending::new(100);
        let old: Vec<Held> = (0..4).map(|_| room.begin(25).unwrap()).collect();
        let newest = room.begin(10).unwrap();
        assert_eq!(old.iter().map(is_given_up).collect::<Vec<_>>(), [true, false, false, false]);
        assert!(newest.add(40));
        assert_eq!(old.iter().map(is_given_up).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!is_given_up(&newest));
        drop(old);
        assert!(newest.add(50), "what was given up is given back");
    }

    #[test]
    fn one_that_is_the_oldest_gives_up_nobody() {
        let room = Pending::new(100);
        let only = room.begin(60).unwrap();
        let other = room.begin(40).unwrap();
        assert!(!only.add(1) && !is_given_up(&other) && !is_given_up(&only));
        drop(other);
        assert!(only.add(1));
        drop(only);
        assert!(room.begin(101).is_none(), "it would hold more than all together may");
        assert!(room.begin(100).is_some());
    }
}
