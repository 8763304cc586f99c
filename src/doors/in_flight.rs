//! The requests that a door is serving, with an upper limit.
//!
//! A request over the limit is refused at once. If it waited, it would hold its connection and
//! memory for as long as the clients that fill the door want.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A door's limit on requests. Entering and leaving cost one atomic addition each.
#[derive(Debug)]
pub(super) struct InFlight(Room);

/// A limited amount of something, and how much of it is taken.
#[derive(Debug)]
pub(super) struct Room {
    taken: AtomicUsize,
    max: usize,
}

/// One request, counted while it is served.
#[derive(Debug)]
pub(super) struct Served(Arc<InFlight>);

impl InFlight {
    /// A limit of `requests` at once.
    pub(super) fn new(requests: usize) -> Arc<Self> {
        Arc::new(Self(Room::new(requests)))
    }

    /// Counts a request; `None` if the limit is reached.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Served> {
        self.0.take(1).then(|| Served(Arc::clone(self)))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.0.give_back(1);
    }
}

impl Room {
    /// A limit of `max`.
    pub(super) const fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max }
    }

    /// Takes `amount` if there is room. An attempt that finds none gives back what it took, so
    /// close to the limit two attempts may refuse each other. That is fine: there is no room.
    pub(super) fn take(&self, amount: usize) -> bool {
        if amount > self.max {
            return false;
        }
        let has_room =
            self.taken.fetch_add(amount, Ordering::Relaxed).saturating_add(amount) <= self.max;
        if !has_room {
            self.give_back(amount);
        }
        has_room
    }

    /// Gives back `amount`.
    pub(super) fn give_back(&self, amount: usize) {
        self.taken.fetch_sub(amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_room_for_as_long_as_it_is_served() {
        let door = InFlight::new(2);
        let (first, _second) = (door.enter().unwrap(), door.enter().unwrap());
        assert!(door.enter().is_none());
        assert!(door.enter().is_none(), "a refusal takes no room");
        drop(first);
        assert!(door.enter().is_some());
    }

    #[test]
    fn no_amount_is_too_large_to_be_counted() {
        let room = Room::new(10);
        assert!(room.take(4) && room.take(6));
        assert!(!room.take(1) && !room.take(usize::MAX));
        room.give_back(6);
        assert!(room.take(6) && !room.take(1));
    }

    #[test]
    fn threads_lose_no_room() {
        let door = InFlight::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| drop(door.enter())));
            }
        });
        let all = [(); 3].map(|()| door.enter());
        assert!(all.iter().all(Option::is_some) && door.enter().is_none());
    }
}
