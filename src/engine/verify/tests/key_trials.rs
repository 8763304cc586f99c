//! How many verifications a token costs.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{super::key_trials::KeyTrials, *};
use crate::domain::principal::{CANDIDATE_KEYS_MAX, KnownPrincipal, KnownTrust, Username};

/// The number of verifications before a token that no key signed is refused.
fn cost(verifier: &Verifier, header: &Value, principal: Option<&KnownPrincipal>) -> usize {
    let token = sign(
        &new_key(),
        Algorithm::EdDsa,
        header,
        &json!({"username": "x", "time": NOW, "nonce": "n"}),
    );
    let token = UntrustedToken::parse(token.strip_prefix("JWT ").unwrap()).unwrap();
    let mut trials = KeyTrials::default();
    assert!(
        now_or_never(verifier.verify_counting(&token, principal, UnixMillis(NOW_MS), &mut trials))
            .is_err()
    );
    trials.verifications()
}

#[test]
fn a_refusal_costs_the_same_whoever_is_named() {
    let fingerprint = new_key().public_key().fingerprint().to_string();
    for (most, without, with_name) in
        [(0, 2, 2), (1, 2, 2), (2, 2, 3), (5, 5, 6), (8, 8, 8), (12, 8, 8)]
    {
        let keys: Vec<_> = (0..most).map(|_| new_key()).collect();
        let many = principal(1, "many", true, &keys.iter().collect::<Vec<_>>(), "");
        let disabled = principal(2, "disabled", false, &keys.iter().collect::<Vec<_>>(), "");
        let few = principal(3, "few", true, &keys.iter().take(1).collect::<Vec<_>>(), "");
        let trusts = trusting(4, "trusts", &["https://never.example/"]);
        let all = [many, disabled, few, trusts];
        let verifier = verifier_of(all.clone());
        for named in all.iter().map(Some).chain([None]) {
            let named = named.map(AsRef::as_ref);
            let costs = |header: &Value| cost(&verifier, header, named);
            assert_eq!(costs(&json!({})), without, "{most}: {named:?}");
            assert_eq!(costs(&json!({"kid": "a name"})), with_name, "{most}: {named:?}");
            assert_eq!(costs(&json!({"kid": fingerprint})), with_name, "{most}: {named:?}");
            let registered = keys.first().map(|key| key.public_key().fingerprint().to_string());
            assert!(
                registered.is_none_or(|kid| costs(&json!({"kid": kid})) == with_name),
                "{most}: {named:?}"
            );
        }
    }
}

/// Whatever key sets contain, a refusal costs the same for those who trust them and for those who
/// do not.
#[test]
fn a_refusal_costs_the_same_whatever_key_sets_have() {
    let keys: Vec<_> = (0..5).map(|_| new_key()).collect();
    let nameless = |key: &PrivateKey| jwk(key, "");
    let sets = || {
        TestKeySets::of([
            (
                KEY_SET,
                json!({"keys": [jwk(&keys[0], "a"), jwk(&keys[1], "a"), jwk(&keys[2], "b"), nameless(&keys[3])]}),
            ),
            ("https://other.example/", json!({"keys": [jwk(&keys[4], "a")]})),
        ])
    };
    let one = trusting(1, "one", &[KEY_SET]);
    let other = trusting(2, "other", &["https://other.example/"]);
    let all = [one, other, principal(3, "key", true, &[&new_key()], "")];
    let verifier = verifier_with(all.clone(), sets());
    for named in all.iter().map(Some).chain([None]) {
        for (header, expected) in [
            (json!({}), 5),
            (json!({"kid": "a"}), 4),
            (json!({"kid": "c"}), 4),
            (json!({"kid": "ab".repeat(32)}), 4),
        ] {
            assert_eq!(
                cost(&verifier, &header, named.map(AsRef::as_ref)),
                expected,
                "{header}: {named:?}"
            );
        }
    }
    // Two sets of the principal, each with as many keys.
    let both = trusting(1, "both", &[KEY_SET, "https://other.example/"]);
    let verifier = verifier_with([Arc::clone(&both)], sets());
    for named in [Some(&*both), None] {
        assert_eq!(cost(&verifier, &json!({}), named), CANDIDATE_KEYS_MAX, "{named:?}");
    }
}

#[test]
fn a_set_is_missed_only_if_nothing_fits() {
    let (registered, local) = (new_key(), new_key());
    let tina = Arc::new(
        KnownPrincipal::new(
            PrincipalId(1),
            Username::new("tina").unwrap(),
            true,
            Scopes::default(),
        )
        .with_keys(vec![KnownKey::new(
            KeyId(1),
            VerifyingKey::new(registered.public_key()),
            Scopes::default(),
            None,
            None,
        )])
        .with_trusts(vec![KnownTrust { id: TrustId(7), url: KEY_SET.into() }]),
    );
    let bench = bench_of([tina]);
    let ask = |key: &PrivateKey, header: &Value, nonce: &str| {
        let claims = json!({"username": "tina", "time": NOW, "nonce": nonce});
        let presented_token = sign(key, Algorithm::EdDsa, header, &claims);
        let decided =
            now_or_never(bench.verifier.decide(&auth_request(&presented_token))).result.unwrap();
        (
            matches!(decided, Decision::Allow(_)),
            std::mem::take(&mut *bench.key_sets.missed.lock().unwrap()).len(),
        )
    };
    let remote = json!({"kid": "remote"});
    assert_eq!(ask(&bench.remote, &remote, "a"), (true, 0));
    assert_eq!(ask(&registered, &json!({"kid": "a name of its own"}), "b"), (true, 0));
    assert_eq!(ask(&registered, &json!({}), "c"), (true, 0));
    assert_eq!(ask(&bench.remote, &json!({}), "d"), (true, 0), "a token that names no key");
    let missed = ask(&local, &remote, "e");
    assert_eq!(missed, (false, 1), "the same name for another key");
    assert_eq!(ask(&local, &json!({"kid": "unknown"}), "f"), (false, 1));
    assert_eq!(ask(&local, &json!({}), "g"), (false, 1));
    assert_eq!(
        ask(&bench.remote, &json!({"kid": "unknown"}), "h"),
        (false, 1),
        "the key of another name"
    );
}

