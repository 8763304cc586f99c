//! What the service reports about itself: logs, metrics, and traces of decisions.

pub mod connections;
pub mod decisions;
mod handshakes;
pub mod log;
pub mod metrics;
mod otlp;
mod process;
pub mod tokens;
pub mod traces;

pub use otlp::TelemetryError;
