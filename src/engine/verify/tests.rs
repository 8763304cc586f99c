mod access;
mod fakes;
mod key_trials;
mod time;

use std::{sync::atomic::Ordering, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use fakes::*;

use super::*;
use crate::{
    domain::{
        algorithm::{Algorithm, KeyFamily},
        auth_request::{Body, Misconfiguration, OriginalRequest},
        decision::{DenialCode, Used},
        key::{PrivateKey, VerifyingKey},
        principal::{KeyId, KnownKey, TrustId},
    },
    engine::ports::Dependency,
};

#[test]
fn a_good_token_passes_exactly_once() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    assert_eq!(bench.present(&token), Ok(()));
    for _ in 0..3 {
        assert_eq!(bench.present(&token), Err(DenialReason::NonceClaimed));
    }
    assert_eq!(bench.present(&bench.sign(&claims("m"))), Ok(()));
}

#[test]
fn each_refusal_has_its_reason_and_none_burns_the_nonce() {
    let bench = bench();
    let other = new_key();
    let with = |name: &str, value: Value| {
        let mut claims = claims("n");
        claims[name] = value;
        bench.sign(&claims)
    };
    let oversized = format!("JWT {}", "a".repeat(9000));
    for (credentials, reason) in [
        ("JWT".to_owned(), DenialReason::WrongScheme),
        ("Basic abc".to_owned(), DenialReason::WrongScheme),
        ("JWT abc".to_owned(), DenialReason::NotAJws),
        (oversized, DenialReason::TokenTooLarge),
        (format!("{0},{0}", bench.sign(&claims("n"))), DenialReason::SeveralCredentials),
        (format!("{0} {0}", bench.sign(&claims("n"))), DenialReason::SeveralCredentials),
        (with("username", json!(5)), DenialReason::ClaimsMistyped),
        (with("nonce", json!("")), DenialReason::ClaimMissing),
        (with("iat", json!(NOW - 3)), DenialReason::ClaimsContradictory),
        (with("username", json!("nobody")), DenialReason::UnknownPrincipal),
        (with("username", json!("dora")), DenialReason::DisabledPrincipal),
        (with("time", json!(NOW - 21)), DenialReason::TooOld),
        (with("time", json!(NOW + 21)), DenialReason::TooNew),
        (with("exp", json!(NOW)), DenialReason::Expired),
        (with("nbf", json!(NOW + 1)), DenialReason::NotYetValid),
        (with("htm", json!("POST")), DenialReason::MethodMismatch),
        (with("htu", json!("https://api.example/other")), DenialReason::UriMismatch),
        (
            with("htq", json!("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")),
            DenialReason::QueryMismatch,
        ),
        (with("content_digest", json!("sha-256")), DenialReason::ClaimsMistyped),
        (with("aud", json!("them")), DenialReason::AudienceMismatch),
        (sign(&other, Algorithm::EdDsa, &json!({}), &claims("n")), DenialReason::BadSignature),
        (
            sign(
                &other,
                Algorithm::EdDsa,
                &json!({"kid": other.public_key().fingerprint().to_string()}),
                &claims("n"),
            ),
            DenialReason::BadSignature,
        ),
    ] {
        assert_eq!(bench.present(&credentials), Err(reason), "{credentials}");
    }
    let mut scoped = auth_request("");
    let token = bench.sign(&claims("n"));
    scoped.credentials = Credentials::One(&token);
    scoped.required_scopes = vec!["read", "write admin"];
    assert_eq!(bench.decide(&scoped), Err(DenialReason::InsufficientScope));
    assert_eq!(bench.claimed(), 0, "a refusal must not burn the nonce");
    assert_eq!(bench.present(&token), Ok(()));
}

