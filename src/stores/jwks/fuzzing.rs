//! What the fuzz targets see of key sets.

use std::sync::Arc;

use crate::domain::key::VerifyingKey;

/// The keys that are used of a set with this text, each with its `kid`. `None` if it is no key set.
pub fn usable_keys(body: &[u8]) -> Option<impl Iterator<Item = (Box<str>, Arc<VerifyingKey>)>> {
    super::fetch::usable_keys(body, "https://keys.example/jwks").ok().map(IntoIterator::into_iter)
}
