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
        key::{PrivateKey, PublicKey},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::{KeyId, PrincipalId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{NewKey, NewPrincipal, NonceStore, PrincipalSource, RegistryError, RegistryStore},
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

    let odd = ["", " ", "a b", "a\r\nSET x y", "{tag}", "ü", "\u{0}", &"x".repeat(64), &"x".repeat(65), &"x".repeat(7000)];
    for nonce in odd {
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Fresh, "{nonce:?}");
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Replayed, "{nonce:?}");
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

fn username(name: &str) -> Username {
    Username::new(name).unwrap()
}

async fn add(registry: &SqlRegistry, name: &str, scopes: &str) {
    let new = NewPrincipal { username: username(name), scopes: Scopes::parse(scopes).unwrap() };
    registry.add_principal(new, now()).await.unwrap();
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
        let again = NewPrincipal { username: username(name), scopes: Scopes::default() };
        assert!(matches!(registry.add_principal(again, now()).await, Err(RegistryError::PrincipalExists(taken)) if taken == name));
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
    NewKey { as_given, key: key.clone(), comment: None, scopes: None, not_before: None, expires_at: None }
}

async fn keys_are_kept_as_given(registry: &SqlRegistry) {
    add(registry, "keeper", "read write admin").await;
    add(registry, "other", "").await;
    let keeper = username("keeper");
    let key = public_key();
    // 2100, and a fraction of a second: neither may be lost.
    let (from, until) = (UnixMillis(1_700_000_000_123), UnixMillis(4_102_444_800_456));
    let terms = NewKey {
        comment: Some("laptop ü".to_owned()),
        scopes: Some(Scopes::parse("write other").unwrap()),
        not_before: Some(from),
        expires_at: Some(until),
        ..new_key(&key)
    };
    let record = registry.add_key(&keeper, terms, now()).await.unwrap();
    assert_eq!(record.fingerprint, key.fingerprint().to_string());
    assert_eq!((record.not_before, record.expires_at), (Some(from), Some(until)));
    assert_eq!(record.comment.as_deref(), Some("laptop ü"));
    assert_eq!(registry.keys(Some(&keeper), None, 10).await.unwrap(), std::slice::from_ref(&record));

    let known = registry.load(&keeper).await.unwrap().unwrap();
    assert_eq!(known.keys.len(), 1);
    assert_eq!(known.keys[0].key.fingerprint(), key.fingerprint());
    assert_eq!(known.keys[0].scopes.as_str(), "write", "the principal's, narrowed by the key's");
    assert_eq!((known.keys[0].not_before, known.keys[0].expires_at), (Some(from), Some(until)));

    let duplicate = registry.add_key(&keeper, new_key(&key), now()).await;
    assert!(matches!(duplicate, Err(RegistryError::KeyExists { .. })), "{duplicate:?}");
    assert_eq!(registry.keys(Some(&keeper), None, 10).await.unwrap().len(), 1, "nothing half-written");
    registry.add_key(&username("other"), new_key(&key), now()).await.expect("two principals may share a key");
    assert!(matches!(registry.add_key(&username("nobody"), new_key(&key), now()).await, Err(RegistryError::NoSuchPrincipal(_))));
    assert!(matches!(registry.keys(Some(&username("nobody")), None, 10).await, Err(RegistryError::NoSuchPrincipal(_))));
    let all = registry.keys(None, None, 100).await.unwrap();
    assert_eq!(registry.keys(None, Some(all[0].id), 100).await.unwrap(), all[1..]);
}

async fn revoked_and_removed_is_gone(registry: &SqlRegistry) {
    let keeper = username("keeper");
    let newer = registry.add_key(&keeper, new_key(&public_key()), now()).await.unwrap();
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 2);
    let revoked = registry.revoke_key(newer.id, UnixMillis(1_750_000_000_000)).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(UnixMillis(1_750_000_000_000)));
    let again = registry.revoke_key(newer.id, now()).await.unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at, "the first date stays");
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 1);
    assert!(matches!(registry.revoke_key(KeyId(i64::MAX), now()).await, Err(RegistryError::NoSuchKey(_))));

    assert!(!registry.set_active(&keeper, false, now()).await.unwrap().is_active);
    assert!(!registry.load(&keeper).await.unwrap().unwrap().is_active);
    assert!(registry.set_active(&keeper, true, now()).await.unwrap().is_active);

    let id = registry.principal(&keeper).await.unwrap().id;
    registry.remove_principal(&keeper, now()).await.unwrap();
    assert!(registry.load(&keeper).await.unwrap().is_none());
    assert!(registry.keys(None, None, 100).await.unwrap().iter().all(|key| key.username != keeper), "its keys went with it");
    assert!(matches!(registry.remove_principal(&keeper, now()).await, Err(RegistryError::NoSuchPrincipal(_))));
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
    let key = registry.add_key(&name, new_key(&public_key()), now()).await.unwrap();
    expect_one("a key added").await;
    registry.revoke_key(key.id, now()).await.unwrap();
    expect_one("a key revoked").await;
    registry.set_active(&name, false, now()).await.unwrap();
    expect_one("disabled").await;
    registry.set_active(&name, true, now()).await.unwrap();
    expect_one("enabled").await;
    assert_eq!(registry.usernames(&[id, PrincipalId(i64::MAX)]).await.unwrap(), [(id, name.clone())]);
    registry.remove_principal(&name, now()).await.unwrap();
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
