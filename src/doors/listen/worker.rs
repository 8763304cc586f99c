//! Threads that serve connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
    thread,
    time::Instant,
};

use futures_util::stream::FuturesUnordered;
use tokio::{
    runtime::{self, LocalOptions},
    sync::{Notify, mpsc, oneshot},
    task,
    time::{MissedTickBehavior, interval},
};

use super::{
    Protocol,
    accept::Accepted,
    connection::Serving,
    deadlines::{Activity, Command, Shared, TICK},
    drain::{Stage, Stages},
};
use crate::{
    doors::tls::Acceptor,
    telemetry::connections::{ConnectionCounts, Overdue},
};

/// How often a closing worker lets its connections read before it closes them, so that they see
/// what the kernel had received by then.
const LOOKS_BEFORE_CLOSING: usize = 3;

/// The threads of one listener.
pub(super) struct Workers {
    pub(super) queues: Vec<mpsc::UnboundedSender<Accepted>>,
}

impl Workers {
    /// Starts `count` workers, and reports when each has ended.
    pub(super) fn start<P: Protocol>(
        count: usize,
        tls: Option<&Acceptor>,
        protocol: &P,
        stages: &Stages,
        counts: &Arc<ConnectionCounts>,
    ) -> io::Result<(Self, FuturesUnordered<oneshot::Receiver<()>>)> {
        let (mut queues, ends) = (Vec::with_capacity(count), FuturesUnordered::new());
        for number in 0..count {
            let (queue, accepted) = mpsc::unbounded_channel();
            let (ended, end) = oneshot::channel();
            let (protocol, tls, stages, counts) =
                (protocol.clone(), tls.cloned(), stages.clone(), Arc::clone(counts));
            let name = format!("{}-{number}", counts.listener().name());
            // The runtime never leaves its thread, so that thread creates it. We learn whether that
            // worked before anything is served.
            let (made, making) = std::sync::mpsc::channel();
            let work = move || {
                let runtime = match runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())
                {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(made.send(Err(error))),
                };
                drop(made.send(Ok(())));
                runtime.block_on(async {
                    let serving = Serving::<P> { ready: protocol.prepare().await, tls, counts };
                    Worker::new(accepted, serving, stages).run().await;
                });
                ended.send(()).ok();
            };
            thread::Builder::new().name(name).spawn(work)?;
            making.recv().map_err(io::Error::other)??;
            queues.push(queue);
            ends.push(end);
        }
        Ok((Self { queues }, ends))
    }
}

struct Worker<P: Protocol> {
    accepted: mpsc::UnboundedReceiver<Accepted>,
    serving: Rc<Serving<P>>,
    stages: Stages,
    shared: Rc<Shared>,
    table: Rc<Table>,
    began: Instant,
    /// Number of refused connections at the worker's last check.
    refused: Cell<u64>,
}

/// The connections of a worker.
#[derive(Default)]
struct Table {
    connections: RefCell<HashMap<u64, Rc<Activity>>>,
    next: Cell<u64>,
    emptied: Notify,
}

/// A connection in the table, as long as it is served.
struct Entry {
    table: Rc<Table>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut connections = self.table.connections.borrow_mut();
        connections.remove(&self.number);
        if connections.is_empty() {
            self.table.emptied.notify_one();
        }
    }
}

impl Table {
    fn add(self: &Rc<Self>, activity: &Rc<Activity>) -> Entry {
        let number = self.next.get();
        self.next.set(number + 1);
        self.connections.borrow_mut().insert(number, Rc::clone(activity));
        Entry { table: Rc::clone(self), number }
    }

    fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }

    fn for_each(&self, look: impl Fn(&Activity)) {
        self.connections.borrow().values().for_each(|activity| look(activity));
    }
}

impl<P: Protocol> Worker<P>
where
    Serving<P>: 'static,
{
    fn new(
        accepted: mpsc::UnboundedReceiver<Accepted>,
        serving: Serving<P>,
        stages: Stages,
    ) -> Self {
        Self {
            accepted,
            serving: Rc::new(serving),
            stages,
            shared: Rc::default(),
            table: Rc::default(),
            began: Instant::now(),
            refused: Cell::default(),
        }
    }

    async fn run(mut self) {
        let (stages, shared) = (self.stages.clone(), Rc::clone(&self.shared));
        let drain = async {
            stages.reached(Stage::Draining).await;
            shared.is_draining.set(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.work() => {}
            () = drain => {}
            _ = shared.turns.give_out() => {}
            () = stages.reached(Stage::Cut) => self.table.for_each(|activity| activity.order(Command::Cut)),
        }
        // Dropping the runtime ends every connection that is left.
    }

    async fn work(&mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A worker with nothing to watch sleeps.
            let watches = !self.table.is_empty() || self.serving.counts.has_untold();
            tokio::select! {
                accepted = self.accepted.recv() => match accepted {
                    Some(accepted) => self.begin(accepted),
                    None => break,
                },
                _ = ticks.tick(), if watches => self.look(),
            }
        }
        // The channel is closed: the service is closing.
        for _ in 0..LOOKS_BEFORE_CLOSING {
            task::yield_now().await;
        }
        self.table.for_each(|activity| activity.order(Command::Close));
        let table = Rc::clone(&self.table);
        while !table.is_empty() {
            tokio::select! {
                () = table.emptied.notified() => {}
                _ = ticks.tick() => self.look(),
            }
        }
    }

    fn begin(&self, accepted: Accepted) {
        self.tell_time();
        let activity =
            Rc::new(Activity::new(Rc::clone(&self.shared), Arc::clone(&self.serving.counts)));
        let (entry, serving) = (self.table.add(&activity), Rc::clone(&self.serving));
        task::spawn_local(async move {
            serving.serve(accepted, activity).await;
            drop(entry);
        });
    }

    fn look(&self) {
        let now = self.tell_time();
        let counts = &self.serving.counts;
        counts.tell(now);
        let refused = counts.refused();
        self.shared.is_crowded.set(self.refused.replace(refused) != refused);
        self.table.for_each(|activity| {
            let Some(overdue) = activity.overdue() else { return };
            match (overdue, activity.command()) {
                (_, Command::Cut) => {}
                // The connection is only idle, so close gracefully; a request that arrives right
                // now is answered.
                (Overdue::Idle, Command::GoOn) => activity.order(Command::Close),
                (Overdue::Silent, Command::GoOn) if activity.has_spoken() => {
                    activity.order(Command::Close);
                }
                // If connections are being refused, there is no time for a response; nor a second
                // time for a client that does not read the first.
                (Overdue::Head, _) if !self.shared.is_crowded.get() && activity.has_head_late() => {
                    counts.given_up(overdue);
                }
                _ => {
                    counts.given_up(overdue);
                    activity.order(Command::Cut);
                }
            }
        });
    }

    fn tell_time(&self) -> Instant {
        let now = Instant::now();
        let ticks = now.duration_since(self.began).as_millis() / TICK.as_millis();
        #[allow(
            clippy::cast_possible_truncation,
            reason = "differences are looked at, and they wrap as well"
        )]
        self.shared.now.set(ticks as u32);
        now
    }
}
