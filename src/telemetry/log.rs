//! The process log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::telemetry::{LogFormat, TelemetrySettings};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the log could not be set up")]
pub struct LogError(#[from] tracing_subscriber::util::TryInitError);

/// Sends the log of this process to standard error, once for all.
pub fn init(settings: &TelemetrySettings) -> Result<(), LogError> {
    let registry = tracing_subscriber::registry().with(EnvFilter::new(settings.log.directives()));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(SystemTime);
    match settings.log_format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
        }
        LogFormat::Text => registry.with(layer).try_init(),
    }
    .map_err(LogError)
}
