//! Grants of tokens on each database: find, exchange, revoke, forget.

use std::{collections::BTreeSet, time::Duration};

pub(super) use countersign::engine::ports::{GrantName, NewGrant};
use countersign::{
    domain::{
        decision::Used,
        principal::{GrantId, PrincipalId},
        scope::Scopes,
        secret_token::SecretHash,
        time::UnixMillis,
    },
    engine::ports::{
        GrantRecord, GrantStore, NewRefresh, PrincipalSource, RefreshRecord, RegistryError,
        RegistryStore, Rotation,
    },
    stores::sql::SqlRegistry,
};

use super::{
    registry::username,
    tokens::{actions, add, announced, later, new_uuid},
};

const GRACE: Duration = Duration::from_secs(10);

/// Starts with the records that the battery of API keys leaves.
pub(super) async fn battery(registry: &SqlRegistry) {
    grants_are_found_by_each_of_their_names(registry).await;
    of_many_exchanges_at_once_one_adds(registry).await;
    a_reused_refresh_token_ends_its_family(registry).await;
    what_was_ended_is_not_exchanged(registry).await;
    one_login_may_end_all_others(registry).await;
    one_exchange_may_end_all_others(registry).await;
    families_are_revoked_once(registry).await;
    changes_of_many_principals_at_once_do_not_disturb_each_other(registry).await;
    revoked_access_tokens_are_known_to_decisions(registry).await;
    expired_grants_are_forgotten(registry).await;
}

/// A new family: its access token lasts half an hour, its refresh token a day.
pub(super) fn new_grant(proven_by: Option<Used>, issued_at: UnixMillis) -> NewGrant {
    let jti = new_uuid();
    NewGrant {
        family: new_uuid(),
        access_jti: new_uuid(),
        refresh: Some(NewRefresh {
            jti,
            hash: SecretHash::of(&jti.to_string()),
            seed: new_uuid(),
            expires_at: issued_at.saturating_add(Duration::from_hours(24)),
        }),
        audience: vec!["https://one.example".to_owned(), "two".to_owned()],
        sid: Some("sitzung-ü".to_owned()),
        scopes: Scopes::parse("read write").unwrap(),
        proven_by,
        is_minted: false,
        issued_at,
        access_expires_at: issued_at.saturating_add(Duration::from_mins(30)),
    }
}

/// The successor of `grant`, `seconds` from now.
fn next(grant: &GrantRecord, seconds: u64) -> NewGrant {
    NewGrant { family: grant.family, ..new_grant(grant.proven_by, later(seconds).now) }
}

async fn give(registry: &SqlRegistry, holder: PrincipalId) -> GrantRecord {
    registry.add_grant(holder, new_grant(None, later(0).now), false, later(0)).await.unwrap()
}

async fn rotate(registry: &SqlRegistry, grant: &GrantRecord, seconds: u64) -> Rotation {
    registry.rotate(grant.id, next(grant, seconds), GRACE, false, later(seconds)).await.unwrap()
}

fn rotated(rotation: Rotation) -> GrantRecord {
    match rotation {
        Rotation::Rotated(grant) => grant,
        other => panic!("{other:?}"),
    }
}

async fn is_revoked(registry: &SqlRegistry, grant: &GrantRecord) -> bool {
    registry.grant(grant.id).await.unwrap().revoked_at.is_some()
}

