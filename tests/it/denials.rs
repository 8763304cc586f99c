//! The table of denials, row by row, on the wire of both doors.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::gateways::every::IDENTITY;
use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, Redis, Verdict, now};

#[tokio::test]
async fn missing_credentials() {
    let world = World::start();
    world.denies("missing_credentials", "no header", |_| Question::bare()).await;
    world
        .denies("missing_credentials", "no header, and a scope asked for", |_| {
            asking("admin", Question::bare())
        })
        .await;
    world.denies("missing_credentials", "an empty value", |_| Question::with("")).await;
}

#[tokio::test]
async fn malformed_credentials() {
    let world = World::start();
    let raw: &[(&str, &str)] = &[
        ("another scheme", "Basic YWxpY2U6c2VjcmV0"),
        ("a scheme alone", "JWT"),
        ("a scheme and a blank", "JWT "),
        ("a token without a scheme", "eyJhbGciOiJFZERTQSJ9.e30.AA"),
        ("not a JWS", "JWT hello"),
        ("two segments", "JWT eyJhbGciOiJFZERTQSJ9.e30"),
        ("four segments", "JWT eyJhbGciOiJFZERTQSJ9.e30.AA.AA"),
        ("not base64url", "JWT e!J9.e!J9.e!J9"),
        ("not JSON", "JWT aGVsbG8.aGVsbG8.aGVsbG8"),
    ];
    for (case, value) in raw {
        world.denies("malformed_credentials", case, |_| Question::with(*value)).await;
    }
    world
        .denies("malformed_credentials", "two headers", |world| Question {
            authorization: vec![world.token(), world.token()],
            ..Question::bare()
        })
        .await;
    world
        .denies("malformed_credentials", "two tokens in one header", |world| {
            Question::with(format!("{}, {}", world.token(), world.token()))
        })
        .await;
    world
        .denies("malformed_credentials", "over the size cap", |world| {
            world.asks(&Claims::of("alice").with("padding", "x".repeat(8 * 1024)))
        })
        .await;
    world
        .denies("malformed_credentials", "no signature", |world| {
            let token = world.token();
            Question::with(format!("{}.", token.rsplit_once('.').unwrap().0))
        })
        .await;
}

#[tokio::test]
async fn malformed_claims() {
    let world = World::start();
    let mistyped: &[(&str, &str, Value)] = &[
        ("no username", "username", Value::Null),
        ("a username that is a number", "username", json!(7)),
        ("an empty username", "username", json!("")),
        ("a username with a control character", "username", json!("ali\nce")),
        ("a username that is too long", "username", json!("a".repeat(256))),
        ("no time", "time", Value::Null),
        ("a time that is a string", "time", json!(now().to_string())),
        ("no nonce", "nonce", Value::Null),
        ("an empty nonce", "nonce", json!("")),
        ("an iat that is a string", "iat", json!(now().to_string())),
        ("a nonce that is a list", "nonce", json!(["a"])),
        ("an exp that is a string", "exp", json!("tomorrow")),
        ("an htm that is a number", "htm", json!(1)),
        ("an htu that is a list", "htu", json!([])),
        ("an aud that is a number", "aud", json!(1)),
        ("profiles that contradict one another about the time", "iat", json!(now() - 1_000)),
    ];
    for (claim, other) in [("username", "iss"), ("nonce", "jti")] {
        // If a claim of its own profile is missing, the other profile counts, too.
        let claims = Claims::registered("alice").with(claim, "one").with(other, "another");
        world.denies("malformed_credentials", claim, |world| world.asks(&claims)).await;
    }
    for (case, claim, value) in mistyped {
        world
            .denies("malformed_credentials", case, |world| {
                world.asks(&Claims::of("alice").with(claim, value.clone()))
            })
            .await;
    }
}

#[tokio::test]
async fn unsupported_algorithm() {
    let world = World::start();
    for algorithm in ["none", "None", "HS256", "HS512", "RS1", "ES256K", "EdDSA2", ""] {
        world
            .denies("unsupported_algorithm", algorithm, |world| {
                world.asks(&Claims::of("alice").with_header("alg", algorithm))
            })
            .await;
    }
}

