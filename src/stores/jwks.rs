//! Key sets that live elsewhere: fetched from the JWKS URLs that principals trust, and kept in memory.

mod cache;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;

pub use cache::{JwksCache, Refresher};
use fetch::Fetcher;
pub use fetch::FetcherError;

use crate::config::jwks::JwksSettings;

/// Whether key sets can be fetched with these settings, on this system.
pub fn check(settings: &JwksSettings) -> Result<(), FetcherError> {
    Fetcher::new(settings)?.client().map(drop).map_err(|error| FetcherError::Client(cache::described(&error).reason))
}