async fn grants_are_found_by_each_of_their_names(registry: &SqlRegistry) {
    let holder = add(registry, "found").await;
    let (new, author) = (new_grant(None, later(0).now), later(0));
    let seen = announced(registry, holder).await;
    let added = registry.add_grant(holder, new.clone(), false, author).await.unwrap();
    let refresh = new.refresh.clone().unwrap();
    let expected = GrantRecord {
        id: added.id,
        username: username("found"),
        family: new.family,
        access_jti: new.access_jti,
        refresh: Some(RefreshRecord {
            jti: refresh.jti,
            seed: refresh.seed,
            expires_at: refresh.expires_at,
            rotated_at: None,
        }),
        audience: new.audience.clone(),
        sid: new.sid.clone(),
        scopes: new.scopes.clone(),
        proven_by: None,
        issued_at: new.issued_at,
        access_expires_at: new.access_expires_at,
        revoked_at: None,
    };
    assert_eq!(added, expected);
    assert_eq!(registry.grant(added.id).await.unwrap(), added);
    for name in [
        GrantName::Jti(new.access_jti),
        GrantName::Jti(refresh.jti),
        GrantName::Refresh(&refresh.hash),
    ] {
        let held = registry.find_grant(name).await.unwrap().unwrap();
        assert_eq!(
            (held.grant, held.holder.id, held.identifier),
            (added.clone(), holder, None),
            "{name:?}"
        );
    }
    for name in [
        GrantName::Jti(new.family),
        GrantName::Jti(refresh.seed),
        GrantName::Refresh(&SecretHash::of("other")),
    ] {
        assert!(registry.find_grant(name).await.unwrap().is_none(), "{name:?}");
    }
    assert_eq!(announced(registry, holder).await, seen, "giving out is no change");
    assert_eq!(actions(registry, "found").await, ["principal.add"], "and leaves no trail");
    let minted = NewGrant { is_minted: true, ..new_grant(None, new.issued_at) };
    let minted = registry.add_grant(holder, minted, false, later(0)).await.unwrap();
    assert_eq!(announced(registry, holder).await, seen);
    assert_eq!(actions(registry, "found").await, ["principal.add", "token.issue"]);
    registry.revoke_family(minted.family, later(0)).await.unwrap();
    let late = NewGrant { family: minted.family, ..new_grant(None, new.issued_at) };
    let late = registry.add_grant(holder, late, false, later(0)).await;
    assert!(
        matches!(late, Err(RegistryError::NoSuchGrant(_))),
        "nothing new in a family that ended: {late:?}"
    );

    let bare = NewGrant {
        refresh: None,
        audience: Vec::new(),
        sid: None,
        scopes: Scopes::default(),
        ..new_grant(None, new.issued_at)
    };
    let bare = registry.add_grant(holder, bare, true, later(0)).await.unwrap();
    assert!(
        bare.refresh.is_none()
            && bare.audience.is_empty()
            && bare.sid.is_none()
            && bare.scopes.is_empty()
    );
    assert!(matches!(rotate(registry, &bare, 1).await, Rotation::Ended), "it has no refresh token");
    assert_eq!(
        registry.grants(Some(&username("found")), None, 10).await.unwrap()[2..],
        *std::slice::from_ref(&bare)
    );
    assert_eq!(registry.grants(None, Some(minted.id), 1).await.unwrap(), [bare]);
    assert!(matches!(registry.grant(GrantId(i64::MAX)).await, Err(RegistryError::NoSuchGrant(_))));
    assert!(matches!(
        registry.grants(Some(&username("nobody")), None, 1).await,
        Err(RegistryError::NoSuchPrincipal(_))
    ));
    for ends_others in [false, true] {
        let nobody = registry
            .add_grant(PrincipalId(i64::MAX), new_grant(None, new.issued_at), ends_others, author)
            .await;
        assert!(matches!(nobody, Err(RegistryError::NoSuchPrincipal(_))), "{nobody:?}");
    }
}

