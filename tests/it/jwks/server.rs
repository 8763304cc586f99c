//! The tests' own server of key sets works: otherwise the tests would prove nothing.

use std::time::Duration;

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};

use crate::harness::{Behaviour, JwksServer, Key, Signer, eventually_async};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn it_serves_sets_over_tls() {
    let server = JwksServer::https();
    let client = client(&server);
    let (url, signer) = (server.url("/keys"), Signer::named("one"));
    assert_eq!(client.get(&url).send().await.unwrap().status(), 404);

    server.put("/keys", Behaviour::set([signer.jwk()]));
    let set: Value = client.get(&url).send().await.unwrap().json().await.unwrap();

    assert_eq!(set, json!({"keys": [signer.jwk()]}));
    assert_eq!(server.requests("/keys").len(), 2);
    assert_eq!(server.requests("/other").len(), 0);
    assert_eq!((server.most_in_flight("/keys"), server.connections()), (1, 2));
    assert!(reqwest::get(&url).await.is_err(), "its authority is nobody else's");
}

#[tokio::test]
async fn it_fails_and_redirects() {
    let server = JwksServer::http();
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    server.put("/fails", Behaviour::text("why").with_status(500));
    server.put("/redirects", Behaviour::text("where").redirecting(307, "http://elsewhere.test/"));

    let failed = client.get(server.url("/fails")).send().await.unwrap();
    assert_eq!((failed.status().as_u16(), failed.text().await.unwrap().as_str()), (500, "why"));
    let redirected = client.get(server.url("/redirects")).send().await.unwrap();
    assert_eq!(
        (redirected.status().as_u16(), &redirected.headers()["location"].to_str().unwrap()),
        (307, &"http://elsewhere.test/")
    );
}

/// Held requests are counted, answered when the behaviour changes, and dropped when the client
/// disconnects.
#[tokio::test]
async fn it_holds_requests() {
    let server = JwksServer::https();
    let client = client(&server);
    let url = server.url("/keys");
    server.put("/keys", Behaviour::Holds);
    let gone = client.get(&url).timeout(Duration::from_millis(300)).send();
    assert!(gone.await.unwrap_err().is_timeout());

    let (first, second) = (client.get(&url).send(), client.get(&url).send());
    let release = async {
        eventually_async("three requests", PATIENCE, async || {
            (server.requests("/keys").len() == 3).then_some(())
        })
        .await;
        server.put("/keys", Behaviour::text("{}"));
    };
    let (first, second, ()) = tokio::join!(first, second, release);

    assert_eq!(
        first.unwrap().text().await.unwrap() + &second.unwrap().text().await.unwrap(),
        "{}{}"
    );
    assert_eq!(server.most_in_flight("/keys"), 2);
}

#[tokio::test]
async fn it_drips_and_floods_without_end() {
    let server = JwksServer::https();
    let client = client(&server);
    server.put("/drips", Behaviour::Drips);
    server.put("/floods", Behaviour::Floods("{}".to_owned()));

    let mut drips = client.get(server.url("/drips")).send().await.unwrap();
    for _ in 0..3 {
        assert!(drips.chunk().await.unwrap().unwrap().iter().all(|byte| *byte == b' '));
    }
    let mut floods = client.get(server.url("/floods")).send().await.unwrap();
    let mut received = 0;
    while received < 1024 * 1024 {
        received += floods.chunk().await.unwrap().unwrap().len();
    }
    let whole = client
        .get(server.url("/drips"))
        .timeout(Duration::from_secs(1))
        .send()
        .await
        .unwrap()
        .bytes()
        .await;
    assert!(whole.unwrap_err().is_timeout());
}

#[tokio::test]
async fn it_goes_and_comes_back() {
    let mut server = JwksServer::https();
    let client = client(&server);
    let url = server.url("/keys");
    server.put("/keys", Behaviour::Holds);
    let held = tokio::spawn(client.get(&url).send());
    eventually_async("a request", PATIENCE, async || {
        (server.requests("/keys").len() == 1).then_some(())
    })
    .await;

    server.stop();
    assert!(held.await.unwrap().is_err());
    assert!(client.get(&url).send().await.unwrap_err().is_connect());

    server.resume();
    server.put("/keys", Behaviour::set([]));
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
}

/// The JWK that the harness writes is the key that it signs with, as another library reads it.
#[test]
fn its_keys_are_what_they_say() {
    for key in [Key::rsa(), Key::p256(), Key::p384(), Key::ed25519()] {
        let signer = Signer::new("one", key);
        let token = signer.claims("alice").sign(&signer.key);
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk()).unwrap();
        let mut validation = Validation::new(signer.key.usual_algorithm().parse().unwrap());
        validation.required_spec_claims.clear();

        let read = jsonwebtoken::decode::<Value>(
            &token,
            &DecodingKey::from_jwk(&jwk).unwrap(),
            &validation,
        );

        let read = read.unwrap_or_else(|error| panic!("{}: {error}", signer.key.usual_algorithm()));
        assert_eq!(
            (read.header.kid.as_deref(), &read.claims["username"]),
            (Some("one"), &json!("alice"))
        );
    }
}

fn client(server: &JwksServer) -> reqwest::Client {
    let authority =
        reqwest::Certificate::from_pem(&std::fs::read(server.ca_file()).unwrap()).unwrap();
    reqwest::Client::builder().tls_certs_merge([authority]).build().unwrap()
}
