//! Which URLs may be trusted, and what the commands say about others.

use serde_json::{Value, json};

use crate::harness::{Behaviour, Countersign, Deployment, JwksServer, Signer, eventually_async};
use crate::jwks::PATIENCE;

#[tokio::test]
async fn plain_http_has_to_be_allowed() {
    let server = JwksServer::http();
    let signer = Signer::named("one");
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let deployment = Deployment::new().set("jwks.allowed_hosts", "localhost");

    let refused = Guarded::start(deployment);
    let why = refused.why("alice", &server.url("/keys")).await;
    assert!(why.contains("https") || why.contains("allow_http"), "{why}");
    assert_eq!(refused.denial("alice", &signer).await.as_deref(), Some("invalid_token"));
    assert_eq!(server.connections(), 0);

    let allowed = Guarded::start(
        Deployment::new().set("jwks.allowed_hosts", "localhost").set("jwks.allow_http", "true"),
    );
    allowed.deployment.add_trust("alice", &server.url("/keys"));
    eventually_async("the key is allowed", PATIENCE, async || {
        allowed.denial("alice", &signer).await.is_none().then_some(())
    })
    .await;
}

/// In every notation of an address, and for every name that resolves to it.
#[tokio::test]
async fn local_addresses_are_refused() {
    let server = JwksServer::https();
    let signer = Signer::named("one");
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let guarded =
        Guarded::start(Deployment::new().set("jwks.ca_file", server.ca_file().to_str().unwrap()));
    let hosts = [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.0.0.1",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
    ];
    for (number, host) in hosts.into_iter().enumerate() {
        let username = format!("user-{number}");
        let why = guarded.why(&username, &server.url_of(host, "/keys")).await;
        assert!(!why.trim().is_empty(), "{host}");
        assert_eq!(
            guarded.denial(&username, &signer).await.as_deref(),
            Some("invalid_token"),
            "{host}"
        );
    }
    assert_eq!(server.connections(), 0);

    let why = guarded.why("alice", &server.url("/keys")).await;
    assert!(why.contains("allowed_hosts"), "what to do is not said: {why}");
}

