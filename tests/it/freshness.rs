//! A change by the command line, in a process of its own, takes effect on every running replica
//! within one second.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Admin, Claims, Countersign, Database, Deployment, Door, Key, Question, eventually_async,
    execute,
};

/// The promise, and a margin for the command to exit and the request to be sent.
const IN_FORCE_WITHIN: Duration = Duration::from_millis(1_000 + 250);

#[tokio::test]
async fn on_sqlite() {
    changes_take_effect(Database::sqlite()).await;
}

#[tokio::test]
async fn on_postgres() {
    changes_take_effect(Database::postgres()).await;
}

#[tokio::test]
async fn on_mariadb() {
    changes_take_effect(Database::mariadb()).await;
}

/// Each connection takes a block of numbers for itself: what a replica writes over an older
/// connection has smaller numbers than what a command wrote just before.
#[tokio::test]
async fn on_postgres_with_numbers_in_blocks() {
    let database = Database::postgres();
    let url = database.url.clone();
    let world = World::start(database);
    let admin = Admin::of(&world.replicas[0]);
    for (block, username) in [(100, "alice"), (5000, "bob")] {
        execute(&url, &format!("ALTER SEQUENCE registry_changes_id_seq CACHE {block}")).await;
        let key = Key::ed25519();
        admin.add(&json!({ "username": username, "keys": [{ "key": key.public_pem() }] })).await;
        world.in_force("allowed", username, &key).await;
        for is_active in [false, true, false] {
            let other = format!("{username}-{block}-{is_active}-{}", Key::ed25519().fingerprint());
            world.change(&["principal", "add", &other]);
            let changed = admin
                .patch(&format!("/principals/{username}"), &json!({ "is_active": is_active }))
                .await;
            assert_eq!(changed.status, 200, "{changed:?}");
            world
                .in_force(if is_active { "allowed" } else { "invalid_token" }, username, &key)
                .await;
        }
    }
}

async fn changes_take_effect(database: Database) {
    let world = World::start(database);
    let (first, second) = (Key::ed25519(), Key::rsa());

    // Asked before, so that the replica remembers that there is no such principal.
    world.everywhere("invalid_token", "alice", &first).await;

    world.change(&["principal", "add", "alice"]);
    let first_id = world.deployment.add_key("alice", &first);
    world.in_force("allowed", "alice", &first).await;

    let second_id = world.deployment.add_key("alice", &second);
    world.in_force("allowed", "alice", &second).await;

    world.change(&["key", "revoke", &first_id]);
    world.in_force("invalid_token", "alice", &first).await;
    world.everywhere("allowed", "alice", &second).await;

    world.change(&["principal", "disable", "alice"]);
    world.in_force("invalid_token", "alice", &second).await;

    world.change(&["principal", "enable", "alice"]);
    world.in_force("allowed", "alice", &second).await;
    world.everywhere("invalid_token", "alice", &first).await;

    world.change(&["key", "revoke", &second_id]);
    world.in_force("invalid_token", "alice", &second).await;

    let third = Key::p256();
    world.deployment.add_key("alice", &third);
    world.in_force("allowed", "alice", &third).await;
    world.change(&["principal", "remove", "alice"]);
    world.in_force("invalid_token", "alice", &third).await;
}

/// After registering, a client does not wait for the next look at the changes: a refusal looks
/// first.
#[tokio::test]
async fn what_was_added_a_moment_ago_is_known() {
    let deployment =
        Deployment::new().set("registry.poll_interval", "1m").set("registry.max_stale", "5m");
    let countersign = deployment.serve();
    for (door, username) in Door::BOTH.into_iter().zip(["alice", "bob"]) {
        let (first, second) = (Key::ed25519(), Key::p256());
        let ask = async |key: &Key| {
            door.ask(&countersign, &Question::with(Claims::of(username).authorization(key))).await
        };
        assert_eq!(ask(&first).await.code(), Some("invalid_token"), "nobody yet");
        deployment.enrol(username, &first);
        assert!(ask(&first).await.allowed(), "{username}, just added");
        assert_eq!(ask(&second).await.code(), Some("invalid_token"));
        deployment.add_key(username, &second);
        assert!(ask(&second).await.allowed(), "a key just added");
    }
}

struct World {
    replicas: [Countersign; 2],
    deployment: Deployment,
}

impl World {
    fn start(database: Database) -> Self {
        let deployment = Deployment::on(database).administered();
        let replicas = [(); 2].map(|()| deployment.serve());
        Self { replicas, deployment }
    }

    fn change(&self, arguments: &[&str]) {
        self.deployment.done(arguments);
    }

    /// Measured from the end of the command: an administrator's next look.
    async fn in_force(&self, expected: &str, username: &str, key: &Key) {
        let start = Instant::now();
        for replica in &self.replicas {
            let left = IN_FORCE_WITHIN.saturating_sub(start.elapsed());
            let what = format!("{username} is {expected}");
            eventually_async(&what, left, async || {
                (ask(replica, username, key).await == expected).then_some(())
            })
            .await;
        }
        // It stays so.
        self.everywhere(expected, username, key).await;
    }

    async fn everywhere(&self, expected: &str, username: &str, key: &Key) {
        for replica in &self.replicas {
            assert_eq!(ask(replica, username, key).await, expected, "{username}");
        }
    }
}

/// `allowed`, or the code of the denial.
async fn ask(replica: &Countersign, username: &str, key: &Key) -> String {
    let question = Question::with(Claims::of(username).authorization(key));
    let verdict = Door::Http.ask(replica, &question).await;
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}
