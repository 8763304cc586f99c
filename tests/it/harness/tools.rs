//! Finds the programs that the tests use. A missing program fails the test, since a skipped test
//! proves nothing.

use std::path::{Path, PathBuf};

/// What to run when a program is missing.
const REMEDY: &str = "run `make test-setup` (as root), which installs what the tests need";

/// Where Debian puts servers, in addition to `PATH`.
const SERVER_DIRS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin"];

/// A program on this machine, such as `nginx`.
pub fn program(name: &str) -> PathBuf {
    optional_program(name).unwrap_or_else(|| panic!("{name} is not installed: {REMEDY}"))
}

/// A program that `tests/setup` does not install. The caller reports what is untested without it.
pub fn optional_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SERVER_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// A program of PostgreSQL, which Debian keeps out of `PATH`.
pub fn postgres_program(name: &str) -> PathBuf {
    let packaged = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .find(|candidate| candidate.is_file());
    packaged.unwrap_or_else(|| program(name))
}

/// The library that makes a program see another time if it is preloaded.
pub fn libfaketime() -> PathBuf {
    let packaged = std::fs::read_dir("/usr/lib").into_iter().flatten();
    let found = packaged
        .flatten()
        .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file());
    found.unwrap_or_else(|| panic!("libfaketime is not installed: {REMEDY}"))
}

/// A file or folder that `tests/setup` installs under `target/peers`.
pub fn peer(relative: &str) -> PathBuf {
    let path = repository().join("target/peers").join(relative);
    assert!(path.exists(), "{} is not there: {REMEDY}", path.display());
    path
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
