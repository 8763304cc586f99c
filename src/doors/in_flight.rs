//! What is being served at one door, with a bound on how many requests and how many bytes of them that may be.
//!
//! A request that finds no room is refused at once. Waiting for room would keep what it has, and the memory that it takes, for as
//! long as whoever filled the door likes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A door's room. Entering it and leaving it are one addition each.
#[derive(Debug)]
pub(super) struct InFlight {
    requests: Room,
    bytes: Room,
}

/// So much of something, of which some is taken.
#[derive(Debug)]
struct Room {
    taken: AtomicUsize,
    max: usize,
}

/// One request, for as long as it is served.
#[derive(Debug)]
pub(super) struct Served(Arc<InFlight>);

/// Bytes of requests, for as long as they are in memory.
#[derive(Debug)]
pub(super) struct HeldBytes {
    door: Arc<InFlight>,
    bytes: usize,
}

impl InFlight {
    /// Room for so many `requests` at once, and so many `bytes` of all of them.
    pub(super) fn new(requests: usize, bytes: usize) -> Arc<Self> {
        Arc::new(Self { requests: Room::new(requests), bytes: Room::new(bytes) })
    }

    /// A request comes in; `None` if there is no room for it.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Served> {
        self.requests.take(1).then(|| Served(Arc::clone(self)))
    }

    /// What a request holds, which is nothing yet.
    pub(super) fn hold_bytes(self: &Arc<Self>) -> HeldBytes {
        HeldBytes { door: Arc::clone(self), bytes: 0 }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.requests.give_back(1);
    }
}

impl HeldBytes {
    /// Holds so many more. If there is no room for them, what was held before still is.
    #[must_use = "bytes for which there is no room may not be kept"]
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        let is_taken = self.door.bytes.take(bytes);
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }

    /// Holds so many more that somebody else is about to give back.
    pub(super) fn add_freed(&mut self, bytes: usize) {
        self.door.bytes.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Holds no more than so many from now on.
    pub(super) fn keep(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.door.bytes.give_back(surplus);
        self.bytes -= surplus;
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.door.bytes.give_back(self.bytes);
    }
}

impl Room {
    const fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max }
    }

    /// Who finds no room gives back what it took, so at the edge two may refuse each other, which is well: there is no room.
    fn take(&self, amount: usize) -> bool {
        if amount > self.max {
            return false;
        }
        let has_room = self.taken.fetch_add(amount, Ordering::Relaxed).saturating_add(amount) <= self.max;
        if !has_room {
            self.give_back(amount);
        }
        has_room
    }

    fn give_back(&self, amount: usize) {
        self.taken.fetch_sub(amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_room_for_as_long_as_it_is_served() {
        let door = InFlight::new(2, 0);
        let (first, _second) = (door.enter().unwrap(), door.enter().unwrap());
        assert!(door.enter().is_none());
        assert!(door.enter().is_none(), "a refusal takes no room");
        drop(first);
        assert!(door.enter().is_some());
    }

    #[test]
    fn bytes_are_counted_over_all_requests_and_given_back_together() {
        let door = InFlight::new(1, 10);
        let (mut one, mut other) = (door.hold_bytes(), door.hold_bytes());
        assert!(one.add(4) && other.add(3) && one.add(3));
        assert!(!other.add(1));
        assert!(!other.add(usize::MAX), "no number is too large to be counted");
        drop(one);
        assert!(other.add(7) && !other.add(1));
        drop(other);
        assert!(door.hold_bytes().add(10));
    }

    #[test]
    fn threads_lose_no_room() {
        let door = InFlight::new(3, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| drop(door.enter())));
            }
        });
        let all = [(); 3].map(|()| door.enter());
        assert!(all.iter().all(Option::is_some) && door.enter().is_none());
    }
}
