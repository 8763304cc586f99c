//! The text of a settings file.
#![no_main]

use std::error::Error;

use countersign::config::{SettingsError, load_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match load_text(text) {
        Ok(settings) => {
            let _ = format!("{settings:?}");
        }
        Err(refused) => {
            assert!(!matches!(refused, SettingsError::Unreadable { .. }), "no file is read");
            // The text that a user sees: the error with its sources.
            let mut source: Option<&dyn Error> = Some(&refused);
            while let Some(error) = source {
                assert!(!error.to_string().is_empty());
                source = error.source();
            }
        }
    }
});
