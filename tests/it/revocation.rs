//! A key is revoked while two replicas decide under load: how long it is still accepted, and that
//! nothing else is affected, even if the database goes away and comes back in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{
    Claims, Client, Countersign, Database, Deployment, Door, Key, Load, Question, Ran, Redis,
    Sample,
};
use crate::harness::{eventually_async, now, variable};

/// In total. A machine that cannot keep up answers fewer; the promises hold all the same.
const PER_SECOND: u32 = 500;
/// The promise if Redis tells the replicas that something changed.
const WITH_HINTS: Duration = Duration::from_millis(100);
/// The promise if they have to find out by polling.
const BY_POLLING: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_secs(20);
/// The maximum age of a note of use: one is made every 10 s, in whole seconds.
const NOTE_AGE_SECONDS: i64 = 11;
/// For anything without a promised time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The client whose key is revoked.
const REVOKED: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_ends_a_key_within_100_ms() {
    let world = World::start();
    let load = world.load();
    load.has_decided(1000, None, world.began).await;

    let command = world.revoke(REVOKED, true);
    load.has_decided(100, Some(REVOKED), command.ended + WITH_HINTS).await;

    let (samples, rate) = load.end().await;
    judge(&samples, rate, &command, WITH_HINTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_alone_ends_a_key_within_1_s() {
    let world = World::start();
    let load = world.load();
    load.has_decided(1000, None, world.began).await;

    let command = world.revoke(REVOKED, false);
    load.has_decided(100, Some(REVOKED), command.ended + BY_POLLING).await;

    let (samples, rate) = load.end().await;
    judge(&samples, rate, &command, BY_POLLING);
}

/// All clients continue from memory meanwhile, no used nonce is forgotten, and afterwards changes
/// are followed as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_database_is_outlived() {
    let mut world = World::start();
    let [before, during, after, probe] =
        ["before", "during", "after", "probe"].map(|username| world.enrol(username));
    let load = world.load();
    load.has_decided(1000, None, world.began).await;
    world.uses(&probe).await;

    let mut uses = vec![(&before, world.uses(&before).await)];
    world.deployment.lose_the_database();
    let lost = Instant::now();
    load.has_decided(100, None, lost + OUTAGE / 2).await;
    uses.push((&during, world.uses(&during).await));
    load.has_decided(100, None, lost + OUTAGE).await;
    world.deployment.restore_the_database();
    let restored = Instant::now();
    uses.push((&after, world.uses(&after).await));

    // No accepted request of the key that is being revoked triggers a look for changes: the
    // replicas follow them by themselves.
    world.deployment.done(&["key", "revoke", &probe.id]);
    for replica in &world.replicas {
        let what = "a change after the outage is followed";
        eventually_async(what, PATIENCE, async || {
            (ask(replica, &probe).await == "invalid_token").then_some(())
        })
        .await;
    }
    eprintln!("changes are followed {:?} after the database is back", restored.elapsed());
    let newcomer = world.enrol("newcomer");
    world.uses(&newcomer).await;

    let command = world.revoke(REVOKED, true);
    load.has_decided(100, Some(REVOKED), command.ended + WITH_HINTS).await;
    let (samples, rate) = load.end().await;
    judge(&samples, rate, &command, WITH_HINTS);

    for (number, client) in world.clients.iter().enumerate() {
        let accepted = samples
            .iter()
            .filter(|sample| sample.client == number && sample.outcome == "allowed")
            .map(|sample| sample.started);
        let ago = i64::try_from(accepted.max().unwrap().elapsed().as_secs()).unwrap();
        uses.push((client, now() - ago));
    }
    for (client, used_at) in uses {
        let what = format!("the use of {}'s key {}", client.username, client.id);
        eventually_async(&what, PATIENCE, async || {
            let noted = world.deployment.last_used_on(&client.id);
            noted.is_some_and(|noted| noted >= used_at - NOTE_AGE_SECONDS).then_some(())
        })
        .await;
    }
}

/// When a command ran.
struct Command {
    began: Instant,
    ended: Instant,
}

/// The only failures are those of the revoked key, after the command began; from `bound` after its
/// end the key never passes. Counts by the start of requests: one that was under way at that moment
/// may have been decided already.
fn judge(samples: &[Sample], rate: usize, command: &Command, bound: Duration) {
    let (revoked, others): (Vec<&Sample>, Vec<&Sample>) =
        samples.iter().partition(|sample| sample.client == REVOKED);
    let failed: Vec<&&Sample> =
        others.iter().filter(|sample| sample.outcome != "allowed").collect();
    assert!(
        failed.is_empty(),
        "{} of {} other decisions failed, the first: {:?}",
        failed.len(),
        others.len(),
        failed[0]
    );
    for sample in &revoked {
        let may_be_refused = sample.outcome == "invalid_token" && sample.ended >= command.began;
        assert!(
            sample.outcome == "allowed" || may_be_refused,
            "before or instead of the revocation: {sample:?}"
        );
    }
    let accepted = revoked.iter().filter(|sample| sample.outcome == "allowed");
    let last = accepted
        .map(|sample| sample.started)
        .max()
        .unwrap()
        .saturating_duration_since(command.ended);
    let slowest = others.iter().map(|sample| sample.ended - sample.started).max().unwrap();
    eprintln!(
        "{} decisions, {rate} a second, the slowest {slowest:?}; the revoked key was last accepted {last:?} after the command ended",
        samples.len()
    );
    assert!(last <= bound, "accepted {last:?} after the command ended");
}

/// Two replicas on `PostgreSQL` and Redis; four principals with two keys each.
struct World {
    replicas: [Countersign; 2],
    clients: Arc<Vec<Client>>,
    deployment: Deployment,
    began: Instant,
    _redis: Redis,
}

impl World {
    fn start() -> Self {
        let redis = Redis::start();
        let deployment = Deployment::on(Database::postgres()).nonces_in(&redis);
        let mut clients = Vec::new();
        for username in ["alice", "bob", "carol", "dave"] {
            clients.push(enrol(&deployment, username));
            let second = Key::ed25519();
            clients.push(Client {
                username: username.to_owned(),
                id: deployment.add_key(username, &second),
                key: second,
            });
        }
        let replicas = [(); 2].map(|()| deployment.serve());
        Self {
            replicas,
            clients: Arc::new(clients),
            deployment,
            began: Instant::now(),
            _redis: redis,
        }
    }

    fn load(&self) -> Load {
        Load::start(&self.replicas, &self.clients, PER_SECOND)
    }

    fn enrol(&self, username: &str) -> Client {
        enrol(&self.deployment, username)
    }

    /// By the command line, which sends a hint to the replicas only if it knows of Redis.
    fn revoke(&self, client: usize, with_hint: bool) -> Command {
        let mut command = self.deployment.command(&["key", "revoke", &self.clients[client].id]);
        if !with_hint {
            command.env(variable("nonce.url"), "memory:");
        }
        let began = Instant::now();
        let ran = Ran::of(&mut command);
        let ended = Instant::now();
        assert_eq!(ran.code, 0, "{ran:?}");
        Command { began, ended }
    }

    /// Every replica allows a request with this key. Returns when, as Unix time in seconds.
    async fn uses(&self, client: &Client) -> i64 {
        let used_at = now();
        for replica in &self.replicas {
            assert_eq!(ask(replica, client).await, "allowed", "{}", client.username);
        }
        used_at
    }
}

fn enrol(deployment: &Deployment, username: &str) -> Client {
    let key = Key::ed25519();
    Client { username: username.to_owned(), id: deployment.enrol(username, &key), key }
}

/// `allowed`, or the code of the denial.
async fn ask(replica: &Countersign, client: &Client) -> String {
    let question = Question::with(Claims::of(&client.username).authorization(&client.key));
    let verdict = Door::Http.ask(replica, &question).await;
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}