#[test]
fn a_question_that_is_not_looked_at_is_refused_with_stores_out_of_reach_and_burns_nothing() {
    for (directory_down, nonces_down) in [(false, false), (true, true)] {
        let bench = bench_with(policy(), directory_down, nonces_down);
        let token = bench.sign(&claims("n"));
        let (first, second) = (
            bench.verifier.refuse(&auth_request(&token), DenialReason::Overloaded),
            DenialReason::RequestTooLarge,
        );
        let second = bench.verifier.refuse(&auth_request(&token), second);
        assert_ne!(first.id, second.id);
        for (verdict, expected) in
            [(first, DenialReason::Overloaded), (second, DenialReason::RequestTooLarge)]
        {
            match verdict.result.unwrap() {
                Decision::Deny(denial) => assert_eq!(
                    (denial.reason, denial.reason.code()),
                    (expected, DenialCode::Unavailable)
                ),
                Decision::Allow(identity) => panic!("{identity:?}"),
            }
        }
        assert_eq!(bench.claimed(), 0);
    }
}

#[test]
fn a_misconfigured_question_is_refused_and_burns_nothing() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    let misconfigured = |credentials| AuthRequest {
        misconfiguration: Some(Misconfiguration::NoScopes),
        ..auth_request(credentials)
    };
    for credentials in [&*token, "JWT abc", ""] {
        assert_eq!(
            bench.decide(&misconfigured(credentials)),
            Err(DenialReason::GatewayMisconfigured)
        );
    }
    let misconfigured = misconfigured(&token);
    let verdict = bench.verifier.explain(&misconfigured, ExplainFrom::Inside);
    assert_eq!(now_or_never(verdict).told(), Some("misconfigured"));
    assert_eq!(bench.claimed(), 0);
    assert_eq!(bench.present(&token), Ok(()));
}

#[test]
fn bindings_that_hold_let_pass() {
    let bench = bench();
    let mut bound = claims("n");
    bound["htm"] = json!("GET");
    bound["htu"] = json!("https://api.example/orders");
    bound["htq"] = json!(PAGE_1);
    bound["aud"] = json!(["us", "them"]);
    bound["exp"] = json!(NOW + 1);
    bound["nbf"] = json!(NOW);
    assert_eq!(bench.present(&bench.sign(&bound)), Ok(()));
}

#[test]
fn bindings_can_be_required() {
    let none = RequiredClaims::default();
    for (required_claims, claim, value) in [
        (RequiredClaims { method: true, ..none }, "htm", "GET"),
        (RequiredClaims { uri: true, ..none }, "htu", "https://api.example/orders"),
        (RequiredClaims { query: true, ..none }, "htq", PAGE_1),
        (RequiredClaims { digest: true, ..none }, "content_digest", EMPTY),
        (RequiredClaims { audience: true, ..none }, "aud", "us"),
    ] {
        let bench = bench_with(Policy { required_claims, ..policy() }, false, false);
        let mut bound = claims("n");
        assert_eq!(
            bench.present(&bench.sign(&bound)),
            Err(DenialReason::BindingMissing),
            "{claim}"
        );
        bound[claim] = json!(value);
        assert_eq!(bench.present(&bench.sign(&bound)), Ok(()), "{claim}");
    }
}

/// `printf %s page=1 | openssl dgst -sha256 -binary | basenc --base64url`
const PAGE_1: &str = "xcNPD98JGknXXMUbT2SrNMuuSc9JFLsKChwMWZt6Q3M";

/// The digest of an empty body.
const EMPTY: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

