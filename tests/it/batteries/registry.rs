//! Principals, keys and the change feed on each database.

use std::collections::BTreeSet;

use countersign::{
    app,
    config::database::DatabaseSettings,
    domain::{
        algorithm::KeyFamily,
        key::{PrivateKey, PublicKey},
        principal::{KeyId, PrincipalId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{
        Author, KeyChange, KeyRecord, KeyTerms, NewKey, NewPrincipal, PrincipalChange,
        PrincipalRecord, PrincipalSource, RegistryError, RegistryStore,
    },
    stores::sql::{SqlRegistry, connect},
};

use super::{changes, imports, now};
use crate::harness::Database;

#[tokio::test]
async fn the_registry_keeps_its_promise_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    registry_battery(&format!("sqlite://{}?mode=rwc", folder.path().join("registry.db").display()))
        .await;
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
    changes::battery(&registry).await;
    imports::battery(&registry).await;
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

/// A change made by the test, now.
pub(super) fn by_us() -> Author<'static> {
    Author { actor: "battery", now: now() }
}

pub(super) fn username(name: &str) -> Username {
    Username::new(name).unwrap()
}

async fn add(registry: &SqlRegistry, name: &str, scopes: &str) {
    let new = NewPrincipal {
        scopes: Scopes::parse(scopes).unwrap(),
        ..NewPrincipal::named(username(name))
    };
    registry.add_principal(new, by_us()).await.unwrap();
}

async fn names_are_compared_byte_for_byte(registry: &SqlRegistry) {
    let longest = "é".repeat(255);
    let names = [
        "alice",
        "Alice",
        "alice ",
        " alice",
        "àlice",
        "a\u{300}lice",
        "ALICE",
        "аlice",
        "💡",
        longest.as_str(),
    ];
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
        assert!(
            matches!(
                registry.principal(&username(name)).await,
                Err(RegistryError::NoSuchPrincipal(_))
            ),
            "{name:?}"
        );
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

pub(super) fn public_key() -> PublicKey {
    PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap().public_key().clone()
}

pub(super) fn new_key(key: &PublicKey) -> NewKey {
    let as_given = key.to_pem();
    NewKey { as_given, key: key.clone(), terms: KeyTerms::default() }
}

async fn keys_are_kept_as_given(registry: &SqlRegistry) {
    add(registry, "keeper", "read write admin").await;
    add(registry, "other", "").await;
    let keeper = username("keeper");
    let key = public_key();
    // In the year 2100, and with a fraction of a second: neither may be lost.
    let (from, until) = (UnixMillis(1_700_000_000_123), UnixMillis(4_102_444_800_456));
    let terms = KeyTerms {
        comment: Some("laptop ü 💻".to_owned()),
        scopes: Some(Scopes::parse("write other").unwrap()),
        not_before: Some(from),
        expires_at: Some(until),
    };
    let record = registry
        .add_key(&keeper, NewKey { terms: terms.clone(), ..new_key(&key) }, by_us())
        .await
        .unwrap();
    assert_eq!(record.fingerprint, key.fingerprint().to_string());
    assert_eq!(record.terms, terms);
    assert_eq!(record.key, key.to_pem());
    assert_eq!(registry.key(record.id).await.unwrap(), record);
    assert_eq!(
        registry.keys(Some(&keeper), None, 10).await.unwrap(),
        std::slice::from_ref(&record)
    );

    let known = registry.load(&keeper).await.unwrap().unwrap();
    assert_eq!(known.keys.len(), 1);
    assert_eq!(known.keys[0].key.fingerprint(), key.fingerprint());
    assert_eq!(known.keys[0].scopes.as_str(), "write", "the principal's, narrowed by the key's");
    assert_eq!((known.keys[0].not_before, known.keys[0].expires_at), (Some(from), Some(until)));

    let duplicate = registry.add_key(&keeper, new_key(&key), by_us()).await;
    assert!(matches!(duplicate, Err(RegistryError::KeyExists { .. })), "{duplicate:?}");
    assert_eq!(
        registry.keys(Some(&keeper), None, 10).await.unwrap().len(),
        1,
        "nothing half-written"
    );
    registry
        .add_key(&username("other"), new_key(&key), by_us())
        .await
        .expect("two principals may share a key");
    assert!(matches!(
        registry.add_key(&username("nobody"), new_key(&key), by_us()).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));
    assert!(matches!(
        registry.keys(Some(&username("nobody")), None, 10).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));
    let all = registry.keys(None, None, 100).await.unwrap();
    assert_eq!(registry.keys(None, Some(all[0].id), 100).await.unwrap(), all[1..]);
}

pub(super) async fn revoke(
    registry: &SqlRegistry,
    id: KeyId,
    author: Author<'_>,
) -> Result<KeyRecord, RegistryError> {
    registry.change_key(id, KeyChange::REVOCATION, None, author).await
}

async fn set_active(
    registry: &SqlRegistry,
    name: &Username,
    is_active: bool,
) -> Result<PrincipalRecord, RegistryError> {
    let change = PrincipalChange { is_active: Some(is_active), ..PrincipalChange::default() };
    registry.change_principal(name, change, None, by_us()).await
}

async fn revoked_and_removed_is_gone(registry: &SqlRegistry) {
    let keeper = username("keeper");
    let newer = registry.add_key(&keeper, new_key(&public_key()), by_us()).await.unwrap();
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 2);
    let revoked =
        revoke(registry, newer.id, Author { now: UnixMillis(1_750_000_000_000), ..by_us() })
            .await
            .unwrap();
    assert_eq!(revoked.revoked_at, Some(UnixMillis(1_750_000_000_000)));
    let again = revoke(registry, newer.id, by_us()).await.unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at, "the first date stays");
    assert_eq!(registry.load(&keeper).await.unwrap().unwrap().keys.len(), 1);
    assert!(matches!(
        revoke(registry, KeyId(i64::MAX), by_us()).await,
        Err(RegistryError::NoSuchKey(_))
    ));

    assert!(!set_active(registry, &keeper, false).await.unwrap().is_active);
    assert!(!registry.load(&keeper).await.unwrap().unwrap().is_active);
    assert!(set_active(registry, &keeper, true).await.unwrap().is_active);

    let id = registry.principal(&keeper).await.unwrap().id;
    registry.remove_principal(&keeper, None, by_us()).await.unwrap();
    assert!(registry.load(&keeper).await.unwrap().is_none());
    assert!(
        registry.keys(None, None, 100).await.unwrap().iter().all(|key| key.username != keeper),
        "its keys went with it"
    );
    assert!(matches!(
        registry.remove_principal(&keeper, None, by_us()).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));
    add(registry, "keeper", "").await;
    assert_ne!(registry.principal(&keeper).await.unwrap().id, id, "a number is never given again");
}

