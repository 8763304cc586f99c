use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Barrier,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::domain::{algorithm::KeyFamily, key::PrivateKey};

/// Long after the epoch, which is the time of the first key.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DELAY: Duration = Duration::from_mins(5);
const LIFETIME: Duration = Duration::from_mins(30);
/// Passes the folder to [`a_process_of_its_own`].
const FOLDER_VARIABLE: &str = "COUNTERSIGN_TEST_SIGNING_KEYS";

#[test]
fn an_empty_folder_gets_one_key_of_the_kind_that_is_set() {
    for (algorithm, family) in
        [("RS256", KeyFamily::Rsa), ("PS256", KeyFamily::Rsa), ("ES384", KeyFamily::P384)]
    {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            IssuerSettings { algorithm: algorithm.parse().unwrap(), ..settings(&folder) };
        let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
        assert_eq!(keys.current().algorithm(), algorithm);
        assert_eq!(keys.current().signing_key().unwrap().public_key().family(), family);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&settings.signing_keys_dir), 0o700);
        assert_eq!(mode(&settings.signing_keys_dir.join("initial.pem")), 0o600);
        assert_eq!(names(&settings), ["initial.pem"]);

        let again = SigningKeyFolder::open(&settings, NOW).unwrap();
        assert_eq!(again.current().jwks(), keys.current().jwks());
    }
}

#[test]
fn threads_that_start_at_once_agree_on_one_key() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let (settings, barrier) = (settings(&folder), Barrier::new(16));
        let kids: Vec<String> = std::thread::scope(|scope| {
            let open = || {
                barrier.wait();
                signing(&SigningKeyFolder::open(&settings, NOW).unwrap())
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
        assert_eq!(names(&settings), ["initial.pem"]);
    }
}

#[test]
fn processes_that_start_at_once_agree_on_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let start = |_| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stores::signing_keys::tests::a_process_of_its_own", "--nocapture"])
            .env(FOLDER_VARIABLE, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..10).map(start).collect();
    let outputs = processes.into_iter().map(|process| process.wait_with_output().unwrap());
    let kids: Vec<String> = outputs
        .map(|output| {
            let text = String::from_utf8(output.stdout).unwrap();
            let kid = text.split_once("kid=").unwrap_or_else(|| panic!("{text}")).1;
            kid[..64].to_owned()
        })
        .collect();
    let settings = settings(&folder);
    let expected = signing(&SigningKeyFolder::open(&settings, NOW).unwrap());
    assert!(kids.iter().all(|kid| *kid == expected), "{kids:?}");
    assert_eq!(names(&settings), ["initial.pem"]);
}

/// Run by the processes above; does nothing on its own.
#[test]
#[allow(clippy::print_stdout, reason = "it tells the process that started it")]
fn a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let settings = IssuerSettings {
        signing_keys_dir: PathBuf::from(folder).join("keys"),
        ..IssuerSettings::default()
    };
    println!("kid={}", signing(&SigningKeyFolder::open(&settings, NOW).unwrap()));
}

#[test]
fn a_new_key_is_published_then_signs_and_the_old_one_retires() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
    let old = signing(&keys);
    let of_the_old = keys.current().sign(b"{}").unwrap();

    let rotated = rotate(&settings, NOW).unwrap();
    assert_eq!(rotated.schedule.state, KeyState::Published);
    assert_eq!(rotated.schedule.signs_from, NOW.saturating_add(DELAY));
    assert_eq!(
        rotated.file,
        settings.signing_keys_dir.join(format!("20270115T080000Z-{}.pem", &rotated.kid[..8]))
    );
    let signs_until = rotated.schedule.signs_from;
    let retires = signs_until.saturating_add(LIFETIME).saturating_add(Duration::from_mins(1));
    for (at, signs, published, of_the_old_verifies) in [
        (NOW, &old, vec![&rotated.kid, &old], true),
        (
            signs_until.saturating_sub(Duration::from_millis(1)),
            &old,
            vec![&rotated.kid, &old],
            true,
        ),
        (signs_until, &rotated.kid, vec![&rotated.kid, &old], true),
        (retires, &rotated.kid, vec![&rotated.kid, &old], true),
        (retires.saturating_add(Duration::from_millis(1)), &rotated.kid, vec![&rotated.kid], false),
    ] {
        keys.look(at);
        assert_eq!(&signing(&keys), signs);
        let current = keys.current();
        assert_eq!(current.published().iter().map(|key| key.kid()).collect::<Vec<_>>(), published);
        assert!(published.iter().all(|kid| current.jwks().contains(*kid)));
        assert_eq!(verifies(&current, &of_the_old), of_the_old_verifies);
        // Another replica that starts now has the same keys.
        assert_eq!(SigningKeyFolder::open(&settings, at).unwrap().current().jwks(), current.jwks());
    }
    let unchanged = keys.current();
    keys.look(retires.saturating_add(LIFETIME));
    assert!(Arc::ptr_eq(&unchanged, &keys.current()), "nothing new was swapped in");
}

