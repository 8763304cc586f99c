//! A key set, as it is fetched from a URL that a principal trusts.
#![no_main]

use countersign::stores::jwks::fuzzing::usable_keys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Some(keys) = usable_keys(body) {
        let kids: Vec<Box<str>> = keys.map(|(kid, _)| kid).collect();
        assert!(kids.len() <= 100 && kids.iter().all(|kid| !kid.is_empty()));
    }
});