#[tokio::test]
async fn invalid_token() {
    let world = World::start();
    let stranger = Key::ed25519();
    world
        .denies("invalid_token", "an unknown principal", |world| world.asks(&Claims::of("nobody")))
        .await;
    world
        .denies("invalid_token", "a disabled principal", |world| {
            world.asks(&Claims::of("disabled"))
        })
        .await;
    world
        .denies("invalid_token", "a principal without keys", |world| {
            world.asks(&Claims::of("keyless"))
        })
        .await;
    world
        .denies("invalid_token", "a revoked key", |world| world.asks(&Claims::of("revoked")))
        .await;
    world
        .denies("invalid_token", "somebody's key", |_| {
            Question::with(Claims::of("alice").authorization(&stranger))
        })
        .await;
    world
        .denies("invalid_token", "somebody's key under the right kid", |world| {
            let token = Claims::of("alice").with_header("kid", world.key.fingerprint());
            Question::with(token.authorization(&stranger))
        })
        .await;
    world
        .denies(
            "invalid_token",
            "somebody's key under a kid that the principal does not have",
            |_| {
                Question::with(
                    Claims::of("alice")
                        .with_header("kid", stranger.fingerprint())
                        .authorization(&stranger),
                )
            },
        )
        .await;
    world
        .denies("invalid_token", "an algorithm that the key does not allow", |world| {
            let token = Claims::of("alice").with_header("kid", world.key.fingerprint());
            Question::with(token.authorization(&Key::p256()))
        })
        .await;
    world
        .denies("invalid_token", "changed claims", |world| Question::with(tampered(&world.token())))
        .await;
}

#[tokio::test]
async fn timestamp_outside_tolerance() {
    // The fence would deny what was signed before the start.
    let world = World::on(Deployment::new().set("nonce.fence", "off"));
    // One second beyond the default of 20 s; a few more ahead of now, because the test itself takes
    // time.
    for offset in [-21, -60, 25, 60] {
        world
            .denies("timestamp_outside_tolerance", &format!("{offset} s from now"), |world| {
                world.asks(&Claims::of("alice").with("time", now() + offset))
            })
            .await;
    }
    for absurd in [0, -1, i64::MIN, i64::MAX] {
        world
            .denies("timestamp_outside_tolerance", &format!("at {absurd}"), |world| {
                world.asks(&Claims::of("alice").with("time", absurd))
            })
            .await;
    }
    world
        .allows("15 s ago", |world| world.asks(&Claims::of("alice").with("time", now() - 15)))
        .await;
    world
        .allows("15 s ahead", |world| world.asks(&Claims::of("alice").with("time", now() + 15)))
        .await;
}

/// Nonces in memory are lost at a restart: the service cannot know whether an earlier token was
/// used.
#[tokio::test]
async fn signed_before_the_start() {
    for (fence, offset, allowed) in [
        ("minted_before", -5, false),
        ("strict", 5, false),
        ("off", -5, true),
        ("minted_before", 5, true),
    ] {
        let world = World::on(Deployment::new().set("nonce.fence", fence));
        let asks = |world: &World| world.asks(&Claims::of("alice").with("time", now() + offset));
        let case = format!("{fence}, {offset} s from now");
        if allowed {
            world.allows(&case, asks).await;
        } else {
            world.denies("timestamp_outside_tolerance", &case, asks).await;
            assert!(world.countersign.log().contains("\"fenced\""), "{case}");
        }
    }
}

#[tokio::test]
async fn expired() {
    let world = World::start();
    for ago in [1, 100] {
        world
            .denies("expired", &format!("{ago} s ago"), |world| {
                world.asks(&Claims::of("alice").with("exp", now() - ago))
            })
            .await;
    }
    world.allows("not yet", |world| world.asks(&Claims::of("alice").with("exp", now() + 60))).await;
}

