//! How many verifications a token costs.

use super::{super::trials::Trials, *};
use crate::domain::principal::KnownPrincipal;

/// How many verifications it takes to refuse a token that none of the keys signed.
fn cost(verifier: &Verifier, header: &Value, principal: Option<&KnownPrincipal>) -> usize {
    let token = sign(&new_key(), Algorithm::EdDsa, header, &json!({"username": "x", "time": NOW, "nonce": "n"}));
    let token = UntrustedToken::parse(token.strip_prefix("JWT ").unwrap()).unwrap();
    let mut trials = Trials::default();
    assert!(now_or_never(verifier.verify_counting(&token, principal, UnixMillis(NOW_MS), &mut trials)).is_err());
    trials.verifications()
}

#[test]
fn a_refusal_costs_the_same_whoever_is_named() {
    let fingerprint = new_key().public_key().fingerprint().to_string();
    for (most, without, with_name) in [(0, 2, 2), (1, 2, 2), (2, 2, 3), (5, 5, 6), (8, 8, 8), (12, 8, 8)] {
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
            if let Some(registered) = keys.first() {
                let registered = registered.public_key().fingerprint().to_string();
                assert_eq!(costs(&json!({"kid": registered})), with_name, "{most}: {named:?}");
            }
        }
    }
}
