//! What the service tells of itself: its log, metrics, and traces of decisions.

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