#[tokio::test]
async fn replayed() {
    let world = World::start();
    for door in Door::BOTH {
        let token = world.token();
        let first = door.ask(&world.countersign, &Question::with(token.as_str())).await;
        assert!(first.allowed(), "{door:?}: {first:?}");
        for second_door in Door::BOTH {
            let again = second_door.ask(&world.countersign, &Question::with(token.as_str())).await;
            assert_denied(&again, "replayed", &format!("{door:?}, then {second_door:?}"));
        }
    }
}

/// Without the key nobody can spend another client's nonce.
#[tokio::test]
async fn a_forgery_spends_nothing() {
    let world = World::start();
    for door in Door::BOTH {
        let claims = Claims::of("alice");
        let forged = Question::with(claims.authorization(&Key::ed25519()));
        assert_denied(&door.ask(&world.countersign, &forged).await, "invalid_token", "a forgery");

        let honest = door.ask(&world.countersign, &world.asks(&claims)).await;
        assert!(honest.allowed(), "{door:?}: {honest:?}");
    }
}

#[tokio::test]
async fn request_mismatch() {
    let world = World::start();
    for (claim, value) in [
        ("htm", json!("POST")),
        ("htu", json!("http://gateway.test/elsewhere")),
        ("htu", json!("http://elsewhere.test/")),
        ("htq", json!("")),
        ("aud", json!("elsewhere")),
        ("aud", json!(["elsewhere", "and nowhere"])),
    ] {
        let case = format!("{claim} {value}");
        world
            .denies("request_mismatch", &case, |world| {
                world.asks(&Claims::of("alice").with(claim, value.clone()))
            })
            .await;
    }
}

#[tokio::test]
async fn insufficient_scope() {
    let world = World::start();
    for scope in ["admin", "orders:read admin", "orders", "Orders:read"] {
        world
            .denies("insufficient_scope", scope, |world| {
                asking(scope, world.asks(&Claims::of("alice")))
            })
            .await;
    }
    world
        .allows("a scope that alice has", |world| {
            asking("orders:read", world.asks(&Claims::of("alice")))
        })
        .await;
}

#[tokio::test]
async fn unavailable() {
    let mut redis = Redis::start();
    let world = World::on(Deployment::new().nonces_in(&redis));
    world.allows("Redis is there", |world| world.asks(&Claims::of("alice"))).await;

    redis.stop();

    world.denies("unavailable", "Redis is gone", |world| world.asks(&Claims::of("alice"))).await;
    // Without a valid signature a client learns nothing about the store.
    world
        .denies("invalid_token", "and somebody's key", |_| {
            Question::with(Claims::of("alice").authorization(&Key::ed25519()))
        })
        .await;
}

/// Answers must not show which usernames exist: they are the same, byte for byte.
#[tokio::test]
async fn unknown_disabled_and_known_look_alike() {
    let world = World::start();
    for (name, key) in [("rsa", Key::rsa()), ("ec", Key::p256())] {
        world.deployment.enrol(name, &key);
    }
    let known = ["alice", "rsa", "ec"];
    for stranger in [Key::ed25519(), Key::rsa(), Key::p256()] {
        for door in Door::BOTH {
            let mut wires = Vec::new();
            for username in known.into_iter().chain(["nobody", "disabled", "keyless", "revoked"]) {
                let claims = Claims::of(username);
                let question = Question::with(claims.authorization(&stranger));
                let verdict = door.ask(&world.countersign, &question).await;
                assert_denied(&verdict, "invalid_token", username);
                wires.push((username, anonymous(&verdict)));
            }
            for (username, wire) in &wires[1..] {
                assert_eq!(wire, &wires[0].1, "{door:?}: {username} differs from {}", wires[0].0);
            }
        }
    }
}

/// alice may read orders; the others have no scopes.
struct World {
    countersign: Countersign,
    deployment: Deployment,
    /// The key that everyone has.
    key: Key,
}

impl World {
    fn start() -> Self {
        Self::on(Deployment::new())
    }