#[test]
fn a_digest_is_compared_with_a_body_that_is_seen_and_handed_on() {
    let bench = bench();
    let mut bound = claims("n");
    bound["content_digest"] = json!(EMPTY);
    let token = bench.sign(&bound);
    let with = |body| {
        let auth_request = auth_request(&token);
        AuthRequest { request: OriginalRequest { body, ..auth_request.request }, ..auth_request }
    };
    for body in [Body::Whole(b"hello"), Body::Partial] {
        assert_eq!(bench.decide(&with(body)), Err(DenialReason::DigestMismatch), "{body:?}");
    }
    match now_or_never(bench.verifier.decide(&with(Body::Whole(b"")))).result.unwrap() {
        Decision::Allow(identity) => assert_eq!(identity.content_digest(), EMPTY),
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
    bound["nonce"] = json!("m");
    assert_eq!(bench.present(&bench.sign(&bound)), Ok(()), "a body that nobody sees");
}

#[test]
fn a_bound_token_names_one_of_the_authorities() {
    let authorities = ["other.example", "api.example:8443"]
        .map(|text| Authority::parse(text).unwrap().into_owned());
    let bench = bench_with(Policy { authorities: authorities.into(), ..policy() }, false, false);
    let mut bound = claims("n");
    bound["htu"] = json!("https://api.example/orders");
    assert_eq!(bench.present(&bench.sign(&bound)), Err(DenialReason::UriMismatch));
    assert_eq!(bench.present(&bench.sign(&claims("n"))), Ok(()));
}

#[test]
fn scopes_are_asked_for_by_every_list() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    let mut auth_request = auth_request(&token);
    auth_request.required_scopes = vec!["read", "", "write"];
    assert_eq!(bench.decide(&auth_request), Ok(()));
}

#[test]
fn missing_scopes_are_named() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    let mut auth_request = auth_request(&token);
    auth_request.required_scopes = vec!["read admin", "audit", "\""];
    match now_or_never(bench.verifier.decide(&auth_request)).result.unwrap() {
        Decision::Deny(Denial {
            reason: DenialReason::InsufficientScope, missing_scopes, ..
        }) => {
            assert_eq!(
                missing_scopes.unwrap().as_str(),
                "",
                "a list with what is no scope is not repeated"
            );
        }
        other @ (Decision::Allow(_) | Decision::Deny(_)) => panic!("{other:?}"),
    }
    auth_request.required_scopes = vec!["read admin", "audit"];
    match now_or_never(bench.verifier.decide(&auth_request)).result.unwrap() {
        Decision::Deny(Denial { missing_scopes, .. }) => {
            assert_eq!(missing_scopes.unwrap().as_str(), "admin audit");
        }
        Decision::Allow(identity) => panic!("{identity:?}"),
    }
}

#[test]
fn what_a_store_cannot_say_is_no_decision() {
    for (directory_is_down, nonces_are_down, dependency) in
        [(true, false, Dependency::KeyDirectory), (false, true, Dependency::NonceStore)]
    {
        let bench = bench_with(policy(), directory_is_down, nonces_are_down);
        let token = bench.sign(&claims("n"));
        let verdict = now_or_never(bench.verifier.decide(&auth_request(&token)));
        assert_eq!(verdict.result.unwrap_err().dependency, dependency);
    }
}

#[test]
fn a_gateway_that_asks_again_about_the_same_request_is_answered_the_same() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    let mut attempt = auth_request(&token);
    attempt.attempt = Some("stream-1");
    assert_eq!(bench.decide(&attempt), Ok(()));
    assert_eq!(bench.decide(&attempt), Ok(()), "the same request, checked again");

    let other_name = AuthRequest { attempt: Some("stream-2"), ..attempt.clone() };
    assert_eq!(bench.decide(&other_name), Err(DenialReason::NonceClaimed));
    let no_name = AuthRequest { attempt: None, ..attempt.clone() };
    assert_eq!(bench.decide(&no_name), Err(DenialReason::NonceClaimed));
    let mut other_path = attempt.clone();
    other_path.request.path = Some("/admin").into();
    assert_eq!(
        bench.decide(&other_path),
        Err(DenialReason::NonceClaimed),
        "the same name on another request"
    );
    let mut other_method = attempt;
    other_method.request.method = Some("DELETE").into();
    assert_eq!(bench.decide(&other_method), Err(DenialReason::NonceClaimed));
}

