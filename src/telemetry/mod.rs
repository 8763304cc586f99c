//! What the service tells of itself: logs, and counts of decisions.

pub mod decisions;
pub mod log;
pub mod tokens;