/// The list matches host names, not the addresses they resolve to.
#[tokio::test]
async fn only_listed_hosts_are_asked() {
    let server = JwksServer::https();
    let signer = Signer::named("one");
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let deployment =
        Deployment::new().trusting(&server).set("jwks.allowed_hosts", "keys.example,localhost");
    let guarded = Guarded::start(deployment);
    let hosts =
        ["127.0.0.1", "127.0.0.2", "localhost.example", "sub.localhost", "keys.example@127.0.0.1"];
    for (number, host) in hosts.into_iter().enumerate() {
        let username = format!("user-{number}");
        let why = guarded.why(&username, &server.url_of(host, "/keys")).await;
        assert!(!why.trim().is_empty(), "{host}");
        assert_eq!(
            guarded.denial(&username, &signer).await.as_deref(),
            Some("invalid_token"),
            "{host}"
        );
    }
    assert_eq!(server.connections(), 0);

    guarded.deployment.add_trust("alice", &server.url("/keys"));
    eventually_async("the key is allowed", PATIENCE, async || {
        guarded.denial("alice", &signer).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_known_authorities_are_believed() {
    let (known, stranger) = (JwksServer::https(), JwksServer::https());
    let signer = Signer::named("one");
    stranger.put("/keys", Behaviour::set([signer.jwk()]));
    let guarded = Guarded::start(Deployment::new().trusting(&known));

    let why = guarded.why("alice", &stranger.url("/keys")).await;

    assert!(why.to_lowercase().contains("certificate"), "{why}");
    assert_eq!(stranger.requests("/keys").len(), 0, "it was asked before it was known");
    assert_eq!(guarded.denial("alice", &signer).await.as_deref(), Some("invalid_token"));
}

#[test]
fn what_is_no_url_of_a_key_set_is_refused() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    for url in [
        "",
        "keys",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://keys.example/",
        "https://",
        "data:,{}",
    ] {
        let ran = deployment.run(&["trust", "add", "alice", url]);
        assert!([1, 2].contains(&ran.code) && !ran.stderr.trim().is_empty(), "{url:?}: {ran:?}");
    }
    let ran = deployment.run(&["trust", "add", "nobody", "https://keys.example/"]);
    assert!(ran.code == 1 && ran.stderr.contains("nobody"), "{ran:?}");
    assert_eq!(deployment.list(&["trust", "list"]), [] as [Value; 0]);
    for command in ["refresh", "remove"] {
        let ran = deployment.run(&["trust", command, "12345"]);
        assert!(ran.code == 1 && ran.stderr.contains("12345"), "{command}: {ran:?}");
    }
}

/// Without a running service to fetch the set: state as registered.
#[test]
fn trusts_are_added_listed_and_removed() {
    let deployment = Deployment::new();
    for username in ["alice", "bob"] {
        deployment.done(&["principal", "add", username]);
    }
    let url = "https://keys.example/.well-known/jwks.json";
    let added = deployment.done(&["trust", "add", "alice", url, "--no-fetch", "--output", "json"]);
    let added: Value = serde_json::from_str(&added).unwrap();
    let mut members: Vec<&str> = added.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    let mut expected = [
        "id",
        "username",
        "jwks_url",
        "last_used_on",
        "last_fetched_at",
        "last_error",
        "usable_keys",
        "left_out",
        "created_at",
    ];
    expected.sort_unstable();
    assert_eq!(members, expected);
    assert_eq!((&added["username"], &added["jwks_url"]), (&json!("alice"), &json!(url)));
    for unknown in ["last_used_on", "last_fetched_at", "last_error", "usable_keys", "left_out"] {
        assert_eq!(added[unknown], Value::Null, "{unknown}");
    }
    let other = deployment.add_trust("bob", url);

    assert_eq!(deployment.list(&["trust", "list", "alice"]), std::slice::from_ref(&added));
    assert_eq!(deployment.list(&["trust", "list"]).len(), 2);
    let table = deployment.done(&["trust", "list"]);
    assert!(table.contains("alice") && table.contains("bob") && table.contains(url), "{table}");

    deployment.done(&["trust", "remove", &other]);
    assert_eq!(deployment.list(&["trust", "list"]), [added]);
    deployment.done(&["principal", "remove", "alice"]);
    assert_eq!(
        deployment.list(&["trust", "list"]),
        [] as [Value; 0],
        "they go with their principal"
    );
}

/// A service, and principals that are added as needed.
struct Guarded {
    deployment: Deployment,
    countersign: Countersign,
}

impl Guarded {
    fn start(deployment: Deployment) -> Self {
        deployment.done(&["principal", "add", "alice"]);
        Self { countersign: deployment.serve(), deployment }
    }

    /// Why the set at `url` is not used: the error of the command, or else the entry in the list of
    /// trusts once the service has tried.
    async fn why(&self, username: &str, url: &str) -> String {
        if username != "alice" {
            self.deployment.done(&["principal", "add", username]);
        }
        let ran = self.deployment.run(&["trust", "add", username, url, "--no-fetch"]);
        if ran.code != 0 {
            return ran.stderr;
        }
        eventually_async(&format!("what is wrong with {url} is shown"), PATIENCE, async || {
            let trusts = self.deployment.list(&["trust", "list", username]);
            trusts.last().and_then(|trust| trust["last_error"].as_str()).map(str::to_owned)
        })
        .await
    }

    /// The code of the denial; `None` for an allow.
    async fn denial(&self, username: &str, signer: &Signer) -> Option<String> {
        let answer = self.countersign.decide(&signer.authorization(username)).await;
        (answer.status != 200)
            .then(|| answer.header("x-auth-error").unwrap_or("no code").to_owned())
    }
}