#[test]
fn the_scheme_is_compared_without_case() {
    let bench = bench();
    for (nonce, scheme) in [("a", "jwt"), ("b", "Jwt"), ("c", "  JWT  ")] {
        let token = bench.sign(&claims(nonce)).replace("JWT ", &format!("{scheme} "));
        assert_eq!(bench.present(&token), Ok(()), "{scheme}");
    }
}

#[test]
fn principals_keep_their_nonces_apart() {
    let (alice, bob) = (
        PrivateKey::generate(KeyFamily::P256, 2048).unwrap(),
        PrivateKey::generate(KeyFamily::P256, 2048).unwrap(),
    );
    let verifier = verifier_of([
        principal(1, "alice", true, &[&alice], ""),
        principal(2, "bob", true, &[&bob], ""),
    ]);
    for (name, key) in [("alice", &alice), ("bob", &bob)] {
        let token = sign(
            key,
            Algorithm::Es256,
            &json!({}),
            &json!({"username": name, "time": NOW, "nonce": "same"}),
        );
        assert!(
            matches!(
                now_or_never(verifier.decide(&auth_request(&token))).result,
                Ok(Decision::Allow(_))
            ),
            "{name}"
        );
    }
    let stolen = sign(
        &bob,
        Algorithm::Es256,
        &json!({}),
        &json!({"username": "alice", "time": NOW, "nonce": "x"}),
    );
    assert!(matches!(
        now_or_never(verifier.decide(&auth_request(&stolen))).result,
        Ok(Decision::Deny(_))
    ));
}

#[test]
fn a_key_decides_its_algorithms() {
    let rsa = PrivateKey::generate(KeyFamily::Rsa, 2048).unwrap();
    let bench = bench();
    let public = rsa.public_key().to_pem();
    // The classic algorithm confusion: an HMAC whose key is the text of the public key.
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let input = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims("n")));
    let hmac = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes()),
        input.as_bytes(),
    );
    let confused = format!("JWT {input}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac.as_ref()));
    assert_eq!(bench.present(&confused), Err(DenialReason::AlgorithmNotAllowed));
    let none = format!("JWT {}.{}.AAAA", part(&json!({"alg": "none"})), part(&claims("n")));
    assert_eq!(bench.present(&none), Err(DenialReason::AlgorithmNotAllowed));
    let foreign = sign(&rsa, Algorithm::Rs256, &json!({}), &claims("n"));
    assert_eq!(bench.present(&foreign), Err(DenialReason::NoMatchingKey), "alice has no RSA key");
}

#[test]
fn at_most_eight_keys_are_tried_and_a_kid_picks_its_own() {
    let keys: Vec<PrivateKey> = (0..10).map(|_| new_key()).collect();
    let verifier = verifier_of([principal(1, "alice", true, &keys.iter().collect::<Vec<_>>(), "")]);
    let lets_in = |key: usize, header: &Value| {
        let token = sign(&keys[key], Algorithm::EdDsa, header, &claims(&format!("{key} {header}")));
        matches!(
            now_or_never(verifier.decide(&auth_request(&token))).result.unwrap(),
            Decision::Allow(_)
        )
    };
    let passed: Vec<usize> = (0..10).filter(|key| lets_in(*key, &json!({}))).collect();
    assert_eq!(passed, [2, 3, 4, 5, 6, 7, 8, 9], "the newest eight");
    let passed: Vec<usize> =
        (0..10).filter(|key| lets_in(*key, &json!({"kid": "key-1"}))).collect();
    assert_eq!(passed, [2, 3, 4, 5, 6, 7, 8, 9], "names that others gave say nothing here");
    let passed: Vec<usize> =
        (0..10).filter(|key| lets_in(*key, &json!({"kid": "ab".repeat(32)}))).collect();
    assert_eq!(passed, [2, 3, 4, 5, 6, 7, 8, 9], "nor do those that only look like fingerprints");
    assert!((0..10).all(|key| lets_in(
        key,
        &json!({"kid": keys[key].public_key().fingerprint().to_string()})
    )));
    let another = json!({"kid": keys[5].public_key().fingerprint().to_string()});
    assert!(!lets_in(4, &another), "a registered key that the kid names is the only one");
    let passed: Vec<usize> =
        (0..10).filter(|key| lets_in(*key, &json!({"kid": "5a".repeat(32)}))).collect();
    assert_eq!(
        passed,
        [2, 3, 4, 5, 6, 7, 8, 9],
        "64 digits that are no fingerprint of a key are a name like any other"
    );
}

