//! Which connections are served first under load.
//!
//! Connections are served in turn, so a client that floods a door with requests that are denied
//! could get as much of it as all honest connections together. So if the last requests of a
//! connection were all denied, nothing more is read from it until all other connections with
//! pending work have been served; and then such connections get only a share of what those got. If
//! a worker has nothing else to do, nobody waits.
//!
//! Nothing is refused because of this, and one allowed request ends it: connections of gateways
//! carry requests of many clients.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, task};

use crate::{
    domain::decision::{Decision, DenialCode},
    engine::verify::Verdict,
};

/// After this many denials in a row, a connection waits for its turn.
const DENIED_IN_A_ROW: u32 = 16;
/// All waiting connections together get one request per this many requests of the others.
const SHARE: i64 = 8;
/// Requests that they get whenever there was nothing else to do.
const IDLE: i64 = 4;
/// Upper limit of unused credit, so that it is not saved up.
const CREDIT_MAX: i64 = 4 * SHARE;

thread_local! {
    /// Requests since the worker's last round, on connections that do not wait for turns.
    static BEGUN: Cell<u32> = const { Cell::new(0) };
}

/// The results of the last requests on one connection. Only its worker uses it.
#[derive(Clone, Debug, Default)]
pub(in crate::doors) struct TurnRecord(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    denied_in_a_row: AtomicU32,
    /// Denials since its last turn.
    owed: AtomicU32,
}

impl TurnRecord {
    /// Counts a request that begins.
    pub(in crate::doors) fn begin(&self) {
        if !self.waits() {
            BEGUN.set(BEGUN.get().saturating_add(1));
        }
    }

    /// Records the verdict on a request.
    pub(in crate::doors) fn note(&self, verdict: &Verdict) {
        match &verdict.result {
            Ok(Decision::Allow(_)) => {
                self.0.denied_in_a_row.store(0, Ordering::Relaxed);
                self.0.owed.store(0, Ordering::Relaxed);
            }
            Ok(Decision::Deny(denial)) => match denial.reason.code() {
                // Either says nothing about the client, or means that the client is known.
                DenialCode::Unavailable | DenialCode::InsufficientScope => {}
                DenialCode::MissingCredentials
                | DenialCode::MalformedCredentials
                | DenialCode::UnsupportedAlgorithm
                | DenialCode::InvalidToken
                | DenialCode::TimestampOutsideTolerance
                | DenialCode::Expired
                | DenialCode::Replayed
                | DenialCode::RequestMismatch
                | DenialCode::Misconfigured => {
                    for count in [&self.0.denied_in_a_row, &self.0.owed] {
                        count.store(
                            count.load(Ordering::Relaxed).saturating_add(1),
                            Ordering::Relaxed,
                        );
                    }
                }
            },
            Err(_) => {}
        }
    }

    fn waits(&self) -> bool {
        self.0.denied_in_a_row.load(Ordering::Relaxed) >= DENIED_IN_A_ROW
    }

    /// How many turns the connection needs before more is read from it.
    fn owed(&self) -> u32 {
        if self.waits() { self.0.owed.load(Ordering::Relaxed) } else { 0 }
    }
}

/// The turns of a worker's connections.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: RefCell<VecDeque<Rc<Turn>>>,
    first: Notify,
}

/// A turn that a connection waits for, shared by the connection and the queue.
#[derive(Debug)]
struct Turn {
    cost: u32,
    has_come: Cell<bool>,
    waker: RefCell<Waker>,
}

/// The turn that a connection waits for, if any.
#[derive(Debug, Default)]
pub(super) struct Place(RefCell<Option<Rc<Turn>>>);

