//! Collects lines for a moment, and then writes them together.
//!
//! A log call only copies its line. The writing thread is woken only by the first line of a batch:
//! if it were woken for each line, as with a channel, it would write them one by one and compete
//! with the threads that log.
//!
//! If the reader of the log is too slow, lines wait, up to a limit. Beyond that they are dropped
//! and counted: a log that nobody reads must not stop the service.

use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::telemetry::LogOverflow;

/// How long lines are collected after the first one.
const GATHERING: Duration = Duration::from_millis(2);
/// Maximum number of bytes that wait.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// How many bytes are written at once, as much as a pipe holds: small enough to notice whether the
/// reader makes progress.
const WRITTEN_AT_ONCE: usize = 64 * 1024;
/// How long stopping waits for the last lines if the reader makes no progress.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// How many such periods stopping waits if the reader is slow but makes progress.
const LAST_PATIENCES: u32 = 3;

thread_local! {
    /// Whether this is the writing thread, which must never wait for room.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread that writes to `target`. `overflow` says whether lines without room are dropped
/// or wait. `tell` is called on that thread with the number of lost lines as soon as there is room
/// again; it may log.
pub(super) fn start(
    target: impl Write + Send + 'static,
    overflow: LogOverflow,
    tell: impl Fn(u64) + Send + 'static,
) -> io::Result<(Lines, WritingThread)> {
    let shared = Arc::new(Shared { overflow, ..Shared::default() });
    let writing = Arc::clone(&shared);
    let thread = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writing.write_to(target, tell))?;
    Ok((Lines(Arc::clone(&shared)), WritingThread { shared, thread: Some(thread) }))
}

/// Accepts lines to write.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

/// When dropped, writes the waiting lines and stops, unless the reader makes no progress.
#[derive(Debug)]
pub(super) struct WritingThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    overflow: LogOverflow,
    waiting: Mutex<Waiting>,
    /// Signals the first line of a batch, or the end.
    begun: Condvar,
    /// Signals that there is room.
    taken: Condvar,
    /// Signals that the thread has ended.
    ended: Condvar,
    /// The number of writes, to detect progress.
    writes: AtomicU64,
    /// The number of lines lost since the start.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The number of lines lost since there was room.
    lost: u64,
    /// No more lines will come.
    is_ended: bool,
    /// All lines are written.
    is_written: bool,
}

