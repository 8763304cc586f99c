//! Imports of many accounts on each database: look up, add, all or nothing.

use std::collections::HashSet;

use countersign::{
    domain::{
        algorithm::KeyFamily,
        key::PrivateKey,
        principal::{PrincipalId, Username},
        secret_token::SecretHash,
        time::UnixMillis,
    },
    engine::ports::{
        AddedAccount, AddedApiKey, AddedHolder, ImportLookup, ImportStore, KeyTerms, NewApiKey,
        NewKey, NewPrincipal, PrincipalSource, RegistryError, RegistryStore,
    },
    stores::sql::SqlRegistry,
};

use super::{
    grants::new_grant,
    now,
    registry::{by_us, username},
    tokens::{later, new_uuid},
};

/// About ten years ago.
const LONG_AGO: UnixMillis = UnixMillis(1_480_000_000_000);

pub(super) async fn battery(registry: &SqlRegistry) {
    accounts_are_added_with_all_that_belongs_to_them(registry).await;
    one_conflict_and_nothing_is_added(registry).await;
    of_two_imports_at_once_one_adds(registry).await;
}

fn new(name: &str) -> AddedAccount {
    let holder = AddedHolder::New(NewPrincipal::named(username(name)), LONG_AGO);
    AddedAccount {
        holder,
        keys: Vec::new(),
        trusts: Vec::new(),
        api_keys: Vec::new(),
        grants: Vec::new(),
    }
}

fn key() -> NewKey {
    let key = PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap().public_key().clone();
    NewKey { as_given: key.to_pem(), key, terms: KeyTerms::default() }
}

fn api_key() -> NewApiKey {
    let hash = SecretHash::of(&new_uuid().to_string());
    NewApiKey { hash, identifier: new_uuid(), comment: None, expires_at: later(3600).now }
}

async fn accounts_are_added_with_all_that_belongs_to_them(registry: &SqlRegistry) {
    let (key, api_key) = (key(), api_key());
    let (fingerprint, hash) = (key.key.fingerprint().to_string(), api_key.hash.clone());
    let [of_the_key, alone] = [new_grant(None, now()), new_grant(None, now())];
    let tokens: Vec<SecretHash> =
        [&of_the_key, &alone].map(|grant| grant.refresh.clone().unwrap().hash).into();
    let account = AddedAccount {
        keys: vec![(key, Some(LONG_AGO))],
        trusts: vec![("https://keys.example/imported".to_owned(), None)],
        api_keys: vec![AddedApiKey {
            new: api_key,
            created_at: LONG_AGO,
            grants: vec![of_the_key],
        }],
        grants: vec![alone],
        ..new("imported")
    };
    let seen = registry.newest_change().await.unwrap();

    registry.add_accounts(vec![account, new("imported, too")], by_us()).await.unwrap();

    assert_eq!(
        registry.changes(seen, 100).await.unwrap().len(),
        2,
        "an entry in the feed for each"
    );
    let sought = ImportLookup {
        usernames: ["imported", "imported, too", "nobody"].map(username).into(),
        api_keys: vec![hash.clone(), SecretHash::of("none")],
        refresh_tokens: [tokens.clone(), vec![SecretHash::of("none")]].concat(),
    };
    let standing = registry.standing(&sought).await.unwrap();
    assert_eq!(standing.principals.len(), 2);
    let imported = &standing.principals[&username("imported")];
    assert_eq!(imported.record.created_at, LONG_AGO);
    assert_eq!(imported.keys.iter().collect::<Vec<_>>(), [(&fingerprint, &false)]);
    assert_eq!(imported.jwks_urls, HashSet::from(["https://keys.example/imported".to_owned()]));
    assert_eq!(standing.api_keys.keys().collect::<Vec<_>>(), [&hash]);
    assert_eq!(standing.refresh_tokens, tokens.into_iter().collect());
    let listed = registry.keys(Some(&username("imported")), None, 10).await.unwrap();
    assert_eq!(listed[0].last_used_on, Some(LONG_AGO));
    let api_keys = registry.api_keys(Some(&username("imported")), None, 10).await.unwrap();
    assert_eq!((api_keys.len(), api_keys[0].created_at), (1, LONG_AGO));
    let events = registry.audit(Some("imported"), None, 10).await.unwrap();
    let actions: Vec<&str> = events.iter().rev().map(|event| event.action.as_str()).collect();
    assert_eq!(
        actions,
        ["principal.add", "key.add", "trust.add", "api_key.add", "token.import", "token.import"]
    );
}

