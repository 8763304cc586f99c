//! Redis in the ways people run it.

pub mod access;
pub mod far;
pub mod guarded;
pub mod nodes;