impl Lines {
    /// The number of lines lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// The number of lines lost since there was room: 0 if there is room now.
    pub(super) fn being_lost(&self) -> u64 {
        self.0.lock().lost
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.lock();
        while waiting.lines.len() >= WAITING_BYTES_MAX && !WRITES.get() {
            match self.overflow {
                LogOverflow::Wait if !waiting.is_ended => {
                    waiting = self.taken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
                LogOverflow::Wait | LogOverflow::Drop => {
                    waiting.lost += 1;
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.begun.notify_one();
        }
    }

    fn write_to(&self, mut target: impl Write, tell: impl Fn(u64)) {
        WRITES.set(true);
        let (mut batch, mut is_ended) = (Vec::new(), false);
        while !is_ended {
            let mut waiting = self.lock();
            while waiting.lines.is_empty() && !waiting.is_ended {
                waiting = self.begun.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if !waiting.is_ended {
                drop(waiting);
                thread::sleep(GATHERING);
                waiting = self.lock();
            }
            is_ended = waiting.is_ended;
            mem::swap(&mut waiting.lines, &mut batch);
            let lost = mem::take(&mut waiting.lost);
            drop(waiting);
            self.taken.notify_all();
            if lost > 0 {
                tell(lost);
                // A line that `tell` logged follows this batch, and is written even at the end.
                is_ended = false;
            }
            self.write(&mut target, &batch);
            batch.clear();
        }
        self.lock().is_written = true;
        self.ended.notify_all();
    }

    /// Ignores errors: if the log cannot be written, there is nowhere to report it.
    fn write(&self, target: &mut impl Write, batch: &[u8]) {
        for part in batch.chunks(WRITTEN_AT_ONCE) {
            let _ = target.write_all(part);
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        let _ = target.flush();
    }

    /// Waits for the last lines to be written, for a limited time and as long as there is progress.
    /// Returns whether all are written.
    fn wait_for_the_end(&self) -> bool {
        let mut waiting = self.lock();
        for _ in 0..LAST_PATIENCES {
            let writes = self.writes.load(Ordering::Relaxed);
            let ended = self
                .ended
                .wait_timeout_while(waiting, LAST_PATIENCE, |waiting| !waiting.is_written);
            waiting = ended.unwrap_or_else(PoisonError::into_inner).0;
            if waiting.is_written || self.writes.load(Ordering::Relaxed) == writes {
                break;
            }
        }
        waiting.is_written
    }
}

impl Drop for WritingThread {
    fn drop(&mut self) {
        self.shared.lock().is_ended = true;
        self.shared.begun.notify_one();
        self.shared.taken.notify_all();
        // A thread that is still blocked by the reader ends with the process.
        if let Some(thread) = self.thread.take().filter(|_| self.shared.wait_for_the_end()) {
            // It does not panic; if it did, its lines would be lost anyway.
            let _ = thread.join();
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores what was written, and counts writes.
    #[derive(Clone, Default)]
    struct Target(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Target {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.lock().unwrap();
            written.0.extend_from_slice(bytes);
            written.1 += 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_of_every_thread_is_written_many_at_a_time() {
        const THREADS: usize = 4;
        const EACH: usize = 5_000;
        let target = Target::default();
        let (lines, writing) =
            start(target.clone(), LogOverflow::Wait, |_| panic!("nothing is lost")).unwrap();
        thread::scope(|scope| {
            for number in 0..THREADS {
                let lines = &lines;
                scope.spawn(move || {
                    for line in 0..EACH {
                        (&mut &*lines).write_all(format!("{number} {line}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        drop(writing);
        let (written, times) = mem::take(&mut *target.0.lock().unwrap());
        let text = String::from_utf8(written).unwrap();
        let mut next = [0; THREADS];
        for line in text.lines() {
            let (thread, number) = line.split_once(' ').unwrap();
            let next = &mut next[thread.parse::<usize>().unwrap()];
            assert_eq!(number, next.to_string());
            *next += 1;
        }
        assert_eq!(next, [EACH; THREADS]);
        assert!(times < THREADS * EACH / 10, "{times} writes");
    }

    /// Accepts nothing until it is opened, like a pipe without a reader.
    #[derive(Clone, Default)]
    struct Gate {
        target: Target,
        opened: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Gate {
        fn open(&self) {
            *self.opened.0.lock().unwrap() = true;
            self.opened.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.target.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(
                self.opened.1.wait_while(self.opened.0.lock().unwrap(), |opened| !*opened).unwrap(),
            );
            self.target.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(lines: &Lines, line: &str) {
        (&mut &*lines).write_all(line.as_bytes()).unwrap();
    }

    const LINE: &str = "a line that is a hundred bytes long, and says so to whoever wants to count them: one, two, three...\n";
    /// More than fits in two batches.
    const MANY: u64 = 3 * (WAITING_BYTES_MAX / LINE.len()) as u64;

    #[test]
    fn lines_without_room_are_lost_and_counted_and_nobody_waits() {
        let gate = Gate::default();
        let (told, lines_of_teller) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Lines>)));
        let (telling, teller) = (Arc::clone(&told), Arc::clone(&lines_of_teller));
        let tell = move |lost| {
            log(teller.lock().unwrap().as_ref().unwrap(), "some were lost\n");
            telling.lock().unwrap().push(lost);
        };
        let (lines, writing) = start(gate.clone(), LogOverflow::Drop, tell).unwrap();
        *lines_of_teller.lock().unwrap() = Some(lines.clone());
        for _ in 0..MANY {
            log(&lines, LINE);
        }
        let lost = lines.lost();
        assert!(lost > 0);

        gate.open();
        // Some lines may have been lost before the first batch was accepted.
        while told.lock().unwrap().iter().sum::<u64>() < lost {
            thread::yield_now();
        }
        assert_eq!(lines.being_lost(), 0);
        log(&lines, "and then\n");
        drop(writing);
        let told = mem::take(&mut *told.lock().unwrap());
        assert_eq!(told.iter().sum::<u64>(), lost);
        let text = gate.text();
        assert_eq!(
            text.lines().filter(|line| *line == LINE.trim_end()).count() as u64,
            MANY - lost
        );
        assert_eq!(text.lines().filter(|line| *line == "some were lost").count(), told.len());
        assert_eq!(text.lines().last(), Some("and then"));
    }

    #[test]
    fn lines_without_room_are_waited_for_if_none_may_be_lost() {
        let gate = Gate::default();
        let (lines, writing) =
            start(gate.clone(), LogOverflow::Wait, |_| panic!("nothing is lost")).unwrap();
        thread::scope(|scope| {
            let logging = scope.spawn(|| (0..MANY).for_each(|_| log(&lines, LINE)));
            while lines.0.lock().lines.len() < WAITING_BYTES_MAX {
                thread::yield_now();
            }
            assert!(!logging.is_finished(), "there is no room for the rest");
            gate.open();
        });
        drop(writing);
        assert_eq!((lines.lost(), gate.text().lines().count() as u64), (0, MANY));
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_does_not_come() {
        for overflow in [LogOverflow::Drop, LogOverflow::Wait] {
            let gate = Gate::default();
            let (lines, writing) = start(gate.clone(), overflow, |_| ()).unwrap();
            log(&lines, "alone\n");
            drop(writing);
            assert_eq!(gate.text(), "");
            gate.open();
        }
    }

    #[test]
    fn a_line_on_its_own_is_written_without_another() {
        let target = Target::default();
        let (lines, _writing) = start(target.clone(), LogOverflow::Drop, |_| ()).unwrap();
        (&mut &lines).write_all(b"alone\n").unwrap();
        while target.0.lock().unwrap().0.is_empty() {
            thread::yield_now();
        }
        assert_eq!(target.0.lock().unwrap().0, b"alone\n");
    }
}
