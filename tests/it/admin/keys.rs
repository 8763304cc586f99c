//! Keys and trusts through the admin API, the decisions that follow, and explanations.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use num_bigint::BigUint;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::harness::{
    Admin, Behaviour, Claims, Countersign, Deployment, Door, JwksServer, Key, Question, Signer,
    eventually_async, member, now,
};

/// The promise is one second; the rest is for a busy machine.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);

/// However a JWK is registered, it can be used only for what it declares. A JWK that anyone could
/// sign with is refused.
#[tokio::test]
async fn what_a_jwk_is_for_binds() {
    let (deployment, countersign, admin) = start();
    let (key, other) = (Key::rsa(), Key::ed25519());
    for username in ["alice", "bob"] {
        admin.add(&json!({ "username": username })).await;
    }
    let by_command = |jwk: &Value| {
        let file = deployment.file("key.json", &jwk.to_string());
        deployment.run(&["key", "add", "alice", file.to_str().unwrap()])
    };
    let by_api = async |jwk: &Value| {
        admin.post("/principals/bob/keys", &json!({ "key": jwk.to_string() })).await
    };
    let good = member(key.jwk("any"), "alg", "PS256");
    assert_eq!(by_command(&good).code, 0);
    assert_eq!(by_api(&good).await.status, 201);
    for username in ["alice", "bob"] {
        for (algorithm, expected) in
            [("PS256", None), ("RS256", Some("invalid_token")), ("RS512", Some("invalid_token"))]
        {
            let question = Question::with(
                Claims::of(username).with_header("alg", algorithm).authorization(&key),
            );
            let verdict = Door::Http.ask(&countersign, &question).await;
            assert_eq!(
                (verdict.allowed(), verdict.code()),
                (expected.is_none(), expected),
                "{username} {algorithm}"
            );
        }
    }
    for (jwk, reason) in [
        (member(other.jwk("any"), "use", "enc"), "\"use\" is \"enc\""),
        (member(other.jwk("any"), "key_ops", json!(["sign"])), "\"key_ops\" is [\"sign\"]"),
        (member(other.jwk("any"), "alg", "RS256"), "\"RS256\" alone"),
        (member(other.jwk("any"), "alg", "none"), "\"none\" alone"),
        (jwk_of_a_broken_generator(), "CVE-2017-15361"),
    ] {
        let ran = by_command(&jwk);
        assert!(ran.code == 1 && ran.stderr.contains(reason), "{ran:?}");
        let answer = by_api(&jwk).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(reason), "{answer:?}");
    }
    assert_eq!(admin.all("/keys").await.len(), 2);
}

/// A modulus that is a power of 65537 modulo all small primes, like those made by the generator of
/// CVE-2017-15361 (ROCA).
fn jwk_of_a_broken_generator() -> Value {
    let is_prime = |number: &u32| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
    let product: BigUint = (3..=167).filter(is_prime).map(BigUint::from).product();
    let power = BigUint::from(65537_u32).modpow(&BigUint::from(1_000_003_u32), &product);
    let least = BigUint::from(1_u32) << 2047_u32;
    let mut modulus: BigUint = (least / &product + 1_u32) * &product + power;
    if !modulus.bit(0) {
        modulus += product;
    }
    json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus.to_bytes_be()), "e": "AQAB" })
}

