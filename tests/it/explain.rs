//! `countersign explain`: what a decision would be, step by step, without making it.

use serde_json::{Value, json};

use crate::harness::{
    Behaviour, Claims, Deployment, Door, JwksServer, Key, Question, Ran, Redis, Signer, free_port,
    member, now, pass_the_fence, variable,
};

/// The steps, in the order of a decision.
const STEPS: [&str; 9] = [
    "credentials",
    "token",
    "time",
    "required_claims",
    "principal",
    "key",
    "binding",
    "scopes",
    "nonce",
];

/// What an explanation must contain: the verdict, the code that a client would receive, the exact
/// reason, and the step that fails.
type Expected = (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>);

const ALLOW: Expected = ("allow", None, None, None);

const fn deny(code: &'static str, reason: &'static str, step: &'static str) -> Expected {
    ("deny", Some(code), Some(reason), Some(step))
}

#[tokio::test]
async fn every_verdict_has_its_reason_and_its_step() {
    let world = World::start();
    let (alice, stranger) = (|| Claims::of("alice"), Key::ed25519());
    let sign = |claims: Claims| claims.sign(&world.key);
    let cases: Vec<(&str, String, &[&str], Expected)> = vec![
        ("good", sign(alice()), &[], ALLOW),
        ("good, of the other profile", sign(Claims::registered("alice")), &[], ALLOW),
        (
            "good, naming its key",
            sign(alice().with_header("kid", world.key.fingerprint())),
            &[],
            ALLOW,
        ),
        ("good, with its scheme", alice().authorization(&world.key), &[], ALLOW),
        ("good, with the scheme in another case", format!("jwt  {}", sign(alice())), &[], ALLOW),
        ("good, with a scope that it holds", sign(alice()), &["--scope", "orders:read"], ALLOW),
        (
            "too old",
            sign(alice().with("time", now() - 60)),
            &[],
            deny("timestamp_outside_tolerance", "too_old", "time"),
        ),
        (
            "too new",
            sign(alice().with("time", now() + 60)),
            &[],
            deny("timestamp_outside_tolerance", "too_new", "time"),
        ),
        ("expired", sign(alice().with("exp", now() - 1)), &[], deny("expired", "expired", "time")),
        (
            "not yet valid",
            sign(alice().with("nbf", now() + 15)),
            &[],
            deny("timestamp_outside_tolerance", "not_yet_valid", "time"),
        ),
        (
            "a stranger's signature",
            alice().sign(&stranger),
            &[],
            deny("invalid_token", "bad_signature", "key"),
        ),
        (
            "a key of another kind",
            alice().sign(&Key::p256()),
            &[],
            deny("invalid_token", "no_matching_key", "key"),
        ),
        (
            "a kid that alice has not, and a stranger's signature",
            alice().with_header("kid", stranger.fingerprint()).sign(&stranger),
            &[],
            deny("invalid_token", "bad_signature", "key"),
        ),
        (
            "an unknown user",
            sign(Claims::of("nobody")),
            &[],
            deny("invalid_token", "unknown_principal", "principal"),
        ),
        (
            "a disabled user",
            sign(Claims::of("disabled")),
            &[],
            deny("invalid_token", "disabled_principal", "principal"),
        ),
        (
            "a revoked key",
            sign(Claims::of("revoked")),
            &[],
            deny("invalid_token", "no_matching_key", "key"),
        ),
        (
            "a key before its time",
            sign(Claims::of("early")),
            &[],
            deny("invalid_token", "no_matching_key", "key"),
        ),
        ("a matching method", sign(alice().with("htm", "POST")), &["--method", "POST"], ALLOW),
        (
            "another method",
            sign(alice().with("htm", "POST")),
            &["--method", "GET"],
            deny("request_mismatch", "method_mismatch", "binding"),
        ),
        (
            "a method not told",
            sign(alice().with("htm", "POST")),
            &[],
            deny("request_mismatch", "method_mismatch", "binding"),
        ),
        (
            "a matching URL",
            sign(alice().with("htu", "https://api.example:8443/orders")),
            &["--url", "https://api.example:8443/orders?page=2"],
            ALLOW,
        ),
        (
            "another URL",
            sign(alice().with("htu", "https://api.example/orders")),
            &["--url", "https://api.example/users"],
            deny("request_mismatch", "uri_mismatch", "binding"),
        ),
        (
            "another service",
            sign(alice().with("aud", "elsewhere")),
            &[],
            deny("request_mismatch", "audience_mismatch", "binding"),
        ),
        (
            "a missing scope",
            sign(alice()),
            &["--scope", "orders:read", "--scope", "admin"],
            deny("insufficient_scope", "insufficient_scope", "scopes"),
        ),
        (
            "two faults, the first counts",
            Claims::of("nobody").with("time", 0).sign(&stranger),
            &[],
            deny("timestamp_outside_tolerance", "too_old", "time"),
        ),
        ("garbage", "hello".to_owned(), &[], deny("malformed_credentials", "not_a_jws", "token")),
        (
            "garbage with its scheme",
            "JWT hello".to_owned(),
            &[],
            deny("malformed_credentials", "not_a_jws", "token"),
        ),
        (
            "a lone scheme",
            "JWT".to_owned(),
            &[],
            deny("malformed_credentials", "not_a_jws", "token"),
        ),
        (
            "nothing",
            String::new(),
            &[],
            deny("malformed_credentials", "wrong_scheme", "credentials"),
        ),
        (
            "another scheme",
            "Basic YWxpY2U6".to_owned(),
            &[],
            deny("malformed_credentials", "wrong_scheme", "credentials"),
        ),
        (
            "two tokens",
            format!("{}, {}", alice().authorization(&world.key), sign(alice())),
            &[],
            deny("malformed_credentials", "several_credentials", "token"),
        ),
        (
            "too large",
            sign(alice().with("padding", "x".repeat(8 * 1024))),
            &[],
            deny("malformed_credentials", "token_too_large", "token"),
        ),
        (
            "no nonce",
            sign(alice().with("nonce", Value::Null)),
            &[],
            deny("malformed_credentials", "claim_missing", "token"),
        ),
        (
            "a mistyped claim",
            sign(alice().with("time", "now")),
            &[],
            deny("malformed_credentials", "claims_mistyped", "token"),
        ),
        (
            "two names, of which the own profile's counts",
            sign(alice().with("iss", "bob")),
            &[],
            ALLOW,
        ),
        (
            "a kid of 64 digits that is no fingerprint of a key",
            sign(alice().with_header("kid", "ab".repeat(32))),
            &[],
            ALLOW,
        ),
        (
            "two times",
            sign(alice().with("iat", now() - 10)),
            &[],
            deny("malformed_credentials", "claims_contradictory", "token"),
        ),
        (
            "alg none",
            sign(alice().with_header("alg", "none")),
            &[],
            deny("unsupported_algorithm", "algorithm_not_allowed", "token"),
        ),
    ];
    for (case, token, options, expected) in cases {
        let report = world.explain(&token, options);
        check(case, &report, expected);
        world.the_table_says_the_same(case, &token, options, &report);
    }
}

