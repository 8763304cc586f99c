//! The process log, on standard error.

use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::telemetry::{LogFormat, TelemetrySettings};

/// How many lines may wait to be written. Whoever has one more waits, too: none is lost.
const LINES_WAITING: usize = 4096;
/// How much is written at once where many lines wait.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the log could not be set up")]
pub struct LogError(#[from] tracing_subscriber::util::TryInitError);

/// What waits to be written is written when this is dropped.
#[must_use = "what waits when this is dropped is all that is written"]
#[derive(Debug)]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Sends the log of this process to standard error, once for all. A thread of its own writes: a flood of denials is written many lines
/// at a time, and no decision waits for a system call.
pub fn init(settings: &TelemetrySettings) -> Result<LogGuard, LogError> {
    let is_terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(false)
        .buffered_lines_limit(LINES_WAITING)
        .thread_name("log")
        .finish(BufWriter::with_capacity(WRITTEN_AT_ONCE, std::io::stderr()));
    let registry = tracing_subscriber::registry().with(EnvFilter::new(settings.log.directives()));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_terminal).with_timer(SystemTime);
    match settings.log_format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
        }
        LogFormat::Text => registry.with(layer).try_init(),
    }?;
    Ok(LogGuard { _writer: guard })
}
