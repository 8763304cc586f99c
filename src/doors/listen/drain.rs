//! The stages of a shutdown.

use tokio::sync::watch;

/// The stage of a shutdown. Each follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// No shutdown yet.
    Serving,
    /// New connections are still accepted, but responses over HTTP/1 close theirs, and readiness
    /// reports that the service is not ready.
    Draining,
    /// No new connections are accepted, idle ones are closed, and requests in flight are finished.
    Closing,
    /// Connections that are left are cut.
    Cut,
}

/// Announces the stage to every listener.
#[derive(Clone, Debug)]
pub struct Stages {
    stage: watch::Sender<Stage>,
}

impl Default for Stages {
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Serving) }
    }
}

impl Stages {
    /// Enters `stage`. Never goes back.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let is_later = stage > *now;
            *now = stage.max(*now);
            is_later
        });
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() > Stage::Serving
    }

    /// Resolves when `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        // `self` holds the sender, so the wait cannot end because the sender is gone.
        drop(self.stage.subscribe().wait_for(|now| *now >= stage).await);
    }
}