async fn of_many_exchanges_at_once_one_adds(registry: &SqlRegistry) {
    for ends_others in [false, true] {
        let name = format!("raced-{ends_others}");
        let grant = give(registry, add(registry, &name).await).await;
        let mut at_once = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (registry, id, new) = (registry.clone(), grant.id, next(&grant, 1));
            at_once.spawn(async move {
                registry.rotate(id, new, GRACE, ends_others, later(1)).await.unwrap()
            });
        }
        let (mut successors, mut added) = (BTreeSet::new(), 0);
        for rotation in at_once.join_all().await {
            added += usize::from(matches!(rotation, Rotation::Rotated(_)));
            let (Rotation::Rotated(grant) | Rotation::RotatedBefore(grant)) = rotation else {
                panic!("{rotation:?}")
            };
            successors.insert(grant.id);
        }
        assert_eq!((successors.len(), added), (1, 1));
        let all = registry.grants(Some(&username(&name)), None, 100).await.unwrap();
        assert_eq!(
            all.iter().map(|grant| grant.revoked_at.is_some()).collect::<Vec<_>>(),
            [ends_others, false]
        );
        let spent = all[0].refresh.as_ref().unwrap();
        assert!(
            spent.rotated_at.is_some() && all[1].refresh.as_ref().unwrap().rotated_at.is_none()
        );
    }
    assert_eq!(
        actions(registry, "raced-false").await,
        ["principal.add"],
        "an exchange leaves no trail but the grant itself"
    );
    assert_eq!(actions(registry, "raced-true").await, ["principal.add", "token.supersede"]);
}

async fn a_reused_refresh_token_ends_its_family(registry: &SqlRegistry) {
    let holder = add(registry, "robbed").await;
    let (first, unrelated) = (give(registry, holder).await, give(registry, holder).await);
    let second = rotated(rotate(registry, &first, 1).await);
    let third = rotated(rotate(registry, &second, 5).await);
    assert!(
        matches!(rotate(registry, &first, 10).await, Rotation::RotatedBefore(grant) if grant.id == second.id)
    );
    let seen = announced(registry, holder).await;
    let mut at_once = tokio::task::JoinSet::new();
    for grant in [&first, &second].repeat(4) {
        let (registry, id, new) = (registry.clone(), grant.id, next(grant, 60));
        at_once
            .spawn(async move { registry.rotate(id, new, GRACE, false, later(60)).await.unwrap() });
    }
    let outcomes = at_once.join_all().await;
    assert_eq!(
        outcomes.iter().filter(|outcome| matches!(outcome, Rotation::Reused)).count(),
        1,
        "{outcomes:?}"
    );
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Rotation::Reused | Rotation::Ended)),
        "{outcomes:?}"
    );
    for grant in [&first, &second, &third] {
        assert!(is_revoked(registry, grant).await);
        assert!(matches!(rotate(registry, grant, 61).await, Rotation::Ended));
    }
    assert!(!is_revoked(registry, &unrelated).await);
    assert_eq!(actions(registry, "robbed").await, ["principal.add", "token.reuse"]);
    assert_eq!(announced(registry, holder).await, seen + 1);
}

async fn what_was_ended_is_not_exchanged(registry: &SqlRegistry) {
    let holder = add(registry, "ended").await;
    let expired = give(registry, holder).await;
    assert!(matches!(rotate(registry, &expired, 24 * 3600 + 60).await, Rotation::Ended));
    let gone = GrantRecord { id: GrantId(i64::MAX), ..expired.clone() };
    assert!(matches!(rotate(registry, &gone, 1).await, Rotation::Ended));
    let (first, other) = (give(registry, holder).await, give(registry, holder).await);
    let second = rotated(rotate(registry, &first, 1).await);
    registry.revoke_family(first.family, later(2)).await.unwrap();
    assert!(
        matches!(rotate(registry, &first, 3).await, Rotation::Ended),
        "within the grace, but what follows it was revoked"
    );
    assert!(matches!(rotate(registry, &second, 3).await, Rotation::Ended));
    registry.revoke_family(other.family, later(2)).await.unwrap();
    assert!(matches!(rotate(registry, &other, 3).await, Rotation::Ended));
    assert_eq!(actions(registry, "ended").await, ["principal.add", "token.revoke", "token.revoke"]);
}

