//! The folder of signing keys: which files are keys, the time of each, and how new ones are
//! written.
//!
//! A file is never visible half-written: it is written under a hidden name that is ignored, and
//! then published under its final name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use secrecy::ExposeSecret;
use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};
use zeroize::Zeroizing;

use super::{ListedKey, SigningKeyError};
use crate::{
    config::issuer::IssuerSettings,
    domain::{
        algorithm::{Algorithm, Ed25519Name},
        issuer_keys::SigningKey,
        key::{KeyError, PrivateKey},
        key_schedule::KeySchedule,
        time::{UnixMillis, UnixSeconds},
    },
};

/// The key that is created in an empty folder. It counts as older than all others, whatever the
/// time of its file.
const FIRST: &str = "initial.pem";
/// Format of the time at the beginning of the names of generated keys.
const TIME_IN_NAME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
/// Size of generated RSA keys. Each issued token takes one signature, which keys of twice the size
/// would make five times slower.
const RSA_BITS: usize = 2048;

/// A folder of signing keys.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    algorithm: Algorithm,
    ed25519_name: Ed25519Name,
}

/// Identifies a version of a file, to detect changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    name: String,
    modified: SystemTime,
    length: u64,
}

/// A key in the folder.
#[derive(Debug)]
pub(super) struct KeyFile {
    name: String,
    /// Determines its order among the others: the time in its name, or else that of the file.
    pub(super) time: UnixMillis,
    created_at: UnixMillis,
    pub(super) key: Arc<SigningKey>,
}

impl Folder {
    pub(super) fn new(settings: &IssuerSettings) -> Self {
        Self {
            path: settings.signing_keys_dir.clone(),
            algorithm: settings.algorithm.algorithm(),
            ed25519_name: settings.ed25519_name,
        }
    }

