//! Whether decisions can be made.

use std::{fmt, sync::Arc};

use super::ports::{Clock, Dependency, KeyDirectory, NonceStore, Unavailable};

/// Looks at what decisions depend on.
#[derive(Clone)]
pub struct Readiness {
    clock: Arc<dyn Clock>,
    directory: Arc<dyn KeyDirectory>,
    nonces: Arc<dyn NonceStore>,
}

impl Readiness {
    /// Watches these.
    pub fn new(clock: Arc<dyn Clock>, directory: Arc<dyn KeyDirectory>, nonces: Arc<dyn NonceStore>) -> Self {
        Self { clock, directory, nonces }
    }

    /// Each dependency, and whether it can be reached now.
    pub async fn check(&self) -> [(Dependency, Result<(), Unavailable>); 2] {
        [(Dependency::KeyDirectory, self.directory.check(self.clock.now())), (Dependency::NonceStore, self.nonces.check().await)]
    }

    /// Whether every dependency can be reached.
    pub async fn is_ready(&self) -> bool {
        self.check().await.iter().all(|(_, state)| state.is_ok())
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}
