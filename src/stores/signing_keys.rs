//! The service's own signing keys: PEM files in a folder that is polled, or a secret for HS256.

mod folder;

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use folder::{Folder, KeyFile, Stamp};
use zeroize::Zeroizing;

use crate::{
    config::issuer::IssuerSettings,
    domain::{
        algorithm::{Algorithm, KeyFamily},
        issuer_keys::{IssuerKeys, ShortSecret, SigningKey},
        key::{KeyError, PrivateKey},
        key_schedule::{KeySchedule, KeyState, RotationTimes},
        time::UnixMillis,
    },
    engine::ports::{Clock, IssuerKeySource},
};

/// How often the folder and the schedule of the keys are checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why there are no signing keys, or none could be created.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The folder cannot be created or read.
    #[error("the folder {} (`issuer.signing_keys_dir`) cannot be used", path.display())]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The folder held keys before, and is now empty.
    #[error("the folder {} (`issuer.signing_keys_dir`) holds no signing key any more", path.display())]
    Emptied {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A file in the folder cannot be read.
    #[error("the signing key {} cannot be read", file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file in the folder is no supported private key.
    #[error("the signing key {} cannot be used", file.display())]
    Unusable {
        /// Path of the file.
        file: PathBuf,
        /// What is wrong with the key.
        source: KeyError,
    },
    /// A key in the folder needs a passphrase.
    #[error(
        "the signing key {} is encrypted, and the service has no passphrase for it; decrypt it with `openssl pkey -in FILE -out NEW`",
        file.display()
    )]
    Encrypted {
        /// Path of the file.
        file: PathBuf,
    },
    /// No key could be generated.
    #[error("a signing key cannot be made")]
    NotMade(#[source] KeyError),
    /// The first key could not be written to the folder.
    #[error(
        "the first signing key {} cannot be written; where the file system has no hard links, make it with `countersign \
         signing-key rotate` before the service starts",
        file.display()
    )]
    FirstNotWritten {
        /// Path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A new key could not be written to the folder.
    #[error("the signing key {} cannot be written", file.display())]
    NotWritten {
        /// Path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The secret cannot be read.
    #[error("the secret in {} (`issuer.hs256_secret_file`) cannot be read", file.display())]
    SecretUnreadable {
        /// Path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The secret is too short.
    #[error("the secret in {} (`issuer.hs256_secret_file`) cannot be used", file.display())]
    SecretTooShort {
        /// Path of the file.
        file: PathBuf,
        /// The required length.
        source: ShortSecret,
    },
    /// A command about signing keys was used, but a secret signs.
    #[error("there are no signing keys: access tokens are signed with the secret in {} (`issuer.hs256_secret_file`)", file.display())]
    Symmetric {
        /// Path of the file with the secret.
        file: PathBuf,
    },
}

/// The keys that sign and verify access tokens: those in the configured folder, kept up to date.
pub struct SigningKeyFolder {
    current: ArcSwap<IssuerKeys>,
    /// `None` if a secret signs, which never changes.
    watched: Option<Watched>,
}

struct Watched {
    folder: Folder,
    rotation: RotationTimes,
    seen: Mutex<Seen>,
}

/// The folder when it was last read successfully.
struct Seen {
    stamps: Vec<Stamp>,
    files: Vec<KeyFile>,
    /// The last logged problem with the folder, so that it is not logged again every second.
    complaint: Option<String>,
}

impl SigningKeyFolder {
    /// Reads the keys that `settings` name. If the folder is missing or empty, creates it with one
    /// key, `initial.pem`; if several processes start at once, all get the same key.
    pub fn open(settings: &IssuerSettings, now: UnixMillis) -> Result<Arc<Self>, SigningKeyError> {
        if let Some(file) = &settings.hs256_secret_file {
            let keys = symmetric(file)?;
            tracing::warn!(
                "access tokens are signed with a secret (`issuer.hs256_secret_file`): whoever can verify them can also sign"
            );
            return Ok(Arc::new(Self { current: ArcSwap::from_pointee(keys), watched: None }));
        }
        let (folder, rotation) = (Folder::new(settings), rotation(settings));
        let mut stamps = folder.stamps()?;
        if stamps.is_empty() {
            folder.make_first()?;
            stamps = folder.stamps()?;
        }
        let files = folder.read(&stamps)?;
        let (signing, published) = in_use(&files, rotation, now).ok_or_else(|| folder.emptied())?;
        let current = ArcSwap::from_pointee(IssuerKeys::asymmetric(signing, published));
        let seen = Mutex::new(Seen { stamps, files, complaint: None });
        Ok(Arc::new(Self { current, watched: Some(Watched { folder, rotation, seen }) }))
    }

    /// Reads the keys that `settings` name in order to verify tokens; creates none. If there are
    /// none yet, no token can be one of ours, and the only key is a new one that nobody else has.
    pub fn look_at(
        settings: &IssuerSettings,
        now: UnixMillis,
    ) -> Result<Arc<Self>, SigningKeyError> {
        if settings.hs256_secret_file.is_some() || !Folder::new(settings).stamps()?.is_empty() {
            return Self::open(settings, now);
        }
        let key = PrivateKey::generate(KeyFamily::Ed25519, 0).map_err(SigningKeyError::NotMade)?;
        let nobodys = Arc::new(SigningKey::new(key, None));
        let current =
            ArcSwap::from_pointee(IssuerKeys::asymmetric(Arc::clone(&nobodys), vec![nobodys]));
        Ok(Arc::new(Self { current, watched: None }))
    }

    /// Checks the folder and the schedule of the keys every second until `shutdown` completes.
    pub async fn watch(self: Arc<Self>, clock: Arc<dyn Clock>, shutdown: impl Future<Output = ()>) {
        if self.watched.is_none() {
            return shutdown.await;
        }
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => {}
            }
            let (keys, now) = (Arc::clone(&self), clock.now());
            // A network folder may be slow; decisions do not wait for it.
            let look = tokio::task::spawn_blocking(move || keys.look(now));
            tokio::select! {
                () = &mut shutdown => return,
                _ = look => {}
            }
        }
    }

    /// Reads the folder once, and from then on uses its keys as of `now`. If they cannot be read,
    /// the last good ones stay in use.
    pub fn look(&self, now: UnixMillis) {
        let Some(Watched { folder, rotation, seen }) = &self.watched else { return };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look(folder);
        let Some((signing, published)) = in_use(&seen.files, *rotation, now) else { return };
        let current = self.current.load();
        let kids = published.iter().map(|key| key.kid());
        let is_other = current.signing_key().is_none_or(|key| key.kid() != signing.kid());
        if !is_other && kids.eq(current.published().iter().map(|key| key.kid())) {
            return;
        }
        if is_other {
            tracing::info!(kid = signing.kid(), "another key signs access tokens from now on");
        }
        self.current.store(Arc::new(IssuerKeys::asymmetric(signing, published)));
    }
}

