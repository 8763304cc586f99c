//! The five endpoints of jwthenticator 1.6.3 and its own server compared: the same calls, in every
//! form that clients send.

use serde_json::{Value, json};

use crate::harness::http::{Answer, Request};
use crate::harness::{Countersign, Deployment, JwthenticatorServer, LegacyDatabase};

const KEY: &str = "a key of its own";
const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";

/// Content types of a body. Its server ignores them.
const TYPES: [Option<&str>; 10] = [
    None,
    Some("application/json"),
    Some("application/json; charset=utf-8"),
    Some("APPLICATION/JSON"),
    // `curl -d`
    Some("application/x-www-form-urlencoded"),
    Some("text/plain"),
    Some("text/plain;charset=UTF-8"),
    Some("application/vnd.api+json"),
    Some("application/octet-stream"),
    Some("multipart/form-data; boundary=b"),
];

#[tokio::test]
async fn every_call_is_answered_as_its_own_server_does() {
    let database = LegacyDatabase::sqlite();
    let theirs = Side::Theirs(database.jwthenticator_server());
    let deployment = Deployment::new()
        .set("admin.open_key_registration", "true")
        .set("issuer.failures_per_peer", "0")
        .set("issuer.failures_per_identifier", "0");
    let ours = Side::Ours(deployment.serve());
    let mut calls = 0;
    let mut differences = Vec::new();
    let mut compare = |what: String, theirs: &Answer, ours: &Answer| {
        calls += 1;
        if told(theirs) != told(ours) {
            differences.push(format!("{what}: {:?}, and here {:?}", told(theirs), told(ours)));
        }
    };
    for side in [&theirs, &ours] {
        assert_eq!(
            side.post("/register_key", &json!({"key": KEY, "identifier": IDENTIFIER})).await.status,
            201
        );
    }
    let (at_theirs, at_ours) = (Bodies::of(&theirs).await, Bodies::of(&ours).await);
    for ((path, theirs_of, body), (_, ours_of, _)) in at_theirs.all().into_iter().zip(at_ours.all())
    {
        for media_type in TYPES {
            let request = |body: &str| match media_type {
                Some(media_type) => {
                    Request::new("POST", path).header("Content-Type", media_type).body(body)
                }
                None => Request::new("POST", path).body(body),
            };
            let (their_answer, our_answer) =
                (theirs.send(request(&theirs_of)).await, ours.send(request(&ours_of)).await);
            compare(format!("POST {path} {media_type:?} {body}"), &their_answer, &our_answer);
        }
    }
    for path in [
        "/authenticate",
        "/refresh",
        "/validate",
        "/register_key",
        "/is_key_registered",
        "/",
        "/health",
        "/jwks",
    ] {
        for method in ["HEAD", "GET", "PUT", "DELETE", "PATCH"] {
            let (their_answer, our_answer) = (
                theirs.send(Request::new(method, path)).await,
                ours.send(Request::new(method, path)).await,
            );
            if method != "GET" || their_answer.status == 405 {
                assert_eq!(
                    their_answer.status, our_answer.status,
                    "{method} {path}: {our_answer:?}"
                );
                calls += 1;
            }
        }
    }
    let validate = async |side: &Side, bodies: &Bodies, method: &str| {
        side.send(
            Request::new(method, "/validate_request")
                .authorization(&format!("Bearer {}", bodies.jwt)),
        )
        .await
        .status
    };
    for method in ["GET", "HEAD"] {
        assert_eq!(validate(&theirs, &at_theirs, method).await, 200, "{method}");
        assert_eq!(validate(&ours, &at_ours, method).await, 200, "{method}");
    }
    assert!(
        differences.is_empty(),
        "{} of {calls} calls differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(calls > 300, "{calls}");
}

/// Its own pages may register keys, those of other origins may not: a request that a browser sends
/// without a preflight is always refused.
#[tokio::test]
async fn a_page_elsewhere_registers_no_key() {
    let deployment = Deployment::new().set("admin.open_key_registration", "true");
    let ours = Side::Ours(deployment.serve());
    let body = json!({"key": KEY, "identifier": IDENTIFIER}).to_string();
    for media_type in TYPES {
        for header in [
            ("Origin", "https://elsewhere.example"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let request = Request::new("POST", "/register_key").header(header.0, header.1);
            let request = if let Some(media_type) = media_type {
                request.header("Content-Type", media_type)
            } else {
                request
            };
            let answer = ours.send(request.body(body.as_str())).await;
            assert_eq!(answer.status, 403, "{media_type:?}, {header:?}: {answer:?}");
        }
    }
    assert_eq!(
        ours.post("/is_key_registered", &json!({"key": KEY})).await.json(),
        json!({"result": false})
    );
}

/// Status, members, and the values of booleans. It writes null for a missing value, and its clients
/// treat an absent member the same.
fn told(answer: &Answer) -> (u16, Vec<String>, Value) {
    if answer.status >= 300 {
        return (answer.status, Vec::new(), Value::Null);
    }
    let body = answer.json();
    let members = body.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
    let mut members: Vec<String> = members.map(|(name, _)| name.clone()).collect();
    members.sort();
    (answer.status, members, body["result"].clone())
}

enum Side {
    Theirs(JwthenticatorServer),
    Ours(Countersign),
}

impl Side {
    /// The original has one server; here each API has its listener.
    async fn send(&self, request: Request) -> Answer {
        match self {
            Self::Theirs(server) => request.send(server.address).await,
            Self::Ours(countersign)
                if request.target().ends_with("key")
                    || request.target().ends_with("registered") =>
            {
                request.send(countersign.admin).await
            }
            Self::Ours(countersign) => request.send(countersign.http).await,
        }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(
            Request::new("POST", path)
                .header("Content-Type", "application/json")
                .body(body.to_string()),
        )
        .await
    }
}

/// A request to one of them, with the tokens that it issued.
struct Bodies {
    jwt: String,
    refresh_token: String,
}

impl Bodies {
    async fn of(side: &Side) -> Self {
        let authenticated =
            side.post("/authenticate", &json!({"key": KEY, "identifier": IDENTIFIER})).await.json();
        let text = |member: &str| authenticated[member].as_str().unwrap().to_owned();
        Self { jwt: text("jwt"), refresh_token: text("refresh_token") }
    }

    /// Each with its endpoint, its text, and its name in failures.
    fn all(&self) -> Vec<(&'static str, String, String)> {
        let unknown = "x".repeat(128);
        let mut all = Vec::new();
        for (path, good, others) in [
            (
                "/authenticate",
                json!({"key": KEY, "identifier": IDENTIFIER}),
                vec![
                    json!({"key": "another", "identifier": IDENTIFIER}),
                    json!({"key": KEY}),
                    json!({"key": 1, "identifier": "x"}),
                ],
            ),
            (
                "/refresh",
                json!({"refresh_token": self.refresh_token, "identifier": IDENTIFIER}),
                vec![
                    json!({"refresh_token": unknown, "identifier": IDENTIFIER}),
                    json!({"identifier": IDENTIFIER}),
                ],
            ),
            (
                "/validate",
                json!({"jwt": self.jwt}),
                vec![json!({"jwt": self.jwt[2..]}), json!({"jwt": null}), json!({})],
            ),
            (
                "/register_key",
                json!({"key": KEY, "identifier": IDENTIFIER}),
                vec![
                    json!({"key": KEY}),
                    json!({"key": KEY, "identifier": "no UUID"}),
                    json!({"identifier": IDENTIFIER}),
                ],
            ),
            (
                "/is_key_registered",
                json!({"key": KEY}),
                vec![json!({"key": "another"}), json!({"key": null}), json!({})],
            ),
        ] {
            let mut extra = good.clone();
            extra["extra"] = json!("extra");
            let shapes = [json!([]), json!("text"), json!(null), json!(1), json!([good.clone()])];
            let texts =
                [good, extra].into_iter().chain(others).chain(shapes).map(|json| json.to_string());
            let broken = ["", " ", "{", "key=k&identifier=x", "{\"key\": }"].map(str::to_owned);
            for (number, text) in texts.chain(broken).enumerate() {
                // The same text for both, except for the tokens.
                let name = if number == 0 {
                    "good".to_owned()
                } else {
                    format!("{number}: {}", text.chars().take(60).collect::<String>())
                };
                all.push((path, text, name));
            }
        }
        all
    }
}
