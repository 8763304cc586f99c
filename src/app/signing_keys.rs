//! The keys of this service's own: listed, and followed by new ones.

use super::SystemClock;
pub use crate::stores::signing_keys::{ListedKey, SigningKeyError};
use crate::{config::Settings, engine::ports::Clock, stores::signing_keys};

/// Every signing key, oldest first. None is made.
pub fn signing_keys(settings: &Settings) -> Result<Vec<ListedKey>, SigningKeyError> {
    signing_keys::list(&settings.issuer, SystemClock.now())
}

/// Makes a signing key that follows the one that signs now.
pub fn rotate_signing_key(settings: &Settings) -> Result<ListedKey, SigningKeyError> {
    signing_keys::rotate(&settings.issuer, SystemClock.now())
}

/// Whether there is something to sign with, or could be. None is made.
pub(super) fn check(settings: &Settings) -> Result<(), SigningKeyError> {
    signing_keys::check(&settings.issuer)
}