impl IssuerKeySource for SigningKeyFolder {
    fn current(&self) -> Arc<IssuerKeys> {
        self.current.load_full()
    }
}

impl fmt::Debug for SigningKeyFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeyFolder")
            .field("current", &self.current.load())
            .finish_non_exhaustive()
    }
}

impl Seen {
    fn look(&mut self, folder: &Folder) {
        let found = folder.stamps().and_then(|stamps| match stamps {
            stamps if stamps == self.stamps => Ok(None),
            stamps if stamps.is_empty() => Err(folder.emptied()),
            stamps => folder.read(&stamps).map(|files| Some((stamps, files))),
        });
        match found {
            Ok(changed) => {
                if let Some((stamps, files)) = changed {
                    (self.stamps, self.files) = (stamps, files);
                }
                if self.complaint.take().is_some() {
                    tracing::info!("the signing keys can be read again");
                }
            }
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                let complaint = format!("{error}: {cause:?}");
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(error = %error, cause, "the signing keys cannot be read; the last good ones stay");
                    self.complaint = Some(complaint);
                }
            }
        }
    }
}

/// A signing key, as listed by the command line.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// The `kid` header of its tokens.
    pub kid: String,
    /// The algorithm that it signs with.
    pub algorithm: Algorithm,
    /// Path of its file.
    pub file: PathBuf,
    /// Creation time: from its file name, otherwise the file's modification time.
    pub created_at: UnixMillis,
    /// When it is published, signs and retires.
    pub schedule: KeySchedule,
}

