//! Tokens as real clients send them: from old libraries, with what newer ones add, and with the
//! most common mistakes.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    Authority, Claims, Countersign, Deployment, Door, Echo, Gateway, Key, Question, Ran, Seen,
    TlsFront, TokenApi, decision_request, eventually, free_port, now, peer, program, repository,
};

/// Signs this header and payload exactly as given.
fn sealed(key: &Key, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(key.usual_algorithm(), signed.as_bytes()));
    format!("{signed}.{signature}")
}

async fn code(countersign: &Countersign, token: &str) -> Option<String> {
    let verdict = Door::Http.ask(countersign, &Question::with(format!("JWT {token}"))).await;
    if verdict.allowed() { None } else { Some(verdict.code().unwrap().to_owned()) }
}

async fn passes_once(countersign: &Countersign, token: &str, case: &str) {
    assert_eq!(code(countersign, token).await, None, "{case}");
    assert_eq!(code(countersign, token).await.as_deref(), Some("replayed"), "{case}");
}

#[tokio::test]
async fn what_real_clients_send_passes_once() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let t = now();
    for payload in [
        format!(r#"{{"username":"alice","time":{t}.337586,"nonce":0.9845574553073804}}"#),
        format!(r#"{{"username":"alice","time":{t}.0,"nonce":123456789012345678901234567890}}"#),
        // One digit more or less is another nonce; so is the same number written differently.
        format!(r#"{{"username":"alice","time":{t},"nonce":123456789012345678901234567891}}"#),
        format!(r#"{{"username":"alice","time":{t},"nonce":0.98455745530738040}}"#),
        format!(r#"{{"username":"alice","time":{}e-3,"nonce":1}}"#, t * 1000),
        format!(r#"{{"username":"alice","time":{t},"nonce":"n","iat":{}}}"#, t - 1),
        format!(
            r#"{{"username":"alice","time":{t},"nonce":"o","iat":{},"iss":"https://client.example"}}"#,
            t - 1
        ),
        format!(r#"{{"username":"alice","time":{t},"nonce":"p","iat":{}.5,"jti":"x"}}"#, t - 1),
        format!(r#"{{"username":"alice","time":{t},"nonce":"q","sub":"somebody"}}"#),
    ] {
        passes_once(
            &countersign,
            &sealed(&key, r#"{"alg":"EdDSA","typ":"JWT"}"#, &payload),
            &payload,
        )
        .await;
    }
    let payload =
        |nonce: &str| json!({"username": "alice", "time": now(), "nonce": nonce}).to_string();
    for (nonce, header) in [
        ("h", format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "0f".repeat(32))),
        ("i", r#"{"alg":"Ed25519"}"#.to_owned()),
    ] {
        passes_once(&countersign, &sealed(&key, &header, &payload(nonce)), &header).await;
    }
    for header in
        [r#"["EdDSA"]"#, r#"{"alg":"EdDSA","crit":null}"#, r#"{"alg":"EdDSA","b64":false}"#]
    {
        let refused = code(&countersign, &sealed(&key, header, &payload("j"))).await;
        assert_eq!(refused.as_deref(), Some("malformed_credentials"), "{header}");
    }
    // The window applies to the exact value: a second beyond it is outside in every notation.
    for time in [
        format!("{}.5", t - 22),
        format!("{}e-3", (t - 21) * 1000 - 500),
        format!("{}.25e0", t + 60),
    ] {
        let payload = format!(r#"{{"username":"alice","time":{time},"nonce":"k"}}"#);
        let refused = code(&countersign, &sealed(&key, r#"{"alg":"EdDSA"}"#, &payload)).await;
        assert_eq!(refused.as_deref(), Some("timestamp_outside_tolerance"), "{payload}");
    }
}

/// The name in `username` counts, even if `sub` names another principal.
#[tokio::test]
async fn another_identity_in_sub_wins_nothing() {
    let (deployment, alice, bob) = (Deployment::new(), Key::ed25519(), Key::ed25519());
    deployment.enrol("alice", &alice);
    deployment.enrol("bob", &bob);
    let countersign = deployment.serve();
    for (claim, key, allowed) in
        [("sub", &alice, true), ("iss", &alice, true), ("sub", &bob, false), ("iss", &bob, false)]
    {
        let claims = Claims::of("alice").with(claim, "bob").authorization(key);
        let verdict = Door::Http.ask(&countersign, &Question::with(claims)).await;
        assert_eq!(verdict.allowed(), allowed, "{claim}: {verdict:?}");
        if allowed {
            assert_eq!(verdict.header("x-auth-username"), Some("alice"));
        }
    }
}

/// Unchanged clients of `asymmetric_jwt_auth` before 1.0, of 1.0 and of the current version,
/// through nginx.
#[tokio::test]
async fn clients_of_every_age_pass_through_nginx() {
    let (deployment, key) = (Deployment::new(), Key::rsa());
    deployment.enrol("alice", &key);
    let (countersign, echo) = (deployment.serve(), Echo::start());
    let running = Gateway::Nginx.start(&countersign, &echo).await;
    let file = deployment.file("private.pem", &key.private_pem());
    for (venv, script) in [
        ("asymmetric_jwt_auth_0.1.7", "old_client.py"),
        ("asymmetric_jwt_auth_0.2.4", "old_client.py"),
        ("asymmetric_jwt_auth_0.5.2", "old_client.py"),
        ("asymmetric_jwt_auth_1.0.3", "asymmetric.py"),
        ("asymmetric_jwt_auth", "asymmetric.py"),
    ] {
        let mut command = Command::new(peer(&format!("{venv}/bin/python")));
        command.arg(repository().join("tests/it/peers").join(script));
        if script == "asymmetric.py" {
            command.arg("sign");
        }
        let output = command.arg("alice").arg(&file).arg("3").output().unwrap();
        assert!(output.status.success(), "{venv}: {}", String::from_utf8_lossy(&output.stderr));
        let headers = String::from_utf8(output.stdout).unwrap();
        assert_eq!(headers.lines().count(), 3, "{venv}: {headers}");
        for header in headers.lines() {
            let request = Request::get("/").authorization(header);
            let seen = Seen::by(&running.send(&request).await);
            assert_eq!(seen.values("x-auth-username"), ["alice"], "{venv}: {header}");
            assert_eq!(running.send(&request).await.status, 401, "{venv}: a replay");
        }
    }
}

#[tokio::test]
async fn faults_of_signatures_are_named_where_they_can_be_told() {
    let (deployment, p256, rsa) = (Deployment::new(), Key::p256(), Key::rsa());
    deployment.enrol("alice", &p256);
    deployment.add_key("alice", &rsa);
    deployment.enrol("disabled", &p256);
    deployment.done(&["principal", "disable", "disabled"]);
    let countersign = deployment.serve();

    // As Java, Go and OpenSSL sign by default.
    let in_asn1 = |username: &str| {
        Claims::of(username).with_header("alg", "ES256").sealed(|signed| {
            let pkcs8 = pem::parse(p256.private_pem()).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.contents())
                .unwrap();
            pair.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec()
        })
    };
    let explained = |token: &str| explain(&deployment, token);
    let token = in_asn1("alice");
    assert!(
        explained(&token)["key"].contains("ES256 has 64: it is ASN.1 DER"),
        "{:?}",
        explained(&token)
    );
    assert_eq!(code(&countersign, &token).await.as_deref(), Some("invalid_token"));
    logs(&countersign, "ES256 has 64: it is ASN.1 DER");

    // The longest salt that fits, as OpenSSL uses by default.
    let file = deployment.file("rsa.pem", &rsa.private_pem());
    let salted = Claims::of("alice").with_header("alg", "PS256").sealed(|signed| {
        let message = deployment.dir.path().join("signed");
        std::fs::write(&message, signed).unwrap();
        let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:max"];
        let output = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&file)
            .args(options)
            .arg(&message)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    });
    let seen = explained(&salted);
    assert!(seen["key"].contains("with a salt of 222 bytes, and PS256 wants"), "{seen:?}");
    assert_eq!(code(&countersign, &salted).await.as_deref(), Some("invalid_token"));
    logs(&countersign, "the salt of PS256");

    let honest = Claims::of("alice").sign(&p256);
    assert!(explained(&format!("{honest}="))["token"].contains("its signature ends with `=`"));
    let marked = sealed(&p256, r#"{"alg":"ES256"}"#, "\u{feff}{}");
    assert!(explained(&marked)["token"].contains("byte order mark"));
    assert_eq!(code(&countersign, &marked).await.as_deref(), Some("malformed_credentials"));
    logs(&countersign, "byte order mark");

    let of_disabled = explained(&Claims::of("disabled").sign(&p256));
    assert!(of_disabled["key"].contains("not tried, the principal is disabled"), "{of_disabled:?}");
    assert!(!of_disabled["key"].contains("verifies"), "{of_disabled:?}");
}

/// The log is written after the decisions.
fn logs(countersign: &Countersign, text: &str) {
    eventually(&format!("{text:?} in the log"), Duration::from_secs(20), || {
        countersign.log().contains(text).then_some(())
    });
}

/// Of ten keys eight are tried; about the others the explanation says only that they are not tried.
#[tokio::test]
async fn a_key_that_is_not_tried_does_not_verify() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let keys: Vec<Key> = (0..10).map(|_| Key::ed25519()).collect();
    for key in &keys {
        deployment.add_key("alice", key);
    }
    for (index, key) in keys.iter().enumerate() {
        let token = Claims::of("alice").sign(key);
        let seen = explain(&deployment, &token)["key"].clone();
        let verifies = seen.split("; ").filter(|finding| finding.ends_with(": verifies")).count();
        assert_eq!(verifies, usize::from(index >= 2), "the newest eight are tried: {seen}");
        let not_tried = seen.matches("not tried").count();
        assert_eq!(not_tried, if index >= 2 { index } else { 2 }, "{index}: {seen}");
    }
}

/// Each step and its observed result.
fn explain(deployment: &Deployment, token: &str) -> std::collections::HashMap<String, String> {
    let report: Value =
        serde_json::from_str(&deployment.done(&["explain", token, "--output", "json"])).unwrap();
    let text = |step: &Value, member: &str| step[member].as_str().unwrap().to_owned();
    report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (text(step, "step"), text(step, "seen")))
        .collect()
}

#[tokio::test]
async fn the_token_endpoint_says_what_is_wrong_with_an_assertion() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let api = TokenApi::of(&countersign);
    let good = || Claims::registered("alice").with("aud", "http://localhost:8080");
    let ask = |assertion: String| {
        let parameters = [
            ("grant_type", "client_credentials".to_owned()),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
            ),
            ("client_id", "alice".to_owned()),
            ("client_assertion", assertion),
        ];
        let api = &api;
        async move {
            let parameters: Vec<(&str, &str)> =
                parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
            api.form("/oauth2/token", &parameters).await
        }
    };
    for (assertion, reason) in [
        (good().with_header("alg", "ES512").sign(&key), "unsupported algorithm"),
        (good().with("jti", Value::Null).sign(&key), "no claim gives a nonce"),
        (good().with("iat", Value::Null).sign(&key), "no claim gives the time"),
        (format!("{}=", good().sign(&key)), "its signature ends with `=`"),
    ] {
        let answer = ask(assertion).await;
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]), (401, &json!("invalid_client")), "{body}");
        let description = body["error_description"].as_str().unwrap();
        assert!(
            description.contains(reason) && !description.contains("client_id"),
            "{description}"
        );
    }
    assert_eq!(ask(good().sign(&key)).await.status, 200, "or the rest proves nothing");
    assert_eq!(ask(good().with_header("alg", "Ed25519").sign(&key)).await.status, 200);
}

/// Clients choose the algorithm by its name in the metadata; a setting chooses the name that we
/// use.
#[tokio::test]
async fn ed25519_has_two_names() {
    for (name, expected) in [(None, "EdDSA"), (Some("Ed25519"), "Ed25519")] {
        let mut deployment = Deployment::new().set("issuer.algorithm", name.unwrap_or("EdDSA"));
        if let Some(name) = name {
            deployment = deployment.set("issuer.ed25519_name", name);
        }
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        let metadata = Request::get("/.well-known/oauth-authorization-server")
            .send(countersign.http)
            .await
            .json();
        let names =
            metadata["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap();
        assert!(names.contains(&json!("EdDSA")) && names.contains(&json!("Ed25519")), "{names:?}");
        let jwks = Request::get("/jwks").send(countersign.http).await.json();
        assert_eq!(jwks["keys"][0]["alg"], expected, "{jwks}");
        let api = TokenApi::of(&countersign);
        let assertion = Claims::registered("alice")
            .with("aud", "http://localhost:8080")
            .with_header("alg", "Ed25519")
            .sign(&key);
        let parameters = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ];
        let answer = api.form("/oauth2/token", &parameters).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&header).unwrap()["alg"], expected);
        assert_eq!(countersign.decide(&format!("Bearer {token}")).await.status, 200);
    }
}

/// The clients know only the issuer's URL: the rest is in the metadata (RFC 8414). They sign with
/// Ed25519 under that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oauth_clients_find_everything_by_the_issuer() {
    for prefix in ["", "/auth"] {
        let key = Key::ed25519();
        let (deployment, http) =
            (Deployment::new(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let authority = Authority::new(&deployment.dir.path().join("authority"));
        authority.certify("server");
        let front = TlsFront::start(&authority, http).await;
        let issuer = format!("{}{prefix}", front.url());
        let deployment = deployment.set("issuer.url", &issuer).set("server.url_prefix", prefix);
        deployment.done(&["principal", "add", "alice", "--scope", "read", "--scope", "write"]);
        deployment.add_key("alice", &key);
        let countersign = Countersign::start_at(&deployment, http);
        for library in ["oauth4webapi", "openid-client"] {
            let mut command = Command::new(program("node"));
            command
                .arg(repository().join("tests/it/signers/oauth.mjs"))
                .args([library, &issuer, "alice"]);
            command
                .env("OAUTH_CLIENTS", peer("oauth_clients"))
                .env("NODE_EXTRA_CA_CERTS", authority.file("ca", "pem"));
            let ran = tokio::task::block_in_place(|| {
                Ran::reading(&mut command, key.private_pem().as_bytes())
            });
            assert_eq!(ran.code, 0, "{library}: {ran:?}");
            let answer = ran.json();
            assert_eq!(
                (&answer["scope"], &answer["expires_in"]),
                (&json!("read"), &json!(1800)),
                "{library}: {answer}"
            );
            let token = answer["access_token"].as_str().unwrap();
            let allow = decision_request()
                .below(prefix)
                .authorization(&format!("Bearer {token}"))
                .send(countersign.http)
                .await;
            let seen = ["x-auth-username", "x-auth-method", "x-auth-scopes"]
                .map(|name| allow.header(name));
            assert_eq!(
                (allow.status, seen),
                (200, [Some("alice"), Some("access_token"), Some("read")]),
                "{library}: {allow:?}"
            );
        }
    }
}
