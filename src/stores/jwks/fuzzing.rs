//! What the fuzz targets see of key sets.

pub use crate::domain::key_set::KeySet;

/// The set with this text, as it is read. `None` if it is no key set.
pub fn key_set(body: &[u8]) -> Option<KeySet> {
    KeySet::parse(body).ok()
}