    fn on(deployment: Deployment) -> Self {
        let key = Key::ed25519();
        deployment.done(&["principal", "add", "alice", "--scope", "orders:read"]);
        deployment.add_key_with("alice", &key, &["--scope", "orders:read"]);
        deployment.enrol("disabled", &key);
        deployment.done(&["principal", "disable", "disabled"]);
        let revoked = deployment.enrol("revoked", &key);
        deployment.done(&["key", "revoke", &revoked]);
        deployment.done(&["principal", "add", "keyless"]);
        let countersign = deployment.serve();
        Self { countersign, deployment, key }
    }

    /// A value for `Authorization` that would pass.
    fn token(&self) -> String {
        Claims::of("alice").authorization(&self.key)
    }

    fn asks(&self, claims: &Claims) -> Question {
        Question::with(claims.authorization(&self.key))
    }

    /// At both doors, with a new request for each, because a nonce can be used once.
    async fn denies(&self, code: &str, case: &str, question: impl Fn(&Self) -> Question) {
        for door in Door::BOTH {
            let verdict = door.ask(&self.countersign, &question(self)).await;
            assert_denied(&verdict, code, &format!("{door:?}, {case}"));
        }
    }

    async fn allows(&self, case: &str, question: impl Fn(&Self) -> Question) {
        for door in Door::BOTH {
            let verdict = door.ask(&self.countersign, &question(self)).await;
            assert!(verdict.allowed(), "{door:?}, {case}: {verdict:?}");
        }
    }
}

fn asking(scope: &str, question: Question) -> Question {
    Question { scope: Some(scope.to_owned()), ..question }
}

/// Checks everything that a denial with this code must have, at either door.
fn assert_denied(verdict: &Verdict, code: &str, case: &str) {
    let (status, inner_code) = match code {
        "insufficient_scope" => (403, 7),
        "unavailable" => (503, 14),
        _ => (401, 16),
    };
    assert!(!verdict.wire.is_empty(), "{case}: an empty answer is an allow");
    assert_eq!((verdict.status, verdict.code()), (status, Some(code)), "{case}: {verdict:?}");
    assert!(verdict.inner_code.is_none_or(|inner| inner == inner_code), "{case}: {verdict:?}");

    let challenge = verdict.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("JWT realm=\""), "{case}: {challenge}");
    assert!(challenge.contains(&format!("\", error=\"{code}\"")), "{case}: {challenge}");
    let date = verdict.header("date").unwrap_or_else(|| panic!("{case}: no Date in {verdict:?}"));
    let date = OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).unwrap();
    assert!((date.unix_timestamp() - now()).abs() <= 10, "{case}: {date}");
    assert_eq!(verdict.header("cache-control"), Some("no-store"), "{case}");
    assert_eq!(verdict.header("retry-after"), (status == 503).then_some("1"), "{case}");
    for name in &IDENTITY[..6] {
        assert_eq!(verdict.header(name), None, "{case}: a denial identifies nobody");
    }

    assert_eq!(verdict.header("content-type"), Some("application/problem+json"), "{case}");
    let problem: Value =
        serde_json::from_slice(&verdict.body).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(problem["status"], status, "{case}: {problem}");
    assert!(problem["type"].is_string() && problem["title"].is_string(), "{case}: {problem}");
}

/// The answer without what may differ between any two: the date, the request id, and the order of
/// headers, which is random over HTTP.
fn anonymous(verdict: &Verdict) -> String {
    let wire = verdict.wire.iter().map(|byte| char::from(*byte)).collect::<String>();
    let wire = [("date", "DATE"), ("x-auth-decision-id", "ID")].into_iter().fold(
        wire,
        |wire, (name, mark)| {
            let value = verdict.header(name).unwrap_or_default();
            if value.is_empty() { wire } else { wire.replace(value, mark) }
        },
    );
    let Some((head, body)) = wire.split_once("\r\n\r\n") else { return wire };
    let mut lines: Vec<&str> = head.split("\r\n").collect();
    lines[1..].sort_unstable();
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// The token with another username of the same length.
fn tampered(authorization: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let mut segments: Vec<String> = authorization.split('.').map(str::to_owned).collect();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(&segments[1]).unwrap()).unwrap();
    let mut claims: Value = serde_json::from_str(&claims).unwrap();
    claims["nonce"] = json!("another");
    segments[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
    segments.join(".")
}
