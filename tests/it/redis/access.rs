//! Every form of `nonce.url`, on servers that require TLS, a client certificate and the right
//! credentials.

use crate::harness::http::Request;
use crate::harness::secured_redis::PASSWORD;
use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, Redis, SecuredRedis};

/// Tokens pass once, and `config check` reports no problem: hints of changes also use connections
/// of this kind.
async fn works(deployment: &Deployment) {
    let checked = deployment.run(&["config", "check"]);
    assert!(checked.code == 0 && !checked.stdout.contains("warning"), "{checked:?}");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let replicas = [deployment.serve(), deployment.serve()];
    for door in Door::BOTH {
        let question = Question::with(Claims::of("alice").authorization(&key));
        assert!(door.ask(&replicas[0], &question).await.allowed(), "{door:?}");
        assert_eq!(door.ask(&replicas[1], &question).await.code(), Some("replayed"), "{door:?}");
    }
}

/// `config check` and readiness give the reason, and nothing shows the password.
async fn is_refused(deployment: &Deployment, reason: &str, secrets: &[&str]) {
    let checked = deployment.run(&["config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains(reason), "{reason}: {checked:?}");
    let countersign = Countersign::start_unready(deployment);
    let ready = Request::get("/readyz").send(countersign.admin).await;
    assert!(
        ready.status == 503 && ready.text().contains(reason),
        "{reason}: {} {}",
        ready.status,
        ready.text()
    );
    for secret in secrets {
        let said =
            [checked.stdout.clone(), checked.stderr.clone(), ready.text(), countersign.log()]
                .concat();
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

#[tokio::test]
async fn one_server_over_tls() {
    let redis = SecuredRedis::single();
    works(&redis.deployment()).await;
    assert!(redis.keys_in(3) > 0 && redis.keys_in(0) == 0, "the database of the URL");
}

#[tokio::test]
async fn a_cluster_over_tls() {
    let redis = SecuredRedis::cluster();
    works(&redis.deployment()).await;
    assert!(redis.keys_in(0) > 0);
}

#[tokio::test]
async fn sentinels_over_tls_with_credentials_of_their_own() {
    let redis = SecuredRedis::sentinel();
    works(&redis.deployment()).await;
    assert!(redis.keys_in(3) > 0 && redis.keys_in(0) == 0, "the database of the URL");
}

/// The system's authorities are trusted, too, wherever they are stored.
#[tokio::test]
async fn an_authority_in_the_trust_of_the_system() {
    let redis = SecuredRedis::single();
    let without = |deployment: Deployment| deployment.set("nonce.ca_file", "");
    is_refused(&without(redis.deployment()), "certificate", &[]).await;
    works(&without(redis.deployment()).variable("SSL_CERT_FILE", &redis.ca_file())).await;
}

#[tokio::test]
async fn without_what_it_takes_to_get_in() {
    let redis = SecuredRedis::single();
    let secrets = [PASSWORD, "cl%3Aai"];
    let deployment = redis.deployment().set("nonce.client_cert", "").set("nonce.client_key", "");
    // In TLS 1.3 the client considers its handshake done before the server has checked its
    // certificate.
    is_refused(&deployment, "nonce_store", &secrets).await;
    let deployment = redis.deployment().set("nonce.url", &redis.url.replace("cl%3Aai", "wrong"));
    is_refused(&deployment, "authentication failed", &[secrets[0], secrets[1], "wrong%2Fms"]).await;
    let login = redis.url.split_once("//").unwrap().1.split_once('@').unwrap().0.to_owned() + "@";
    is_refused(
        &redis.deployment().set("nonce.url", &redis.url.replace(&login, "")),
        "Authentication required",
        &secrets,
    )
    .await;

    let sentinel = SecuredRedis::sentinel();
    let url = sentinel.url.split_once('?').unwrap().0;
    is_refused(&sentinel.deployment().set("nonce.url", url), "main", &secrets).await;
}

#[tokio::test]
async fn a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis server.sock");
    let redis = Redis::start_with(&["--unixsocket", path.to_str().unwrap()]);
    redis.command(&[
        "ACL",
        "SETUSER",
        "claims",
        "on",
        ">a&b",
        "~countersign:*",
        "&countersign:*",
        "+@all",
    ]);
    let escaped = path.to_str().unwrap().replace(' ', "%20");
    let url = format!("redis+unix:{escaped}?db=2&user=claims&pass=a%26b");
    works(&Deployment::new().set("nonce.url", &url).set("nonce.timeout", "1s")).await;
    assert_ne!(redis.command(&["-n", "2", "DBSIZE"]), "0");
}

/// No part of it is shown: the password may be anywhere in it.
#[tokio::test]
async fn a_url_that_cannot_be_read_is_not_printed() {
    for url in [
        "redis://user:hunter2/x@host",
        "redis://user:hunter2@ho st",
        "redis+cluster://a,user:hunter2@b",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://a/main?sentinel_pasword=hunter2",
        "rediss://:hunter2@h#insecure",
        "hunter2://h",
        "redis://:hunter2%@h",
        "redis://h:hunter2",
    ] {
        for command in [["config", "check"].as_slice(), &["serve"]] {
            let ran =
                Deployment::new().set("nonce.url", url).set("telemetry.log", "trace").run(command);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(
                ran.code != 0 && said.contains("nonce.url") && !said.contains("hunter2"),
                "{url} {command:?}: {said}"
            );
        }
    }
}