async fn one_login_may_end_all_others(registry: &SqlRegistry) {
    let holder = add(registry, "single").await;
    let bystander = give(registry, add(registry, "bystander").await).await;
    let long_ago = UnixMillis(1_700_000_000_000);
    let expired =
        registry.add_grant(holder, new_grant(None, long_ago), false, later(0)).await.unwrap();
    let (first, second) = (give(registry, holder).await, give(registry, holder).await);
    let follower = rotated(rotate(registry, &first, 1).await);
    let seen = announced(registry, holder).await;
    let login =
        registry.add_grant(holder, new_grant(None, later(2).now), true, later(2)).await.unwrap();
    for (grant, revoked) in [
        (&expired, false),
        (&first, true),
        (&second, true),
        (&follower, true),
        (&login, false),
        (&bystander, false),
    ] {
        assert_eq!(is_revoked(registry, grant).await, revoked, "{grant:?}");
    }
    let expected = ["principal.add", "token.supersede", "token.supersede"];
    assert_eq!(actions(registry, "single").await, expected, "one for each family");
    assert_eq!(announced(registry, holder).await, seen + 1);

    let family = NewGrant { family: login.family, ..new_grant(None, later(3).now) };
    registry.add_grant(holder, family, true, later(3)).await.unwrap();
    assert!(!is_revoked(registry, &login).await, "the same family stays");
    assert_eq!(announced(registry, holder).await, seen + 1, "nothing was revoked");
}

async fn one_exchange_may_end_all_others(registry: &SqlRegistry) {
    let holder = add(registry, "exchanged").await;
    let (first, other) = (give(registry, holder).await, give(registry, holder).await);
    let exchange = async |grant: &GrantRecord, seconds| {
        registry.rotate(grant.id, next(grant, seconds), GRACE, true, later(seconds)).await.unwrap()
    };
    let second = rotated(exchange(&first, 1).await);
    for (grant, revoked) in [(&first, true), (&other, true), (&second, false)] {
        assert_eq!(is_revoked(registry, grant).await, revoked);
    }
    let known = registry.load(&username("exchanged")).await.unwrap().unwrap();
    assert!(
        known.has_revoked(first.access_jti)
            && known.has_revoked(other.access_jti)
            && !known.has_revoked(second.access_jti)
    );
    assert!(
        matches!(exchange(&first, 2).await, Rotation::RotatedBefore(grant) if grant.id == second.id)
    );
    assert!(matches!(exchange(&other, 2).await, Rotation::Ended));
    assert!(matches!(exchange(&first, 60).await, Rotation::Reused));
    assert!(is_revoked(registry, &second).await);
    assert_eq!(
        actions(registry, "exchanged").await,
        ["principal.add", "token.supersede", "token.supersede", "token.reuse"],
        "the family that goes on has an event of its own, for what came before"
    );
}

async fn families_are_revoked_once(registry: &SqlRegistry) {
    let holder = add(registry, "leaver").await;
    let first = give(registry, holder).await;
    let second = rotated(rotate(registry, &first, 1).await);
    let (seen, author) = (announced(registry, holder).await, later(2));
    assert_eq!(registry.revoke_family(first.family, author).await.unwrap(), 2);
    assert_eq!(registry.revoke_family(first.family, later(3)).await.unwrap(), 0);
    assert_eq!(registry.revoke_family(new_uuid(), later(3)).await.unwrap(), 0);
    for grant in [&first, &second] {
        assert_eq!(
            registry.grant(grant.id).await.unwrap().revoked_at,
            Some(author.now),
            "the first date stays"
        );
    }
    let events = registry.audit(Some("leaver"), None, 1).await.unwrap();
    assert_eq!((events[0].action.as_str(), events[0].subject_id), ("token.revoke", second.id.0));
    assert_eq!(actions(registry, "leaver").await.len(), 2);
    assert_eq!(announced(registry, holder).await, seen + 1);
}

