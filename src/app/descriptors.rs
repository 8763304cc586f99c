//! How many connections the limit of open files leaves room for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listeners, which share what there is.
const LISTENERS: u64 = 3;
/// Descriptors that stores, key sets and the log may need beyond those that are open at the start.
const RESERVE: u64 = 40;
/// Descriptors that each thread with a runtime has.
const PER_THREAD: u64 = 4;
/// Fewer connections would be no service.
const CONNECTIONS_MIN: u64 = 8;

/// The connections that each listener may have: `wanted`, or fewer if there are not so many
/// descriptors. Raises the soft limit to the hard one first.
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

/// What each listener may have of `limit`, with `open` descriptors in use and so many `threads` to
/// come.
fn share(limit: u64, open: u64, threads: u64) -> u64 {
    let left =
        limit.saturating_sub(open).saturating_sub(RESERVE).saturating_sub(threads * PER_THREAD);
    (left / LISTENERS).max(CONNECTIONS_MIN)
}

/// The soft limit, which is as high as it may be afterwards.
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

/// Descriptors that are open; none where the system does not tell.
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
