//! What a connection waits for, and for how long it may.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    memory::Memory,
    turns::{Place, TurnRecord, Turns},
};
use crate::telemetry::connections::{ConnectionCounts, Malformed, Overdue};

/// How often a worker checks its connections, and so the resolution of deadlines.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// For the TLS handshake, and again for the first request.
const SILENT: u32 = ticks(Duration::from_secs(5));
/// Replaces [`SILENT`] and [`HEAD`] while connections are refused: clients that send no request
/// make room for those that do.
const CROWDED: u32 = ticks(Duration::from_secs(1));
/// For the head of a request, after its first byte.
const HEAD: u32 = ticks(Duration::from_secs(5));
/// For the next part of a request's body.
pub(in crate::doors) const BODY_PART_TIME: Duration = Duration::from_secs(5);
const BODY_PROGRESS: u32 = ticks(BODY_PART_TIME);
/// For the whole body of a request, however steadily it arrives.
pub(in crate::doors) const BODY_TIME: Duration = Duration::from_secs(30);
const BODY: u32 = ticks(BODY_TIME);
/// For the client to take the next part of a response.
const READER: u32 = ticks(Duration::from_secs(10));
/// For the next request. Longer than the gateways' own limits in `examples/`, so that the gateway
/// closes a connection, not we at the moment it sends a request.
const IDLE: u32 = ticks(Duration::from_secs(75));
/// For the client to take the last response of a connection, and to close it.
const LINGER: u32 = ticks(Duration::from_secs(2));

#[allow(clippy::cast_possible_truncation, reason = "a minute or so")]
const fn ticks(duration: Duration) -> u32 {
    (duration.as_millis() / TICK.as_millis()) as u32
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    /// The client: the first request.
    Silent,
    /// The client: the rest of a request's head.
    Head,
    /// The client and us: the rest of a request's body, and the response.
    Body,
    /// Us: the response.
    Serving,
    /// The client, to take a response.
    Answering,
    /// The client: the next request.
    Idle,
    /// Nothing in particular: HTTP/2 has many requests at a time, and checks with pings whether the
    /// client is there.
    Open,
    /// The client, to close the connection.
    Closing,
}

/// What the worker wants a connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    GoOn,
    /// Close gracefully, as soon as no request is being answered.
    Close,
    /// End at once.
    Cut,
}

/// What one connection is doing. The connection records it, and its worker checks it.
#[derive(Debug)]
pub(in crate::doors) struct Activity {
    shared: Rc<Shared>,
    phase: Cell<Phase>,
    since: Cell<u32>,
    /// When data was last received.
    received: Cell<Option<u32>>,
    /// Since when the client has not taken what we send.
    blocked: Cell<Option<u32>>,
    /// Bytes received of unanswered requests.
    held: Cell<usize>,
    /// Whether there may be data on its way that nobody will read. Closing the connection would
    /// then reset it, and the client might lose the response.
    is_unread: Cell<bool>,
    /// Whether it speaks HTTP/2. There, we may send before a request has arrived.
    is_multiplexed: Cell<bool>,
    /// Whether the head of a request did not arrive in time.
    is_late: Cell<bool>,
    standing: TurnRecord,
    place: Place,
    counts: Arc<ConnectionCounts>,
    command: Cell<Command>,
    waker: RefCell<Option<Waker>>,
}

/// What the connections of a worker share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Time since the worker started, in [`TICK`]s.
    pub(super) now: Cell<u32>,
    pub(super) memory: Memory,
    pub(super) turns: Turns,
    /// Whether the service is shutting down.
    pub(super) is_draining: Cell<bool>,
    /// Whether connections are refused because there are too many.
    pub(super) is_crowded: Cell<bool>,
}

impl Activity {
    pub(super) fn new(shared: Rc<Shared>, counts: Arc<ConnectionCounts>) -> Self {
        Self {
            phase: Cell::new(Phase::Handshake),
            since: Cell::new(shared.now.get()),
            received: Cell::default(),
            blocked: Cell::default(),
            held: Cell::default(),
            is_unread: Cell::default(),
            is_multiplexed: Cell::default(),
            is_late: Cell::default(),
            standing: TurnRecord::default(),
            place: Place::default(),
            counts,
            command: Cell::new(Command::GoOn),
            waker: RefCell::default(),
            shared,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.shared.now.get());
    }

