//! Importing the accounts of another system: its principals, keys, trusts, API keys and refresh
//! tokens.
//!
//! Existing records are not changed, so an import may be repeated, and continues after an
//! interruption. A row that cannot be imported is reported and does not stop the others.

mod plan;
mod report;

use std::{fmt, sync::Arc, time::Duration};

use self::plan::Plan;
pub use self::report::{Counts, ImportReport, Kind, Remark, RowOutcome};
use super::{
    ports::{ImportStore, LegacyAccount, LegacyError, LegacySource, RegistryError},
    registry::{Registry, within},
};
use crate::domain::{secret_token::NoRandomness, time::UnixMillis};

/// The number of accounts per transaction. Each may have many keys and tokens.
const PAGE: u64 = 250;
/// The database timeout for the accounts of one page.
const PAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a page is tried if someone else changes its records meanwhile.
const ATTEMPTS: usize = 3;

/// Imports accounts from one system.
pub struct Import {
    source: Arc<dyn LegacySource>,
    store: Arc<dyn ImportStore>,
    registry: Registry,
    terms: ImportTerms,
}

/// Options of an import.
#[derive(Clone, Debug)]
pub struct ImportTerms {
    /// Whether to report what would be done, and change nothing.
    pub is_rehearsal: bool,
    /// The `aud` that this service requires in its access tokens; empty if it requires none.
    pub audience: Vec<String>,
}

/// The progress of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The number of accounts processed so far.
    pub done: u64,
    /// The number of all accounts.
    pub total: u64,
}

/// Why an import stopped. What was imported before stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The other system's database failed.
    #[error(transparent)]
    Source(#[from] LegacyError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Import {
    /// An import from `source` into `store`, validated by `registry` and recorded as its actor.
    pub fn new(
        source: Arc<dyn LegacySource>,
        store: Arc<dyn ImportStore>,
        registry: Registry,
        terms: ImportTerms,
    ) -> Self {
        Self { source, store, registry, terms }
    }

    /// Imports everything, page by page, and calls `progress` after each.
    pub async fn run(
        &self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImportReport, ImportError> {
        let now = self.registry.author().now;
        let totals = self.source.totals(now).await?;
        let mut report = ImportReport::new(totals);
        let (mut after, mut done) = (None::<String>, 0);
        loop {
            let page = self.source.accounts(after.as_deref(), PAGE, now).await?;
            report.absorb(self.take_over(&page, now).await?);
            done += page.len() as u64;
            progress(Progress { done, total: totals.accounts.max(done) });
            let is_last = (page.len() as u64) < PAGE;
            match page.into_iter().next_back() {
                Some(last) if !is_last => after = Some(last.cursor),
                Some(_) | None => return Ok(report),
            }
        }
    }

    async fn take_over(
        &self,
        page: &[LegacyAccount],
        now: UnixMillis,
    ) -> Result<ImportReport, ImportError> {
        let sought = plan::sought(page);
        let mut beaten = RegistryError::Changed;
        for _ in 0..ATTEMPTS {
            let standing = within(PAGE_TIMEOUT, self.store.standing(&sought)).await?;
            let mut plan = Plan::new(&standing, &self.registry, &self.terms.audience, now);
            for account in page {
                plan.account(account)?;
            }
            let (added, report) = plan.into_parts();
            if self.terms.is_rehearsal || added.is_empty() {
                return Ok(report);
            }
            match within(PAGE_TIMEOUT, self.store.add_accounts(added, self.registry.author())).await
            {
                Ok(()) => {
                    self.registry.announce().await;
                    return Ok(report);
                }
                Err(error) if is_conflict(&error) => beaten = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(beaten.into())
    }
}

/// Whether someone else added, changed or removed a record after it was looked up.
const fn is_conflict(error: &RegistryError) -> bool {
    match error {
        RegistryError::PrincipalExists(_)
        | RegistryError::KeyExists { .. }
        | RegistryError::TrustExists { .. }
        | RegistryError::ApiKeyExists
        | RegistryError::NoSuchPrincipal(_)
        | RegistryError::NoSuchApiKey(_)
        | RegistryError::Changed => true,
        RegistryError::NoSuchKey(_)
        | RegistryError::NoSuchTrust(_)
        | RegistryError::NoSuchGrant(_)
        | RegistryError::NeverUsable
        | RegistryError::BadText { .. }
        | RegistryError::NotMigrated(_)
        | RegistryError::ReadOnly(_)
        | RegistryError::Store(_) => false,
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("terms", &self.terms).finish_non_exhaustive()
    }
}