async fn every_change_is_in_the_feed(registry: &SqlRegistry) {
    add(registry, "changing", "").await;
    let name = username("changing");
    let id = registry.principal(&name).await.unwrap().id;
    let mut seen = registry.newest_change().await.unwrap();
    let mut expect_one = async |what: &str| {
        let changes = registry.changes(seen, 100).await.unwrap();
        assert_eq!(
            changes.iter().map(|change| change.principal).collect::<Vec<_>>(),
            [id],
            "{what}"
        );
        seen += 1;
        assert_eq!(changes[0].number, seen, "without a gap");
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
    assert_eq!(
        registry.usernames(&[id, PrincipalId(i64::MAX)]).await.unwrap(),
        [(id, name.clone())]
    );
    registry.remove_principal(&name, None, by_us()).await.unwrap();
    expect_one("removed").await;
    assert!(registry.usernames(&[id]).await.unwrap().is_empty());

    let numbers = async |after: i64, limit: u64| {
        registry
            .changes(after, limit)
            .await
            .unwrap()
            .iter()
            .map(|change| change.number)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(seen - 4, 3).await, [seen - 3, seen - 2, seen - 1], "in pages");
    assert!(registry.unnumbered_changes().await.unwrap().is_empty());
    registry.forget_changes(seen - 2, &[]).await.unwrap();
    assert_eq!(numbers(0, 100).await, [seen - 1, seen]);
    registry.forget_changes(seen, &[]).await.unwrap();
    assert!(numbers(0, 100).await.is_empty());
    assert_eq!(registry.newest_change().await.unwrap(), seen, "numbers are never given again");
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
    let entries = registry.changes(seen, 100).await.unwrap();
    let changed: BTreeSet<_> = entries.iter().map(|change| change.principal).collect();
    assert_eq!(changed.len(), 20);
    assert!(
        entries.iter().zip(seen + 1..).all(|(change, expected)| change.number == expected),
        "{entries:?}"
    );
}
