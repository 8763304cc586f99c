//! A lock that is released when its process ends, however that happens.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// How many times to try if the lock file is removed while we open it.
const ATTEMPTS: usize = 16;

/// The lock of one file, held on another file beside it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `path`, or fails at once if another process has it.
    pub(super) fn beside(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        for _ in 0..ATTEMPTS {
            let file =
                File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The previous holder removes the file. Then we have locked a file that nobody else
            // finds.
            let (opened, found) = (file.metadata()?, fs::metadata(&path));
            if found.is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino())) {
                return Ok(Self { path, _file: file });
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked, so nobody else can hold it. If the file stays, it does no harm.
        drop(fs::remove_file(&self.path));
    }
}
