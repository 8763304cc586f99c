//! Progress of a long-running command, on standard error: a bar on a terminal, otherwise a plain
//! line every few seconds, so that the log of a job is neither silent nor full.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines if there is no terminal.
const SILENCE: Duration = Duration::from_secs(5);
/// Time between two frames of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// The progress of one command. May be shared between threads; when dropped, it clears the bar.
pub(super) struct Progress {
    what: String,
    total: Option<u64>,
    done: AtomicU64,
    shown: Display,
}

enum Display {
    OnTerminal(ProgressBar),
    AsLines(Mutex<Lines>),
}

struct Lines {
    output: Box<dyn Write + Send>,
    started: Instant,
    last: Instant,
    /// Whether a line was printed: only then a final line is needed.
    has_spoken: bool,
}

impl Progress {
    /// Counts `what`, such as `keys`, up to `total` if that is known.
    pub(super) fn new(what: &str, total: Option<u64>) -> Self {
        let shown = if io::stderr().is_terminal() {
            Display::OnTerminal(bar(what, total))
        } else {
            Display::AsLines(Mutex::new(Lines::starting(Box::new(io::stderr()), Instant::now())))
        };
        Self { what: what.to_owned(), total, done: AtomicU64::new(0), shown }
    }

    /// Counts `n` more.
    pub(super) fn advance(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        match &self.shown {
            Display::OnTerminal(bar) => bar.set_position(done),
            Display::AsLines(lines) => {
                held(lines).tell(Instant::now(), |elapsed| self.line(done, elapsed));
            }
        }
    }

    /// Prints text to standard output, with the bar out of the way.
    pub(super) fn print(&self, text: &str) -> io::Result<()> {
        match &self.shown {
            Display::OnTerminal(bar) => bar.suspend(|| super::print(text)),
            Display::AsLines(_) => super::print(text),
        }
    }

    /// Prints a line to standard error, with or without a bar.
    pub(super) fn note(&self, line: &str) {
        match &self.shown {
            Display::OnTerminal(bar) => bar.println(line),
            Display::AsLines(lines) => held(lines).write(line),
        }
    }

    /// The command is done.
    pub(super) fn finish(self) {
        if let Display::AsLines(lines) = &self.shown {
            let mut lines = held(lines);
            if lines.has_spoken {
                let line = self.line(self.done.load(Ordering::Relaxed), lines.started.elapsed());
                lines.write(&line);
            }
        }
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        format!("{}: {done}{of} after {} s", self.what, elapsed.as_secs())
    }
}

/// Clears the bar, also if the command fails: the command reports its result elsewhere.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::OnTerminal(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn starting(output: Box<dyn Write + Send>, now: Instant) -> Self {
        Self { output, started: now, last: now, has_spoken: false }
    }

    /// Writes the line if enough time has passed since the last one.
    fn tell(&mut self, now: Instant, line: impl FnOnce(Duration) -> String) {
        if now.saturating_duration_since(self.last) >= SILENCE {
            self.last = now;
            self.has_spoken = true;
            let line = line(now.saturating_duration_since(self.started));
            self.write(&line);
        }
    }

    /// If standard error is closed, nobody can read the line.
    fn write(&mut self, line: &str) {
        drop(writeln!(self.output, "{line}"));
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{msg} {wide_bar} {human_pos} of {human_len}, {eta} left")
        }
        None => (ProgressBar::no_length(), "{spinner} {msg} {human_pos}, {elapsed}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    // There are only these two templates; if one did not parse, the library's default would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// If a thread panicked while it held the lock, the lines are still good.
fn held(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn progress(total: Option<u64>, started: Instant) -> (Progress, Written) {
        let written = Written::default();
        let shown =
            Display::AsLines(Mutex::new(Lines::starting(Box::new(written.clone()), started)));
        (Progress { what: "keys".to_owned(), total, done: AtomicU64::new(0), shown }, written)
    }

    #[test]
    fn what_is_quick_says_nothing_of_itself() {
        let (progress, written) = progress(Some(3), Instant::now());
        for _ in 0..3 {
            progress.advance(1);
        }
        progress.finish();
        assert_eq!(written.text(), "");
    }

    #[test]
    fn what_takes_long_says_how_far_it_is_and_how_it_ended() {
        let long_ago = Instant::now().checked_sub(SILENCE).unwrap();
        let (progress, written) = progress(Some(5_000), long_ago);
        progress.advance(1_200);
        progress.advance(3_800);
        assert_eq!(
            written.text(),
            "keys: 1200 of 5000 after 5 s\n",
            "one line, and then silence for a while"
        );
        progress.finish();
        assert_eq!(written.text().lines().nth(1), Some("keys: 5000 of 5000 after 5 s"));
    }

    #[test]
    fn without_a_total_there_is_none_to_name() {
        let (progress, written) = progress(None, Instant::now().checked_sub(SILENCE).unwrap());
        progress.advance(7);
        assert_eq!(written.text(), "keys: 7 after 5 s\n");
    }

    #[test]
    fn notes_are_always_written() {
        let (progress, written) = progress(None, Instant::now());
        progress.note("row 17 is no key");
        assert_eq!(written.text(), "row 17 is no key\n");
    }
}