/// Lists the keys in the folder, oldest first. A missing folder has none, and none is created.
pub fn list(settings: &IssuerSettings, now: UnixMillis) -> Result<Vec<ListedKey>, SigningKeyError> {
    refuse_symmetric(settings)?;
    let folder = Folder::new(settings);
    let files = folder.read(&folder.stamps()?)?;
    let schedules = schedules(&files, rotation(settings), now);
    Ok(files.iter().zip(schedules).map(|(file, schedule)| file.listed(&folder, schedule)).collect())
}

/// Creates a key that is newer than all others in the folder. Running services publish it within
/// seconds, and sign with it after `issuer.signing_key_delay`.
pub fn rotate(settings: &IssuerSettings, now: UnixMillis) -> Result<ListedKey, SigningKeyError> {
    refuse_symmetric(settings)?;
    let folder = Folder::new(settings);
    let newest = folder
        .read(&folder.stamps()?)?
        .last()
        .map(|file| file.time.saturating_add(Duration::from_secs(1)));
    let kid = folder.make_newer(newest.map_or(now, |newest| newest.max(now)))?;
    list(settings, now)?
        .into_iter()
        .find(|listed| listed.kid == kid)
        .ok_or_else(|| folder.emptied())
}

/// Checks whether the keys or the secret named by `settings` can be used, as far as they exist.
/// Creates nothing.
pub fn check(settings: &IssuerSettings) -> Result<(), SigningKeyError> {
    if let Some(file) = &settings.hs256_secret_file {
        return symmetric(file).map(drop);
    }
    let folder = Folder::new(settings);
    folder.read(&folder.stamps()?).map(drop)
}

fn rotation(settings: &IssuerSettings) -> RotationTimes {
    RotationTimes {
        delay: settings.signing_key_delay,
        token_lifetime: settings.access_token_lifetime,
    }
}

fn schedules(files: &[KeyFile], rotation: RotationTimes, now: UnixMillis) -> Vec<KeySchedule> {
    let times: Vec<UnixMillis> = files.iter().map(|file| file.time).collect();
    rotation.schedules(&times, now)
}

/// The key that signs and all that verify, newest first; `None` if there are none.
fn in_use(
    files: &[KeyFile],
    rotation: RotationTimes,
    now: UnixMillis,
) -> Option<(Arc<SigningKey>, Vec<Arc<SigningKey>>)> {
    let schedules = schedules(files, rotation, now);
    let signing = schedules.iter().position(|schedule| schedule.state == KeyState::Signing)?;
    let published = files
        .iter()
        .zip(schedules)
        .rev()
        .filter(|(_, schedule)| schedule.state != KeyState::Retired);
    Some((
        Arc::clone(&files[signing].key),
        published.map(|(file, _)| Arc::clone(&file.key)).collect(),
    ))
}

fn refuse_symmetric(settings: &IssuerSettings) -> Result<(), SigningKeyError> {
    match &settings.hs256_secret_file {
        Some(file) => Err(SigningKeyError::Symmetric { file: file.clone() }),
        None => Ok(()),
    }
}

/// The secret in `file`, without the line break that editors append.
fn symmetric(file: &Path) -> Result<IssuerKeys, SigningKeyError> {
    let bytes = std::fs::read(file)
        .map_err(|source| SigningKeyError::SecretUnreadable { file: file.to_owned(), source })?;
    let bytes = Zeroizing::new(bytes);
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    IssuerKeys::symmetric(secret)
        .map_err(|source| SigningKeyError::SecretTooShort { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests;
