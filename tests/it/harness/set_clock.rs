//! A system clock for one process, set by the test. The monotonic clock, and with it every timer,
//! stays real.

use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;

use super::tools::libfaketime;

pub struct SetClock {
    dir: TempDir,
    ahead_ms: AtomicI64,
}

impl SetClock {
    /// A clock that is `ahead_ms` milliseconds ahead of the machine's, or behind it if negative.
    pub fn ahead(ahead_ms: i64) -> Self {
        let clock = Self { dir: tempfile::tempdir().unwrap(), ahead_ms: AtomicI64::new(ahead_ms) };
        clock.set(ahead_ms);
        clock
    }

    /// Sets it immediately, for every process that uses it.
    pub fn set(&self, ahead_ms: i64) {
        let sign = if ahead_ms < 0 { '-' } else { '+' };
        let (seconds, millis) = (ahead_ms.unsigned_abs() / 1000, ahead_ms.unsigned_abs() % 1000);
        let (new, file) = (self.dir.path().join("new"), self.file());
        std::fs::write(&new, format!("{sign}{seconds}.{millis:03}\n")).unwrap();
        // A process that reads it at this moment sees either the old or the new value.
        std::fs::rename(new, file).unwrap();
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }

    /// How far it is ahead of the machine's clock.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::SeqCst)
    }

    /// Makes `command` use this clock.
    pub fn governs(&self, command: &mut Command) {
        command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_TIMESTAMP_FILE", self.file());
        // The file is read each time that the clock is read.
        command
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("ahead")
    }
}
