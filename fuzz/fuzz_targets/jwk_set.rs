//! A key set, as fetched from a URL that a principal trusts.
#![no_main]

use countersign::stores::jwks::fuzzing::key_set;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Some(set) = key_set(body) {
        let (contents, keys) = (set.contents(), set.keys().count());
        // The same key may occur under several names, but there are never more keys than entries.
        assert!(
            keys <= contents.usable_keys && contents.usable_keys + contents.left_out.len() <= 100
        );
        assert!(contents.left_out.iter().all(|left_out| !left_out.reason.is_empty()));
        assert!(set.named("").next().is_none());
    }
});
