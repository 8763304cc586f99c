//! Taking over the accounts of another system: its principals, keys, trusts, API keys and refresh
//! tokens.
//!
//! What is there already stays as it is, so that an import may be repeated, and go on where one was
//! interrupted. A row that cannot be taken over is reported and holds nothing else up.

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

/// How many accounts are taken over in one transaction. Each may have many keys and tokens.
const PAGE: u64 = 250;
/// How long the database may take over the accounts of one page.
const PAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a page is begun anew where somebody else changed what it is about.
const ATTEMPTS: usize = 3;

/// Takes accounts over from one system.
pub struct Import {
    source: Arc<dyn LegacySource>,
    store: Arc<dyn ImportStore>,
    registry: Registry,
    terms: ImportTerms,
}

/// How an import is made.
#[derive(Clone, Debug)]
pub struct ImportTerms {
    /// Whether to say what would be done, and do nothing.
    pub is_rehearsal: bool,
    /// The `aud` of this service's access tokens, without which they are not accepted here; empty
    /// where they need none.
    pub audience: Vec<String>,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Accounts that are done.
    pub done: u64,
    /// All accounts.
    pub total: u64,
}

/// Why an import stopped. What was taken over until then stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The other system's database.
    #[error(transparent)]
    Source(#[from] LegacyError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Import {
    /// An import from `source` into `store`, checked by the rules of `registry` and in its actor's
    /// name.
    pub fn new(
        source: Arc<dyn LegacySource>,
        store: Arc<dyn ImportStore>,
        registry: Registry,
        terms: ImportTerms,
    ) -> Self {
        Self { source, store, registry, terms }
    }

    /// Takes everything over, page after page, and tells `progress` after each.
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

/// Whether somebody else added, changed or removed something after it was looked at.
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
