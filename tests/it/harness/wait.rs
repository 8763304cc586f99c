//! Waits for conditions, never for a fixed time.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `condition` returns a value.
///
/// # Panics
/// With `what` if `deadline` has passed.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// [`eventually`] for conditions that need the network.
pub async fn eventually_async<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
