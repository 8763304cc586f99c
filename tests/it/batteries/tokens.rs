//! API keys on each database. Runs the battery of grants, too.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use countersign::{
    app,
    config::database::DatabaseSettings,
    domain::{
        decision::Used,
        principal::{ApiKeyId, PrincipalId},
        secret_token::SecretHash,
        time::UnixMillis,
    },
    engine::ports::{
        ApiKeyRecord, Author, GrantStore, KeyChange, NewApiKey, NewPrincipal, PrincipalSource,
        RegistryError, RegistryStore, UsageStore,
    },
    stores::sql::{SqlRegistry, connect},
};
use uuid::Uuid;

use super::{
    grants, now,
    registry::{new_key, public_key, username},
};
use crate::harness::Database;

#[tokio::test]
async fn tokens_are_kept_as_promised_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    token_battery(&format!("sqlite://{}?mode=rwc", folder.path().join("tokens.db").display()))
        .await;
}

#[tokio::test]
async fn tokens_are_kept_as_promised_on_postgresql() {
    let database = Database::postgres();
    token_battery(&database.url).await;
}

#[tokio::test]
async fn tokens_are_kept_as_promised_on_mariadb() {
    let database = Database::mariadb();
    token_battery(&database.url).await;
}

async fn token_battery(url: &str) {
    let settings = DatabaseSettings { url: url.parse().unwrap(), auto_migrate: None };
    app::migrate_up(&settings).await.unwrap();
    let registry = SqlRegistry::new(connect(&settings).await.unwrap());
    api_keys_are_kept_and_listed(&registry).await;
    registering_twice_extends(&registry).await;
    registering_at_once_succeeds_for_all(&registry).await;
    a_revoked_api_key_takes_its_grants_along(&registry).await;
    a_key_that_ends_takes_its_grants_along(&registry).await;
    a_removed_trust_takes_its_grants_along(&registry).await;
    use_of_api_keys_is_written(&registry).await;
    grants::battery(&registry).await;
}

/// A change made by the test, `seconds` from now.
pub(super) fn later(seconds: u64) -> Author<'static> {
    Author { actor: "battery", now: now().saturating_add(Duration::from_secs(seconds)) }
}

/// A UUID that has not been used.
pub(super) fn new_uuid() -> Uuid {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Uuid::from_u128(
        0xabcd_ef00_0000_4000_8000_0000_0000_0000
            + u128::from(COUNT.fetch_add(1, Ordering::Relaxed)),
    )
}

pub(super) async fn add(registry: &SqlRegistry, name: &str) -> PrincipalId {
    registry.add_principal(NewPrincipal::named(username(name)), later(0)).await.unwrap().id
}

pub(super) async fn actions(registry: &SqlRegistry, name: &str) -> Vec<String> {
    let events = registry.audit(Some(name), None, 1000).await.unwrap();
    let told: Vec<_> =
        events.iter().flat_map(|event| [&event.before, &event.after]).flatten().collect();
    assert!(
        told.iter().all(|state| !state.contains("seed") && !state.contains("hash")),
        "no secrets: {told:?}"
    );
    events.into_iter().rev().map(|event| event.action).collect()
}

/// The number of entries in the change feed about a principal.
pub(super) async fn announced(registry: &SqlRegistry, principal: PrincipalId) -> usize {
    let all = registry.changes(0, u64::from(u32::MAX)).await.unwrap();
    all.iter().filter(|change| change.principal == principal).count()
}

pub(super) fn new_api_key(text: &str) -> NewApiKey {
    let expires_at = UnixMillis(4_102_444_800_456);
    NewApiKey {
        hash: SecretHash::of(text),
        identifier: new_uuid(),
        comment: Some("CI ü 💻".to_owned()),
        expires_at,
    }
}

