//! The `countersign` command.

use std::process::ExitCode;

/// A decision makes some twenty small allocations; this allocator makes them at less cost than the
/// C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    countersign::cli::run()
}
