//! How much memory a process holds.

use std::{fmt, fs, time::Duration};

use crate::server::Server;

/// Less CPU than this in [`QUIET_FOR`], and a service has nothing to do any more.
const QUIET_MICROS: f64 = 20_000.0;
pub(crate) const QUIET_FOR: Duration = Duration::from_secs(1);

/// Bytes of a process that are in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// Now: `VmRSS`.
    pub(crate) bytes: u64,
    /// The most there ever were: `VmHWM`.
    pub(crate) peak: u64,
    /// Of `bytes`, those of files, that is of the program itself: they are shared between its
    /// processes, and the kernel may drop and read them again.
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

    /// Of `server`, once it has nothing to do any more.
    pub(crate) async fn of_quiet(server: &Server) -> Self {
        quiet(server).await;
        Self::of_process(server.process_id())
    }

    pub(crate) fn megabytes(self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// So many bytes more than `before`.
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

/// Until `server` has read what it wanted to.
pub(crate) async fn quiet(server: &Server) {
    loop {
        let before = server.cpu.now();
        tokio::time::sleep(QUIET_FOR).await;
        if server.cpu.micros_since(&before) < QUIET_MICROS {
            return;
        }
    }
}
