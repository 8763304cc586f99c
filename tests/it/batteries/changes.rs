//! Conditional changes, trusts, notes of use, and the audit.

use std::{collections::BTreeSet, time::Duration};

use countersign::{
    domain::{
        decision::Used,
        key::PublicKey,
        key_set::{KeySetContents, LeftOutKey},
        principal::{KeyId, TrustId},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::ports::{
        Author, FetchFailure, FetchReports, KeyChange, KeyRecord, KeyTerms, NewPrincipal,
        PrincipalChange, PrincipalRecord, PrincipalSource, Profile, RegistryError, RegistryStore,
        TrustRecord, UsageStore,
    },
    stores::sql::SqlRegistry,
};

use super::{
    now,
    registry::{by_us, new_key, public_key, revoke, username},
};

/// Starts with the records that the registry's battery leaves.
pub(super) async fn battery(registry: &SqlRegistry) {
    a_principal_comes_with_keys_and_trusts_or_not_at_all(registry).await;
    principals_and_keys_are_changed_if_they_are_what_was_looked_at(registry).await;
    trusts_are_kept_and_listed(registry).await;
    use_is_written_and_never_goes_back(registry).await;
    every_change_is_audited(registry).await;
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
    let record =
        registry.add_principal(whole("whole", &[&first, &second], &urls), by_us()).await.unwrap();
    assert_eq!(record.profile, profile);
    assert_eq!(registry.principal(&username("whole")).await.unwrap(), record);
    let known = registry.load(&username("whole")).await.unwrap().unwrap();
    let fingerprints: BTreeSet<_> = known.keys.iter().map(|key| key.key.fingerprint()).collect();
    assert_eq!(fingerprints, BTreeSet::from([first.fingerprint(), second.fingerprint()]));
    assert_eq!(known.trusts.iter().map(|trust| &*trust.url).collect::<Vec<_>>(), urls);

    let again = registry.add_principal(whole("half", &[&first, &first], &urls), by_us()).await;
    assert!(matches!(again, Err(RegistryError::KeyExists { .. })), "{again:?}");
    let again =
        registry.add_principal(whole("half", &[&first], &[urls[0], urls[0]]), by_us()).await;
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
    let after = registry
        .change_principal(&whole, change.clone(), Some(before.version()), later)
        .await
        .unwrap();
    let profile = Profile {
        given_name: None,
        email: Some("new@example.com".to_owned()),
        ..before.profile.clone()
    };
    let expected = PrincipalRecord {
        scopes: Scopes::parse("read").unwrap(),
        profile,
        updated_at: later.now,
        ..before.clone()
    };
    assert_eq!(after, expected);
    assert_eq!(registry.principal(&whole).await.unwrap(), after);
    let outdated = registry
        .change_principal(&whole, PrincipalChange::default(), Some(before.version()), later)
        .await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let outdated = registry.remove_principal(&whole, Some(before.version()), later).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let same =
        registry.change_principal(&whole, change, Some(after.version()), by_us()).await.unwrap();
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
    let changed =
        registry.change_key(key.id, change.clone(), Some(key.version()), by_us()).await.unwrap();
    assert_eq!(changed, KeyRecord { terms: change.applied_to(&key.terms), ..key.clone() });
    assert_eq!(registry.key(key.id).await.unwrap(), changed);
    let outdated =
        registry.change_key(key.id, KeyChange::REVOCATION, Some(key.version()), by_us()).await;
    assert!(matches!(outdated, Err(RegistryError::Changed)), "{outdated:?}");
    let bare = KeyChange {
        comment: Some(None),
        scopes: Some(None),
        not_before: Some(None),
        expires_at: Some(None),
        revoke: false,
    };
    assert_eq!(
        registry.change_key(key.id, bare, None, by_us()).await.unwrap().terms,
        KeyTerms::default()
    );

    // Of two writers that change the same version at the same time, one gets a conflict.
    let seen = registry.principal(&whole).await.unwrap().version();
    let mut at_once = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (registry, name) = (registry.clone(), whole.clone());
        at_once.spawn(async move {
            let change = PrincipalChange {
                email: Some(Some(format!("{number}@example.com"))),
                ..PrincipalChange::default()
            };
            registry.change_principal(&name, change, Some(seen), by_us()).await
        });
    }
    let outcomes = at_once.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(RegistryError::Changed))),
        "{outcomes:?}"
    );
}

