//! One battery for every adapter of a port: the nonce stores, and the registry on each database. These alone call into the
//! library, because what they hold to its promise is a port.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use countersign::{
    app,
    config::{
        database::DatabaseSettings,
        nonce::{NonceSettings, NonceUrl},
    },
    domain::{
        algorithm::KeyFamily,
        decision::Used,
        key::{PrivateKey, PublicKey},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::{KeyId, PrincipalId, TrustId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{
        Author, FetchFailure, FetchReports, KeyChange, KeyRecord, KeyTerms, NewKey, NewPrincipal, NonceStore, PrincipalChange,
        PrincipalRecord, PrincipalSource, Profile, RegistryError, RegistryStore, TrustRecord, UsageStore,
    },
    stores::{
        nonce::{memory::MemoryNonceStore, redis::RedisNonceStore},
        sql::{SqlRegistry, connect},
    },
};

use crate::harness::{Database, Redis, RedisCluster, RedisSentinel};

fn now() -> UnixMillis {
    SystemTime::now().into()
}

/// A claim that is like no other, on a token that is good for `valid` from now on.
fn claim(principal: i64, nonce: &str, valid: Duration) -> NonceClaim<'_> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let attempt = Attempt::Unique(NUMBER.fetch_add(1, Ordering::Relaxed).into());
    NonceClaim { principal: PrincipalId(principal), nonce, valid_until: now().saturating_add(valid), now: now(), attempt }
}

const VALID: Duration = Duration::from_secs(20);

