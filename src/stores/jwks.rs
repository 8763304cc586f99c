//! Key sets of other parties: fetched from the JWKS URLs that principals trust, and cached in
//! memory.

mod cache;
mod egress;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;

pub use cache::{JwksCache, Refresher};
use fetch::Fetcher;
pub use fetch::FetcherError;

use crate::config::jwks::JwksSettings;

/// Checks whether key sets can be fetched with these settings on this system, and describes how.
pub fn check(settings: &JwksSettings) -> Result<Option<String>, FetcherError> {
    let fetcher = Fetcher::new(settings)?;
    fetcher.client().map_err(|error| FetcherError::Client(cache::described(&error).reason))?;
    Ok(fetcher.described(settings))
}