#[test]
fn a_rotation_is_newer_than_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    assert_eq!(list(&settings, NOW).unwrap().len(), 0);
    check(&settings).unwrap();
    assert!(!settings.signing_keys_dir.exists(), "looking makes nothing");
    let first = rotate(&settings, NOW).unwrap();
    assert_eq!(first.schedule.state, KeyState::Signing);
    let made: Vec<ListedKey> = (0..5).map(|_| rotate(&settings, NOW).unwrap()).collect();
    let listed = list(&settings, NOW.saturating_add(DELAY * 2)).unwrap();
    let kids = |keys: &[ListedKey]| keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
    assert_eq!(kids(&listed), kids(&[&[first], &made[..]].concat()));
    assert_eq!(listed.last().unwrap().schedule.state, KeyState::Signing);
    for (made, seconds) in made.iter().zip(1_u64..) {
        assert_eq!(made.created_at, NOW.saturating_add(Duration::from_secs(seconds)));
        assert_eq!(made.schedule.signs_from, made.created_at.saturating_add(DELAY));
    }
}

#[test]
fn keys_that_others_put_there_have_the_time_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
    let first = signing(&keys);
    let pem = pem(KeyFamily::P256);
    let file = settings.signing_keys_dir.join("by-hand.pem");
    fs::write(&file, &pem).unwrap();
    let modified =
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(NOW.0).unwrap() + 900);
    fs::File::open(&file).unwrap().set_modified(modified).unwrap();
    // Hidden files, files with other names and folders are ignored.
    fs::write(settings.signing_keys_dir.join(".draft.pem"), "half").unwrap();
    fs::write(settings.signing_keys_dir.join("notes.txt"), "no key").unwrap();
    fs::create_dir(settings.signing_keys_dir.join("folder.pem")).unwrap();

    let listed = list(&settings, NOW).unwrap();
    assert_eq!(listed[1].created_at, NOW);
    assert_eq!(listed[1].algorithm, Algorithm::Es256);
    keys.look(NOW);
    assert_eq!(signing(&keys), first);
    keys.look(NOW.saturating_add(DELAY));
    assert_eq!(signing(&keys), listed[1].kid);

    // A copy does not change the key's age.
    fs::write(settings.signing_keys_dir.join("20300101T000000Z-copy.pem"), &pem).unwrap();
    assert_eq!(list(&settings, NOW).unwrap().len(), 2);
    keys.look(NOW.saturating_add(DELAY));
    assert_eq!(signing(&keys), listed[1].kid);
}

#[test]
fn what_cannot_be_read_changes_nothing_and_stops_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
    let before = keys.current();
    let pem = pem(KeyFamily::Ed25519);
    let file = settings.signing_keys_dir.join("20270115T080000Z-new.pem");
    let public = PrivateKey::parse(&pem, None).unwrap().public_key().to_pem();
    let encrypted =
        PrivateKey::parse(&pem, None).unwrap().to_encrypted_pem(&"secret".into()).unwrap();
    for (content, reason) in [
        (&pem[..pem.len() / 2], "cannot be used"),
        ("", "cannot be used"),
        (&public, "cannot be used"),
        (encrypted.expose_secret(), "is encrypted"),
    ] {
        fs::write(&file, content).unwrap();
        let later = NOW.saturating_add(DELAY);
        keys.look(later);
        assert!(Arc::ptr_eq(&before, &keys.current()));
        for error in [
            SigningKeyFolder::open(&settings, later).unwrap_err(),
            list(&settings, later).unwrap_err(),
            check(&settings).unwrap_err(),
            rotate(&settings, later).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(
                error.contains("20270115T080000Z-new.pem") && error.contains(reason),
                "{error}"
            );
        }
    }
    // Once the file is complete, it counts.
    fs::write(&file, &pem).unwrap();
    keys.look(NOW.saturating_add(DELAY));
    assert_ne!(signing(&keys), before.signing_key().unwrap().kid());

    let before = keys.current();
    fs::remove_dir_all(&settings.signing_keys_dir).unwrap();
    keys.look(NOW.saturating_add(DELAY));
    assert!(
        Arc::ptr_eq(&before, &keys.current()),
        "no key is made while tokens of others are about"
    );
    assert!(!settings.signing_keys_dir.exists());

    fs::write(&settings.signing_keys_dir, "a file where a folder belongs").unwrap();
    let error = SigningKeyFolder::open(&settings, NOW).unwrap_err().to_string();
    assert!(error.contains("issuer.signing_keys_dir"), "{error}");
}

