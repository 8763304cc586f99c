//! This service's own signing keys: list and rotate.

use super::SystemClock;
pub use crate::stores::signing_keys::{ListedKey, SigningKeyError};
use crate::{config::Settings, engine::ports::Clock, stores::signing_keys};

/// All signing keys, oldest first. Creates none.
pub fn signing_keys(settings: &Settings) -> Result<Vec<ListedKey>, SigningKeyError> {
    signing_keys::list(&settings.issuer, SystemClock.now())
}

/// Creates a signing key that will replace the current one.
pub fn rotate_signing_key(settings: &Settings) -> Result<ListedKey, SigningKeyError> {
    signing_keys::rotate(&settings.issuer, SystemClock.now())
}

/// Checks that there is a signing key or that one can be created. Creates none.
pub(super) fn check(settings: &Settings) -> Result<(), SigningKeyError> {
    signing_keys::check(&settings.issuer)
}
