//! The number of connections that the limit of open files allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of listeners, which share the descriptors.
const LISTENERS: u64 = 3;
/// Descriptors that stores, key sets and the log may need in addition to those open at the start.
const RESERVE: u64 = 40;
/// Descriptors per thread with a runtime.
const PER_THREAD: u64 = 4;
/// With fewer connections per listener the service would be useless.
const CONNECTIONS_MIN: u64 = 8;

/// The number of connections that each listener may have: `wanted`, or fewer if there are not
/// enough descriptors. Raises the soft limit to the hard one first.
pub(super) fn connections(wanted: usize) -> usize {
    let limit = raise();
    let threads =
        std::thread::available_parallelism().map_or(1, |count| count.get() as u64) * 2 + 1;
    let each = share(limit, open(), threads);
    match usize::try_from(each) {
        Ok(each) if each < wanted => {
            tracing::warn!(
                key = "server.max_connections",
                limit,
                wanted,
                connections = each,
                "the limit of open files leaves room for fewer connections on each listener; raise it (`LimitNOFILE`, `ulimit -n`)"
            );
            each
        }
        Ok(_) | Err(_) => wanted,
    }
}

/// Each listener's share of `limit`, if `open` descriptors are in use and `threads` threads are
/// still to start.
fn share(limit: u64, open: u64, threads: u64) -> u64 {
    let left =
        limit.saturating_sub(open).saturating_sub(RESERVE).saturating_sub(threads * PER_THREAD);
    (left / LISTENERS).max(CONNECTIONS_MIN)
}

/// Raises the soft limit as far as possible, and returns it.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return u64::MAX };
    if maximum.is_some_and(|maximum| maximum <= current) {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::debug!(error = %error, "the limit of open files stays as it is");
            current
        }
    }
}

/// The number of open descriptors; 0 if the system does not report it.
fn open() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_what_is_left() {
        assert_eq!(share(1024, 24, 5), (1024 - 24 - RESERVE - 20) / 3);
        assert_eq!(share(64, 60, 5), CONNECTIONS_MIN, "there is none to share");
        assert!(share(u64::MAX, 24, 5) > 1_000_000);
    }
}