#[test]
fn a_secret_is_used_instead_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    let file = folder.path().join("secret");
    let settings = IssuerSettings { hs256_secret_file: Some(file.clone()), ..settings(&folder) };
    assert!(
        SigningKeyFolder::open(&settings, NOW)
            .unwrap_err()
            .to_string()
            .contains("issuer.hs256_secret_file")
    );
    let token = IssuerKeys::symmetric(secret.as_bytes()).unwrap().sign(b"{}").unwrap();
    for end in ["", "\n", "\r\n"] {
        fs::write(&file, format!("{secret}{end}")).unwrap();
        check(&settings).unwrap();
        let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
        keys.look(NOW);
        assert_eq!(keys.current().sign(b"{}").unwrap(), token, "{end:?}");
        assert_eq!(keys.current().jwks(), r#"{"keys":[]}"#);
    }
    fs::write(&file, format!("{}\n", &secret[1..])).unwrap();
    assert!(matches!(check(&settings), Err(SigningKeyError::SecretTooShort { .. })));
    let error = SigningKeyFolder::open(&settings, NOW).unwrap_err();
    let text = format!("{error}: {}", error.source().unwrap());
    assert!(
        text.contains("issuer.hs256_secret_file")
            && text.contains("32 bytes")
            && !text.contains(&secret[1..]),
        "{text}"
    );
    for error in [list(&settings, NOW).unwrap_err(), rotate(&settings, NOW).unwrap_err()] {
        assert!(error.to_string().contains("there are no signing keys"), "{error}");
    }
    assert!(!settings.signing_keys_dir.exists());
}

#[tokio::test]
async fn the_folder_and_the_time_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let keys = SigningKeyFolder::open(&settings, NOW).unwrap();
    let clock = Arc::new(SetClock(AtomicI64::new(NOW.0)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watching = tokio::spawn(
        Arc::clone(&keys)
            .watch(Arc::clone(&clock) as Arc<dyn Clock>, async { drop(stopped.await) }),
    );

    let rotated = rotate(&settings, NOW).unwrap();
    until(|| keys.current().jwks().contains(&rotated.kid)).await;
    assert_ne!(signing(&keys), rotated.kid);
    clock.0.store(NOW.saturating_add(DELAY).0, Ordering::Release);
    until(|| signing(&keys) == rotated.kid).await;
    drop(stop);
    watching.await.unwrap();
}

struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Acquire))
    }
}

async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..100 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is not so after ten seconds");
}

fn settings(folder: &TempDir) -> IssuerSettings {
    IssuerSettings {
        signing_keys_dir: folder.path().join("keys"),
        algorithm: "EdDSA".parse().unwrap(),
        access_token_lifetime: LIFETIME,
        signing_key_delay: DELAY,
        ..IssuerSettings::default()
    }
}

fn names(settings: &IssuerSettings) -> Vec<String> {
    let entries = fs::read_dir(&settings.signing_keys_dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn signing(keys: &SigningKeyFolder) -> String {
    keys.current().signing_key().unwrap().kid().to_owned()
}

fn pem(family: KeyFamily) -> String {
    PrivateKey::generate(family, 2048).unwrap().to_pem().unwrap().expose_secret().to_owned()
}

fn verifies(keys: &IssuerKeys, token: &str) -> bool {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    keys.verify("EdDSA", None, message.as_bytes(), &signature).is_ok()
}