#[test]
fn a_key_of_a_trusted_set_counts_under_its_name_there() {
    let bench = bench();
    let token = |key: &PrivateKey, username: &str, header: &Value, nonce: &str| {
        sign(
            key,
            Algorithm::EdDsa,
            header,
            &json!({"username": username, "time": NOW, "nonce": nonce}),
        )
    };
    let remote = json!({"kid": "remote"});
    assert_eq!(bench.present(&token(&bench.remote, "tina", &remote, "a")), Ok(()));
    assert_eq!(
        bench.present(&token(&bench.remote, "tina", &remote, "a")),
        Err(DenialReason::NonceClaimed)
    );
    assert_eq!(*bench.usage.0.lock().unwrap(), [(Used::Trust(TrustId(1)), UnixMillis(NOW_MS))]);
    for (key, username, header, reason) in [
        (&bench.key, "tina", &remote, DenialReason::BadSignature),
        (&bench.remote, "tina", &json!({"kid": "other"}), DenialReason::NoMatchingKey),
        (&bench.remote, "alice", &remote, DenialReason::BadSignature),
        (&bench.remote, "tom", &remote, DenialReason::NoKeySet),
    ] {
        assert_eq!(
            bench.present(&token(key, username, header, "b")),
            Err(reason),
            "{username} {header}"
        );
    }

    let verdict = now_or_never(bench.verifier.decide(&auth_request(&token(
        &bench.remote,
        "tina",
        &remote,
        "c",
    ))));
    let Ok(Decision::Allow(identity)) = verdict.result else { panic!("{verdict:?}") };
    assert_eq!((&*identity.encoded_key_id(), identity.scopes().as_str()), ("remote", "read"));
    // A key without a name is identified by its fingerprint.
    let verdict = now_or_never(bench.verifier.decide(&auth_request(&token(
        &bench.remote,
        "tina",
        &json!({}),
        "d",
    ))));
    let Ok(Decision::Allow(identity)) = verdict.result else { panic!("{verdict:?}") };
    assert_eq!(*identity.encoded_key_id(), bench.remote.public_key().fingerprint().to_string());
}

#[test]
fn only_what_passed_is_noted_as_used() {
    let bench = bench();
    let token = bench.sign(&claims("n"));
    assert_eq!(bench.present(&token), Ok(()));
    assert_eq!(bench.present(&token), Err(DenialReason::NonceClaimed));
    assert_eq!(*bench.usage.0.lock().unwrap(), [(Used::Key(KeyId(1)), UnixMillis(NOW_MS))]);
}