async fn trusts_are_kept_and_listed(registry: &SqlRegistry) {
    let whole = username("whole");
    let url = format!("https://long.example/{}", "x".repeat(1900));
    let added = registry.add_trust(&whole, &url, by_us()).await.unwrap();
    assert_eq!((added.username.as_str(), added.jwks_url.as_str()), ("whole", url.as_str()));
    assert_eq!(registry.trust(added.id).await.unwrap(), added);
    let again = registry.add_trust(&whole, &url, by_us()).await;
    assert!(
        matches!(&again, Err(RegistryError::TrustExists { jwks_url, .. }) if *jwks_url == url),
        "{again:?}"
    );
    registry
        .add_trust(&whole, &url.to_uppercase(), by_us())
        .await
        .expect("URLs are compared byte for byte");
    assert!(matches!(
        registry.add_trust(&username("nobody"), &url, by_us()).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));

    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (registry, name) = (registry.clone(), whole.clone());
        at_once.spawn(async move {
            registry.add_trust(&name, "https://raced.example/", by_us()).await.is_ok()
        });
    }
    assert_eq!(
        at_once.join_all().await.into_iter().filter(|added| *added).count(),
        1,
        "of eight at once"
    );

    let all = registry.trusts(Some(&whole), None, 100).await.unwrap();
    assert_eq!(all.len(), 6);
    assert_eq!(registry.trusts(None, Some(all[0].id), 2).await.unwrap(), all[1..3]);
    let fetched_at = UnixMillis(4_102_444_800_000);
    let failure = FetchFailure { reason: "the answer was 500 instead of 200".to_owned() };
    let unfit = LeftOutKey {
        kid: Some("\u{fc} \u{1f511}".to_owned()),
        kind: "oct".to_owned(),
        reason: "unsupported".to_owned(),
        is_alarming: true,
    };
    let contents = KeySetContents {
        usable_keys: 2,
        left_out: vec![unfit.clone(), LeftOutKey { kid: None, ..unfit.clone() }],
    };
    registry.fetched(&url, fetched_at, Ok(&contents)).await.unwrap();
    registry.fetched(&url, now(), Err(&failure)).await.unwrap();
    let noted = TrustRecord {
        last_fetched_at: Some(fetched_at),
        last_error: Some(failure.reason),
        contents: Some(contents),
        ..added.clone()
    };
    assert_eq!(registry.trust(added.id).await.unwrap(), noted, "the last good fetch stays known");
    assert_eq!(noted.version(), added.version());
    // The most that a set can report; some databases could not store all of it.
    let worst = LeftOutKey { reason: "\u{1f511}".repeat(301), ..unfit };
    let worst = KeySetContents { usable_keys: 0, left_out: vec![worst; 100] };
    registry.fetched(&url, fetched_at, Ok(&worst)).await.unwrap();
    let kept = registry.trust(added.id).await.unwrap().contents.unwrap();
    assert!(
        (20..100).contains(&kept.left_out.len())
            && kept.left_out.iter().all(|left_out| *left_out == worst.left_out[0])
    );
    registry.fetched(&url, fetched_at, Ok(&KeySetContents::default())).await.unwrap();
    let emptied = registry.trust(added.id).await.unwrap();
    assert_eq!((emptied.last_error, emptied.contents), (None, Some(KeySetContents::default())));

    let seen = registry.newest_change().await.unwrap();
    registry.touch_trust(added.id, by_us()).await.unwrap();
    registry.remove_trust(added.id, Some(added.version()), by_us()).await.unwrap();
    assert_eq!(registry.changes(seen, 100).await.unwrap().len(), 2);
    let (gone, never) = (added.id, TrustId(i64::MAX));
    for id in [gone, never] {
        assert!(matches!(registry.trust(id).await, Err(RegistryError::NoSuchTrust(_))));
        assert!(matches!(
            registry.touch_trust(id, by_us()).await,
            Err(RegistryError::NoSuchTrust(_))
        ));
        assert!(matches!(
            registry.remove_trust(id, None, by_us()).await,
            Err(RegistryError::NoSuchTrust(_))
        ));
    }
    let known = registry.load(&whole).await.unwrap().unwrap();
    assert_eq!((known.keys.len(), known.trusts.len()), (2, 5), "none twice, however they are read");
    for key in registry.keys(Some(&whole), None, 10).await.unwrap() {
        revoke(registry, key.id, by_us()).await.unwrap();
    }
    let known = registry.load(&whole).await.unwrap().unwrap();
    assert_eq!(
        (known.keys.len(), known.trusts.len()),
        (0, 5),
        "revoked keys take no trusts with them"
    );
}