/// Whatever the result of a step, later ones are checked as far as possible.
#[tokio::test]
async fn steps_tell_what_was_seen_and_expected() {
    let world = World::start();
    let fingerprint = world.key.fingerprint();

    let good = world.explain(&Claims::of("alice").sign(&world.key), &["--scope", "orders:read"]);
    says(&good, "token", &["EdDSA", "kid none"], &["8192"]);
    says(&good, "time", &["s ago"], &["20s"]);
    says(&good, "principal", &["alice", "enabled", "1 unrevoked keys"], &["enabled"]);
    says(&good, "key", &[&fingerprint, "verifies"], &["signature"]);
    says(&good, "scopes", &["orders:read orders:write"], &["orders:read"]);
    says(&good, "nonce", &["not used yet"], &["not claimed"]);

    let old = world.explain(
        &Claims::of("alice").with("time", now() - 60).with("htm", "POST").sign(&world.key),
        &["--method", "PUT"],
    );
    says(&old, "time", &["signed 6"], &["20s"]);
    says(&old, "key", &["verifies"], &[]);
    says(&old, "binding", &["htm POST"], &["method PUT"]);
    assert_eq!(step(&old, "binding")["outcome"], "denied", "{old:#}");

    let early = world.explain(&Claims::of("early").sign(&world.key), &[]);
    says(&early, "key", &[&fingerprint, "not in its time of use"], &[]);
    let other = world
        .explain(&Claims::of("alice").with_header("kid", "ab".repeat(32)).sign(&world.key), &[]);
    says(&other, "token", &[&"ab".repeat(32)], &[]);
    says(&other, "key", &["verifies"], &[]);
    let unknown = world.explain(&Claims::of("nobody").sign(&world.key), &[]);
    says(&unknown, "principal", &["nobody"], &[]);
    for skipped in ["key", "scopes", "nonce"] {
        assert_eq!(step(&unknown, skipped)["outcome"], "skipped", "{unknown:#}");
    }
    let required = world.command(
        &["explain", &Claims::of("alice").sign(&world.key), "--output", "json"],
        &[("self_signed.require", "htm")],
    );
    check(
        "a claim that is required",
        &required,
        deny("malformed_credentials", "binding_missing", "required_claims"),
    );
    says(&required, "required_claims", &["htm absent"], &["htm"]);
}