async fn nonce_battery(store: Arc<dyn NonceStore>) {
    store.check().await.unwrap();
    let outcome = async |claim| store.claim(claim).await.unwrap();

    assert_eq!(outcome(claim(1, "n", VALID)).await, Claimed::Fresh);
    assert_eq!(outcome(claim(1, "n", VALID)).await, Claimed::Replayed);
    assert_eq!(outcome(claim(1, "n", Duration::from_secs(1))).await, Claimed::Replayed, "whatever the second token's time");
    assert_eq!(outcome(claim(2, "n", VALID)).await, Claimed::Fresh, "another principal's");
    assert_eq!(outcome(claim(1, "N", VALID)).await, Claimed::Fresh, "nonces are compared byte for byte");

    let is_claimed = async |principal, nonce| store.is_claimed(PrincipalId(principal), nonce, now()).await.unwrap();
    assert!(is_claimed(1, "n").await && !is_claimed(2, "N").await && !is_claimed(1, "looked at").await);
    assert_eq!(outcome(claim(1, "looked at", VALID)).await, Claimed::Fresh, "looking claims nothing");

    let odd = ["", " ", "a b", "a\r\nSET x y", "{tag}", "ü", "\u{0}", &"x".repeat(64), &"x".repeat(65), &"x".repeat(7000)];
    for nonce in odd {
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Fresh, "{nonce:?}");
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Replayed, "{nonce:?}");
        assert!(is_claimed(3, nonce).await, "{nonce:?}");
    }

    let named = |number| NonceClaim { attempt: Attempt::Named(number), ..claim(4, "retried", VALID) };
    assert_eq!(outcome(named(7)).await, Claimed::Fresh);
    assert_eq!(outcome(named(7)).await, Claimed::Fresh, "the same attempt asks again");
    assert_eq!(outcome(named(8)).await, Claimed::Replayed);
    assert_eq!(outcome(claim(4, "retried", VALID)).await, Claimed::Replayed);

    for round in 0..20 {
        let claims: Vec<_> = (0..64)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.claim(claim(5, &format!("raced-{round}"), VALID)).await.unwrap() })
            })
            .collect();
        let mut fresh = 0;
        for claimed in claims {
            fresh += usize::from(claimed.await.unwrap() == Claimed::Fresh);
        }
        assert_eq!(fresh, 1, "of 64 claims at once");
    }

    // Remembered until it cannot pass any more and a second longer; then forgotten, or the store would only grow.
    let first = now();
    assert_eq!(outcome(claim(6, "short", Duration::from_millis(10))).await, Claimed::Fresh);
    let forgotten_after = loop {
        match outcome(claim(6, "short", Duration::from_millis(10))).await {
            Claimed::Fresh => break now().since(first),
            Claimed::Replayed => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(now().since(first) < Duration::from_secs(10), "never forgotten");
    };
    assert!(forgotten_after >= Duration::from_secs(1), "forgotten after {forgotten_after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_nonce_promise() {
    nonce_battery(Arc::new(MemoryNonceStore::new(100_000).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise() {
    let redis = Redis::start();
    nonce_battery(Arc::new(redis_store(&format!("redis://{}", redis.address)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise_on_a_cluster() {
    let redis = RedisCluster::start();
    nonce_battery(Arc::new(redis_store(&format!("redis+cluster://{}", redis.address)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise_behind_a_sentinel() {
    let redis = RedisSentinel::start();
    nonce_battery(Arc::new(redis_store(&format!("redis+sentinel://{}/main", redis.address)))).await;
}

/// Whatever a claim leaves in Redis goes away by itself, and within the time that the contract gives.
#[tokio::test]
async fn claims_in_redis_expire_by_themselves() {
    let redis = Redis::start();
    let store = redis_store(&format!("redis://{}", redis.address));
    for (nonce, valid) in [("past", Duration::ZERO), ("now", VALID), ("future", VALID * 2)] {
        store.claim(claim(1, nonce, valid)).await.unwrap();
    }
    let client = deadpool_redis::redis::Client::open(format!("redis://{}", redis.address)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for (nonce, longest) in [("past", 1), ("now", 21), ("future", 41)] {
        let key = format!("countersign:nonce:1:n{nonce}");
        let left: i64 = deadpool_redis::redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
        assert!((longest - 1..=longest).contains(&left), "{nonce}: {left} s");
    }
}

fn redis_store(url: &str) -> RedisNonceStore {
    let url: NonceUrl = url.parse().unwrap();
    let settings = NonceSettings { url, timeout: Duration::from_secs(5), ..NonceSettings::default() };
    RedisNonceStore::new(&settings).unwrap().unwrap()
}

#[tokio::test]
async fn the_registry_keeps_its_promise_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    registry_battery(&format!("sqlite://{}?mode=rwc", folder.path().join("registry.db").display())).await;
}

#[tokio::test]
async fn the_registry_keeps_its_promise_on_postgresql() {
    let database = Database::postgres();
    registry_battery(&database.url).await;
}

#[tokio::test]
async fn the_registry_keeps_its_promise_on_mariadb() {
    let database = Database::mariadb();
    registry_battery(&database.url).await;
}

async fn registry_battery(url: &str) {
    let settings = DatabaseSettings { url: url.parse().unwrap(), auto_migrate: None };
    migrations_go_up_and_down(&settings).await;
    let registry = SqlRegistry::new(connect(&settings).await.unwrap());
    names_are_compared_byte_for_byte(&registry).await;
    principals_are_listed_in_pages(&registry).await;
    keys_are_kept_as_given(&registry).await;
    revoked_and_removed_is_gone(&registry).await;
    every_change_is_in_the_feed(&registry).await;
    changes_at_once_do_not_disturb_each_other(&registry).await;
    a_principal_comes_with_keys_and_trusts_or_not_at_all(&registry).await;
    principals_and_keys_are_changed_if_they_are_what_was_looked_at(&registry).await;
    trusts_are_kept_and_listed(&registry).await;
    use_is_written_and_never_goes_back(&registry).await;
    every_change_is_audited(&registry).await;
}

async fn migrations_go_up_and_down(settings: &DatabaseSettings) {
    let registry = SqlRegistry::new(connect(settings).await.unwrap());
    let error = registry.principals(None, 1).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotMigrated(_)), "{error:?}");
    assert!(matches!(registry.newest_change().await, Err(RegistryError::NotMigrated(_))));

    let applied = app::migrate_up(settings).await.unwrap();
    assert!(!applied.is_empty());
    assert!(app::migrate_up(settings).await.unwrap().is_empty(), "twice is no error");
    assert!(app::migration_status(settings).await.unwrap().iter().all(|state| state.is_applied));
    assert_eq!(app::migrate_down(settings).await.unwrap(), applied.last().cloned());
    assert!(!app::migration_status(settings).await.unwrap().last().unwrap().is_applied);
    assert_eq!(app::migrate_up(settings).await.unwrap(), applied[applied.len() - 1..]);
}

/// A change by the test, now.
fn by_us() -> Author<'static> {
    Author { actor: "battery", now: now() }
}

fn username(name: &str) -> Username {
    Username::new(name).unwrap()
}

async fn add(registry: &SqlRegistry, name: &str, scopes: &str) {
    let new = NewPrincipal { scopes: Scopes::parse(scopes).unwrap(), ..NewPrincipal::named(username(name)) };
    registry.add_principal(new, by_us()).await.unwrap();
}

async fn names_are_compared_byte_for_byte(registry: &SqlRegistry) {
    let longest = "é".repeat(255);
    let names = ["alice", "Alice", "alice ", " alice", "àlice", "a\u{300}lice", "ALICE", "аlice", "💡", longest.as_str()];
    for name in names {
        add(registry, name, "").await;
    }
    for name in names {
        let record = registry.principal(&username(name)).await.unwrap();
        assert_eq!(record.username.as_str(), name);
        assert!(record.is_active);
        assert_eq!(registry.load(&username(name)).await.unwrap().unwrap().id, record.id);
        let again = NewPrincipal::named(username(name));
        assert!(
            matches!(registry.add_principal(again, by_us()).await, Err(RegistryError::PrincipalExists(taken)) if taken == name)
        );
    }
    for name in ["alicE", "alice  ", "alic", "'; DROP TABLE principals; --"] {
        assert!(registry.load(&username(name)).await.unwrap().is_none(), "{name:?}");
        assert!(matches!(registry.principal(&username(name)).await, Err(RegistryError::NoSuchPrincipal(_))), "{name:?}");
    }
}

async fn principals_are_listed_in_pages(registry: &SqlRegistry) {
    let all = registry.principals(None, 1000).await.unwrap();
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = registry.principals(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(all.is_sorted_by_key(|record| record.id) && all.len() >= 10);
}

fn public_key() -> PublicKey {
    PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap().public_key().clone()
}

fn new_key(key: &PublicKey) -> NewKey {
    let as_given = key.to_pem();
    NewKey { as_given, key: key.clone(), terms: KeyTerms::default() }
}

async fn keys_are_kept_as_given(registry: &SqlRegistry) {
    add(registry, "keeper", "read write admin").await;
    add(registry, "other", "").await;
    let keeper = username("keeper");
    let key = public_key();
    // 2100, and a fraction of a second: neither may be lost.
    let (from, until) = (UnixMillis(1_700_000_000_123), UnixMillis(4_102_444_800_456));
    let terms = KeyTerms {
        comment: Some("laptop ü 💻".to_owned()),
        scopes: Some(Scopes::parse("write other").unwrap()),
        not_before: Some(from),
        expires_at: Some(until),
    };
    let record = registry.add_key(&keeper, NewKey { terms: terms.clone(), ..new_key(&key) }, by_us()).await.unwrap();
    assert_eq!(record.fingerprint, key.fingerprint().to_string());
    assert_eq!(record.terms, terms);
    assert_eq!(record.key, key.to_pem());
    assert_eq!(registry.key(record.id).await.unwrap(), record);
    assert_eq!(registry.keys(Some(&keeper), None, 10).await.unwrap(), std::slice::from_ref(&record));

    let known = registry.load(&keeper).await.unwrap().unwrap();
    assert_eq!(known.keys.len(), 1);
    assert_eq!(known.keys[0].key.fingerprint(), key.fingerprint());
    assert_eq!(known.keys[0].scopes.as_str(), "write", "the principal's, narrowed by the key's");
    assert_eq!((known.keys[0].not_before, known.keys[0].expires_at), (Some(from), Some(until)));

    let duplicate = registry.add_key(&keeper, new_key(&key), by_us()).await;
    assert!(matches!(duplicate, Err(RegistryError::KeyExists { .. })), "{duplicate:?}");
    assert_eq!(registry.keys(Some(&keeper), None, 10).await.unwrap().len(), 1, "nothing half-written");
    registry.add_key(&username("other"), new_key(&key), by_us()).await.expect("two principals may share a key");
    assert!(matches!(registry.add_key(&username("nobody"), new_key(&key), by_us()).await, Err(RegistryError::NoSuchPrincipal(_))));
    assert!(matches!(registry.keys(Some(&username("nobody")), None, 10).await, Err(RegistryError::NoSuchPrincipal(_))));
    let all = registry.keys(None, None, 100).await.unwrap();
    assert_eq!(registry.keys(None, Some(all[0].id), 100).await.unwrap(), all[1..]);
}

async fn revoke(registry: &SqlRegistry, id: KeyId, author: Author<'_>) -> Result<KeyRecord, RegistryError> {
    registry.change_key(id, KeyChange::REVOCATION, None, author).await
}

async fn set_active(registry: &SqlRegistry, name: &Username, is_active: bool) -> Result<PrincipalRecord, RegistryError> {
    let change = PrincipalChange { is_active: Some(is_active), ..PrincipalChange::default() };
    registry.change_principal(name, change, None, by_us()).await
}

async fn revoked_and_removed_is_gone(registry: &SqlRegistry) {
    let keeper = username("keeper");
    let newer = registry.add_key(&keeper, new_key(&public_key()), by_us()).await.unwrap();
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 2);
    let revoked = revoke(registry, newer.id, Author { now: UnixMillis(1_750_000_000_000), ..by_us() }).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(UnixMillis(1_750_000_000_000)));
    let again = revoke(registry, newer.id, by_us()).await.unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at, "the first date stays");
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 1);
    assert!(matches!(revoke(registry, KeyId(i64::MAX), by_us()).await, Err(RegistryError::NoSuchKey(_))));

    assert!(!set_active(registry, &keeper, false).await.unwrap().is_active);
    assert!(!registry.load(&keeper).await.unwrap().unwrap().is_active);
    assert!(set_active(registry, &keeper, true).await.unwrap().is_active);

    let id = registry.principal(&keeper).await.unwrap().id;
    registry.remove_principal(&keeper, None, by_us()).await.unwrap();
    assert!(registry.load(&keeper).await.unwrap().is_none());
    assert!(registry.keys(None, None, 100).await.unwrap().iter().all(|key| key.username != keeper), "its keys went with it");
    assert!(matches!(registry.remove_principal(&keeper, None, by_us()).await, Err(RegistryError::NoSuchPrincipal(_))));
    add(registry, "keeper", "").await;
    assert_ne!(registry.principal(&keeper).await.unwrap().id, id, "a number is never given again");
}

async fn every_change_is_in_the_feed(registry: &SqlRegistry) {
    add(registry, "changing", "").await;
    let (name, begun) = (username("changing"), now());
    let id = registry.principal(&name).await.unwrap().id;
    let mut seen = registry.newest_change().await.unwrap();
    let mut expect_one = async |what: &str| {
        let changes = registry.changes(seen, 0, now()).await.unwrap();
        assert_eq!(changes.iter().map(|change| change.principal).collect::<Vec<_>>(), [id], "{what}");
        assert!(changes[0].id > seen);
        seen = changes[0].id;
        assert_eq!(registry.newest_change().await.unwrap(), seen);
    };
    let key = registry.add_key(&name, new_key(&public_key()), by_us()).await.unwrap();
    expect_one("a key added").await;
    revoke(registry, key.id, by_us()).await.unwrap();
    expect_one("a key revoked").await;
    set_active(registry, &name, false).await.unwrap();
    expect_one("disabled").await;
    set_active(registry, &name, true).await.unwrap();
    expect_one("enabled").await;
    assert_eq!(registry.usernames(&[id, PrincipalId(i64::MAX)]).await.unwrap(), [(id, name.clone())]);
    registry.remove_principal(&name, None, by_us()).await.unwrap();
    expect_one("removed").await;
    assert!(registry.usernames(&[id]).await.unwrap().is_empty());

    // Looking back: what was made lately comes again, what is older does not.
    let back = UnixMillis(begun.0 - 1000);
    assert_eq!(registry.changes(seen, 3, back).await.unwrap().iter().map(|change| change.principal).collect::<Vec<_>>(), [id; 3]);
    assert!(registry.changes(seen, 3, now().saturating_add(Duration::from_secs(5))).await.unwrap().is_empty());

    registry.forget_changes(now().saturating_add(Duration::from_mins(1))).await.unwrap();
    assert_eq!(registry.newest_change().await.unwrap(), seen, "the newest stays, so that numbers never seem to go back");
    assert_eq!(registry.changes(0, 0, now()).await.unwrap().len(), 1);
}

async fn changes_at_once_do_not_disturb_each_other(registry: &SqlRegistry) {
    let seen = registry.newest_change().await.unwrap();
    let added: Vec<_> = (0..20)
        .map(|number| {
            let registry = registry.clone();
            tokio::spawn(async move { add(&registry, &format!("at-once-{number}"), "").await })
        })
        .collect();
    for done in added {
        done.await.unwrap();
    }
    let changed: BTreeSet<_> = registry.changes(seen, 0, now()).await.unwrap().iter().map(|change| change.principal).collect();
    assert_eq!(changed.len(), 20);
}

async fn a_principal_comes_with_keys_and_trusts_or_not_at_all(registry: &SqlRegistry) {
    let (first, second) = (public_key(), public_key());
    let profile = Profile {
        given_name: Some("Ada".to_owned()),
        family_name: Some("Łöve 愛".to_owned()),
        email: Some("ada@example.com".to_owned()),
    };
    let whole = |name: &str, keys: &[&PublicKey], urls: &[&str]| NewPrincipal {
        profile: profile.clone(),
        keys: keys.iter().map(|key| new_key(key)).collect(),
        jwks_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        ..NewPrincipal::named(username(name))
    };
    let urls = ["https://a.example/jwks", "https://b.example/jwks", "https://c.example/jwks"];
    let record = registry.add_principal(whole("whole", &[&first, &second], &urls), by_us()).await.unwrap();
    assert_eq!(record.profile, profile);
    assert_eq!(registry.principal(&username("whole")).await.unwrap(), record);
    let known = registry.load(&username("whole")).await.unwrap().unwrap();
    let fingerprints: BTreeSet<_> = known.keys.iter().map(|key| key.key.fingerprint()).collect();
    assert_eq!(fingerprints, BTreeSet::from([first.fingerprint(), second.fingerprint()]));
    assert_eq!(known.trusts.iter().map(|trust| &*trust.url).collect::<Vec<_>>(), urls);

    let again = registry.add_principal(whole("half", &[&first, &first], &urls), by_us()).await;
    assert!(matches!(again, Err(RegistryError::KeyExists { .. })), "{again:?}");
    let again = registry.add_principal(whole("half", &[&first], &[urls[0], urls[0]]), by_us()).await;
    assert!(matches!(again, Err(RegistryError::TrustExists { .. })), "{again:?}");
    assert!(registry.load(&username("half")).await.unwrap().is_none());
    let disabled = NewPrincipal { is_active: false, ..NewPrincipal::named(username("half")) };
    assert!(!registry.add_principal(disabled, by_us()).await.unwrap().is_active);
}

async fn principals_and_keys_are_changed_if_they_are_what_was_looked_at(registry: &SqlRegistry) {
    let whole = username("whole");
    let before = registry.principal(&whole).await.unwrap();
    let change = PrincipalChange {
        scopes: Some(Scopes::parse("read").unwrap()),
        given_name: Some(None),
        email: Some(Some("new@example.com".to_owned())),
        ..PrincipalChange::default()
    };
    let later = Author { now: before.updated_at.saturating_add(Duration::from_secs(1)), ..by_us() };
    let after = registry.change_principal(&whole, change.clone(), Some(before.version()), later).await.unwrap();
    let profile = Profile { given_name: None, email: Some("new@example.com".to_owned()), ..before.profile.clone() };
    let expected = PrincipalRecord { scopes: Scopes::parse("read").unwrap(), profile, updated_at: later.now, ..before.clone() };
    assert_eq!(after, expected);
    assert_eq!(registry.principal(&whole).await.unwrap(), after);
    let outdated = registry.change_principal(&whole, PrincipalChange::default(), Some(before.version()), later).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let outdated = registry.remove_principal(&whole, Some(before.version()), later).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let same = registry.change_principal(&whole, change, Some(after.version()), by_us()).await.unwrap();
    assert_eq!(same, after, "what is already so changes nothing");

    let key = registry.keys(Some(&whole), None, 1).await.unwrap().remove(0);
    let (from, until) = (UnixMillis(1_700_000_000_000), UnixMillis(4_102_444_800_000));
    let change = KeyChange {
        comment: Some(Some("old laptop".to_owned())),
        scopes: Some(Some(Scopes::parse("read").unwrap())),
        not_before: Some(Some(from)),
        expires_at: Some(Some(until)),
        revoke: false,
    };
    let changed = registry.change_key(key.id, change.clone(), Some(key.version()), by_us()).await.unwrap();
    assert_eq!(changed, KeyRecord { terms: change.applied_to(&key.terms), ..key.clone() });
    assert_eq!(registry.key(key.id).await.unwrap(), changed);
    let outdated = registry.change_key(key.id, KeyChange::REVOCATION, Some(key.version()), by_us()).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let bare = KeyChange { comment: Some(None), scopes: Some(None), not_before: Some(None), expires_at: Some(None), revoke: false };
    assert_eq!(registry.change_key(key.id, bare, None, by_us()).await.unwrap().terms, KeyTerms::default());

    // Of two who look at the same and change it at the same time, one is told that it changed.
    let seen = registry.principal(&whole).await.unwrap().version();
    let mut at_once = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (registry, name) = (registry.clone(), whole.clone());
        at_once.spawn(async move {
            let change = PrincipalChange { email: Some(Some(format!("{number}@example.com"))), ..PrincipalChange::default() };
            registry.change_principal(&name, change, Some(seen), by_us()).await
        });
    }
    let outcomes = at_once.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(RegistryError::Changed))), "{outcomes:?}");
}

async fn trusts_are_kept_and_listed(registry: &SqlRegistry) {
    let whole = username("whole");
    let url = format!("https://long.example/{}", "x".repeat(1900));
    let added = registry.add_trust(&whole, &url, by_us()).await.unwrap();
    assert_eq!((added.username.as_str(), added.jwks_url.as_str()), ("whole", url.as_str()));
    assert_eq!(registry.trust(added.id).await.unwrap(), added);
    let again = registry.add_trust(&whole, &url, by_us()).await;
    assert!(matches!(&again, Err(RegistryError::TrustExists { jwks_url, .. }) if *jwks_url == url), "{again:?}");
    registry.add_trust(&whole, &url.to_uppercase(), by_us()).await.expect("URLs are compared byte for byte");
    assert!(matches!(registry.add_trust(&username("nobody"), &url, by_us()).await, Err(RegistryError::NoSuchPrincipal(_))));

    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (registry, name) = (registry.clone(), whole.clone());
        at_once.spawn(async move { registry.add_trust(&name, "https://raced.example/", by_us()).await.is_ok() });
    }
    assert_eq!(at_once.join_all().await.into_iter().filter(|added| *added).count(), 1, "of eight at once");

    let all = registry.trusts(Some(&whole), None, 100).await.unwrap();
    assert_eq!(all.len(), 6);
    assert_eq!(registry.trusts(None, Some(all[0].id), 2).await.unwrap(), all[1..3]);
    let fetched_at = UnixMillis(4_102_444_800_000);
    let failure = FetchFailure { reason: "the answer was 500 instead of 200".to_owned() };
    registry.fetched(&url, fetched_at, None).await.unwrap();
    registry.fetched(&url, now(), Some(&failure)).await.unwrap();
    let noted = TrustRecord { last_fetched_at: Some(fetched_at), last_error: Some(failure.reason), ..added.clone() };
    assert_eq!(registry.trust(added.id).await.unwrap(), noted, "the last good fetch stays known");
    assert_eq!(noted.version(), added.version());
    registry.fetched(&url, fetched_at, None).await.unwrap();
    assert_eq!(registry.trust(added.id).await.unwrap().last_error, None);

    let seen = registry.newest_change().await.unwrap();
    registry.touch_trust(added.id, by_us()).await.unwrap();
    registry.remove_trust(added.id, Some(added.version()), by_us()).await.unwrap();
    assert_eq!(registry.changes(seen, 0, now()).await.unwrap().len(), 2);
    let (gone, never) = (added.id, TrustId(i64::MAX));
    for id in [gone, never] {
        assert!(matches!(registry.trust(id).await, Err(RegistryError::NoSuchTrust(_))));
        assert!(matches!(registry.touch_trust(id, by_us()).await, Err(RegistryError::NoSuchTrust(_))));
        assert!(matches!(registry.remove_trust(id, None, by_us()).await, Err(RegistryError::NoSuchTrust(_))));
    }
    let known = registry.load(&whole).await.unwrap().unwrap();
    assert_eq!((known.keys.len(), known.trusts.len()), (2, 5), "none twice, however they are read");
    for key in registry.keys(Some(&whole), None, 10).await.unwrap() {
        revoke(registry, key.id, by_us()).await.unwrap();
    }
    let known = registry.load(&whole).await.unwrap().unwrap();
    assert_eq!((known.keys.len(), known.trusts.len()), (0, 5), "revoked keys take no trusts with them");
}

async fn use_is_written_and_never_goes_back(registry: &SqlRegistry) {
    let whole = username("whole");
    let (keys, trusts) =
        (registry.keys(Some(&whole), None, 2).await.unwrap(), registry.trusts(Some(&whole), None, 2).await.unwrap());
    let at = |second: i64| UnixMillis(1_900_000_000_000 + second * 1000);
    let seen = registry.newest_change().await.unwrap();
    let used = [
        (Used::Key(keys[0].id), at(5)),
        (Used::Key(keys[1].id), UnixMillis(at(7).0 + 999)),
        (Used::Trust(trusts[0].id), at(6)),
        (Used::Key(KeyId(i64::MAX)), at(6)),
    ];
    registry.write_usage(&used).await.unwrap();
    registry.write_usage(&[(Used::Key(keys[0].id), at(4)), (Used::Trust(trusts[0].id), at(9))]).await.unwrap();
    registry.write_usage(&[]).await.unwrap();
    let key = async |index: usize| registry.key(keys[index].id).await.unwrap();
    let trust = async |index: usize| registry.trust(trusts[index].id).await.unwrap();
    assert_eq!(key(0).await.last_used_on, Some(at(5)), "an earlier time changes nothing");
    assert_eq!(key(1).await.last_used_on, Some(at(7)), "to the second");
    assert_eq!((trust(0).await.last_used_on, trust(1).await.last_used_on), (Some(at(9)), None));
    assert_eq!(key(0).await.version(), keys[0].version(), "use is no change");
    assert_eq!(registry.newest_change().await.unwrap(), seen, "nor anything for the feed");

    let many: Vec<_> = (0..2000).map(|number| (Used::Key(KeyId(1_000_000 + number)), at(number % 11))).collect();
    registry.write_usage(&many).await.unwrap();
}

async fn every_change_is_audited(registry: &SqlRegistry) {
    let name = username("audited");
    let by = |second: i64| Author { actor: "cli:ada", now: UnixMillis(1_900_000_000_000 + second * 1000) };
    registry.add_principal(NewPrincipal::named(name.clone()), by(0)).await.unwrap();
    let key = registry.add_key(&name, new_key(&public_key()), by(1)).await.unwrap();
    let comment = KeyChange { comment: Some(Some("c".to_owned())), ..KeyChange::default() };
    registry.change_key(key.id, comment.clone(), None, by(2)).await.unwrap();
    registry.change_key(key.id, comment, None, by(3)).await.unwrap();
    registry.change_key(key.id, KeyChange::REVOCATION, None, by(4)).await.unwrap();
    let trust = registry.add_trust(&name, "https://a.example/", by(5)).await.unwrap();
    registry.touch_trust(trust.id, by(6)).await.unwrap();
    registry.remove_trust(trust.id, None, by(7)).await.unwrap();
    registry.remove_principal(&name, None, by(8)).await.unwrap();

    let events = registry.audit(Some("audited"), None, 100).await.unwrap();
    let said: Vec<_> =
        events.iter().rev().map(|event| (event.action.as_str(), event.before.is_some(), event.after.is_some())).collect();
    let expected = [
        ("principal.add", false, true),
        ("key.add", false, true),
        ("key.change", true, true),
        ("key.revoke", true, true),
        ("trust.add", false, true),
        ("trust.refresh", true, true),
        ("trust.remove", true, false),
        ("principal.remove", true, false),
    ];
    assert_eq!(said, expected, "what changes nothing leaves no trace");
    assert!(events.iter().all(|event| event.actor == "cli:ada" && event.username == "audited"));
    assert_eq!(
        events.iter().rev().map(|event| event.at).collect::<Vec<_>>(),
        [0, 1, 2, 4, 5, 6, 7, 8].map(|second| by(second).now)
    );
    let revoked = &events[4];
    assert_eq!(revoked.subject_id, key.id.0);
    assert!(revoked.before.as_deref().unwrap().contains("\"revoked_at\":null"), "{revoked:?}");
    assert!(revoked.after.as_deref().unwrap().contains("\"revoked_at\":\"2030-03-17T17:46:44Z\""), "{revoked:?}");

    let page = registry.audit(Some("audited"), Some(events[2].id), 2).await.unwrap();
    assert_eq!(page, events[3..5]);
    assert!(registry.audit(None, None, 1000).await.unwrap().len() > events.len());
    assert!(registry.audit(Some("AUDITED"), None, 10).await.unwrap().is_empty());
}
