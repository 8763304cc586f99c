//! The process log, on standard error.

mod writer;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::telemetry::{LogFormat, TelemetrySettings};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is one already.
    #[error("the log could not be set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
    /// The thread that writes it could not be started.
    #[error("the thread that writes the log could not be started")]
    Thread(#[source] std::io::Error),
}

/// What waits to be written is written when this is dropped.
#[must_use = "what waits when this is dropped is all that is written"]
#[derive(Debug)]
pub struct LogGuard {
    _thread: writer::WritingThread,
}

/// Sends the log of this process to standard error, once for all. A thread of its own writes: a flood of denials is written many
/// lines at a time, and no decision waits for a system call.
pub fn init(settings: &TelemetrySettings) -> Result<LogGuard, LogError> {
    let is_terminal = std::io::stderr().is_terminal();
    let (lines, thread) = writer::start(std::io::stderr()).map_err(LogError::Thread)?;
    let registry = tracing_subscriber::registry().with(EnvFilter::new(settings.log.directives()));
    let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(is_terminal).with_timer(SystemTime);
    match settings.log_format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
        }
        LogFormat::Text => registry.with(layer).try_init(),
    }?;
    Ok(LogGuard { _thread: thread })
}