/// A key that a set has with a name and without one is tried only once: nine entries of six keys
/// are within the limit of eight.
#[test]
fn a_key_that_is_met_again_costs_nothing() {
    let keys: Vec<_> = (0..6).map(|_| new_key()).collect();
    let entries =
        [(0, ""), (0, "a"), (2, "a"), (1, ""), (3, ""), (2, ""), (5, "a"), (5, ""), (4, "")];
    let set = json!({"keys": entries.map(|(index, kid): (usize, _)| jwk(&keys[index], kid))});
    let tina = trusting(1, "tina", &[KEY_SET]);
    let verifier = verifier_with([Arc::clone(&tina)], TestKeySets::of([(KEY_SET, set)]));

    let token = sign(
        &keys[4],
        Algorithm::EdDsa,
        &json!({"kid": "a"}),
        &json!({"username": "tina", "time": NOW, "nonce": "n"}),
    );
    let token = UntrustedToken::parse(token.strip_prefix("JWT ").unwrap()).unwrap();
    let mut trials = KeyTrials::default();
    assert!(
        now_or_never(verifier.verify_counting(
            &token,
            Some(&tina),
            UnixMillis(NOW_MS),
            &mut trials
        ))
        .is_ok()
    );
    assert_eq!(trials.verifications(), 6);
}

/// One entry of a key set.
#[derive(Clone, Debug)]
struct Entry {
    key: usize,
    kid: Option<&'static str>,
    /// What makes the entry unusable, if anything.
    spoilt: Option<(&'static str, &'static str)>,
}

const POOL: usize = 12;

static KEYS: LazyLock<Vec<PrivateKey>> = LazyLock::new(|| {
    let other_kind = PrivateKey::generate(KeyFamily::P256, 2048).unwrap();
    (0..POOL).map(|_| new_key()).chain([other_kind]).collect()
});

impl Entry {
    fn any() -> impl Strategy<Value = Self> {
        let kid = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
        let spoilt = prop_oneof![
            4 => Just(None),
            1 => prop_oneof![Just(("use", "enc")), Just(("kty", "AKP")), Just(("d", "AAAA")), Just(("x", "AAAA"))].prop_map(Some),
        ];
        (0..=POOL, kid, spoilt).prop_map(|(key, kid, spoilt)| Self { key, kid, spoilt })
    }

    fn jwk(&self) -> Value {
        let mut jwk = jwk(&KEYS[self.key], self.kid.unwrap_or_default());
        if let Some((member, value)) = self.spoilt {
            jwk[member] = value.into();
        }
        jwk
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A usable key that fits is found whatever else is in the set and at whatever position, if no
    /// more than 8 fit; no more than 8 are ever tried; and a key that the token does not name never
    /// verifies it.
    #[test]
    fn a_key_of_a_set_is_found_if_and_only_if_it_is_meant(
        entries in proptest::collection::vec(Entry::any(), 0..20),
        signer in 0..POOL,
        kid in prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("c"))],
    ) {
        let set = json!({"keys": entries.iter().map(Entry::jwk).collect::<Vec<_>>()});
        let tina = trusting(1, "tina", &[KEY_SET]);
        let verifier = verifier_with([Arc::clone(&tina)], TestKeySets::of([(KEY_SET, set)]));
        let header = kid.map_or(json!({}), |kid| json!({"kid": kid}));
        let token = sign(&KEYS[signer], Algorithm::EdDsa, &header, &json!({"username": "tina", "time": NOW, "nonce": "n"}));
        let token = UntrustedToken::parse(token.strip_prefix("JWT ").unwrap()).unwrap();
        let mut trials = KeyTrials::default();
        let found = now_or_never(verifier.verify_counting(&token, Some(&tina), UnixMillis(NOW_MS), &mut trials));

        let is_meant = |entry: &&Entry| kid.is_none() || entry.kid.is_none() || entry.kid == kid;
        let fitting: BTreeSet<usize> = entries.iter().filter(|entry| entry.spoilt.is_none() && entry.key < POOL).filter(is_meant).map(|entry| entry.key).collect();
        prop_assert!(trials.verifications() <= CANDIDATE_KEYS_MAX);
        prop_assert!(found.is_err() || fitting.contains(&signer), "{found:?}");
        if fitting.len() <= CANDIDATE_KEYS_MAX {
            prop_assert_eq!(found.is_ok(), fitting.contains(&signer));
        }
    }
}
