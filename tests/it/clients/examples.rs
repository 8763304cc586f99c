//! The clients of `examples/clients`, each in its own language, do what their READMEs say.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Claims, Countersign, Deployment, Echo, ExampleClient, Gateway, Key, Reply, RunningGateway,
    Scripted, now,
};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const API_KEY: &str = r#"a key, with "quotes" and \backslashes"#;

#[tokio::test]
async fn each_request_has_a_token_of_its_own() {
    let world = World::start(Deployment::new()).await;
    for client in ExampleClient::all() {
        for key in &world.keys {
            let told = client.signed(&world.url("/orders?page=1"), "alice", key, &["--times", "3"]);

            let seen = told.seen();
            let case = format!("{}, {}", client.language, key.usual_algorithm());
            assert_eq!(seen.values("x-auth-username"), ["alice"], "{case}");
            assert_eq!(seen.values("x-auth-method"), ["self_signed"], "{case}");
            assert_eq!(seen.values("x-auth-key-id"), [key.fingerprint().as_str()], "{case}");
            assert_eq!(seen.target, "/orders?page=1", "{case}");
        }
    }
}

#[tokio::test]
async fn tokens_are_bound_to_their_request() {
    let world = World::start(Deployment::new().set("self_signed.require", "htm,htu")).await;
    let url = world.url("/orders?page=1");
    for client in ExampleClient::all() {
        for key in &world.keys {
            let case = format!("{}, {}", client.language, key.usual_algorithm());
            let bound = client.signed(&url, "alice", key, &["--bind", "--method", "POST"]).seen();
            assert_eq!(
                (bound.method.as_str(), bound.values("x-auth-username")),
                ("POST", vec!["alice"]),
                "{case}"
            );
            assert_eq!(client.signed(&url, "alice", key, &[]).status, 401, "{case}");
        }
    }
}

#[tokio::test]
async fn a_stranger_is_told_so() {
    let world = World::start(Deployment::new()).await;
    let stranger = Key::ed25519();
    for client in ExampleClient::all() {
        let told = client.signed(&world.url("/"), "alice", &stranger, &[]);
        assert_eq!(told.status, 401, "{}", client.language);
    }
}

#[tokio::test]
async fn a_retry_is_signed_anew() {
    for client in ExampleClient::all() {
        let busy = Reply::of(503).header("Retry-After", "1");
        let api = Scripted::start([("/", vec![busy, Reply::of(200)])]);

        let told = client.signed(&api.url("/"), "alice", &Key::ed25519(), &[]);

        let asked = api.asked("/");
        let tokens: Vec<_> = asked.iter().flat_map(|seen| seen.values("authorization")).collect();
        assert_eq!((told.status, tokens.len()), (200, 2), "{}: {tokens:?}", client.language);
        assert_ne!(tokens[0], tokens[1], "{}", client.language);
    }
}

/// The client returns an answer without a usable `Retry-After` as it is. It does the same with a
/// redirect.
#[tokio::test]
async fn an_answer_is_an_answer() {
    for client in ExampleClient::all() {
        for reply in [
            Reply::of(503),
            Reply::of(429).header("Retry-After", "3600"),
            Reply::of(500).header("Retry-After", "0"),
            Reply::of(302).header("Location", "/elsewhere"),
            Reply::of(401),
        ] {
            let api =
                Scripted::start([("/", vec![reply.clone()]), ("/elsewhere", vec![Reply::of(200)])]);
            let told = client.signed(&api.url("/"), "alice", &Key::ed25519(), &[]);
            assert!(told.status >= 300, "{}, {reply:?}: {told:?}", client.language);
            assert_eq!(api.asked("/").len(), 1, "{}, {reply:?}", client.language);
            assert_eq!(api.asked("/elsewhere").len(), 0, "{}, {reply:?}", client.language);
        }
    }
}

#[tokio::test]
async fn an_access_token_is_kept() {
    for client in ExampleClient::all() {
        let token = token(600);
        let service = Scripted::start([
            ("/authenticate", vec![granted(&token)]),
            ("/api", vec![Reply::of(200)]),
        ]);

        let told = client.exchanged(
            &service.url("/api"),
            &service.url("/"),
            IDENTIFIER,
            API_KEY,
            &["--times", "3"],
        );

        assert_eq!(told.status, 200, "{}", client.language);
        let [ref authenticated] = service.asked("/authenticate")[..] else {
            panic!("{}: not once", client.language)
        };
        let question: serde_json::Value = serde_json::from_str(&authenticated.body).unwrap();
        assert_eq!(
            question,
            json!({"key": API_KEY, "identifier": IDENTIFIER}),
            "{}",
            client.language
        );
        assert_eq!(
            authenticated.values("content-type"),
            ["application/json"],
            "{}",
            client.language
        );
        assert_eq!(bearers(&service), vec![token; 3], "{}", client.language);
    }
}

#[tokio::test]
async fn an_access_token_about_to_expire_is_refreshed() {
    for client in ExampleClient::all() {
        let (old, new) = (token(5), token(600));
        let service = Scripted::start([
            ("/authenticate", vec![granted(&old)]),
            ("/refresh", vec![Reply::of(200).json(json!({"jwt": new}))]),
            ("/api", vec![Reply::of(200)]),
        ]);

        let told = client.exchanged(
            &service.url("/api"),
            &service.url(""),
            IDENTIFIER,
            API_KEY,
            &["--times", "3"],
        );

        assert_eq!(told.status, 200, "{}", client.language);
        assert_eq!(bearers(&service), [old, new.clone(), new], "{}", client.language);
        let [ref refreshed] = service.asked("/refresh")[..] else {
            panic!("{}: not once", client.language)
        };
        let question: serde_json::Value = serde_json::from_str(&refreshed.body).unwrap();
        assert_eq!(
            question,
            json!({"refresh_token": "for later", "identifier": IDENTIFIER}),
            "{}",
            client.language
        );
        assert_eq!(service.asked("/authenticate").len(), 1, "{}", client.language);
    }
}