async fn api_keys_are_kept_and_listed(registry: &SqlRegistry) {
    let holder = add(registry, "keeper").await;
    let keeper = username("keeper");
    let (new, author) = (new_api_key("kept"), later(0));
    let added = registry.add_api_key(&keeper, new.clone(), author).await.unwrap();
    let expected = ApiKeyRecord {
        id: added.id,
        username: keeper.clone(),
        identifier: new.identifier,
        comment: new.comment.clone(),
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_on: None,
        created_at: author.now,
    };
    assert_eq!(added, expected);
    assert_eq!(registry.api_key(added.id).await.unwrap(), added);
    let held = registry.api_key_by_hash(&new.hash).await.unwrap().unwrap();
    assert_eq!(
        (held.key, held.holder.id, held.holder.username),
        (added.clone(), holder, keeper.clone())
    );
    assert!(registry.api_key_by_hash(&SecretHash::of("Kept")).await.unwrap().is_none());

    add(registry, "rival").await;
    for name in ["keeper", "rival"] {
        let taken = registry.add_api_key(&username(name), new.clone(), author).await;
        assert!(matches!(taken, Err(RegistryError::ApiKeyExists)), "{taken:?}");
    }
    let nobody = registry.add_api_key(&username("nobody"), new_api_key("x"), author).await;
    assert!(matches!(nobody, Err(RegistryError::NoSuchPrincipal(_))), "{nobody:?}");
    assert!(matches!(
        registry.api_key(ApiKeyId(i64::MAX)).await,
        Err(RegistryError::NoSuchApiKey(_))
    ));

    for number in 0..5 {
        registry
            .add_api_key(&keeper, new_api_key(&format!("more {number}")), author)
            .await
            .unwrap();
    }
    registry.add_api_key(&username("rival"), new_api_key("rival's"), author).await.unwrap();
    let all = registry.api_keys(Some(&keeper), None, 100).await.unwrap();
    assert!(all.len() == 6 && all.is_sorted_by_key(|key| key.id));
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = registry.api_keys(Some(&keeper), after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(registry.api_keys(None, None, 100).await.unwrap().len(), 7);
    assert!(matches!(
        registry.api_keys(Some(&username("nobody")), None, 1).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));
}

async fn registering_twice_extends(registry: &SqlRegistry) {
    let new = new_api_key("registered");
    let first = registry.register_api_key(new.clone(), later(0)).await.unwrap();
    let name = new.identifier.to_string();
    assert_eq!(first.username.as_str(), name, "the principal is named by the identifier");
    let until = UnixMillis(new.expires_at.0 + 1000);
    let longer = NewApiKey { expires_at: until, comment: None, ..new.clone() };
    for _ in 0..2 {
        let again = registry.register_api_key(longer.clone(), later(1)).await.unwrap();
        assert_eq!(again, ApiKeyRecord { expires_at: until, ..first.clone() });
    }
    // If the API key expires sooner than before, tokens issued for it expire sooner, too.
    let holder = registry.principal(&first.username).await.unwrap().id;
    let grant = grants::new_grant(Some(Used::ApiKey(first.id)), later(0).now);
    let grant = registry.add_grant(holder, grant, false, later(0)).await.unwrap();
    let (soon, untouched) = (later(3600).now, later(30 * 24 * 3600).now);
    for (expires_at, refresh_expires_at) in
        [(untouched, grant.refresh.as_ref().unwrap().expires_at), (soon, soon), (until, soon)]
    {
        registry
            .register_api_key(NewApiKey { expires_at, ..longer.clone() }, later(1))
            .await
            .unwrap();
        let now = registry.grant(grant.id).await.unwrap();
        assert_eq!((now.refresh.unwrap().expires_at, now.revoked_at), (refresh_expires_at, None));
    }
    registry
        .register_api_key(
            NewApiKey { identifier: new.identifier, ..new_api_key("second") },
            later(2),
        )
        .await
        .unwrap();
    let extended = ["api_key.extend"; 4];
    let expected =
        [["principal.add", "api_key.add"].as_slice(), &extended, &["api_key.add"]].concat();
    assert_eq!(actions(registry, &name).await, expected, "what changes nothing leaves no trace");

    let stranger = NewApiKey { identifier: new_uuid(), ..new.clone() };
    let taken = registry.register_api_key(stranger.clone(), later(3)).await;
    assert!(matches!(taken, Err(RegistryError::ApiKeyExists)), "{taken:?}");
    let missing = registry.principal(&username(&stranger.identifier.to_string())).await;
    assert!(
        matches!(missing, Err(RegistryError::NoSuchPrincipal(_))),
        "nothing half-written: {missing:?}"
    );
    registry.revoke_api_key(first.id, None, later(4)).await.unwrap();
    let revoked = registry.register_api_key(new, later(5)).await;
    assert!(matches!(revoked, Err(RegistryError::ApiKeyExists)), "{revoked:?}");
}

async fn registering_at_once_succeeds_for_all(registry: &SqlRegistry) {
    // One key, one key for each identifier, and each of two keys four times.
    for keys in [1, 8, 2] {
        let new = new_api_key("");
        let mut at_once = tokio::task::JoinSet::new();
        for task in 0..8 {
            let (registry, hash) =
                (registry.clone(), SecretHash::of(&format!("at once {keys} {}", task % keys)));
            let new = NewApiKey { hash, ..new.clone() };
            at_once
                .spawn(async move { registry.register_api_key(new, later(0)).await.unwrap().id });
        }
        let ids: BTreeSet<_> = at_once.join_all().await.into_iter().collect();
        assert_eq!(ids.len(), keys);
        let mut expected = vec!["api_key.add"; keys];
        expected.insert(0, "principal.add");
        assert_eq!(actions(registry, &new.identifier.to_string()).await, expected);
    }
}

async fn a_revoked_api_key_takes_its_grants_along(registry: &SqlRegistry) {
    let holder = add(registry, "exchanger").await;
    let name = username("exchanger");
    let key = registry.add_api_key(&name, new_api_key("exchanged"), later(0)).await.unwrap();
    let other = registry.add_api_key(&name, new_api_key("exchanged, too"), later(0)).await.unwrap();
    let (first, second) = (
        grants::new_grant(Some(Used::ApiKey(key.id)), later(0).now),
        grants::new_grant(Some(Used::ApiKey(other.id)), later(0).now),
    );
    let exchanged = registry.add_grant(holder, first.clone(), false, later(0)).await.unwrap();
    let spared = registry.add_grant(holder, second, false, later(0)).await.unwrap();
    // Of the same family, although it names no key.
    let follower =
        grants::NewGrant { family: first.family, ..grants::new_grant(None, later(0).now) };
    let follower = registry.add_grant(holder, follower, false, later(0)).await.unwrap();
    let held =
        registry.find_grant(grants::GrantName::Jti(exchanged.access_jti)).await.unwrap().unwrap();
    assert_eq!(
        (held.identifier, held.api_key_expires_at),
        (Some(key.identifier), Some(key.expires_at))
    );

    let seen = announced(registry, holder).await;
    let outdated = registry.revoke_api_key(key.id, Some(other.version()), later(1)).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let author = later(1);
    let revoked = registry.revoke_api_key(key.id, Some(key.version()), author).await.unwrap();
    assert_eq!(revoked, ApiKeyRecord { revoked_at: Some(author.now), ..key.clone() });
    assert_eq!(
        registry.revoke_api_key(key.id, None, later(9)).await.unwrap(),
        revoked,
        "the first date stays"
    );
    for (id, is_revoked) in [(exchanged.id, true), (follower.id, true), (spared.id, false)] {
        assert_eq!(registry.grant(id).await.unwrap().revoked_at, is_revoked.then_some(author.now));
    }
    assert_eq!(
        actions(registry, "exchanger").await,
        ["principal.add", "api_key.add", "api_key.add", "api_key.revoke"]
    );
    assert_eq!(announced(registry, holder).await, seen + 1);
    let late = registry
        .add_grant(
            holder,
            grants::new_grant(Some(Used::ApiKey(key.id)), later(2).now),
            false,
            later(2),
        )
        .await;
    assert!(matches!(late, Err(RegistryError::NoSuchApiKey(id)) if id == key.id), "{late:?}");
    assert!(matches!(
        registry.revoke_api_key(ApiKeyId(i64::MAX), None, author).await,
        Err(RegistryError::NoSuchApiKey(_))
    ));
}

async fn a_key_that_ends_takes_its_grants_along(registry: &SqlRegistry) {
    let holder = add(registry, "signer").await;
    let name = username("signer");
    let add_key =
        async || registry.add_key(&name, new_key(&public_key()), later(0)).await.unwrap().id;
    let (revoked, ended, spared) = (add_key().await, add_key().await, add_key().await);
    let grant = async |key| {
        registry
            .add_grant(
                holder,
                grants::new_grant(Some(Used::Key(key)), later(0).now),
                false,
                later(0),
            )
            .await
    };
    let mut grants = Vec::new();
    for key in [revoked, ended, spared] {
        let given = grant(key).await.unwrap();
        assert_eq!(given.key(), Some(key));
        assert_eq!(registry.grant(given.id).await.unwrap(), given);
        grants.push(given.id);
    }
    let revoked_ones = async || {
        let mut revoked = Vec::new();
        for id in &grants {
            revoked.push(registry.grant(*id).await.unwrap().revoked_at.is_some());
        }
        revoked
    };
    let change = |expires_at: UnixMillis| KeyChange {
        expires_at: Some(Some(expires_at)),
        ..KeyChange::default()
    };
    registry.change_key(ended, change(later(60).now), None, later(1)).await.unwrap();
    assert_eq!(revoked_ones().await, [false; 3], "it may still be used");
    registry.change_key(revoked, KeyChange::REVOCATION, None, later(1)).await.unwrap();
    assert_eq!(revoked_ones().await, [true, false, false]);
    registry.change_key(ended, change(later(0).now), None, later(2)).await.unwrap();
    assert_eq!(revoked_ones().await, [true, true, false]);
    let known = registry.load(&name).await.unwrap().unwrap();
    assert_eq!(known.revoked.len(), 2);
    let late = grant(revoked).await;
    assert!(matches!(late, Err(RegistryError::NoSuchKey(id)) if id == revoked), "{late:?}");
}

async fn a_removed_trust_takes_its_grants_along(registry: &SqlRegistry) {
    let holder = add(registry, "truster").await;
    let name = username("truster");
    let removed = registry.add_trust(&name, "https://removed.example/", later(0)).await.unwrap().id;
    let spared = registry.add_trust(&name, "https://spared.example/", later(0)).await.unwrap().id;
    let grant = async |trust| {
        registry
            .add_grant(
                holder,
                grants::new_grant(Some(Used::Trust(trust)), later(0).now),
                false,
                later(0),
            )
            .await
    };
    let (first, second) = (grant(removed).await.unwrap(), grant(spared).await.unwrap());
    assert_eq!((first.trust(), second.trust()), (Some(removed), Some(spared)));
    let seen = announced(registry, holder).await;
    registry.remove_trust(removed, None, later(1)).await.unwrap();
    assert_eq!(announced(registry, holder).await, seen + 1);
    assert!(registry.grant(first.id).await.unwrap().revoked_at.is_some());
    assert_eq!(registry.grant(second.id).await.unwrap(), second);
    let known = registry.load(&name).await.unwrap().unwrap();
    assert!(known.has_revoked(first.access_jti) && !known.has_revoked(second.access_jti));
    let late = grant(removed).await;
    assert!(matches!(late, Err(RegistryError::NoSuchTrust(id)) if id == removed), "{late:?}");
}

async fn use_of_api_keys_is_written(registry: &SqlRegistry) {
    let keys = registry.api_keys(Some(&username("keeper")), None, 2).await.unwrap();
    let at = |second: i64| UnixMillis(1_900_000_000_000 + second * 1000);
    registry
        .write_usage(&[
            (Used::ApiKey(keys[0].id), at(5)),
            (Used::ApiKey(ApiKeyId(i64::MAX)), at(6)),
        ])
        .await
        .unwrap();
    registry.write_usage(&[(Used::ApiKey(keys[0].id), at(4))]).await.unwrap();
    let used = registry.api_key(keys[0].id).await.unwrap();
    assert_eq!(used.last_used_on, Some(at(5)), "an earlier time changes nothing");
    assert_eq!(used.version(), keys[0].version(), "use is no change");
    assert_eq!(registry.api_key(keys[1].id).await.unwrap().last_used_on, None);
}