#[test]
fn an_explanation_goes_on_after_a_step_that_fails() {
    let bench = bench();
    let mut late = claims("n");
    late["time"] = json!(NOW - 60);
    late["htm"] = json!("POST");
    let token = bench.sign(&late);
    let explanation =
        now_or_never(bench.verifier.explain(&auth_request(&token), ExplainFrom::Inside));
    let outcomes: Vec<_> = explanation.steps.iter().map(|step| (step.name, step.outcome)).collect();
    let passed = StepOutcome::Passed;
    let expected = [
        ("credentials", passed),
        ("token", passed),
        ("time", StepOutcome::Denied(DenialReason::TooOld)),
        ("required_claims", passed),
        ("principal", passed),
        ("key", passed),
        ("binding", StepOutcome::Denied(DenialReason::MethodMismatch)),
        ("scopes", passed),
        ("nonce", passed),
    ];
    assert_eq!(outcomes, expected);
    assert!(
        explanation.steps[2].seen.starts_with("signed 60.500 s ago"),
        "{:?}",
        explanation.steps[2]
    );
    assert_eq!(explanation.verdict(), "deny");

    let aside = now_or_never(
        bench
            .verifier
            .explain(&auth_request(&token), ExplainFrom::Outside { nonces_are_shared: false }),
    );
    assert_eq!(aside.steps.last().unwrap().outcome, StepOutcome::Skipped);
    let down = bench_with(policy(), false, true);
    let token = down.sign(&claims("n"));
    assert_eq!(
        now_or_never(down.verifier.explain(&auth_request(&token), ExplainFrom::Inside)).verdict(),
        "unavailable"
    );
}

#[test]
fn keys_count_only_in_their_time() {
    let key = new_key();
    let at = |from: Option<i64>, until: Option<i64>| {
        let known = KnownKey::new(
            KeyId(1),
            VerifyingKey::new(key.public_key()),
            Scopes::default(),
            from.map(UnixMillis),
            until.map(UnixMillis),
        );
        known.is_current(UnixMillis(NOW_MS))
    };
    assert!(at(None, None) && at(Some(NOW_MS), None) && at(None, Some(NOW_MS + 1)));
    assert!(!at(Some(NOW_MS + 1), None) && !at(None, Some(NOW_MS)));
}

#[test]
fn refusals_that_would_tell_users_apart_share_a_code() {
    let bench = bench();
    let other = new_key();
    for username in ["alice", "dora", "nobody"] {
        let token = sign(
            &other,
            Algorithm::EdDsa,
            &json!({}),
            &json!({"username": username, "time": NOW, "nonce": "n"}),
        );
        assert_eq!(
            bench.present(&token).unwrap_err().code(),
            DenialCode::InvalidToken,
            "{username}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any interleaving of requests with a few tokens, signed by clocks that are off by up to
    /// the tolerance: each token passes at most once, and none passes outside its window.
    #[test]
    fn no_token_passes_twice_and_none_outside_its_window(
        skews in proptest::collection::vec(-25_i64..=25, 1..4),
        presentations in proptest::collection::vec((0_usize..4, 0_i64..9_000), 1..60),
    ) {
        let bench = bench();
        let tokens: Vec<(i64, String)> = skews.iter().enumerate().map(|(index, skew)| {
            let time = NOW + skew;
            (time, bench.sign(&json!({"username": "alice", "time": time, "nonce": format!("n-{index}")})))
        }).collect();
        let mut passed = vec![0; tokens.len()];
        let mut now = NOW_MS;
        for (index, wait) in presentations {
            now += wait;
            bench.clock.now.store(now, Ordering::Relaxed);
            let index = index % tokens.len();
            let (time, token) = &tokens[index];
            let is_inside = (now - time * 1000).abs() <= Duration::from_secs(20).as_millis().try_into().unwrap();
            match bench.present(token) {
                Ok(()) => {
                    prop_assert!(is_inside, "a token {} ms off passed", now - time * 1000);
                    passed[index] += 1;
                }
                Err(reason) => prop_assert!(!is_inside || reason == DenialReason::NonceClaimed, "{reason:?}"),
            }
        }
        prop_assert!(passed.iter().all(|count| *count <= 1), "{passed:?}");
    }

    #[test]
    fn no_credentials_make_a_decision_panic_or_pass(text in "\\PC*", scheme in "(JWT |Bearer |)") {
        let bench = bench();
        let credentials = format!("{scheme}{text}");
        prop_assert!(bench.present(&credentials).is_err());
    }
}