    /// The files that are keys: `*.pem` except hidden ones, which belong to other tools. A missing
    /// folder has none.
    pub(super) fn stamps(&self) -> Result<Vec<Stamp>, SigningKeyError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| self.unusable(source))?,
        };
        let mut stamps = Vec::new();
        for entry in entries {
            let name = entry
                .map_err(|source| self.unusable(source))?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if name.starts_with('.')
                || Path::new(&name).extension().is_none_or(|extension| extension != "pem")
            {
                continue;
            }
            let file = self.path.join(&name);
            match fs::metadata(&file)
                .and_then(|metadata| Ok((metadata.is_file(), metadata.modified()?, metadata.len())))
            {
                Ok((true, modified, length)) => stamps.push(Stamp { name, modified, length }),
                Ok((false, ..)) => {}
                // It has just been removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SigningKeyError::Unreadable { file, source }),
            }
        }
        stamps.sort();
        Ok(stamps)
    }

    /// Reads the keys, oldest first. Copies of a key under other names are skipped: the key is as
    /// old as its oldest file.
    pub(super) fn read(&self, stamps: &[Stamp]) -> Result<Vec<KeyFile>, SigningKeyError> {
        let mut files: Vec<KeyFile> =
            stamps.iter().map(|stamp| self.read_one(stamp)).collect::<Result<_, _>>()?;
        files.sort_by(|one, other| (one.time, &one.name).cmp(&(other.time, &other.name)));
        let mut kids = std::collections::HashSet::new();
        files.retain(|file| kids.insert(file.key.kid().to_owned()));
        Ok(files)
    }

    fn read_one(&self, stamp: &Stamp) -> Result<KeyFile, SigningKeyError> {
        let file = self.path.join(&stamp.name);
        let pem = match fs::read_to_string(&file) {
            Ok(pem) => Zeroizing::new(pem),
            Err(source) => return Err(SigningKeyError::Unreadable { file, source }),
        };
        let key = PrivateKey::parse(&pem, None).map_err(|source| match source {
            KeyError::PassphraseMissing | KeyError::LegacyEncryption => {
                SigningKeyError::Encrypted { file }
            }
            source => SigningKeyError::Unusable { file, source },
        })?;
        let modified = UnixSeconds(UnixMillis::from(stamp.modified).seconds()).millis();
        let created_at = time_in(&stamp.name).unwrap_or(modified);
        let time = if stamp.name == FIRST { UnixMillis(0) } else { created_at };
        let key =
            Arc::new(SigningKey::new(key, Some(self.algorithm)).naming_ed25519(self.ed25519_name));
        Ok(KeyFile { name: stamp.name.clone(), time, created_at, key })
    }

    /// Creates the folder if it is missing, and the first key in it, unless another process was
    /// faster.
    pub(super) fn make_first(&self) -> Result<(), SigningKeyError> {
        let made =
            self.write(&self.generate()?, FIRST, |draft, file| fs::hard_link(draft, file))?;
        match made {
            Ok(()) => {
                tracing::info!(file = %self.path.join(FIRST).display(), "there was no signing key, and one was made");
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(SigningKeyError::FirstNotWritten {
                    file: self.path.join(FIRST),
                    source,
                });
            }
        }
        Ok(())
    }

    /// Creates a key with the time `at`, in whole seconds, and returns its `kid`.
    pub(super) fn make_newer(&self, at: UnixMillis) -> Result<String, SigningKeyError> {
        let key = self.generate()?;
        let kid = key.public_key().fingerprint().to_string();
        let name =
            format!("{}-{}.pem", at.to_utc().format(TIME_IN_NAME).unwrap_or_default(), &kid[..8]);
        match self.write(&key, &name, |draft, file| fs::rename(draft, file))? {
            Ok(()) => Ok(kid),
            Err(source) => Err(SigningKeyError::NotWritten { file: self.path.join(name), source }),
        }
    }

    fn generate(&self) -> Result<PrivateKey, SigningKeyError> {
        PrivateKey::generate(self.algorithm.family(), RSA_BITS).map_err(SigningKeyError::NotMade)
    }

    /// Writes `key` to a draft that only its owner can read, and lets `publish` give it its final
    /// `name`.
    fn write(
        &self,
        key: &PrivateKey,
        name: &str,
        publish: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<io::Result<()>, SigningKeyError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|source| self.unusable(source))?;
        let pem = key.to_pem().map_err(SigningKeyError::NotMade)?;
        let draft = self.path.join(format!(".{}.draft", key.public_key().fingerprint()));
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(
                |mut file| {
                    file.write_all(pem.expose_secret().as_bytes())?;
                    file.sync_all()
                },
            );
        let published = written.and_then(|()| publish(&draft, &self.path.join(name)));
        // If the draft was renamed, it is already gone.
        drop(fs::remove_file(&draft));
        // Not every file system supports this; those that do not can be ignored.
        drop(File::open(&self.path).and_then(|folder| folder.sync_all()));
        Ok(published)
    }

    pub(super) fn emptied(&self) -> SigningKeyError {
        SigningKeyError::Emptied { path: self.path.clone() }
    }

    fn unusable(&self, source: io::Error) -> SigningKeyError {
        SigningKeyError::Folder { path: self.path.clone(), source }
    }
}

impl KeyFile {
    pub(super) fn listed(&self, folder: &Folder, schedule: KeySchedule) -> ListedKey {
        // The first key has the earliest possible time, when there was nothing to sign.
        let schedule =
            KeySchedule { signs_from: schedule.signs_from.max(self.created_at), ..schedule };
        ListedKey {
            kid: self.key.kid().to_owned(),
            algorithm: self.key.algorithm(),
            file: folder.path.join(&self.name),
            created_at: self.created_at,
            schedule,
        }
    }
}

/// The time at the beginning of a name, if there is one, as in generated names.
fn time_in(name: &str) -> Option<UnixMillis> {
    let (time, _) = name.split_once('-')?;
    let time = PrimitiveDateTime::parse(time, TIME_IN_NAME).ok()?;
    Some(UnixSeconds(time.assume_utc().unix_timestamp()).millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_names() {
        for (name, seconds) in [
            ("20250102T030405Z-0a1b2c3d.pem", Some(1_735_787_045)),
            ("20250102T030405Z-by-hand.pem", Some(1_735_787_045)),
            ("20250102T030405Z.pem", None),
            ("20250102T030405-a.pem", None),
            ("20251302T030405Z-a.pem", None),
            ("120250102T030405Z-a.pem", None),
            ("ключ-a.pem", None),
            ("initial.pem", None),
        ] {
            assert_eq!(
                time_in(name),
                seconds.map(|seconds| UnixSeconds(seconds).millis()),
                "{name}"
            );
        }
    }
}
