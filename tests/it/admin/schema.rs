//! The `OpenAPI` description of the admin API is true: schemathesis finds no difference.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, Admin, Deployment, Key, Ran, peer};

/// The checks that schemathesis runs.
const CHECKS: [&str; 12] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
];

/// A key set that cannot be fetched is not a fault of the API; nor is a key or a token that still
/// exists after it is revoked.
const SETTINGS: &str = r#"
[[operations]]
include-operation-id = "refresh_jwks_trust"
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "502"]

[[operations]]
include-operation-id-regex = ".*_(key|token)$"
[operations.checks.use_after_free]
enabled = false
"#;

#[tokio::test]
async fn schemathesis_finds_nothing() {
    // Schemathesis tries invalid tokens at every operation.
    let deployment = Deployment::new()
        .administered()
        .set("admin.failures_per_peer", "0")
        .set("jwks.timeout", "1s");
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    for username in ["alice", "bob", "Zoë 100%"] {
        let keys = [
            json!({ "key": Key::ed25519().public_pem() }),
            json!({ "key": Key::p256().public_pem(), "scopes": ["read"] }),
        ];
        admin
            .add(&json!({ "username": username, "scopes": ["read"], "keys": keys, "jwks_trusts": ["https://localhost/keys"] }))
            .await;
    }
    deployment.file("schemathesis.toml", SETTINGS);

    // Takes part of a minute with cargo-nextest.
    let ran = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(peer("schemathesis/bin/schemathesis"));
        command
            .current_dir(deployment.dir.path())
            .arg("run")
            .arg(format!("http://{}/admin/v1/openapi.json", countersign.admin));
        command.args([
            "--header",
            &format!("Authorization: Bearer {ADMIN_TOKEN}"),
            "--checks",
            &CHECKS.join(","),
        ]);
        command.args([
            "--max-examples",
            "15",
            "--generation-deterministic",
            "--continue-on-failure",
            "--no-color",
        ]);
        (Ran::of(&mut command), deployment, countersign)
    });
    let (ran, _deployment, _countersign) = ran.await.unwrap();

    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("Tested: 31"), "{}", ran.stdout);
}

/// Examples in the description can be copied and sent.
#[tokio::test]
async fn examples_work() {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    let description = admin.get("/openapi.json").await.json();
    assert!(
        description["openapi"].as_str().unwrap().starts_with("3.1."),
        "{}",
        description["openapi"]
    );
    let example = |schema: &str| -> Value {
        let example = description["components"]["schemas"][schema]["example"].clone();
        assert!(example.is_object(), "no example of {schema}");
        example
    };
    admin.add(&json!({ "username": "alice" })).await;
    for (method, path, schema, status) in [
        ("POST", "/principals", "NewPrincipal", 201),
        ("POST", "/principals/alice/keys", "NewKey", 201),
        ("POST", "/principals/alice/jwks-trusts", "NewJwksTrust", 201),
        ("POST", "/principals/alice/api-keys", "NewApiKey", 201),
        ("POST", "/principals/alice/tokens", "NewToken", 201),
        ("PATCH", "/principals/alice", "PrincipalChange", 200),
        ("PATCH", "/keys/1", "KeyChange", 200),
        ("POST", "/explain", "ExplainRequest", 200),
        ("PATCH", "/log", "LoggingChange", 200),
    ] {
        let request = Admin::request(method, path)
            .header("Content-Type", "application/json")
            .body(example(schema).to_string());
        let answer = admin.send(&request).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
}

/// Every request that adds or changes something rejects unknown members, and the description says
/// so.
#[tokio::test]
async fn the_description_is_complete() {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let description = Admin::of(&countersign).get("/openapi.json").await.json();
    let mut ids = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("401"), "{what}");
            for (status, response) in
                responses.iter().filter(|(status, _)| status.as_str() >= "400")
            {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{what} {status}");
            }
            for media in operation["requestBody"]["content"]
                .as_object()
                .into_iter()
                .flat_map(serde_json::Map::values)
            {
                let name = media["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
                assert_eq!(
                    description["components"]["schemas"][name]["additionalProperties"], false,
                    "{what}: {name}"
                );
            }
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((count, ids.len()), (32, 32), "each has an id of its own");
    assert_eq!(description["security"], json!([{ "admin_token": [] }]));
    assert_eq!(description["components"]["securitySchemes"]["admin_token"]["scheme"], "bearer");
}
