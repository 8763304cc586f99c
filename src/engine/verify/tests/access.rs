//! Decisions about our own access tokens.

use aws_lc_rs::hmac;

use super::*;
use crate::domain::{
    decision::AuthMethod,
    issuer_keys::{IssuerKeys, SigningKey},
    principal::PrincipalId,
};

const JTI: &str = "7b0dc3a0-5a3c-4a44-8d5e-0e2f9a4d6c11";

fn access_claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "x", "aud": ["us"], "iat": NOW, "nbf": NOW, "exp": NOW + 60, "jti": JTI, "ttype": "T",
        "username": "alice", "principal_id": 1, "scope": "read write",
    })
}

impl Bench {
    fn issue(&self, claims: &Value) -> String {
        format!("Bearer {}", self.issuer_keys.sign(claims.to_string().as_bytes()).unwrap())
    }
}

#[test]
fn an_access_token_passes_any_number_of_times() {
    let bench = bench();
    let token = bench.issue(&access_claims());
    for _ in 0..3 {
        assert_eq!(bench.present(&token), Ok(()));
    }
    assert_eq!(bench.present(&token.replace("Bearer", "bearer  ")), Ok(()));
    assert_eq!(bench.claimed(), 0, "no nonce is claimed for it");
    assert!(bench.usage.0.lock().unwrap().is_empty(), "nothing registered was used");
    let verdict = now_or_never(bench.verifier.decide(&auth_request(&token)));
    let Ok(Decision::Allow(identity)) = verdict.result else { panic!("{verdict:?}") };
    assert_eq!(identity.method(), AuthMethod::AccessToken);
    assert_eq!(identity.scopes().as_str(), "read write");
    assert_eq!(identity.encoded_key_id(), bench.issuer_keys.signing_key().unwrap().kid());
}

#[test]
fn each_refusal_of_an_access_token_has_its_reason() {
    let bench = bench();
    let with = |name: &str, value: Value| {
        let mut claims = access_claims();
        claims[name] = value;
        bench.issue(&claims)
    };
    let without = |name: &str| {
        let mut claims = access_claims();
        claims.as_object_mut().unwrap().remove(name);
        bench.issue(&claims)
    };
    let stranger = Arc::new(SigningKey::new(new_key(), None));
    let strangers = IssuerKeys::asymmetric(Arc::clone(&stranger), vec![stranger]);
    let good = bench.issue(&access_claims());
    for (credentials, reason) in [
        (with("exp", json!(NOW - 5)), DenialReason::Expired),
        (with("nbf", json!(NOW + 6)), DenialReason::NotYetValid),
        (with("iss", json!("https://other.example")), DenialReason::ForeignIssuer),
        (with("aud", json!("them")), DenialReason::AudienceMismatch),
        (without("aud"), DenialReason::AudienceMismatch),
        (with("ttype", json!("R")), DenialReason::NotAnAccessToken),
        (without("ttype"), DenialReason::NotAnAccessToken),
        (with("username", json!("nobody")), DenialReason::UnknownPrincipal),
        (with("principal_id", json!(9)), DenialReason::UnknownPrincipal),
        (with("jti", json!("no uuid")), DenialReason::ClaimsMistyped),
        (with("scope", json!(["read"])), DenialReason::ClaimsMistyped),
        (without("principal_id"), DenialReason::ClaimMissing),
        (without("exp"), DenialReason::ClaimMissing),
        (
            format!("Bearer {}", strangers.sign(access_claims().to_string().as_bytes()).unwrap()),
            DenialReason::UnknownSigningKey,
        ),
        (
            with("sub", json!("y")).rsplit_once('.').unwrap().0.to_owned()
                + "."
                + good.rsplit_once('.').unwrap().1,
            DenialReason::BadSignature,
        ),
        (good.replace("Bearer", "Basic"), DenialReason::WrongScheme),
        ("Bearer csr_0123456789".to_owned(), DenialReason::NotAJws),
        (format!("{good},{good}"), DenialReason::SeveralCredentials),
        (bench.sign(&claims("n")).replace("JWT", "Bearer"), DenialReason::ClaimMissing),
        (good.replace("Bearer", "JWT"), DenialReason::ClaimsContradictory),
    ] {
        assert_eq!(bench.present(&credentials), Err(reason), "{credentials}");
    }
    let disabled = json!({"username": "dora", "principal_id": 2});
    let mut claims = access_claims();
    claims.as_object_mut().unwrap().extend(disabled.as_object().unwrap().clone());
    assert_eq!(bench.present(&bench.issue(&claims)), Err(DenialReason::DisabledPrincipal));
    assert_eq!(
        bench.present(&with("exp", json!(NOW - 4))),
        Ok(()),
        "clocks may differ by a few seconds"
    );
    assert_eq!(bench.present(&with("nbf", json!(NOW + 5))), Ok(()), "either way");
}