impl Turns {
    /// Ready when more may be read from the connection that `standing` and `place` belong to.
    pub(super) fn poll(
        &self,
        standing: &TurnRecord,
        place: &Place,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let cost = standing.owed();
        let mut place = place.0.borrow_mut();
        if cost == 0 {
            *place = None;
            return Poll::Ready(());
        }
        if let Some(turn) = &*place {
            if turn.has_come.get() {
                *place = None;
                standing.0.owed.store(0, Ordering::Relaxed);
                return Poll::Ready(());
            }
            turn.waker.borrow_mut().clone_from(context.waker());
            return Poll::Pending;
        }
        let turn = Rc::new(Turn {
            cost,
            has_come: Cell::new(false),
            waker: RefCell::new(context.waker().clone()),
        });
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            self.first.notify_one();
        }
        queue.push_back(Rc::clone(&turn));
        *place = Some(turn);
        Poll::Pending
    }

    /// Hands out turns as long as the worker serves.
    pub(super) async fn give_out(&self) -> ! {
        let mut credit = 0;
        loop {
            if self.queue.borrow().is_empty() {
                self.first.notified().await;
                BEGUN.set(0);
                credit = 0;
            }
            // Everything that is ready runs before this continues.
            task::yield_now().await;
            let begun = BEGUN.take();
            credit =
                if begun == 0 { IDLE * SHARE } else { (credit + i64::from(begun)).min(CREDIT_MAX) };
            self.give(&mut credit);
        }
    }

    fn give(&self, credit: &mut i64) {
        while *credit > 0
            && let Some(turn) = { self.queue.borrow_mut().pop_front() }
        {
            // If the connection is closed, only the queue still holds the turn.
            if Rc::strong_count(&turn) > 1 {
                *credit -= SHARE * i64::from(turn.cost);
                turn.has_come.set(true);
                turn.waker.borrow().wake_by_ref();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decision::{DecisionId, DenialReason};

    fn verdict(reason: DenialReason) -> Verdict {
        Verdict { id: DecisionId(uuid::Uuid::nil()), result: Ok(Decision::Deny(reason.into())) }
    }

    fn denied(times: u32) -> TurnRecord {
        let standing = TurnRecord::default();
        for _ in 0..times {
            standing.note(&verdict(DenialReason::NotAJws));
        }
        standing
    }

    fn is_ready(turns: &Turns, standing: &TurnRecord, place: &Place) -> bool {
        turns.poll(standing, place, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn only_whoever_is_denied_again_and_again_waits() {
        let turns = Turns::default();
        for (standing, waits) in
            [(denied(DENIED_IN_A_ROW - 1), false), (denied(DENIED_IN_A_ROW), true)]
        {
            assert_eq!(!is_ready(&turns, &standing, &Place::default()), waits);
        }
        let standing = TurnRecord::default();
        for _ in 0..100 {
            standing.note(&verdict(DenialReason::InsufficientScope));
            standing.note(&verdict(DenialReason::Overloaded));
        }
        assert!(is_ready(&turns, &standing, &Place::default()));
    }

    #[test]
    fn those_that_wait_share_what_the_others_leave_in_the_order_in_which_they_came() {
        let turns = Turns::default();
        let waiting: Vec<(TurnRecord, Place)> =
            (0..4).map(|_| (denied(DENIED_IN_A_ROW), Place::default())).collect();
        for (standing, place) in &waiting {
            assert!(!is_ready(&turns, standing, place));
        }
        let come = || {
            waiting
                .iter()
                .map(|(_, place)| place.0.borrow().as_ref().is_some_and(|turn| turn.has_come.get()))
        };
        let mut credit = 1;
        turns.give(&mut credit);
        assert_eq!(come().collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(
            credit,
            1 - SHARE * i64::from(DENIED_IN_A_ROW),
            "all that it owes is paid later"
        );
        credit = 2 * SHARE * i64::from(DENIED_IN_A_ROW);
        turns.give(&mut credit);
        assert_eq!(come().collect::<Vec<_>>(), [true, true, true, false]);
        let (standing, place) = &waiting[0];
        assert!(
            is_ready(&turns, standing, place) && is_ready(&turns, standing, place),
            "it has paid"
        );
    }

    #[test]
    fn a_closed_connection_takes_no_turn() {
        let turns = Turns::default();
        let (gone, there) = (
            (denied(DENIED_IN_A_ROW), Place::default()),
            (denied(DENIED_IN_A_ROW), Place::default()),
        );
        assert!(!is_ready(&turns, &gone.0, &gone.1) && !is_ready(&turns, &there.0, &there.1));
        drop(gone);
        turns.give(&mut 1);
        assert!(is_ready(&turns, &there.0, &there.1));
    }

    #[tokio::test]
    async fn nobody_waits_for_long_if_there_is_nothing_else_to_do() {
        let turns = Turns::default();
        let waiting = async {
            for _ in 0..100 {
                let (standing, place) = (denied(DENIED_IN_A_ROW), Place::default());
                std::future::poll_fn(|context| turns.poll(&standing, &place, context)).await;
            }
        };
        tokio::select! {
            biased;
            () = waiting => {}
            _ = turns.give_out() => {}
        }
    }
}
