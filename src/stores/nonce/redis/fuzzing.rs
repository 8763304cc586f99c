//! Entry points for the fuzz targets of the nonce store in Redis.

use std::time::Duration;

use super::epoch::{Epoch, Sight};
use crate::domain::time::{Tolerance, UnixMillis};

/// Decodes and encodes the record of an epoch. `None` if it is invalid.
pub fn rewritten_epoch(record: &[u8]) -> Option<Vec<u8>> {
    Epoch::decode(record).map(|epoch| epoch.encode())
}

/// What a replica that sees this writes in place of `record`; `None` if it leaves `record` as it
/// is.
pub fn replaced_epoch(
    record: Option<&[u8]>,
    run_id: &str,
    evicted: u64,
    now: i64,
    tolerance: Tolerance,
) -> Option<Vec<u8>> {
    let takeover = Duration::from_secs(2);
    let sight =
        Sight { run_id, evicted, now: UnixMillis(now), tolerance, known_tolerance: None, takeover };
    Epoch::replacement(record, sight).map(|(epoch, _)| epoch.encode())
}
