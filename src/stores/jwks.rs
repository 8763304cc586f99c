//! Key sets that live elsewhere: fetched from the JWKS URLs that principals trust, and kept in memory.

mod cache;
mod fetch;
mod guard;

pub use cache::{JwksCache, Refresher};
pub use fetch::FetcherError;

/// Whether key sets can be fetched with these settings.
pub fn check(settings: &crate::config::jwks::JwksSettings) -> Result<(), FetcherError> {
    fetch::Fetcher::new(settings).map(drop)
}
