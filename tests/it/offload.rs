//! Access tokens that others verify themselves, with the keys that we publish.

use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{Countersign, Deployment, Echo, Gateway, PyJwt, Seen};

const ISSUER: &str = "http://localhost:8080";
const AUDIENCE: &str = "orders";
const ALGORITHMS: [&str; 5] = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];

#[tokio::test]
async fn pyjwt_verifies_our_tokens_from_our_key_set() {
    for algorithm in ALGORITHMS {
        let deployment = deployment(algorithm);
        let countersign = deployment.serve();
        let token = deployment.tokens("alice").access;

        for path in ["/jwks", "/.well-known/jwks.json"] {
            let claims = PyJwt::new().verified(
                &format!("http://{}{path}", countersign.http),
                ISSUER,
                AUDIENCE,
                &token,
            );

            assert_eq!(claims["username"], "alice", "{algorithm}");
            assert_eq!(claims["aud"], json!([AUDIENCE]));
            assert_eq!((&claims["ttype"], &claims["scope"]), (&json!("T"), &json!("read write")));
            assert_eq!((&claims["given_name"], &claims["email"]), (&json!("Alice"), &Value::Null));
        }
    }
}

/// Envoy's own filter accepts what we sign, and nothing else, and requests only our keys.
#[tokio::test]
async fn envoy_verifies_our_tokens_from_our_key_set() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let deployment = deployment(algorithm);
        let (countersign, echo) = (deployment.serve(), Echo::start());
        let gateway = Gateway::EnvoyJwtAuthn.start(&countersign, &echo).await;
        let token = deployment.tokens("alice").access;
        let with = |token: &str| {
            Request::get("/orders")
                .authorization(&format!("Bearer {token}"))
                .header("X-Auth-Username", "root")
                .header("X-Auth-Key-Id", "1")
        };

        for _ in 0..2 {
            let seen = Seen::by(&gateway.send(&with(&token)).await);
            assert_eq!(seen.values("x-auth-username"), ["alice"], "{algorithm}");
            assert_eq!(seen.values("x-auth-scopes"), ["read write"]);
            assert!(seen.values("x-auth-key-id").is_empty(), "nobody sets it here");
        }
        let for_others = deployment.tokens_with("alice", &["--audience", "invoices"]).access;
        let tampered = format!(
            "{}{}",
            &token[..token.len() - 8],
            if token.ends_with("AAAAAAAA") { "BBBBBBBB" } else { "AAAAAAAA" }
        );
        assert_eq!(gateway.send(&with(&tampered)).await.status, 401, "{algorithm}");
        assert_eq!(
            gateway.send(&with(&for_others)).await.status,
            403,
            "Envoy tells another audience apart"
        );
        assert_eq!(gateway.send(&Request::get("/orders")).await.status, 401);
        assert_eq!(decisions(&countersign).await, 0, "no request was decided here");
    }
}

/// Alice, with scopes to read and to write.
fn deployment(algorithm: &str) -> Deployment {
    let deployment =
        Deployment::new().set("issuer.algorithm", algorithm).set("issuer.audience", AUDIENCE);
    deployment.done(&[
        "principal",
        "add",
        "alice",
        "--scope",
        "read write",
        "--given-name",
        "Alice",
    ]);
    deployment
}

async fn decisions(countersign: &Countersign) -> u64 {
    let metrics = Request::get("/metrics").send(countersign.admin).await;
    let text = String::from_utf8(metrics.body).unwrap();
    let counts = text.lines().filter(|line| line.starts_with("countersign_decisions_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