/// Explaining a token does not spend it: it still passes once. After that, the explanation says so.
#[tokio::test]
async fn explaining_claims_no_nonce() {
    let world = World::start();
    let countersign = world.deployment.serve();
    let token = Claims::of("alice").sign(&world.key);
    for _ in 0..2 {
        check("unused", &world.explain(&token, &[]), ALLOW);
    }

    let question = Question::with(format!("JWT {token}"));
    assert!(Door::Http.ask(&countersign, &question).await.allowed());
    let replayed = world.explain(&token, &[]);
    check("used", &replayed, deny("replayed", "nonce_claimed", "nonce"));
    says(&replayed, "nonce", &["used before"], &[]);

    // Another principal's use of the nonce does not count.
    world.deployment.enrol("bob", &world.key);
    let claims = Claims::of("alice").with("nonce", "same");
    assert!(
        Door::Http
            .ask(&countersign, &Question::with(claims.authorization(&world.key)))
            .await
            .allowed()
    );
    check(
        "another's",
        &world.explain(&Claims::of("bob").with("nonce", "same").sign(&world.key), &[]),
        ALLOW,
    );
    assert_eq!(world.deployment.list(&["key", "list", "bob"])[0]["last_used_on"], Value::Null);
}

#[tokio::test]
async fn used_nonces_in_the_memory_of_the_service_are_not_guessed() {
    let deployment = Deployment::new();
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let report =
        deployment.run(&["explain", &Claims::of("alice").sign(&key), "--output", "json"]).json();

    assert_eq!(report["verdict"], "allow", "as far as can be seen from here");
    assert_eq!(step(&report, "nonce")["outcome"], "skipped", "{report:#}");
    says(&report, "nonce", &["memory", "admin API"], &[]);
}

/// An outage is neither an allow nor a denial, and explaining it is not an error. Without the
/// registry there is nothing to explain.
#[tokio::test]
async fn what_is_out_of_reach_is_told() {
    let world = World::start();
    let token = Claims::of("alice").sign(&world.key);
    let gone = format!("127.0.0.1:{}", free_port());

    let arguments = ["explain", &token, "--output", "json"];
    let report = world.command(&arguments, &[("nonce.url", &format!("redis://{gone}"))]);
    check("no Redis", &report, ("unavailable", Some("unavailable"), None, Some("nonce")));

    let mut command = world.deployment.command(&arguments);
    let ran =
        Ran::of(command.env(variable("database.url"), format!("postgres://nobody@{gone}/none")));
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("database.url"), "{ran:?}");
}

