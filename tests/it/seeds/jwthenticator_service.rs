//! `jwthenticator` 1.6.3: its own clients, unchanged, with our token API, and its decorator in
//! front of a site.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::{Answer, Request};
use crate::harness::{
    ADMIN_TOKEN, ApiKey, Claims, Countersign, Deployment, Echo, Gateway, Jwthenticator, Key, Reply,
    Scripted, Seen, claims_in, eventually_async, now,
};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const STRANGER: &str = "00000000-0000-4000-8000-000000000000";

/// The limits of our answers: its clients reject unknown members, and accept only the status 201 or
/// 200, depending on the call. This tests the peer only, so it needs no service.
#[tokio::test]
async fn it_is_particular() {
    let jwt = Claims::of("alice").with("exp", now() + 600).sign(&Key::ed25519());
    let service = Scripted::start([
        (
            "/authenticate",
            vec![
                Reply::of(200).json(json!({"jwt": jwt, "refresh_token": "r", "expires_in": 600})),
                Reply::of(200).json(json!({"jwt": jwt, "refresh_token": "r"})),
            ],
        ),
        ("/refresh", vec![Reply::of(200).json(json!({"jwt": jwt})), Reply::of(401)]),
        (
            "/register_key",
            vec![
                Reply::of(200).json(json!({"result": true})),
                Reply::of(201).json(json!({"result": true})),
            ],
        ),
        ("/is_key_registered", vec![Reply::of(200).json(json!({"result": false}))]),
        ("/validate", vec![Reply::of(200).json(json!({"result": true})), Reply::of(401)]),
    ]);
    let peer = Jwthenticator::start();

    let client = peer.client(&service.url("/"), IDENTIFIER, "a key").await;
    let refused = client.authenticate().await.unwrap_err();
    assert_eq!(refused.class, "ValidationError", "{refused:?}");
    assert!(refused.text.contains("expires_in"), "{refused:?}");
    client.authenticate().await.unwrap();
    client.refresh_alone().await.unwrap();
    let tokens = client.tokens().await;
    assert_eq!(
        (tokens.jwt.as_deref(), tokens.refresh_token.as_deref()),
        (Some(jwt.as_str()), Some("r"))
    );
    assert_eq!(client.refresh_alone().await.unwrap_err().class, "RefreshError");
    // With its key, so it gets a refresh token again.
    client.refresh().await.unwrap();
    assert_eq!(client.tokens().await, tokens);

    let internal = peer.internal_client(&service.url("/"), IDENTIFIER).await;
    let refused = internal.register_key("a key").await.unwrap_err();
    assert_eq!((refused.class.as_str(), refused.text.as_str()), ("RegisterKeyError", "200"));
    internal.register_key("a key").await.unwrap();
    assert!(!internal.is_key_registered("a key").await.unwrap());

    let site = peer.site(&service.url("/")).await;
    let page = format!("http://{site}/page");
    let allowed = client.get_with_auth(&page).await.unwrap();
    assert_eq!((allowed.status, allowed.body.as_str()), (200, r#"{"page": "/page"}"#));
    assert_eq!(client.get_with_auth(&page).await.unwrap().status, 401);
    let [authenticate, ..] = &service.asked("/authenticate")[..] else { panic!("not asked") };
    assert_eq!(
        serde_json::from_str::<Value>(&authenticate.body).unwrap(),
        json!({"key": "a key", "identifier": IDENTIFIER})
    );
}

#[tokio::test]
async fn its_internal_client_registers_keys() {
    let deployment = Deployment::new().set("admin.open_key_registration", "true");
    let countersign = deployment.serve();
    let peer = Jwthenticator::start();
    let internal = peer.internal_client(&url(countersign.admin), IDENTIFIER).await;
    assert!(!internal.is_key_registered("a key of its own").await.unwrap());

    internal.register_key("a key of its own").await.unwrap();

    assert!(internal.is_key_registered("a key of its own").await.unwrap());
    let server = url(countersign.http);
    peer.client(&server, IDENTIFIER, "a key of its own").await.authenticate().await.unwrap();
    for (identifier, key) in [(STRANGER, "a key of its own"), (IDENTIFIER, "another key")] {
        let refused = peer.client(&server, identifier, key).await.authenticate().await.unwrap_err();
        assert_eq!(refused.class, "AuthenticationError", "{identifier}, {key}: {refused:?}");
    }
}

#[tokio::test]
async fn registration_is_closed_unless_opened() {
    let deployment = Deployment::new().set("admin.token", ADMIN_TOKEN);
    let countersign = deployment.serve();
    let internal =
        Jwthenticator::start().internal_client(&url(countersign.admin), IDENTIFIER).await;
    let refused = internal.register_key("a key of its own").await.unwrap_err();
    assert_eq!((refused.class.as_str(), refused.text.as_str()), ("RegisterKeyError", "401"));
    let refused = internal.is_key_registered("a key of its own").await.unwrap_err();
    assert_eq!((refused.class.as_str(), refused.text.as_str()), ("IsKeyRegisteredError", "401"));
}

#[tokio::test]
async fn its_client_authenticates_and_refreshes() {
    let world = World::start();
    let client = world
        .peer
        .client(&url(world.countersign.http), &world.api_key.identifier, &world.api_key.key)
        .await;

    client.authenticate().await.unwrap();
    let first = client.tokens().await;
    client.refresh_alone().await.unwrap();
    let second = client.tokens().await;
    client.refresh_alone().await.unwrap();

    assert!(first.jwt.is_some() && first.refresh_token.is_some(), "{first:?}");
    assert_ne!(first.jwt, second.jwt);
    assert_eq!(first.refresh_token, second.refresh_token, "it keeps the one that it has");
}

#[tokio::test]
async fn its_client_passes_the_gateway() {
    let world = World::start();
    let gateway = Gateway::Nginx.start(&world.countersign, &Echo::start()).await;
    let client = world
        .peer
        .client(&url(world.countersign.http), &world.api_key.identifier, &world.api_key.key)
        .await;
    // Not authenticated yet: the first request does that.
    for _ in 0..2 {
        let told =
            client.get_with_auth(&format!("http://{}/orders", gateway.address)).await.unwrap();
        let seen = Seen::by(&Answer {
            status: told.status,
            head: Vec::new(),
            headers: Vec::new(),
            body: told.body.into(),
        });
        assert_eq!(seen.values("x-auth-username"), ["alice"]);
        assert_eq!(seen.values("x-auth-method"), ["access_token"]);
    }
}

/// The gateway refuses a revoked token, and its client then authenticates again; once its key is
/// revoked, it cannot.
#[tokio::test]
async fn its_client_authenticates_again_after_we_revoke() {
    let world = World::start();
    let gateway = Gateway::Nginx.start(&world.countersign, &Echo::start()).await;
    let client = world
        .peer
        .client(&url(world.countersign.http), &world.api_key.identifier, &world.api_key.key)
        .await;
    let page = format!("http://{}/orders", gateway.address);
    assert_eq!(client.get_with_auth(&page).await.unwrap().status, 200);
    let first = client.tokens().await;

    let jti = claims_in(first.jwt.as_deref().unwrap())["token_id"].as_str().unwrap().to_owned();
    world.deployment.done(&["token", "revoke", &jti]);
    world.until_refused(first.jwt.as_deref().unwrap()).await;
    assert_eq!(client.get_with_auth(&page).await.unwrap().status, 200);
    let second = client.tokens().await;
    assert_ne!(
        first.refresh_token, second.refresh_token,
        "the family was revoked, so it used its key"
    );

    world.deployment.done(&["api-key", "revoke", &world.api_key.id]);
    world.until_refused(second.jwt.as_deref().unwrap()).await;
    assert_eq!(client.get_with_auth(&page).await.unwrap_err().class, "AuthenticationError");
}

#[tokio::test]
async fn its_decorator_asks_us() {
    let world = World::start();
    let site = world.peer.site(&url(world.countersign.http)).await;
    let client = world
        .peer
        .client(&url(world.countersign.http), &world.api_key.identifier, &world.api_key.key)
        .await;

    let told = client.get_with_auth(&format!("http://{site}/page")).await.unwrap();

    assert_eq!(told.status, 200, "{told:?}");
    let forged = Claims::registered("alice").with("exp", now() + 600).sign(&Key::rsa());
    for (authorization, status) in
        [(format!("Bearer {forged}"), 401), ("Bearer nonsense".to_owned(), 401)]
    {
        let answer = Request::get("/page").authorization(&authorization).send(site).await;
        assert_eq!(answer.status, status, "{authorization}: {answer:?}");
    }
}

/// Alice, with an API key.
struct World {
    peer: Jwthenticator,
    countersign: Countersign,
    api_key: ApiKey,
    deployment: Deployment,
}

impl World {
    fn start() -> Self {
        let deployment = Deployment::new().set("issuer.algorithm", "RS256");
        deployment.done(&["principal", "add", "alice"]);
        let api_key = deployment.api_key("alice");
        Self { peer: Jwthenticator::start(), countersign: deployment.serve(), api_key, deployment }
    }
}

impl World {
    /// Waits for a revocation, which takes a moment.
    async fn until_refused(&self, jwt: &str) {
        let authorization = format!("Bearer {jwt}");
        eventually_async("the revocation", Duration::from_secs(5), async || {
            let answer = Request::get("/validate_request")
                .authorization(&authorization)
                .send(self.countersign.http)
                .await;
            (answer.status == 401).then_some(())
        })
        .await;
    }
}

fn url(listener: std::net::SocketAddr) -> String {
    format!("http://{listener}/")
}
