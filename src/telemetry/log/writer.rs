//! Lines that are gathered for a moment and then written together.
//!
//! A line costs whoever logs it a copy. The thread that writes is woken by the first line of a batch alone: one that is woken for
//! each, as with a channel, writes them one by one, and takes turns with those that log them.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// For how long lines are gathered after the first.
const GATHERING: Duration = Duration::from_millis(2);
/// How many bytes may wait. Whoever has more waits, too: nothing is lost.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Starts a thread that writes to `target`.
pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<(Lines, WritingThread)> {
    let shared = Arc::new(Shared::default());
    let writing = Arc::clone(&shared);
    let thread = thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_to(target))?;
    Ok((Lines(Arc::clone(&shared)), WritingThread { shared, thread: Some(thread) }))
}

/// Takes lines.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

/// Writes what waits and ends when it is dropped.
#[derive(Debug)]
pub(super) struct WritingThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is a first line, or it is the end.
    begun: Condvar,
    /// There is room.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    is_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.lock();
        while waiting.lines.len() >= WAITING_BYTES_MAX && !waiting.is_ended {
            waiting = self.taken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.begun.notify_one();
        }
    }

    fn write_to(&self, mut target: impl Write) {
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
            drop(waiting);
            self.taken.notify_all();
            // Where the log cannot be written, there is nowhere to say so.
            let _ = target.write_all(&batch).and_then(|()| target.flush());
            batch.clear();
        }
    }
}

impl Drop for WritingThread {
    fn drop(&mut self) {
        self.shared.lock().is_ended = true;
        self.shared.begun.notify_one();
        self.shared.taken.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, what it had is lost either way.
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

    /// Remembers what was written, and how often.
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
        let (lines, writing) = start(target.clone()).unwrap();
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

    #[test]
    fn a_line_on_its_own_is_written_without_another() {
        let target = Target::default();
        let (lines, _writing) = start(target.clone()).unwrap();
        (&mut &lines).write_all(b"alone\n").unwrap();
        while target.0.lock().unwrap().0.is_empty() {
            thread::yield_now();
        }
        assert_eq!(target.0.lock().unwrap().0, b"alone\n");
    }
}
