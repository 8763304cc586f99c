//! Entry points for the fuzz targets of key sets.

pub use crate::domain::key_set::KeySet;

/// Parses a key set. `None` if `body` is invalid.
pub fn key_set(body: &[u8]) -> Option<KeySet> {
    KeySet::parse(body).ok()
}
