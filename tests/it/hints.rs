//! Redis tells the replicas that something changed. Without it they find out by polling.
//!
//! The revocation of a key shows which of the two happened: while the key is accepted, nothing asks
//! for a look at the changes, as a refusal would. If it takes effect long before the next poll is
//! due, a hint caused that.

use std::time::{Duration, Instant};

use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Question, Ran, Redis, RedisCluster, RedisSentinel,
    Sluice, eventually_async, variable,
};

/// The maximum of the setting: no test here lasts until the second poll.
const RARELY: &str = "1m";
/// For the command to exit and the request to be sent on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// The promise of polling, and a margin as above.
const BY_POLLING: Duration = Duration::from_millis(1_000 + 250);
/// For connections to come back.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn over_one_redis() {
    let redis = Redis::start();
    let world = World::start(&format!("redis://{}", redis.address));
    world.follows_at_once("alice").await;

    // A change without a hint is not known before the next poll, and any hint makes it known.
    let silent = world.enrol("silent");
    world.ask_all("allowed", &silent).await;
    let mut command = world.deployment.command(&["key", "revoke", &silent.id]);
    let ran = Ran::of(command.env(variable("nonce.url"), "memory:"));
    assert_eq!(ran.code, 0, "{ran:?}");
    for _ in 0..10 {
        world.ask_all("allowed", &silent).await;
    }
    world.deployment.done(&["principal", "add", "loud"]);
    world.becomes("invalid_token", &silent, SOON).await;
}

#[tokio::test]
async fn over_a_cluster() {
    let redis = RedisCluster::start();
    World::start(&format!("redis+cluster://{}", redis.address)).follows_at_once("alice").await;
}

#[tokio::test]
async fn over_sentinels() {
    let redis = RedisSentinel::start();
    World::start(&format!("redis+sentinel://{}/main", redis.address))
        .follows_at_once("alice")
        .await;
}

/// Both the command and the replicas skip nodes that are gone.
#[tokio::test]
async fn over_the_nodes_that_are_there() {
    let gone = crate::harness::free_port();
    let cluster = RedisCluster::start();
    World::start(&format!("redis+cluster://127.0.0.1:{gone},{}", cluster.address))
        .follows_at_once("alice")
        .await;
    let sentinel = RedisSentinel::start();
    World::start(&format!("redis+sentinel://127.0.0.1:{gone},{}/main", sentinel.address))
        .follows_at_once("alice")
        .await;
}

#[tokio::test]
async fn a_restarted_redis_is_listened_to_again() {
    let mut redis = Redis::start();
    let world = World::start(&format!("redis://{}", redis.address));
    let [first, second] = ["first", "second"].map(|username| world.enrol(username));
    world.follows_at_once("alice").await;

    redis.stop();
    world.ask_all("unavailable", &first).await;
    redis.restart();
    world.becomes("allowed", &first, PATIENCE).await;
    world.becomes("allowed", &second, PATIENCE).await;

    // The replicas look for changes once they are connected again; when this change takes effect,
    // they are.
    world.deployment.done(&["key", "revoke", &first.id]);
    world.becomes("invalid_token", &first, PATIENCE).await;
    world.deployment.done(&["key", "revoke", &second.id]);
    world.becomes("invalid_token", &second, SOON).await;
}

/// Changes come from the database; Redis only makes them faster.
#[tokio::test]
async fn changes_need_no_redis() {
    let mut redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let (key, other) = (Key::ed25519(), Key::ed25519());
    let id = deployment.enrol("alice", &key);
    deployment.enrol("bob", &other);
    let world = World { replicas: [(); 2].map(|()| deployment.serve()), deployment };
    let (alice, bob) = (
        Holder { username: "alice", key, id },
        Holder { username: "bob", key: other, id: String::new() },
    );
    world.ask_all("allowed", &alice).await;

    redis.stop();
    world.ask_all("unavailable", &alice).await;
    world.succeeds_at_once(&["key", "revoke", &alice.id]);
    world.becomes("invalid_token", &alice, BY_POLLING).await;
    world.succeeds_at_once(&["principal", "disable", "bob"]);
    world.becomes("invalid_token", &bob, BY_POLLING).await;
}

/// As if its machine were gone: nothing answers, and no connection breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_holds_no_command_up() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address()).set("nonce.timeout", "1s");
    let key = Key::ed25519();
    let id = deployment.enrol("alice", &key);
    let world = World { replicas: [(); 2].map(|()| deployment.serve()), deployment };
    let alice = Holder { username: "alice", key, id };
    world.ask_all("allowed", &alice).await;

    sluice.shut();
    world.succeeds_at_once(&["key", "revoke", &alice.id]);
    // A request that comes too early waits for its nonce.
    world.becomes("invalid_token", &alice, BY_POLLING + Duration::from_secs(1)).await;

    sluice.open();
    let bob = world.enrol("bob");
    world.becomes("allowed", &bob, PATIENCE).await;
}

struct Holder {
    username: &'static str,
    key: Key,
    id: String,
}

struct World {
    replicas: [Countersign; 2],
    deployment: Deployment,
}

impl World {
    /// Two replicas that poll rarely.
    fn start(nonces: &str) -> Self {
        let deployment = Deployment::new()
            .set("nonce.url", nonces)
            .set("nonce.timeout", "1s")
            .set("registry.poll_interval", RARELY);
        Self { replicas: [(); 2].map(|()| deployment.serve()), deployment }
    }

    fn enrol(&self, username: &'static str) -> Holder {
        let key = Key::ed25519();
        Holder { username, id: self.deployment.enrol(username, &key), key }
    }

    /// Revokes a key, and disables a principal.
    async fn follows_at_once(&self, username: &'static str) {
        let first = self.enrol(username);
        let second = Key::ed25519();
        let second =
            Holder { username, id: self.deployment.add_key(username, &second), key: second };
        self.ask_all("allowed", &first).await;
        self.ask_all("allowed", &second).await;
        self.deployment.done(&["key", "revoke", &first.id]);
        self.becomes("invalid_token", &first, SOON).await;
        self.ask_all("allowed", &second).await;
        self.deployment.done(&["principal", "disable", username]);
        self.becomes("invalid_token", &second, SOON).await;
    }

    /// Every replica gives this answer now.
    async fn ask_all(&self, expected: &str, holder: &Holder) {
        for replica in &self.replicas {
            assert_eq!(ask(replica, holder).await, expected, "{}", holder.username);
        }
    }

    async fn becomes(&self, expected: &str, holder: &Holder, within: Duration) {
        let start = Instant::now();
        for replica in &self.replicas {
            let what = format!("{} is {expected}", holder.username);
            let left = within.saturating_sub(start.elapsed());
            eventually_async(&what, left, async || {
                (ask(replica, holder).await == expected).then_some(())
            })
            .await;
        }
    }

    /// The change is made without waiting for a Redis that is gone.
    fn succeeds_at_once(&self, arguments: &[&str]) {
        let start = Instant::now();
        self.deployment.done(arguments);
        assert!(start.elapsed() < SOON, "{arguments:?} took {:?}", start.elapsed());
    }
}

/// `allowed`, or the code of the refusal.
async fn ask(replica: &Countersign, holder: &Holder) -> String {
    let question = Question::with(Claims::of(holder.username).authorization(&holder.key));
    let verdict = Door::Http.ask(replica, &question).await;
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}
