//! `client::Session`, used by a Rust client of our own token API, behind a real nginx.

use std::time::Duration;

use countersign::client::{Session, SessionError};
use serde_json::Value;

use crate::harness::{
    ApiKey, Countersign, Deployment, Echo, Gateway, RunningGateway, eventually_async,
};

#[tokio::test]
async fn a_session_authenticates_when_it_has_to() {
    let world = World::start().await;
    let session = world.session(&world.api_key.key);

    // Eight concurrent calls share one exchange.
    let statuses = futures_util::future::join_all((0..8).map(|_| world.ask(&session))).await;
    assert_eq!(statuses, [200; 8]);
    assert_eq!(world.active_tokens(), 1, "one token for all");

    // Revoked: nginx answers 401, the refresh token is revoked, too, and the API key still works.
    world.deployment.done(&["token", "revoke", &world.jti()]);
    world.until_refused(&session).await;
    assert_eq!(world.ask(&session).await, 200);
    assert_eq!(world.active_tokens(), 1);
}

#[tokio::test]
async fn a_session_says_when_its_key_is_refused() {
    let world = World::start().await;
    for key in ["csk_nobody", ""] {
        let error = world.session(key).access_token().await.unwrap_err();
        assert!(
            matches!(error, SessionError::Refused | SessionError::Unexpected { .. }),
            "{key:?}: {error}"
        );
    }
    let nowhere =
        Session::new("http://127.0.0.1:1", world.api_key.identifier.parse().unwrap(), "x".into())
            .unwrap();
    assert!(matches!(nowhere.access_token().await, Err(SessionError::Http(_))));
}

/// Alice with an API key, and nginx between her and an echo.
struct World {
    deployment: Deployment,
    countersign: Countersign,
    gateway: RunningGateway,
    api_key: ApiKey,
    _echo: Echo,
}

impl World {
    async fn start() -> Self {
        let deployment = Deployment::new();
        deployment.done(&["principal", "add", "alice"]);
        let api_key = deployment.api_key("alice");
        let (countersign, echo) = (deployment.serve(), Echo::start());
        let gateway = Gateway::Nginx.start(&countersign, &echo).await;
        Self { deployment, countersign, gateway, api_key, _echo: echo }
    }

    fn session(&self, key: &str) -> Session {
        Session::new(
            &format!("http://{}", self.countersign.http),
            self.api_key.identifier.parse().unwrap(),
            key.into(),
        )
        .unwrap()
    }

    async fn ask(&self, session: &Session) -> u16 {
        let url = format!("http://{}/orders", self.gateway.address);
        session.send(reqwest::Client::new().get(url)).await.unwrap().status().as_u16()
    }

    /// Waits until the revocation has reached the service.
    async fn until_refused(&self, session: &Session) {
        let token = session.access_token().await.unwrap();
        let url = format!("http://{}/orders", self.gateway.address);
        eventually_async("the revocation", Duration::from_secs(5), async || {
            let token = secrecy::ExposeSecret::expose_secret(&token);
            let status =
                reqwest::Client::new().get(&url).bearer_auth(token).send().await.unwrap().status();
            (status == 401).then_some(())
        })
        .await;
    }

    fn grants(&self) -> Vec<Value> {
        let grants = self.deployment.list(&["token", "list", "alice"]);
        grants.into_iter().filter(|grant| grant["revoked_at"].is_null()).collect()
    }

    fn active_tokens(&self) -> usize {
        self.grants().len()
    }

    fn jti(&self) -> String {
        self.grants()[0]["access_jti"].as_str().unwrap().to_owned()
    }
}