/// The API and then the refresh answer 401: the client authenticates with the API key, and repeats
/// the request once.
#[tokio::test]
async fn a_refused_access_token_is_replaced() {
    for client in ExampleClient::all() {
        let (revoked, new) = (token(600), token(601));
        let service = Scripted::start([
            ("/authenticate", vec![granted(&revoked), granted(&new)]),
            ("/refresh", vec![Reply::of(401)]),
            ("/api", vec![Reply::of(401), Reply::of(200)]),
        ]);

        let told =
            client.exchanged(&service.url("/api"), &service.url(""), IDENTIFIER, API_KEY, &[]);

        assert_eq!(told.status, 200, "{}", client.language);
        assert_eq!(bearers(&service), [revoked, new], "{}", client.language);
        assert_eq!(service.asked("/refresh").len(), 1, "{}", client.language);
    }
}

#[tokio::test]
async fn a_second_refusal_is_believed() {
    for client in ExampleClient::all() {
        let service = Scripted::start([
            ("/authenticate", vec![granted(&token(600))]),
            ("/refresh", vec![Reply::of(200).json(json!({"jwt": token(601)}))]),
            ("/api", vec![Reply::of(401)]),
        ]);
        let told = client.exchanged(
            &service.url("/api"),
            &service.url(""),
            IDENTIFIER,
            API_KEY,
            &["--times", "3"],
        );
        assert_eq!(told.status, 401, "{}", client.language);
        assert_eq!(service.asked("/api").len(), 2, "{}", client.language);
        assert_eq!(service.asked("/authenticate").len(), 1, "{}", client.language);
    }
}

#[tokio::test]
async fn a_refused_api_key_ends_it() {
    for client in ExampleClient::all() {
        let service = Scripted::start([
            ("/authenticate", vec![Reply::of(401)]),
            ("/api", vec![Reply::of(200)]),
        ]);
        let ran =
            client.try_exchanged(&service.url("/api"), &service.url(""), IDENTIFIER, API_KEY, &[]);
        assert_eq!(ran.code, 1, "{}: {ran:?}", client.language);
        assert!(
            !ran.stderr.is_empty() && !ran.stderr.contains(API_KEY),
            "{}: {ran:?}",
            client.language
        );
        assert_eq!(service.asked("/authenticate").len(), 1, "{}", client.language);
        assert_eq!(service.asked("/api").len(), 0, "{}", client.language);
    }
}

#[tokio::test]
async fn who_sends_too_much_waits() {
    for client in ExampleClient::all() {
        let later = Reply::of(429).header("Retry-After", "1");
        let service = Scripted::start([
            ("/authenticate", vec![later.clone(), granted(&token(600))]),
            ("/api", vec![later, Reply::of(200)]),
        ]);
        let start = Instant::now();

        let told =
            client.exchanged(&service.url("/api"), &service.url(""), IDENTIFIER, API_KEY, &[]);

        assert_eq!(told.status, 200, "{}", client.language);
        assert!(
            start.elapsed() >= Duration::from_secs(2),
            "{}: {:?}",
            client.language,
            start.elapsed()
        );
        assert_eq!(
            (service.asked("/authenticate").len(), service.asked("/api").len()),
            (2, 2),
            "{}",
            client.language
        );
    }
}

#[tokio::test]
async fn an_api_key_opens_the_gateway() {
    let world = World::start(Deployment::new()).await;
    let api_key = world.deployment.api_key("alice");
    let server = format!("http://{}", world.countersign.http);
    for client in ExampleClient::all() {
        let told = client.exchanged(
            &world.url("/orders"),
            &server,
            &api_key.identifier,
            &api_key.key,
            &["--times", "3"],
        );
        let seen = told.seen();
        assert_eq!(seen.values("x-auth-username"), ["alice"], "{}", client.language);
        assert_eq!(seen.values("x-auth-method"), ["access_token"], "{}", client.language);

        let refused =
            client.try_exchanged(&world.url("/orders"), &server, IDENTIFIER, &api_key.key, &[]);
        assert_eq!(refused.code, 1, "{}: not the key's identifier: {refused:?}", client.language);
    }
}

/// Alice, with a key of each type, and nginx before an echo.
struct World {
    gateway: RunningGateway,
    countersign: Countersign,
    keys: [Key; 2],
    deployment: Deployment,
}

impl World {
    async fn start(deployment: Deployment) -> Self {
        let keys = [Key::ed25519(), Key::rsa()];
        deployment.enrol("alice", &keys[0]);
        deployment.add_key("alice", &keys[1]);
        let countersign = deployment.serve();
        let gateway = Gateway::Nginx.start(&countersign, &Echo::start()).await;
        Self { gateway, countersign, keys, deployment }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.gateway.address)
    }
}

/// An access token as clients see it: a JWT with an `exp`.
fn token(lifetime: i64) -> String {
    Claims::of("alice").with("exp", now() + lifetime).sign(&Key::ed25519())
}

fn granted(token: &str) -> Reply {
    Reply::of(200).json(json!({"jwt": token, "refresh_token": "for later"}))
}

/// The tokens that reached the API.
fn bearers(service: &Scripted) -> Vec<String> {
    let asked = service.asked("/api");
    asked
        .iter()
        .flat_map(|seen| seen.values("authorization"))
        .map(|value| value.replace("Bearer ", ""))
        .collect()
}