#[tokio::test]
async fn terms_of_a_key_take_effect() {
    let (_deployment, countersign, admin) = start();
    let key = Key::ed25519();
    let (past, future) = (moment(-3600), moment(3600));
    admin.add(&json!({ "username": "alice", "scopes": ["read", "write"] })).await;
    let added = admin
        .post("/principals/alice/keys", &json!({ "key": key.public_pem(), "not_before": future }))
        .await;
    assert_eq!(added.status, 201, "{added:?}");
    let path = format!("/keys/{}", added.json()["id"]);
    assert_eq!(added.header("location"), Some(format!("/admin/v1{path}").as_str()));
    becomes(&countersign, "invalid_token", None, &key).await;

    let change = async |change: Value| {
        let changed = admin.patch(&path, &change).await;
        assert_eq!(changed.status, 200, "{change}: {changed:?}");
        changed.json()
    };
    change(json!({ "not_before": past })).await;
    becomes(&countersign, "allowed", Some("write"), &key).await;
    change(json!({ "scopes": ["read"] })).await;
    becomes(&countersign, "insufficient_scope", Some("write"), &key).await;
    becomes(&countersign, "allowed", Some("read"), &key).await;
    change(json!({ "scopes": [] })).await;
    becomes(&countersign, "insufficient_scope", Some("read"), &key).await;
    change(json!({ "scopes": null })).await;
    becomes(&countersign, "allowed", Some("write"), &key).await;
    change(json!({ "expires_at": moment(2) })).await;
    becomes(&countersign, "invalid_token", None, &key).await;
    let changed =
        change(json!({ "not_before": null, "expires_at": future, "comment": "kept" })).await;
    assert_eq!(
        (&changed["not_before"], &changed["comment"], &changed["scopes"]),
        (&Value::Null, &json!("kept"), &Value::Null)
    );
    becomes(&countersign, "allowed", None, &key).await;

    for (change, member) in [
        (json!({ "expires_at": past }), "expires_at"),
        (json!({ "not_before": future, "expires_at": future }), "expires_at"),
        (json!({ "comment": "" }), "comment"),
        (json!({ "revoked_at": past }), "revoked_at"),
    ] {
        let refused = admin.patch(&path, &change).await;
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &json!(member)),
            "{change}: {refused:?}"
        );
    }

    let revoked = admin.delete(&path).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert!(revoked.json()["revoked_at"].is_string());
    becomes(&countersign, "invalid_token", None, &key).await;
    // Revocation is final, and shown.
    assert_eq!(admin.delete(&path).await.json()["revoked_at"], revoked.json()["revoked_at"]);
    assert_eq!(admin.get(&path).await.json(), revoked.json());
    assert_eq!(admin.all("/principals/alice/keys").await, [revoked.json()]);
    assert_eq!(outcome(&countersign, None, &key).await, "invalid_token");
}

#[tokio::test]
async fn keys_of_every_format_are_taken() {
    let (deployment, _countersign, admin) = start();
    admin.add(&json!({ "username": "alice" })).await;
    let openssh = deployment.dir.path().join("key");
    deployment.done(&["key", "generate", "--out", openssh.to_str().unwrap()]);
    let openssh = std::fs::read_to_string(openssh.with_extension("pub")).unwrap();
    let jwk = Key::p384();
    for text in [openssh, Key::rsa().public_pem(), jwk.jwk("any").to_string()] {
        let added =
            admin.post("/principals/alice/keys", &json!({ "key": text, "comment": "given" })).await;
        assert_eq!((added.status, &added.json()["comment"]), (201, &json!("given")), "{added:?}");
        assert_eq!(added.json()["key"], text.trim());
    }
    assert_eq!(admin.all("/keys").await.last().unwrap()["fingerprint"], jwk.fingerprint());
    assert_eq!(
        admin.post("/principals/nobody/keys", &json!({ "key": jwk.public_pem() })).await.status,
        404
    );
}

