//! The folder: which files in it are keys, what time each has, and how new ones get there.
//!
//! A file is never seen half-written: it is written under a name that is not looked at, and then
//! given its own.

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

/// The key that is made where there is none. Older than every other, whatever its file says.
const FIRST: &str = "initial.pem";
/// How the names of keys that we make begin.
const TIME_IN_NAME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
/// Size of the RSA keys that are made. Each of our tokens is one signature, which twice the size
/// would make five times as slow.
const RSA_BITS: usize = 2048;

/// A folder of signing keys.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    algorithm: Algorithm,
    ed25519_name: Ed25519Name,
}

/// By which a change of a file is noticed.
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
    /// Which decides its order among the others: the time in its name, or else that of the file.
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

    /// The files that are keys: `*.pem`, hidden ones excepted, which are some tool's own. A folder
    /// that is not there has none.
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
                // Removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SigningKeyError::Unreadable { file, source }),
            }
        }
        stamps.sort();
        Ok(stamps)
    }

    /// Reads the keys, oldest first. A copy of a key under another name is passed over: the key is
    /// as old as its oldest file.
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

    /// Makes the folder where it is missing, and the first key in it, unless somebody else was
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

    /// Makes a key whose time is `at`, in whole seconds, and says its `kid`.
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

    /// Writes `key` as a draft, readable by its owner alone, and has `publish` give it its `name`.
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
        // Where it was renamed it is gone already.
        drop(fs::remove_file(&draft));
        // Not every file system can do this, and those that cannot need not.
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
        // The first key has the oldest of all times, at which there was nothing to sign.
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

/// The time with which a name begins, as those of keys that we make do.
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
