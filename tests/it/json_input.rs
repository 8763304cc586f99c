//! JSON from clients, everywhere it is accepted: an object is an object, and text is UTF-8. A
//! reader that takes the elements of an array for the members of an object would take `[false]` for
//! `{"is_active": false}`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    ADMIN_TOKEN, Admin, Claims, Countersign, Deployment, Door, Key, Question, TokenApi, now,
};

#[tokio::test]
async fn an_array_is_no_patch_and_nothing_to_add() {
    let (_deployment, countersign, key) = alice();
    let (admin, new) = (Admin::of(&countersign), Key::p256());
    let key_id = admin.all("/keys").await[0]["id"].clone();
    let before = (
        admin.get("/principals/alice").await.json(),
        admin.all("/keys").await,
        admin.all("/principals").await,
    );

    for (method, path, body) in [
        // This used to disable alice.
        ("PATCH", "/principals/alice".to_owned(), json!([false])),
        (
            "PATCH",
            "/principals/alice".to_owned(),
            json!([false, ["admin"], "given", "family", "e@mail"]),
        ),
        ("PATCH", "/principals/alice".to_owned(), json!([])),
        ("PATCH", format!("/keys/{key_id}"), json!(["a comment", ["admin"], null, null])),
        ("PATCH", "/log".to_owned(), json!(["debug", "all", 1])),
        (
            "POST",
            "/principals".to_owned(),
            json!(["bob", true, ["admin"], null, null, null, null, null]),
        ),
        (
            "POST",
            "/principals".to_owned(),
            json!({"username": "bob", "keys": [[new.public_pem(), null, null, null, null]]}),
        ),
        (
            "POST",
            "/principals/alice/keys".to_owned(),
            json!([new.public_pem(), null, ["admin"], null, null]),
        ),
        (
            "POST",
            "/principals/alice/jwks-trusts".to_owned(),
            json!(["https://id.example.com/jwks.json"]),
        ),
        ("POST", "/principals/alice/api-keys".to_owned(), json!([null, null, null])),
        ("POST", "/principals/alice/tokens".to_owned(), json!([null, null, null])),
        ("POST", "/explain".to_owned(), json!([Claims::of("alice").sign(&key), null, null, null])),
    ] {
        let request = Admin::request(method, &path).header("Content-Type", "application/json");
        let answer = admin.send(&request.body(body.to_string())).await;
        assert_eq!(answer.status, 400, "{method} {path} {body}: {answer:?}");
    }

    let after = (
        admin.get("/principals/alice").await.json(),
        admin.all("/keys").await,
        admin.all("/principals").await,
    );
    assert_eq!(before, after);
    assert!(admin.all("/jwks-trusts").await.is_empty() && admin.all("/api-keys").await.is_empty());
}