#[tokio::test]
async fn a_token_is_read_from_standard_input() {
    let world = World::start();
    let token = Claims::of("alice").sign(&world.key);
    for input in [token.clone(), format!("{token}\n"), format!("  JWT {token}\r\n")] {
        let mut command = world.deployment.command(&["explain", "-", "--output", "json"]);
        let ran = Ran::reading(&mut command, input.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
        check(&input, &ran.json(), ALLOW);
    }

    let mut command = world.deployment.command(&["explain", "-"]);
    let ran = Ran::reading(&mut command, b"\xff\xfe");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.stderr.contains("not text") && !ran.stderr.contains("key"),
        "it speaks of a token: {ran:?}"
    );
}

#[tokio::test]
async fn bad_usage_is_exit_code_2() {
    let deployment = Deployment::new();
    for arguments in [
        ["explain"].as_slice(),
        &["explain", "a", "b"],
        &["explain", "a", "--output", "yaml"],
        &["explain", "a", "--url", "not a URL"],
        &["explain", "a", "--url", "/orders"],
        &["explain", "a", "--nonsense"],
    ] {
        let ran = deployment.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}

/// The command has no key sets in memory, and fetches them itself.
#[tokio::test]
async fn a_trusted_key_set_is_fetched() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server).set("jwks.timeout", "2s");
    deployment.done(&["principal", "add", "alice"]);
    deployment.add_trust("alice", &server.url("/keys"));
    let (signer, stranger) = (Signer::named("one"), Signer::named("another"));
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let explain = |claims: Claims, key: &Key| {
        let ran = deployment.run(&["explain", &claims.sign(key), "--output", "json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    };

    let good = explain(signer.claims("alice"), &signer.key);
    check("good", &good, ALLOW);
    says(&good, "key", &[&server.url("/keys"), "kid found, verifies"], &[]);
    assert!(!server.requests("/keys").is_empty());

    let unknown = explain(stranger.claims("alice"), &stranger.key);
    check("an unknown kid", &unknown, deny("invalid_token", "no_matching_key", "key"));
    says(&unknown, "key", &["no usable key of that kid"], &[]);
    let forged = explain(signer.claims("alice"), &stranger.key);
    check("another's signature", &forged, deny("invalid_token", "bad_signature", "key"));
    says(&forged, "key", &["kid found, does not verify"], &[]);
    let nameless = explain(Claims::of("alice"), &signer.key);
    check("no kid", &nameless, ALLOW);
    says(&nameless, "key", &["a key (ed25519 ", "verifies"], &[]);
    server.put("/keys", Behaviour::set([signer.jwk(), member(stranger.jwk(), "use", "enc")]));
    let encrypting = explain(stranger.claims("alice"), &stranger.key);
    check("a key for encryption", &encrypting, deny("invalid_token", "no_matching_key", "key"));
    says(
        &encrypting,
        "key",
        &[
            "no usable key of that kid",
            "left out: kid \"another\", OKP Ed25519",
            "\"use\" is \"enc\"",
        ],
        &[],
    );

    server.put("/keys", Behaviour::text("").with_status(500));
    let broken = explain(signer.claims("alice"), &signer.key);
    check("a broken set", &broken, deny("invalid_token", "no_key_set", "key"));
    says(&broken, "key", &["no key set", "500"], &[]);
}

/// With nonces in Redis, and four principals who hold the same key: `alice` with scopes, one
/// disabled, one whose key is revoked, one whose key is not valid yet.
struct World {
    deployment: Deployment,
    key: Key,
    _redis: Redis,
}

impl World {
    fn start() -> Self {
        let redis = Redis::start();
        let (deployment, key) = (Deployment::new().nonces_in(&redis), Key::ed25519());
        deployment.done(&["principal", "add", "alice", "--scope", "orders:read orders:write"]);
        deployment.add_key("alice", &key);
        deployment.done(&["principal", "add", "disabled", "--disabled"]);
        deployment.add_key("disabled", &key);
        let revoked = deployment.enrol("revoked", &key);
        deployment.done(&["key", "revoke", &revoked]);
        deployment.done(&["principal", "add", "early"]);
        deployment.add_key_with("early", &key, &["--not-before", "2099-01-01T00:00:00Z"]);
        // The first process finds an empty Redis, and fences what was signed before.
        deployment.done(&["config", "check"]);
        pass_the_fence();
        Self { deployment, key, _redis: redis }
    }

    fn explain(&self, token: &str, options: &[&str]) -> Value {
        self.command(&[["explain", token, "--output", "json"].as_slice(), options].concat(), &[])
    }

    /// Output of a command that must succeed, with these settings added to the world's.
    fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Value {
        let mut command = self.deployment.command(arguments);
        command.envs(settings.iter().map(|(key, value)| (variable(key), value)));
        let ran = Ran::of(&mut command);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        ran.json()
    }

    fn the_table_says_the_same(&self, case: &str, token: &str, options: &[&str], report: &Value) {
        let ran = self.deployment.run(&[["explain", token].as_slice(), options].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{case}: {ran:?}");
        let mut lines = ran.stdout.lines().skip(1);
        for expected in report["steps"].as_array().unwrap() {
            let columns = lines.next().unwrap_or_default();
            let words: Vec<&str> = columns.split_whitespace().take(2).collect();
            assert_eq!(
                words,
                [expected["step"].as_str().unwrap(), expected["outcome"].as_str().unwrap()],
                "{case}: {ran:?}"
            );
            assert!(
                columns.contains(expected["reason"].as_str().unwrap_or("-")),
                "{case}: {ran:?}"
            );
        }
        let summary = ran.stdout.trim_end().lines().last().unwrap();
        let told = report["code"].as_str().unwrap_or("would pass, as alice");
        assert!(summary.contains(told), "{case}: {summary}");
    }
}

fn check(case: &str, report: &Value, (verdict, code, reason, failed): Expected) {
    let said = [&report["verdict"], &report["code"], &report["reason"]];
    assert_eq!(said, [&json!(verdict), &json!(code), &json!(reason)], "{case}: {report:#}");
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    // Without credentials or a token there is nothing more to check.
    let count = failed
        .filter(|step| ["credentials", "token"].contains(step))
        .map_or(STEPS.len(), |last| 1 + STEPS.iter().position(|name| *name == last).unwrap());
    assert_eq!(names, STEPS[..count], "{case}");
    let failure = steps
        .iter()
        .find(|step| ["denied", "unavailable"].contains(&step["outcome"].as_str().unwrap()));
    assert_eq!(
        failure.map(|step| &step["step"]),
        failed.map(Value::from).as_ref(),
        "{case}: {report:#}"
    );
    assert_eq!(
        failure.map_or(&Value::Null, |step| &step["reason"]),
        &json!(reason),
        "{case}: {report:#}"
    );
    assert!(report["now"].as_str().is_some_and(|now| now.ends_with('Z')), "{case}: {report:#}");
}

fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == name);
    found.unwrap_or_else(|| panic!("no step {name} in {report:#}"))
}

fn says(report: &Value, name: &str, seen: &[&str], expected: &[&str]) {
    let step = step(report, name);
    for (column, parts) in [("seen", seen), ("expected", expected)] {
        for part in parts {
            assert!(
                step[column].as_str().unwrap().contains(part),
                "{part} is not {column} in {step:#}"
            );
        }
    }
}
