//! The log of the process, on standard error.

mod writer;

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Registry, fmt::time::SystemTime, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use super::decisions::DecisionLogging;
use crate::config::telemetry::{LogFilter, LogFormat, TelemetrySettings};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process already has a global log.
    #[error("the log could not be set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
    /// The thread that writes the log could not be started.
    #[error("the thread that writes the log could not be started")]
    Thread(#[source] std::io::Error),
}

/// Writes the waiting lines when it is dropped.
#[must_use = "what waits when this is dropped is all that is written"]
#[derive(Debug)]
pub struct LogGuard {
    _thread: writer::WritingThread,
    control: LogControl,
}

impl LogGuard {
    /// The handle to change what is logged.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }
}

/// Sends the log of this process to standard error; can be called once. A separate thread writes,
/// so a flood of denials is written in batches, and no decision waits for a system call or for a
/// slow reader of the log.
pub fn init(settings: &TelemetrySettings) -> Result<LogGuard, LogError> {
    let is_terminal = std::io::stderr().is_terminal();
    let tell =
        |lost| tracing::warn!(lines = lost, "lines of the log were dropped: nobody took them");
    let (lines, thread) =
        writer::start(std::io::stderr(), settings.log_overflow, tell).map_err(LogError::Thread)?;
    let (filter, handle) = reload::Layer::new(env_filter(&settings.log));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .with_ansi(is_terminal)
        .with_timer(SystemTime);
    match settings.log_format {
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init(),
        LogFormat::Text => registry.with(layer).try_init(),
    }?;
    Ok(LogGuard {
        _thread: thread,
        control: LogControl {
            handle: Some(handle),
            lines: Some(lines),
            ..LogControl::of_decisions(settings)
        },
    })
}

/// The library that sends traces and metrics logs its start and stop at level info, which is
/// useless. Only its warnings and errors are logged, unless the filter names it explicitly.
fn env_filter(filter: &LogFilter) -> EnvFilter {
    const LIBRARY: &str = "opentelemetry";
    let directives = filter.directives();
    let is_wordy = directives.split(',').any(|word| {
        ["info", "debug", "trace"].iter().any(|level| word.trim().eq_ignore_ascii_case(level))
    });
    if is_wordy && !directives.contains(LIBRARY) {
        EnvFilter::new(format!("{directives},{LIBRARY}=warn"))
    } else {
        EnvFilter::new(directives)
    }
}

/// Changes what is logged at run time.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    lines: Option<writer::Lines>,
    filter: Arc<Mutex<LogFilter>>,
    decisions: Arc<DecisionLogging>,
}

impl LogControl {
    /// For a process whose log belongs to others: only which decisions are logged can be changed.
    pub fn of_decisions(settings: &TelemetrySettings) -> Self {
        let decisions = DecisionLogging::new(settings.decision_log, settings.decision_log_sample);
        Self {
            handle: None,
            lines: None,
            filter: Arc::new(Mutex::new(settings.log.clone())),
            decisions: Arc::new(decisions),
        }
    }

    /// The settings of the decision log.
    pub const fn decisions(&self) -> &Arc<DecisionLogging> {
        &self.decisions
    }

    /// The number of lines lost because the reader of the log was too slow.
    pub fn lost_lines(&self) -> u64 {
        self.lines.as_ref().map_or(0, writer::Lines::lost)
    }

    /// How many of these are part of an ongoing loss: 0 if the log can be written now.
    pub fn lines_being_lost(&self) -> u64 {
        self.lines.as_ref().map_or(0, writer::Lines::being_lost)
    }

    /// The current filter.
    pub fn filter(&self) -> LogFilter {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter.
    pub fn set_filter(&self, filter: LogFilter) {
        let mut current = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only if the log is gone, and then there is nothing to log to.
        if self.handle.as_ref().is_none_or(|handle| handle.reload(env_filter(&filter)).is_ok()) {
            *current = filter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_telemetry_is_quiet_unless_asked_for() {
        let filter = |directives: &str| env_filter(&directives.parse().unwrap()).to_string();
        assert!(filter("info").contains("opentelemetry=warn"));
        assert!(filter("DEBUG,sqlx=warn").contains("opentelemetry=warn"));
        for as_it_is in ["warn", "off", "countersign=debug", "info,opentelemetry_sdk=debug"] {
            assert!(!filter(as_it_is).contains("opentelemetry=warn"), "{as_it_is}");
        }
    }
}