/// jwthenticator's internal API.
#[tokio::test]
async fn an_array_registers_nothing() {
    let (_deployment, countersign, _) = alice();
    let key = "a long and chosen API key, for jwthenticator's sake";
    for (path, body) in [
        ("/register_key", json!([key, "0e1b0a5e-6f55-4d3e-8d0a-6a4f7a1f3c52"])),
        ("/is_key_registered", json!([key])),
    ] {
        let request = Request::new("POST", path)
            .header("Content-Type", "application/json")
            .body(body.to_string());
        let answer =
            request.authorization(&format!("Bearer {ADMIN_TOKEN}")).send(countersign.admin).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn an_array_is_no_question_to_the_token_api() {
    let (deployment, countersign, _) = alice();
    let (api, key) = (TokenApi::of(&countersign), deployment.api_key("alice"));
    let pair = api.login(&key).await;
    for (path, body) in [
        ("/authenticate", json!([key.key, key.identifier])),
        ("/refresh", json!([pair.refresh, key.identifier])),
        ("/validate", json!([pair.access])),
        ("/token/refresh", json!([pair.refresh])),
        ("/token/introspection", json!([pair.access, null])),
        ("/token/revoke", json!([pair.access, null])),
    ] {
        let answer = api.post_as(&pair.access, path, &body).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert_eq!(api.validate(&pair.access).await, 200, "nothing was revoked");
}

/// `["EdDSA"]` used to pass for `{"alg": "EdDSA"}`.
#[tokio::test]
async fn a_token_has_a_header_and_claims_that_are_objects() {
    let (_deployment, countersign, key) = alice();
    let claims =
        || json!({"username": "alice", "time": now(), "nonce": nonce()}).to_string().into_bytes();
    let header = || json!({"alg": "EdDSA"}).to_string().into_bytes();
    let with = |member: &str, value: Value| {
        let mut header = json!({"alg": "EdDSA"});
        header[member] = value;
        header.to_string().into_bytes()
    };
    let not_text = |part: Vec<u8>| [&part[..part.len() - 1], b",\"x\":\"\xff\"}"].concat();
    assert_eq!(
        ask(&countersign, &signed(&key, &header(), &claims())).await,
        [None, Some("replayed".to_owned())],
        "or nothing is proven"
    );
    assert_eq!(
        ask(&countersign, &signed(&key, &with("b64", json!(true)), &claims())).await[0],
        None,
        "RFC 7797: as it is anyway"
    );

    for (case, header, claims) in [
        ("an array for a header", json!(["EdDSA"]).to_string().into_bytes(), claims()),
        (
            "one with all members",
            json!(["EdDSA", null, false, true]).to_string().into_bytes(),
            claims(),
        ),
        (
            "an array for claims",
            header(),
            json!(["alice", now(), nonce()]).to_string().into_bytes(),
        ),
        ("crit: null", with("crit", json!(null)), claims()),
        ("crit: []", with("crit", json!([])), claims()),
        ("crit: [exp]", with("crit", json!(["exp"])), claims()),
        ("b64: false", with("b64", json!(false)), claims()),
        ("b64: null", with("b64", json!(null)), claims()),
        ("a header with bytes that are no text", not_text(header()), claims()),
        ("claims with bytes that are no text", header(), not_text(claims())),
    ] {
        let token = signed(&key, &header, &claims);
        assert_eq!(
            ask(&countersign, &token).await,
            [(); 2].map(|()| Some("malformed_credentials".to_owned())),
            "{case}"
        );
    }
}

/// An access token, and an assertion to the token endpoint.
#[tokio::test]
async fn so_has_an_access_token_and_an_assertion() {
    let (deployment, countersign, key) = alice();
    let api = TokenApi::of(&countersign);
    let access = api.login(&deployment.api_key("alice")).await.access;
    let [header, payload, signature] = access.split('.').collect::<Vec<_>>()[..] else {
        panic!("{access}")
    };
    let decoded = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let alg = decoded(header)["alg"].clone();
    for header in [
        json!([alg, decoded(header)["kid"]]),
        json!({"alg": alg, "crit": null}),
        json!({"alg": alg, "b64": false}),
    ] {
        let forged =
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()));
        let answer = Request::get("/validate_request")
            .authorization(&format!("Bearer {forged}"))
            .send(countersign.http)
            .await;
        assert_eq!(
            answer.header("x-auth-error"),
            Some("malformed_credentials"),
            "{header}: {answer:?}"
        );
    }

    let claims =
        json!({"sub": "alice", "iss": "alice", "aud": ISSUER, "iat": now(), "jti": nonce()})
            .to_string()
            .into_bytes();
    for (header, is_good) in [
        (json!(["EdDSA"]), false),
        (json!({"alg": "EdDSA", "crit": null}), false),
        (json!({"alg": "EdDSA"}), true),
    ] {
        let assertion = signed(&key, header.to_string().as_bytes(), &claims);
        let answer = api
            .form(
                "/oauth2/token",
                &[
                    ("grant_type", "client_credentials"),
                    (
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    ),
                    ("client_assertion", &assertion),
                ],
            )
            .await;
        assert_eq!(answer.status == 200, is_good, "{header}: {answer:?}");
    }
}

const ISSUER: &str = "http://issuer.test";

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) =
        (Deployment::new().administered().set("issuer.url", ISSUER), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}

/// A JWS over arbitrary bytes.
fn signed(key: &Key, header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign("EdDSA", input.as_bytes())))
}

/// The answer of each door: the code of a denial.
async fn ask(countersign: &Countersign, token: &str) -> [Option<String>; 2] {
    let question = Question::with(format!("JWT {token}"));
    let mut codes = [const { None }; 2];
    for (door, code) in Door::BOTH.into_iter().zip(&mut codes) {
        *code = door.ask(countersign, &question).await.code().map(str::to_owned);
    }
    codes
}

fn nonce() -> String {
    let token = Claims::of("alice").sign(&Key::ed25519());
    token[token.len() - 40..].to_owned()
}