async fn one_conflict_and_nothing_is_added(registry: &SqlRegistry) {
    let there = registry.principal(&username("imported")).await.unwrap().id;
    let known_key = registry.keys(Some(&username("imported")), None, 1).await.unwrap().remove(0);
    let same_key = NewKey { as_given: known_key.key.clone(), ..key_of(&known_key.key) };
    let to_there =
        |account: AddedAccount| AddedAccount { holder: AddedHolder::Known(there), ..account };
    let known_api_key = api_key();
    registry.add_api_key(&username("imported"), known_api_key.clone(), by_us()).await.unwrap();
    let conflicts = [
        new("imported"),
        AddedAccount {
            holder: AddedHolder::Known(PrincipalId(i64::MAX)),
            keys: vec![(key(), None)],
            ..new("x")
        },
        to_there(AddedAccount { keys: vec![(same_key, None)], ..new("x") }),
        to_there(AddedAccount {
            trusts: vec![("https://keys.example/imported".to_owned(), None)],
            ..new("x")
        }),
        to_there(AddedAccount {
            api_keys: vec![AddedApiKey {
                new: known_api_key,
                created_at: now(),
                grants: Vec::new(),
            }],
            ..new("x")
        }),
    ];
    let seen = registry.newest_change().await.unwrap();
    for conflict in conflicts {
        let what = format!("{conflict:?}");
        let error =
            registry.add_accounts(vec![new("before it"), conflict], by_us()).await.unwrap_err();
        let is_told = matches!(
            error,
            RegistryError::PrincipalExists(_)
                | RegistryError::NoSuchPrincipal(_)
                | RegistryError::KeyExists { .. }
                | RegistryError::TrustExists { .. }
                | RegistryError::ApiKeyExists
        );
        assert!(is_told, "{error:?} for {what}");
        let gone = registry.principal(&username("before it")).await;
        assert!(matches!(gone, Err(RegistryError::NoSuchPrincipal(_))), "{gone:?} for {what}");
    }
    assert_eq!(registry.newest_change().await.unwrap(), seen);
}

fn key_of(pem: &str) -> NewKey {
    let key = countersign::domain::key::PublicKey::parse(pem).unwrap().key;
    NewKey { as_given: pem.to_owned(), key, terms: KeyTerms::default() }
}

async fn of_two_imports_at_once_one_adds(registry: &SqlRegistry) {
    let names: Vec<String> = (0..50).map(|number| format!("at once {number}")).collect();
    let accounts = || {
        names
            .iter()
            .map(|name| AddedAccount { keys: vec![(key(), None)], ..new(name) })
            .collect::<Vec<_>>()
    };
    let (one, other) = tokio::join!(
        registry.add_accounts(accounts(), by_us()),
        registry.add_accounts(accounts(), by_us())
    );
    let errors: Vec<RegistryError> = [one, other].into_iter().filter_map(Result::err).collect();
    assert!(matches!(&errors[..], [RegistryError::PrincipalExists(_)]), "{errors:?}");
    let sought = ImportLookup {
        usernames: names.iter().map(|name| Username::new(name).unwrap()).collect(),
        ..ImportLookup::default()
    };
    let standing = registry.standing(&sought).await.unwrap();
    assert_eq!(standing.principals.len(), names.len());
    assert!(standing.principals.values().all(|principal| principal.keys.len() == 1));
}
