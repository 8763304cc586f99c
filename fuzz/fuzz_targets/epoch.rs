//! The record of an epoch in Redis, to which others may write, too.
#![no_main]

use std::time::Duration;

use countersign::{
    domain::time::Tolerance,
    stores::nonce::redis::fuzzing::{replaced_epoch, rewritten_epoch},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| {
    let rewritten = rewritten_epoch(record);
    if let Some(rewritten) = &rewritten {
        assert_eq!(rewritten_epoch(rewritten).as_ref(), Some(rewritten));
    }
    for (run_id, evicted, now, tolerance) in
        [("a", 0, 1_764_300_000_000, 20), ("b", 7, i64::MAX, 60), ("a", u64::MAX, i64::MIN, 3600)]
    {
        let tolerance = Tolerance::new(Duration::from_secs(tolerance)).unwrap();
        let replaced = replaced_epoch(Some(record), run_id, evicted, now, tolerance);
        assert!(replaced.is_some() || rewritten.is_some(), "what cannot be read is replaced");
        if let Some(replaced) = replaced {
            assert!(rewritten_epoch(&replaced).is_some(), "what is written can be read");
            assert_eq!(
                replaced_epoch(Some(&replaced), run_id, evicted, now, tolerance),
                None,
                "and stays as it is"
            );
        }
    }
});