    /// The stream is ready: connected, and past the TLS handshake if there is one.
    pub(super) fn connected(&self) {
        self.enter(Phase::Silent);
    }

    /// The client speaks HTTP/2. What it has sent so far is not part of a request, so the deadline
    /// for the first request still applies.
    pub(in crate::doors) fn multiplexed(&self) {
        self.is_multiplexed.set(true);
        if self.phase.get() == Phase::Head {
            self.release();
            self.phase.set(Phase::Silent);
        }
    }

    /// Whether the client speaks HTTP/2.
    pub(in crate::doors) const fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.get()
    }

    /// Reserves `bytes` for one of many concurrent requests; `None` if there is no memory.
    pub(in crate::doors) fn hold(self: &Rc<Self>, bytes: usize) -> Option<Held> {
        let held = Held { activity: Rc::clone(self), bytes: Cell::new(0) };
        held.grow(bytes).then_some(held)
    }

    /// Counts a request that was malformed or too large.
    pub(super) fn count_malformed(&self, kind: Malformed) {
        self.counts.malformed(kind);
    }

    /// The head of a request did not arrive in time, so the client gets an error response. False if
    /// that was noted before: then the client does not take the response either.
    pub(super) fn has_head_late(&self) -> bool {
        let is_new = !self.is_late.replace(true);
        self.wake();
        is_new
    }

    /// Whether waiting for the rest of a head is over.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.get() && self.phase.get() == Phase::Head
    }

    /// The results of its requests.
    pub(in crate::doors) const fn standing(&self) -> &TurnRecord {
        &self.standing
    }

    /// Ready when the connection may be read from.
    pub(super) fn poll_turn(&self, context: &mut Context<'_>) -> Poll<()> {
        self.shared.turns.poll(&self.standing, &self.place, context)
    }

    /// Counts received bytes. Returns whether there is memory for them.
    pub(super) fn received(&self, bytes: usize) -> bool {
        self.received.set(Some(self.shared.now.get()));
        if self.is_multiplexed.get() {
            // HTTP/2 limits what it receives itself.
            return true;
        }
        match self.phase.get() {
            Phase::Silent | Phase::Idle => self.enter(Phase::Head),
            Phase::Closing => return true,
            Phase::Handshake
            | Phase::Head
            | Phase::Body
            | Phase::Serving
            | Phase::Answering
            | Phase::Open => {}
        }
        let held = self.held.get();
        self.held.set(held + bytes);
        self.shared.memory.take(held, bytes)
    }

    /// A request is being handled; `has_body` if more of it may arrive.
    pub(super) fn request_begun(&self, has_body: bool) {
        self.is_unread.set(has_body);
        self.enter(if has_body { Phase::Body } else { Phase::Serving });
    }

    /// The request's body was read to its end.
    pub(in crate::doors) fn body_ended(&self) {
        if self.is_multiplexed.get() {
            return;
        }
        self.is_unread.set(false);
        self.enter(Phase::Serving);
    }

    /// A response is ready to be sent.
    pub(super) fn answered(&self) {
        self.release();
        self.enter(Phase::Answering);
    }

    /// Whether what is sent now answers a request. If not, it is the HTTP library's response to
    /// something that is not a request.
    pub(super) fn is_answering(&self) -> bool {
        match self.phase.get() {
            Phase::Body | Phase::Serving | Phase::Answering | Phase::Open | Phase::Closing => true,
            Phase::Handshake | Phase::Silent | Phase::Head | Phase::Idle => {
                self.is_multiplexed.get()
            }
        }
    }

    /// What was received is not a request; it gets an error response, and nothing after it is read.
    pub(super) fn malformed(&self) {
        self.release();
        // A client that is too slow has most likely sent nothing since.
        self.is_unread.set(!self.is_late.get());
        self.enter(Phase::Answering);
    }

    /// Whether the connection should be closed after the current request.
    pub(super) fn is_draining(&self) -> bool {
        self.shared.is_draining.get()
    }

    /// Whether the client has sent anything.
    pub(super) fn has_spoken(&self) -> bool {
        self.received.get().is_some()
    }

    /// Everything has been sent.
    pub(super) fn flushed(&self) {
        self.blocked.set(None);
        if self.phase.get() == Phase::Answering {
            self.enter(Phase::Idle);
        }
    }

    /// The client took some data.
    pub(super) fn sent(&self) {
        self.blocked.set(None);
    }

    /// The client takes no data.
    pub(super) fn blocked(&self) {
        if self.blocked.get().is_none() {
            self.blocked.set(Some(self.shared.now.get()));
        }
    }

    /// An HTTP/2 connection has its first request.
    pub(in crate::doors) fn opened(&self) {
        if self.phase.get() == Phase::Silent {
            self.enter(Phase::Open);
        }
    }

    /// Nothing more is sent. Returns whether to wait until the client has closed its side, too.
    pub(super) fn closing(&self) -> bool {
        if self.phase.get() != Phase::Closing {
            self.release();
            self.enter(Phase::Closing);
        }
        self.is_unread.get()
    }

    /// The connection is asked to close. One without a request gets little time for that.
    pub(super) fn told_to_close(&self) {
        if self.phase.get() == Phase::Silent {
            self.enter(Phase::Closing);
        }
    }

    fn release(&self) {
        self.shared.memory.give_back(self.held.replace(0));
    }

    /// Whether no request is being answered, so that the connection may be closed.
    pub(super) fn may_close(&self) -> bool {
        matches!(self.phase.get(), Phase::Silent | Phase::Idle | Phase::Open)
    }

    /// The deadline that the connection has missed, if any.
    pub(super) fn overdue(&self) -> Option<Overdue> {
        let now = self.shared.now.get();
        let is_over = |since: u32, limit: u32| now.wrapping_sub(since) > limit;
        if self.blocked.get().is_some_and(|since| is_over(since, READER)) {
            return Some(Overdue::Reader);
        }
        let since = self.since.get();
        let unless_crowded = |limit| if self.shared.is_crowded.get() { CROWDED } else { limit };
        let (limit, overdue) = match self.phase.get() {
            Phase::Handshake => (unless_crowded(SILENT), Overdue::Handshake),
            Phase::Silent => (unless_crowded(SILENT), Overdue::Silent),
            Phase::Head => (unless_crowded(HEAD), Overdue::Head),
            Phase::Body => {
                let last = self.received.get().unwrap_or(since);
                return (is_over(since, BODY) || is_over(last, BODY_PROGRESS))
                    .then_some(Overdue::Body);
            }
            Phase::Idle => (IDLE, Overdue::Idle),
            Phase::Closing => (LINGER, Overdue::Reader),
            Phase::Serving | Phase::Answering | Phase::Open => return None,
        };
        is_over(since, limit).then_some(overdue)
    }

    pub(super) fn command(&self) -> Command {
        self.command.get()
    }

    /// Sends `command` to the connection. Nothing overrides [`Command::Cut`].
    pub(super) fn order(&self, command: Command) {
        if self.command.get() == Command::Cut || self.command.get() == command {
            return;
        }
        self.command.set(command);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes `waker` when a command arrives.
    pub(super) fn listen(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        match known.as_mut() {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }
}

/// Memory held by one of many requests on a connection, until this is dropped.
#[derive(Debug)]
pub(in crate::doors) struct Held {
    activity: Rc<Activity>,
    bytes: Cell<usize>,
}

impl Held {
    /// Adds `more` bytes. Returns whether there is memory for them.
    pub(in crate::doors) fn grow(&self, more: usize) -> bool {
        let held = self.bytes.get();
        self.bytes.set(held + more);
        let has_room = self.activity.shared.memory.take(held, more);
        if !has_room {
            self.activity.counts.given_up(Overdue::Memory);
        }
        has_room
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.activity.shared.memory.give_back(self.bytes.get());
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn after(shared: &Shared, ticks: u32) {
        shared.now.set(shared.now.get() + ticks);
    }

    fn counts() -> Arc<ConnectionCounts> {
        let [counts, ..] = ConnectionCounts::of_all(&Metrics::unseen());
        counts
    }

    fn connected() -> (Rc<Shared>, Activity) {
        let shared = Rc::<Shared>::default();
        let activity = Activity::new(Rc::clone(&shared), counts());
        activity.connected();
        (shared, activity)
    }

    #[test]
    fn silence_has_an_end() {
        let (shared, activity) = connected();
        after(&shared, SILENT);
        assert_eq!(activity.overdue(), None);
        after(&shared, 1);
        assert_eq!(activity.overdue(), Some(Overdue::Silent));
    }

    #[test]
    fn silence_ends_earlier_in_a_crowd() {
        let (shared, activity) = connected();
        after(&shared, CROWDED + 1);
        assert_eq!(activity.overdue(), None);
        shared.is_crowded.set(true);
        assert_eq!(activity.overdue(), Some(Overdue::Silent));
        activity.request_begun(false);
        assert_eq!(activity.overdue(), None, "whoever asks may stay");
    }

    #[test]
    fn a_head_may_not_trickle() {
        let (shared, activity) = connected();
        for _ in 0..=HEAD {
            assert!(activity.received(1));
            after(&shared, 1);
        }
        assert_eq!(activity.overdue(), Some(Overdue::Head));
    }

    #[test]
    fn a_body_may_take_longer_if_it_goes_on() {
        let (shared, activity) = connected();
        activity.received(1);
        activity.request_begun(true);
        for _ in 0..=BODY {
            assert_eq!(activity.overdue(), None);
            activity.received(1);
            after(&shared, 1);
        }
        assert_eq!(activity.overdue(), Some(Overdue::Body), "trickled for too long");
        activity.body_ended();
        assert_eq!(activity.overdue(), None);

        activity.request_begun(true);
        after(&shared, BODY_PROGRESS + 1);
        assert_eq!(activity.overdue(), Some(Overdue::Body), "half sent");
    }

    #[test]
    fn whoever_takes_no_answer_is_given_up() {
        let (shared, activity) = connected();
        activity.request_begun(false);
        activity.answered();
        activity.blocked();
        after(&shared, READER);
        activity.blocked();
        assert_eq!(activity.overdue(), None);
        after(&shared, 1);
        assert_eq!(activity.overdue(), Some(Overdue::Reader));
        activity.sent();
        assert_eq!(activity.overdue(), None);
    }

    #[test]
    fn requests_of_one_connection_hold_memory_each() {
        let shared = Rc::<Shared>::default();
        let activity = Rc::new(Activity::new(Rc::clone(&shared), counts()));
        activity.multiplexed();
        let large = 10 * 1024 * 1024;
        let first = activity.hold(large).expect("there is room");
        assert!(activity.hold(large).is_none(), "more than there is");
        let second = activity.hold(1024).expect("a small one always has room");
        assert!(!second.grow(large));
        drop((first, second));
        assert!(activity.hold(large).is_some(), "there is room again");
    }

    #[test]
    fn a_late_head_is_answered_once() {
        let (shared, activity) = connected();
        activity.received(1);
        after(&shared, HEAD + 1);
        assert_eq!(activity.overdue(), Some(Overdue::Head));
        assert!(!activity.is_late());
        assert!(activity.has_head_late() && activity.is_late());
        assert!(!activity.has_head_late(), "whoever does not take the answer is cut");
        activity.malformed();
        assert!(!activity.is_late(), "it is being answered");
        assert!(!activity.closing(), "and nothing more is waited for");
    }

    #[test]
    fn memory_is_given_back_with_the_answer_and_with_the_connection() {
        let (shared, activity) = connected();
        let large = 10 * 1024 * 1024;
        assert!(activity.received(large));
        assert!(!activity.received(large), "more than there is");
        activity.request_begun(false);
        activity.answered();
        activity.flushed();
        assert!(activity.received(large), "there is room again");
        drop(activity);
        let next = Activity::new(shared, counts());
        assert!(next.received(large), "and again");
    }
}