#[test]
fn no_key_of_ours_is_an_hmac_secret_and_no_token_goes_unsigned() {
    let bench = bench();
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let key = bench.issuer_keys.signing_key().unwrap();
    for secret in [key.public_key().to_pem().into_bytes(), key.public_key().spki().to_vec()] {
        let input = format!(
            "{}.{}",
            part(&json!({"alg": "HS256", "kid": key.kid()})),
            part(&access_claims())
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
        let confused = format!("Bearer {input}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert_eq!(bench.present(&confused), Err(DenialReason::AlgorithmNotAllowed));
    }
    let none = format!("Bearer {}.{}.AAAA", part(&json!({"alg": "none"})), part(&access_claims()));
    assert_eq!(bench.present(&none), Err(DenialReason::AlgorithmNotAllowed));
}

#[test]
fn what_a_token_is_for_is_narrowed_to_what_its_principal_may_still_do() {
    let bench = bench();
    for (scope, held) in
        [("read", "read"), ("read admin", "read"), ("", ""), ("read write", "read write")]
    {
        let mut claims = access_claims();
        claims["scope"] = json!(scope);
        let token = bench.issue(&claims);
        let verdict = now_or_never(bench.verifier.decide(&auth_request(&token)));
        let Ok(Decision::Allow(identity)) = verdict.result else { panic!("{verdict:?}") };
        assert_eq!((identity.scopes().as_str(), &*identity.encoded_scopes()), (held, held));
        let mut asking = auth_request(&token);
        asking.required_scopes = vec!["admin"];
        assert_eq!(bench.decide(&asking), Err(DenialReason::InsufficientScope));
    }
}

/// A forged access token must not cause a look at the registry, as a self-signed one may.
#[test]
fn a_forgery_of_an_access_token_asks_nobody() {
    let (own, access) = (Some(AuthMethod::SelfSigned), Some(AuthMethod::AccessToken));
    for reason in [DenialReason::BadSignature, DenialReason::NoMatchingKey, DenialReason::NoKeySet]
    {
        assert!(
            concerns_the_registry(reason, own) && !concerns_the_registry(reason, access),
            "{reason:?}"
        );
    }
    for reason in [DenialReason::UnknownPrincipal, DenialReason::DisabledPrincipal] {
        assert!(
            concerns_the_registry(reason, own) && concerns_the_registry(reason, access),
            "{reason:?}"
        );
    }
    for reason in
        [DenialReason::UnknownSigningKey, DenialReason::Revoked, DenialReason::ForeignIssuer]
    {
        assert!(!concerns_the_registry(reason, access), "{reason:?}");
    }
}

#[test]
fn a_revoked_token_is_refused_and_others_are_not() {
    let known = keyless(1, "alice", true, "read")
        .with_revoked(vec![JTI.parse().unwrap(), uuid::Uuid::nil()]);
    assert_eq!(known.id, PrincipalId(1));
    let bench = bench_of([Arc::new(known)]);
    assert_eq!(bench.present(&bench.issue(&access_claims())), Err(DenialReason::Revoked));
    let mut other = access_claims();
    other["jti"] = json!("00000000-0000-4000-8000-000000000000");
    assert_eq!(bench.present(&bench.issue(&other)), Ok(()));
}

#[test]
fn authorization_counts_for_access_tokens_alone_where_credentials_have_a_header_of_their_own() {
    let bench = bench();
    let (access, own) = (bench.issue(&access_claims()), bench.sign(&claims("n")));
    let decide = |credentials, authorization| {
        bench.decide(&AuthRequest { credentials, authorization, ..auth_request("") })
    };
    let one = |value| Credentials::One(value);
    assert_eq!(decide(Credentials::None, one(&access)), Ok(()));
    assert_eq!(
        decide(Credentials::None, one("Basic YTpi")),
        Err(DenialReason::NoCredentials),
        "the application's own"
    );
    assert_eq!(decide(Credentials::None, one(&own)), Err(DenialReason::NoCredentials));
    assert_eq!(
        decide(Credentials::None, Credentials::Unusable),
        Err(DenialReason::SeveralCredentials)
    );
    assert_eq!(decide(one(" "), one(&access)), Ok(()), "an empty header is none");
    assert_eq!(decide(one(""), one("")), Err(DenialReason::NoCredentials));
    assert_eq!(decide(Credentials::Unusable, one(&access)), Err(DenialReason::SeveralCredentials));
    assert_eq!(decide(one(&own), one("Bearer of-the-application")), Ok(()));
}
