//! Whether decisions can be made.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::ports::{
    Clock, Dependency, KeyDirectory, NonceStore, RegistryHealth, RegistryTrouble, Unavailable,
};

/// Checks what decisions depend on.
#[derive(Clone)]
pub struct Readiness {
    clock: Arc<dyn Clock>,
    directory: Arc<dyn KeyDirectory>,
    nonces: Arc<dyn NonceStore>,
    registry: Arc<dyn RegistryHealth>,
    last: Arc<[AtomicBool; DEPENDENCIES.len()]>,
    is_draining: Arc<AtomicBool>,
}

const DEPENDENCIES: [Dependency; 2] = [Dependency::KeyDirectory, Dependency::NonceStore];

impl Readiness {
    /// Creates the check from the ports that decisions use.
    pub fn new(
        clock: Arc<dyn Clock>,
        directory: Arc<dyn KeyDirectory>,
        nonces: Arc<dyn NonceStore>,
        registry: Arc<dyn RegistryHealth>,
    ) -> Self {
        Self {
            clock,
            directory,
            nonces,
            registry,
            last: Arc::default(),
            is_draining: Arc::default(),
        }
    }

    /// Whether logins and changes are possible. Decisions do not need this.
    pub fn registry(&self) -> Result<(), RegistryTrouble> {
        self.registry.check()
    }

    /// Each dependency, and whether it is reachable now.
    pub async fn check(&self) -> [(Dependency, Result<(), Unavailable>); DEPENDENCIES.len()] {
        let now = self.clock.now();
        let states = [self.directory.check(now), self.nonces.check(now).await];
        for (last, state) in self.last.iter().zip(&states) {
            last.store(state.is_ok(), Ordering::Relaxed);
        }
        let [directory, nonces] = states;
        [(Dependency::KeyDirectory, directory), (Dependency::NonceStore, nonces)]
    }

    /// Each dependency, and whether it was reachable at the last check.
    pub fn last(&self) -> [(Dependency, bool); DEPENDENCIES.len()] {
        std::array::from_fn(|index| (DEPENDENCIES[index], self.last[index].load(Ordering::Relaxed)))
    }

    /// Whether every dependency is reachable, and the service is not shutting down.
    pub async fn is_ready(&self) -> bool {
        self.check().await.iter().all(|(_, state)| state.is_ok()) && !self.is_draining()
    }

    /// Announces that the service is shutting down: it is not ready any more.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether the service is shutting down.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}