#[tokio::test]
async fn a_trust_is_added_refreshed_and_removed() {
    let server = JwksServer::https();
    let signer = Signer::named("2026");
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let deployment = Deployment::new().administered().trusting(&server).set("jwks.cooldown", "1h");
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    admin.add(&json!({ "username": "alice" })).await;

    let added = admin
        .post("/principals/alice/jwks-trusts", &json!({ "jwks_url": server.url("/keys") }))
        .await;
    assert_eq!(added.status, 201, "{added:?}");
    let path = format!("/jwks-trusts/{}", added.json()["id"]);
    assert_eq!(added.header("location"), Some(format!("/admin/v1{path}").as_str()));
    let ask =
        async |signer: &Signer| decision(&countersign, &signer.authorization("alice"), None).await;
    eventually_async("the trust is in force", IN_FORCE_WITHIN, async || {
        (ask(&signer).await == "allowed").then_some(())
    })
    .await;

    let next = Signer::named("2027");
    server.put("/keys", Behaviour::set([signer.jwk(), next.jwk()]));
    let refresh = Admin::request("POST", &format!("{path}/refresh"));
    let refreshed = admin.send(&refresh).await;
    assert_eq!(
        (refreshed.status, &refreshed.json()["usable_keys"]),
        (200, &json!(2)),
        "{refreshed:?}"
    );
    assert_eq!(refreshed.json()["jwks_trust"]["jwks_url"], server.url("/keys"));
    assert_eq!(ask(&next).await, "allowed");

    server.put("/keys", Behaviour::text("no").with_status(500));
    let failed = admin.send(&refresh).await;
    assert_eq!(failed.status, 502, "{failed:?}");
    assert!(failed.json()["detail"].as_str().unwrap().contains("500"), "it says why: {failed:?}");
    assert_eq!(ask(&next).await, "allowed", "the good set stays");
    eventually_async("the failure is shown", IN_FORCE_WITHIN, async || {
        admin.get(&path).await.json()["last_error"].is_string().then_some(())
    })
    .await;

    assert_eq!(admin.delete(&path).await.status, 204);
    eventually_async("the trust is gone", IN_FORCE_WITHIN, async || {
        (ask(&next).await == "invalid_token").then_some(())
    })
    .await;
    for (method, path) in
        [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/refresh"))]
    {
        assert_eq!(admin.send(&Admin::request(method, &path)).await.status, 404, "{method} {path}");
    }
}

#[tokio::test]
async fn a_token_is_explained_and_not_spent() {
    let (_deployment, countersign, admin) = start();
    let key = Key::ed25519();
    admin.add(&json!({ "username": "alice", "scopes": ["read"], "keys": [{ "key": key.public_pem() }] })).await;
    let token = Claims::of("alice")
        .with("htm", "POST")
        .with("htu", "https://api.example.com/orders")
        .sign(&key);
    let asked = json!({ "token": token, "method": "POST", "url": "https://api.example.com/orders?page=2", "required_scopes": ["read"] });
    for token in [token.clone(), format!("JWT {token}"), format!("jwt {token} ")] {
        let mut asked = asked.clone();
        asked["token"] = token.into();
        let explained = admin.post("/explain", &asked).await;
        assert_eq!(explained.status, 200, "{explained:?}");
        let report = explained.json();
        assert_eq!(
            (&report["verdict"], &report["code"], &report["reason"]),
            (&json!("allow"), &Value::Null, &Value::Null),
            "{report:#}"
        );
        assert_eq!(
            (&report["identity"]["username"], &report["identity"]["scopes"]),
            (&json!("alice"), &json!(["read"]))
        );
        assert!(
            report["identity"]["key_id"].is_i64() && report["identity"]["jwks_trust_id"].is_null(),
            "{report:#}"
        );
        assert!(
            report["steps"].as_array().unwrap().iter().all(|step| step["outcome"] == "passed"),
            "{report:#}"
        );
    }
    let explain = async |changes: Value| {
        let mut asked = asked.clone();
        asked.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let report = admin.post("/explain", &asked).await.json();
        let say = |member: &str| report[member].as_str().unwrap_or("none").to_owned();
        (say("verdict"), say("code"), say("reason"))
    };
    let deny = |code: &str, reason: &str| ("deny".to_owned(), code.to_owned(), reason.to_owned());
    assert_eq!(
        explain(json!({ "method": "GET" })).await,
        deny("request_mismatch", "method_mismatch")
    );
    assert_eq!(explain(json!({ "url": null })).await, deny("request_mismatch", "uri_mismatch"));
    assert_eq!(
        explain(json!({ "required_scopes": ["write"] })).await,
        deny("insufficient_scope", "insufficient_scope")
    );
    assert_eq!(explain(json!({ "token": "x" })).await, deny("malformed_credentials", "not_a_jws"));
    assert_eq!(explain(json!({ "token": "" })).await.0, "deny");
    let nobody = Claims::of("nobody").sign(&key);
    assert_eq!(
        explain(json!({ "token": nobody })).await,
        deny("invalid_token", "unknown_principal")
    );
    let old = Claims::of("alice").with("time", now() - 100).sign(&key);
    assert_eq!(
        explain(json!({ "token": old })).await,
        deny("timestamp_outside_tolerance", "too_old")
    );

    let plain = Claims::of("alice").sign(&key);
    assert_eq!(decision(&countersign, &format!("JWT {plain}"), None).await, "allowed");
    assert_eq!(explain(json!({ "token": plain })).await, deny("replayed", "nonce_claimed"));

    for bad in [
        json!({}),
        json!({ "token": 1 }),
        json!({ "token": "x", "url": "orders" }),
        json!({ "token": "x", "method": "a b" }),
    ] {
        assert_eq!(admin.post("/explain", &bad).await.status, 400, "{bad}");
    }
}

fn start() -> (Deployment, Countersign, Admin) {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}

async fn becomes(countersign: &Countersign, expected: &str, scope: Option<&str>, key: &Key) {
    let what = format!("alice is {expected} with {scope:?}");
    eventually_async(&what, IN_FORCE_WITHIN, async || {
        (outcome(countersign, scope, key).await == expected).then_some(())
    })
    .await;
}

async fn outcome(countersign: &Countersign, scope: Option<&str>, key: &Key) -> String {
    decision(countersign, &Claims::of("alice").authorization(key), scope).await
}

/// `allowed`, or the code of the denial.
async fn decision(countersign: &Countersign, authorization: &str, scope: Option<&str>) -> String {
    let question = Question { scope: scope.map(str::to_owned), ..Question::with(authorization) };
    let verdict = Door::Http.ask(countersign, &question).await;
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}

/// The time this many seconds from now, as in RFC 3339.
fn moment(seconds: i64) -> String {
    (OffsetDateTime::now_utc() + time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}
