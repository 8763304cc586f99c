//! The `countersign` command.

use std::process::ExitCode;

/// A decision makes about twenty small allocations; this allocator is cheaper than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    countersign::cli::run()
}
