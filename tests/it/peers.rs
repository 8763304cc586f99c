//! `asymmetric_jwt_auth` 1.3.0 on either side of Countersign, and `PyJWT` with its own key set.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{
    AsymmetricJwtAuth, Behaviour, Deployment, DjangoSite, Echo, Gateway, JwksServer, Key, PyJwt,
    Seen, eventually_async,
};

/// Its clients need no change: the header of its own `Token.create_auth_header` passes every
/// gateway.
#[tokio::test]
async fn its_tokens_are_accepted() {
    let deployment = Deployment::new();
    let [ed25519, rsa] = [Key::ed25519(), Key::rsa()];
    deployment.enrol("alice", &ed25519);
    deployment.add_key("alice", &rsa);
    let countersign = deployment.serve();
    let echo = Echo::start();
    let peer = AsymmetricJwtAuth::new();
    for gateway in Gateway::ALL {
        let running = gateway.start(&countersign, &echo).await;
        for key in [&ed25519, &rsa] {
            let request = Request::get("/").authorization(&peer.authorization("alice", key));
            let seen = Seen::by(&running.send(&request).await);
            assert_eq!(
                seen.values("x-auth-username"),
                ["alice"],
                "{gateway:?}, {}",
                key.usual_algorithm()
            );
            assert_eq!(running.send(&request).await.status, 401, "{gateway:?}: a replay");
        }
    }
}

/// Servers that still run it accept our tokens.
#[tokio::test]
async fn our_tokens_are_accepted_by_its_middleware() {
    let deployment = Deployment::new();
    let [ed25519, rsa, stranger] = [Key::ed25519(), Key::rsa(), Key::ed25519()];
    let site = DjangoSite::start("alice", &[&ed25519, &rsa]);
    let sign = |key: &Key, options: &[&str]| {
        let file = deployment.file("private.pem", &key.private_pem());
        deployment
            .done(
                &[["sign", "alice", "--key", file.to_str().unwrap()].as_slice(), options].concat(),
            )
            .trim()
            .to_owned()
    };

    for key in [&ed25519, &rsa] {
        let header = sign(key, &["--header"]);
        let value =
            header.strip_prefix("Authorization: ").unwrap_or_else(|| panic!("no header: {header}"));
        assert_eq!(site.recognises(value).await, "alice", "{header}");
        assert_eq!(site.recognises(value).await, "", "it knows a replay, too");
        let bound = sign(key, &["--method", "GET", "--url", "http://127.0.0.1/"]);
        assert_eq!(site.recognises(&format!("JWT {bound}")).await, "alice", "{bound}");
    }
    assert_eq!(site.recognises(&format!("JWT {}", sign(&stranger, &[]))).await, "");
}

/// The fingerprint is the `kid` of its tokens, whatever the format of the file.
#[tokio::test]
async fn fingerprints_are_the_same() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let peer = AsymmetricJwtAuth::new();
    for kind in ["ed25519", "rsa"] {
        let private = deployment.dir.path().join(kind);
        let private = private.to_str().unwrap();
        deployment.done(&["key", "generate", "--type", kind, "--out", private]);
        let public = format!("{private}.pub");

        let added = deployment.done(&["key", "add", "alice", &public]);

        let fingerprint = peer.fingerprint(&std::fs::read_to_string(&public).unwrap());
        assert_eq!(fingerprint.len(), 64);
        assert!(added.contains(&fingerprint), "{kind}: {fingerprint} is not in {added}");
    }
}

/// Each reads the other's `kid`: a token selects its key by the same name.
#[tokio::test]
async fn a_kid_picks_the_key() {
    let deployment = Deployment::new();
    let keys = [Key::ed25519(), Key::ed25519(), Key::ed25519()];
    deployment.done(&["principal", "add", "alice"]);
    for key in &keys {
        deployment.add_key("alice", key);
    }
    let countersign = deployment.serve();
    let peer = AsymmetricJwtAuth::new();
    for key in &keys {
        let allow = countersign.decide(&peer.authorization("alice", key)).await;
        assert_eq!(allow.header("x-auth-key-id"), Some(key.fingerprint().as_str()), "{allow:?}");
    }
}

/// `PyJWT` signs, and makes the key set that a principal trusts: its side uses nothing of
/// Countersign.
#[tokio::test]
async fn tokens_of_pyjwt_verify_through_a_trust() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server);
    let peer = PyJwt::new();
    let keys = [("RS256", Key::rsa()), ("ES256", Key::p256()), ("EdDSA", Key::ed25519())];
    let kids = keys.each_ref().map(|(algorithm, _)| format!("pyjwt-{algorithm}"));
    let set: Vec<_> = keys
        .iter()
        .zip(&kids)
        .map(|((algorithm, key), kid)| (kid.as_str(), *algorithm, key))
        .collect();
    server.put("/keys", Behaviour::text(peer.jwks(&set)));
    deployment.done(&["principal", "add", "alice"]);
    deployment.add_trust("alice", &server.url("/keys"));
    let countersign = deployment.serve();

    for (kid, algorithm, key) in set {
        let token = eventually_async(
            &format!("{algorithm} is allowed"),
            Duration::from_secs(20),
            async || {
                let token = peer.token("alice", kid, algorithm, key);
                let answer = countersign.decide(&format!("JWT {token}")).await;
                (answer.status == 200).then(|| {
                    assert_eq!(answer.header("x-auth-key-id"), Some(kid), "{answer:?}");
                    token
                })
            },
        )
        .await;
        let again = countersign.decide(&format!("JWT {token}")).await;
        assert_eq!(again.header("x-auth-error"), Some("replayed"), "{algorithm}: {again:?}");
        let stranger = peer.token("bob", kid, algorithm, key);
        let refused = countersign.decide(&format!("JWT {stranger}")).await;
        assert_eq!(
            refused.header("x-auth-error"),
            Some("invalid_token"),
            "{algorithm}: {refused:?}"
        );
    }
}
