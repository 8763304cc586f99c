//! Settings: their sources, and the errors for bad ones.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Door, Key, Question, Ran, Redis, eventually};

#[tokio::test]
async fn a_good_configuration_is_confirmed() {
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);

    let ran = deployment.run(&["config", "check"]);

    assert_eq!(ran.code, 0, "{ran:?}");
}

/// A token bound to any host can be relayed: that is a warning, not an error.
#[tokio::test]
async fn a_required_uri_without_authorities_is_warned_of() {
    for (require, authorities, warned) in [
        ("htu", "", true),
        ("htm,htu", "", true),
        ("htu", "api.example", false),
        ("htm", "", false),
        ("", "", false),
    ] {
        let deployment = Deployment::new()
            .set("self_signed.require", require)
            .set("self_signed.authorities", authorities);

        let ran = deployment.run(&["config", "check"]);
        let served = deployment.serve();

        assert_eq!(ran.code, 0, "{ran:?}");
        let log = eventually("the service says that it serves", Duration::from_secs(10), || {
            Some(served.log()).filter(|log| log.contains("\"serving\""))
        });
        for (place, text) in [("config check", ran.stdout), ("the log", log)] {
            assert_eq!(
                text.contains("self_signed.authorities"),
                warned,
                "{place}, {require}, {authorities}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn an_unreachable_dependency_is_named() {
    let mut redis = Redis::start();
    redis.stop();
    let deployment = Deployment::new().nonces_in(&redis);

    let ran = deployment.run(&["config", "check"]);

    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("nonce.url"), "{ran:?}");
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_named_with_its_place() {
    let deployment = Deployment::new();
    deployment.file("countersign.toml", "[server]\nhtp_listen = \"127.0.0.1:1\"\n");

    for command in [["config", "check"].as_slice(), &["serve"]] {
        names_the_fault(&deployment.run(command), &["server.htp_listen", "countersign.toml"]);
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_environment_is_named() {
    let deployment = Deployment::new().set("server.htp_listen", "127.0.0.1:1");

    names_the_fault(
        &deployment.run(&["config", "check"]),
        &["server.htp_listen", "COUNTERSIGN_SERVER__HTP_LISTEN"],
    );
}

#[tokio::test]
async fn a_bad_value_is_named_with_its_source_and_what_is_accepted() {
    for (key, value, accepted) in [
        ("self_signed.tolerance", "soon", "20s"),
        ("server.http_listen", "everywhere", ":"),
        ("nonce.url", "gopher://127.0.0.1", "redis://"),
        ("database.url", "oracle://127.0.0.1", "postgres:"),
        ("database.auto_migrate", "perhaps", "true"),
        ("registry.cache_entries", "-1", ""),
        ("self_signed.require", "jti", "`htq`"),
        ("self_signed.authorities", "https://api.example", "api.example:8443"),
        ("self_signed.authorities", "user@api.example", "api.example:8443"),
        ("self_signed.authorities", "api.example:0443", "api.example:8443"),
    ] {
        let variable = crate::harness::variable(key);
        let from_environment = Deployment::new().set(key, value).run(&["config", "check"]);
        names_the_fault(&from_environment, &[key, &variable, accepted]);

        let deployment = Deployment::bare();
        let (section, name) = key.split_once('.').unwrap();
        deployment.file("countersign.toml", &format!("[{section}]\n{name} = \"{value}\"\n"));
        let from_file = Ran::of(deployment.command(&["config", "check"]).env_remove(&variable));
        names_the_fault(&from_file, &[key, "countersign.toml", accepted]);
    }
}

#[tokio::test]
async fn secrets_are_not_repeated() {
    let secret = "correct-horse-battery";
    for (key, value) in [
        ("database.url", format!("oracle://user:{secret}@127.0.0.1/db")),
        ("database.url", format!("postgres://user:{secret}@127.0.0.1:1/db")),
        ("nonce.url", format!("redis://:{secret}@127.0.0.1:1")),
        ("nonce.url", format!("gopher://:{secret}@127.0.0.1")),
    ] {
        let ran = Deployment::bare().set(key, &value).run(&["config", "check"]);
        assert_ne!(ran.code, 0, "{value}");
        assert!(ran.stderr.contains(key), "{ran:?}");
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(secret), "{ran:?}");
    }
}

#[tokio::test]
async fn the_environment_outweighs_the_file() {
    let deployment = Deployment::new().set("self_signed.scheme", "TOKEN");
    deployment.file("countersign.toml", "[self_signed]\nscheme = \"FILE\"\n");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();

    let ask = async |scheme: &str| {
        let authorization = format!("{scheme} {}", Claims::of("alice").sign(&key));
        Door::Http.ask(&countersign, &Question::with(authorization)).await
    };
    // Compared case-insensitively.
    assert!(ask("token").await.allowed());
    for other in ["FILE", "JWT", "Bearer"] {
        assert_eq!(ask(other).await.code(), Some("malformed_credentials"), "{other}");
    }
}

#[tokio::test]
async fn another_file_is_read_when_told_so() {
    let deployment = Deployment::new();
    let file = deployment.file("other.toml", "[self_signed]\ntolerance = \"soon\"\n");

    let ran = deployment.run(&["config", "check", "--config", file.to_str().unwrap()]);
    names_the_fault(&ran, &["self_signed.tolerance", "other.toml"]);
    let missing = deployment.run(&["config", "check", "--config", "missing.toml"]);
    names_the_fault(&missing, &["missing.toml"]);
}

/// For applications that use `Authorization` themselves.
#[tokio::test]
async fn another_header_may_carry_the_token() {
    let deployment = Deployment::new().set("self_signed.header", "X-Client-Token");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = Claims::of("alice").authorization(&key);

    let ignored =
        Request::get("/validate_request").authorization(&token).send(countersign.http).await;
    let request = Request::get("/validate_request")
        .authorization("Basic anything")
        .header("X-Client-Token", &token);
    let allow = request.send(countersign.http).await;

    assert_eq!(ignored.header("x-auth-error"), Some("missing_credentials"));
    assert_eq!(allow.status, 200, "{allow:?}");
    let removed = allow.header("x-envoy-auth-headers-to-remove").unwrap_or_default();
    assert!(removed.eq_ignore_ascii_case("x-client-token"), "{removed}");
}

#[tokio::test]
async fn the_tolerance_is_a_setting() {
    // The fence would deny tokens from before the start.
    let deployment = Deployment::new().set("self_signed.tolerance", "5m").set("nonce.fence", "off");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    for (offset, allowed) in [(-290, true), (290, true), (-310, false), (310, false)] {
        let token =
            Claims::of("alice").with("time", crate::harness::now() + offset).authorization(&key);
        let verdict = Door::Http.ask(&countersign, &Question::with(token)).await;
        assert_eq!(verdict.allowed(), allowed, "{offset} s: {verdict:?}");
    }
}

/// One line on stderr, with everything needed to fix it.
fn names_the_fault(ran: &Ran, parts: &[&str]) {
    assert!([1, 2].contains(&ran.code), "{ran:?}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "not one line: {ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part} is not in {ran:?}");
    }
}