async fn use_is_written_and_never_goes_back(registry: &SqlRegistry) {
    let whole = username("whole");
    let (keys, trusts) = (
        registry.keys(Some(&whole), None, 2).await.unwrap(),
        registry.trusts(Some(&whole), None, 2).await.unwrap(),
    );
    let at = |second: i64| UnixMillis(1_900_000_000_000 + second * 1000);
    let seen = registry.newest_change().await.unwrap();
    let used = [
        (Used::Key(keys[0].id), at(5)),
        (Used::Key(keys[1].id), UnixMillis(at(7).0 + 999)),
        (Used::Trust(trusts[0].id), at(6)),
        (Used::Key(KeyId(i64::MAX)), at(6)),
    ];
    registry.write_usage(&used).await.unwrap();
    registry
        .write_usage(&[(Used::Key(keys[0].id), at(4)), (Used::Trust(trusts[0].id), at(9))])
        .await
        .unwrap();
    registry.write_usage(&[]).await.unwrap();
    let key = async |index: usize| registry.key(keys[index].id).await.unwrap();
    let trust = async |index: usize| registry.trust(trusts[index].id).await.unwrap();
    assert_eq!(key(0).await.last_used_on, Some(at(5)), "an earlier time changes nothing");
    assert_eq!(key(1).await.last_used_on, Some(at(7)), "to the second");
    assert_eq!((trust(0).await.last_used_on, trust(1).await.last_used_on), (Some(at(9)), None));
    assert_eq!(key(0).await.version(), keys[0].version(), "use is no change");
    assert_eq!(registry.newest_change().await.unwrap(), seen, "nor anything for the feed");

    let many: Vec<_> =
        (0..2000).map(|number| (Used::Key(KeyId(1_000_000 + number)), at(number % 11))).collect();
    registry.write_usage(&many).await.unwrap();
}

async fn every_change_is_audited(registry: &SqlRegistry) {
    let name = username("audited");
    let by = |second: i64| Author {
        actor: "cli:ada",
        now: UnixMillis(1_900_000_000_000 + second * 1000),
    };
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
    let said: Vec<_> = events
        .iter()
        .rev()
        .map(|event| (event.action.as_str(), event.before.is_some(), event.after.is_some()))
        .collect();
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
    assert!(
        revoked.after.as_deref().unwrap().contains("\"revoked_at\":\"2030-03-17T17:46:44Z\""),
        "{revoked:?}"
    );

    let page = registry.audit(Some("audited"), Some(events[2].id), 2).await.unwrap();
    assert_eq!(page, events[3..5]);
    assert!(registry.audit(None, None, 1000).await.unwrap().len() > events.len());
    assert!(registry.audit(Some("AUDITED"), None, 10).await.unwrap().is_empty());
}
