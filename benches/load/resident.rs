//! The memory that a process uses.

use std::{fmt, fs, time::Duration};

use crate::server::Server;

/// A service that uses less CPU than this in [`QUIET_FOR`] is idle.
const QUIET_MICROS: f64 = 20_000.0;
pub(crate) const QUIET_FOR: Duration = Duration::from_secs(1);

/// Bytes of a process that are in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// Current value: `VmRSS`.
    pub(crate) bytes: u64,
    /// Maximum so far: `VmHWM`.
    pub(crate) peak: u64,
    /// The part of `bytes` that belongs to files, which means the program itself: its processes
    /// share it, and the kernel may drop it and read it again.
    pub(crate) of_files: u64,
}

impl Resident {
    pub(crate) fn of_process(id: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        Self { bytes: field("VmRSS:"), peak: field("VmHWM:"), of_files: field("RssFile:") }
    }

    /// The memory of `server`, once it is idle.
    pub(crate) async fn of_quiet(server: &Server) -> Self {
        quiet(server).await;
        Self::of_process(server.process_id())
    }

    pub(crate) fn megabytes(self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// How many bytes more than `before`.
    pub(crate) fn since(self, before: Self) -> f64 {
        self.bytes as f64 - before.bytes as f64
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [peak, of_files] = [self.peak, self.of_files].map(|bytes| bytes as f64 / 1e6);
        write!(
            f,
            "{:.1} MB (peak {peak:.1}, the program's own file {of_files:.1})",
            self.megabytes()
        )
    }
}

/// Waits until `server` is idle.
pub(crate) async fn quiet(server: &Server) {
    loop {
        let before = server.cpu.now();
        tokio::time::sleep(QUIET_FOR).await;
        if server.cpu.micros_since(&before) < QUIET_MICROS {
            return;
        }
    }
}
