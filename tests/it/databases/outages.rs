//! A database that is gone or does not answer: requests that need it are refused at once, and work
//! again when it is back.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, login_status, logs_in_within, registry_becomes};
use crate::harness::http::Request;
use crate::harness::{
    ApiKey, ChaosProxy, Claims, Countersign, Database, Deployment, Door, Key, Network, Question,
    Signal, eventually_async,
};

const MAX_STALE: &str = "2s";
const AT_ONCE: Duration = Duration::from_millis(50);

struct Scene {
    deployment: Deployment,
    countersign: Countersign,
    key: Key,
    api_key: ApiKey,
}

impl Scene {
    fn on(database: Database) -> Self {
        Self::by_way_of(database, None)
    }

    fn by_way_of(database: Database, url: Option<&str>) -> Self {
        let deployment = Deployment::on(database).set("registry.max_stale", MAX_STALE);
        let deployment =
            if let Some(url) = url { deployment.set("database.url", url) } else { deployment };
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let api_key = deployment.api_key("alice");
        let countersign = deployment.serve();
        Self { deployment, countersign, key, api_key }
    }

    async fn decision(&self, username: &str) -> u16 {
        let question = Question::with(Claims::of(username).authorization(&self.key));
        Door::Http.ask(&self.countersign, &question).await.status
    }

    async fn is_away(&self) {
        registry_becomes(&self.countersign, "unavailable").await;
        eventually_async("/readyz goes on", PATIENCE, async || {
            (Request::get("/readyz").send(self.countersign.admin).await.status == 503).then_some(())
        })
        .await;
        for username in ["alice", "somebody"] {
            at_once(async || assert_eq!(self.decision(username).await, 503)).await;
        }
        at_once(async || assert_eq!(login_status(&self.countersign, &self.api_key).await, 503))
            .await;
    }

    async fn is_back(&self) {
        logs_in_within(PATIENCE, &self.countersign, &self.api_key).await;
        registry_becomes(&self.countersign, Value::Null).await;
        eventually_async("decisions do not work", PATIENCE, async || {
            (self.decision("alice").await == 200).then_some(())
        })
        .await;
        for _ in 0..16 {
            assert_eq!(login_status(&self.countersign, &self.api_key).await, 200);
        }
    }
}

/// Most of the answers: the machine is busy with other tests.
async fn at_once(mut ask: impl AsyncFnMut()) {
    let mut took = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        ask().await;
        took.push(began.elapsed());
    }
    took.sort();
    assert!(took[took.len() / 2] <= AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_stopped() {
    let mut scene = Scene::on(Database::postgres());
    scene.deployment.lose_the_database();
    scene.is_away().await;
    scene.deployment.restore_the_database();
    scene.is_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_frozen() {
    for database in [Database::postgres(), Database::mariadb()] {
        let scene = Scene::on(database);
        scene.deployment.database().signal(Signal::Stop);
        scene.is_away().await;
        scene.deployment.database().signal(Signal::Continue);
        scene.is_back().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_swallows_everything() {
    for database in [Database::postgres(), Database::mariadb()] {
        let proxy = ChaosProxy::before(database.address()).await;
        let url = database.url_through(proxy.address);
        let scene = Scene::by_way_of(database, Some(&url));
        proxy.becomes(Network::BlackHole);
        scene.is_away().await;
        proxy.becomes(Network::Fine);
        scene.is_back().await;
        // Not even the end of the old connections is reported.
        proxy.becomes(Network::HalfOpen);
        logs_in_within(PATIENCE, &scene.countersign, &scene.api_key).await;
    }
}

/// The URL is never shown, whatever is wrong with it.
#[test]
fn no_part_of_a_password_is_shown() {
    for url in [
        "postgres://countersign:hun/ter2@127.0.0.1:1/postgres",
        "postgres://countersign:hun?ter2@127.0.0.1:1/postgres",
        "postgres://countersign:hun#ter2@127.0.0.1:1/postgres",
        "postgres://countersign:hunter2@127.0.0.1:port/postgres",
        "postgres://countersign:hunter2@[::1/postgres",
        "postgres://countersign:hunter2@127.0.0.1:1/postgres?sslmode=hunter2",
        "postgres://countersign:hunter2@127.0.0.1:1/postgres?statement-cache-capacity=hunter2",
        "postgres://countersign:hunter2%FF@127.0.0.1:1/postgres",
        "postgres://countersign@127.0.0.1:1/postgres?passwort=hunter2",
        "postgres://countersign:hunter2@127.0.0.1:1/postgres",
        "mysql://countersign:hunter2@127.0.0.1:port/countersign",
        "mysql://countersign:hunter2@127.0.0.1:1/countersign?ssl-mode=hunter2",
        "mysql://countersign:hunter2@127.0.0.1:1/countersign",
        "oracle://countersign:hunter2@127.0.0.1/countersign",
        "sqlite://countersign.db?mode=hunter2",
        "hunter2",
    ] {
        let deployment = Deployment::bare().set("database.url", url).set("telemetry.log", "trace");
        for command in [["config", "check"].as_slice(), &["migrate", "up"], &["serve"]] {
            let ran = deployment.run(command);
            assert_ne!(ran.code, 0, "{url}: {ran:?}");
            for part in ["hunter2", "ter2", "hun/", "hun?", "hun#"] {
                assert!(!ran.stdout.contains(part) && !ran.stderr.contains(part), "{url}: {ran:?}");
            }
        }
    }
}