async fn changes_of_many_principals_at_once_do_not_disturb_each_other(registry: &SqlRegistry) {
    let mut at_once = tokio::task::JoinSet::new();
    for number in 0..12 {
        let holder = add(registry, &format!("at-once-{number}")).await;
        for _ in 0..3 {
            let registry = registry.clone();
            at_once.spawn(async move {
                let grant = registry
                    .add_grant(holder, new_grant(None, later(0).now), true, later(0))
                    .await
                    .unwrap();
                registry.rotate(grant.id, next(&grant, 1), GRACE, true, later(1)).await.unwrap();
                registry
                    .add_grant(holder, new_grant(None, later(1).now), false, later(1))
                    .await
                    .unwrap();
                registry.revoke_family(grant.family, later(2)).await.unwrap();
                registry.forget_grants(UnixMillis(1)).await.unwrap();
            });
        }
    }
    // Some of them remove the principal while it is issued tokens.
    for number in 0..4 {
        let (registry, holder) =
            (registry.clone(), add(registry, &format!("removed-{number}")).await);
        let grant = give(&registry, holder).await;
        let (giving, removing, jti) = (registry.clone(), registry, grant.access_jti);
        at_once.spawn(async move {
            let given =
                giving.add_grant(holder, new_grant(None, later(0).now), false, later(0)).await;
            assert!(matches!(given, Ok(_) | Err(RegistryError::NoSuchPrincipal(_))), "{given:?}");
            giving.rotate(grant.id, next(&grant, 1), GRACE, false, later(1)).await.unwrap();
        });
        at_once.spawn(async move {
            removing
                .remove_principal(&username(&format!("removed-{number}")), None, later(0))
                .await
                .unwrap();
            assert!(
                removing.find_grant(GrantName::Jti(jti)).await.unwrap().is_none(),
                "its grants went with it"
            );
        });
    }
    at_once.join_all().await;
}

async fn revoked_access_tokens_are_known_to_decisions(registry: &SqlRegistry) {
    let holder = add(registry, "revoked").await;
    let (first, second, kept) =
        (give(registry, holder).await, give(registry, holder).await, give(registry, holder).await);
    let long_ago = UnixMillis(1_700_000_000_000);
    let expired =
        registry.add_grant(holder, new_grant(None, long_ago), false, later(0)).await.unwrap();
    for grant in [&first, &second, &expired] {
        assert_eq!(registry.revoke_family(grant.family, later(0)).await.unwrap(), 1);
    }
    let name = username("revoked");
    let loaded = registry.load(&name).await.unwrap().unwrap();
    let before = PrincipalId(holder.0 - 1);
    let paged = registry.load_page(Some(before), 1).await.unwrap().remove(0);
    for known in [loaded, paged] {
        assert_eq!(known.username, name);
        assert!(known.has_revoked(first.access_jti) && known.has_revoked(second.access_jti));
        assert!(!known.has_revoked(kept.access_jti));
        assert_eq!(known.revoked.len(), 2, "what expired is not remembered");
    }
    let all = registry.load_page(None, 1000).await.unwrap();
    let known = |name: &str| all.iter().find(|known| known.username.as_str() == name).unwrap();
    assert_eq!(
        (
            known("revoked").revoked.len(),
            known("keeper").revoked.len(),
            known("leaver").revoked.len()
        ),
        (2, 0, 2)
    );
    assert!(registry.load(&username("keeper")).await.unwrap().unwrap().revoked.is_empty());
}

async fn expired_grants_are_forgotten(registry: &SqlRegistry) {
    let holder = add(registry, "forgotten").await;
    let at = |hours: u64| UnixMillis(1_600_000_000_000).saturating_add(Duration::from_hours(hours));
    let whole = registry.add_grant(holder, new_grant(None, at(0)), false, later(0)).await.unwrap();
    let bare = NewGrant { refresh: None, ..new_grant(None, at(0)) };
    let bare = registry.add_grant(holder, bare, false, later(0)).await.unwrap();
    let left = async || {
        let all = registry.grants(Some(&username("forgotten")), None, 10).await.unwrap();
        all.into_iter().map(|grant| grant.id).collect::<Vec<_>>()
    };
    registry.forget_grants(at(0)).await.unwrap();
    assert_eq!(left().await, [whole.id, bare.id]);
    registry.forget_grants(at(1)).await.unwrap();
    assert_eq!(left().await, [whole.id], "its refresh token may still be used");
    registry.forget_grants(at(25)).await.unwrap();
    assert!(left().await.is_empty());
    assert!(!registry.grants(Some(&username("found")), None, 10).await.unwrap().is_empty());
}
