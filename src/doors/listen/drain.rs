//! How the service comes to an end.

use tokio::sync::watch;

/// How far the end has come. Each stage follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has not begun.
    Serving,
    /// New connections are still taken, but answers over HTTP/1 close theirs, and readiness says
    /// no.
    Draining,
    /// Nothing new is taken, connections that wait for nothing are closed, and what is in flight is
    /// finished.
    Closing,
    /// What is left is cut.
    Cut,
}

/// Tells every listener of the stage.
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
    /// Goes on to `stage`. Never back.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let is_later = stage > *now;
            *now = stage.max(*now);
            is_later
        });
    }

    /// Whether the service is about to end.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() > Stage::Serving
    }

    /// Is done when `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        // `self` holds the sender, so that the wait ends for this reason alone.
        drop(self.stage.subscribe().wait_for(|now| *now >= stage).await);
    }
}
