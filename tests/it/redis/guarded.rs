//! A Redis that answers but cannot claim: nothing is allowed, and every error says why.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{
    Breaker, Claims, Countersign, Deployment, Door, Key, Question, Redis, eventually_async,
};

struct Guarded {
    redis: Redis,
    deployment: Deployment,
    countersign: Countersign,
    key: Key,
}

impl Guarded {
    async fn start() -> Self {
        let redis = Redis::start();
        let deployment = Deployment::new().nonces_in(&redis);
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        let guarded = Self { redis, deployment, countersign, key };
        assert!(Door::Http.ask(&guarded.countersign, &guarded.question()).await.allowed());
        guarded
    }

    fn question(&self) -> Question {
        Question::with(Claims::of("alice").authorization(&self.key))
    }

    /// While Redis refuses with `code`, no door allows, readiness and `config check` say so, and
    /// the log says it once.
    async fn refuses_with(&self, code: &str) {
        for door in Door::BOTH {
            let question = self.question();
            for _ in 0..3 {
                let verdict = door.ask(&self.countersign, &question).await;
                assert_eq!(
                    (verdict.status, verdict.code()),
                    (503, Some("unavailable")),
                    "{door:?}: {verdict:?}"
                );
            }
        }
        let ready = Request::get("/readyz").send(self.countersign.admin).await;
        assert_eq!(ready.status, 503);
        assert!(ready.text().contains(code), "{}", ready.text());
        let checked = self.deployment.run(&["config", "check"]);
        assert!(checked.code == 1 && checked.stderr.contains(code), "{checked:?}");
        let log = self.countersign.log();
        let told =
            log.lines().filter(|line| line.contains("cannot claim nonces")).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].contains(code), "{told:?}");
        let kind = format!("countersign_nonce_failures_total{{kind=\"{}\"}}", code.to_lowercase());
        let metrics = Request::get("/metrics").send(self.countersign.admin).await.text();
        let counted =
            metrics.lines().find_map(|line| line.strip_prefix(&kind)?.trim().parse::<u64>().ok());
        assert!(counted.is_some_and(|count| count >= 6), "{kind}: {counted:?}");
    }

    /// As soon as Redis can claim again, fresh tokens pass, once.
    async fn decides_again(&self) {
        eventually_async("decisions resume", Duration::from_secs(10), async || {
            Door::Http.ask(&self.countersign, &self.question()).await.allowed().then_some(())
        })
        .await;
        for door in Door::BOTH {
            let question = self.question();
            assert!(door.ask(&self.countersign, &question).await.allowed(), "{door:?}");
            assert_eq!(
                door.ask(&self.countersign, &question).await.code(),
                Some("replayed"),
                "{door:?}"
            );
        }
        assert_eq!(Request::get("/readyz").send(self.countersign.admin).await.status, 200);
    }
}

#[tokio::test]
async fn full_and_told_not_to_evict() {
    let guarded = Guarded::start().await;
    guarded.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    guarded.refuses_with("OOM").await;
    guarded.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    guarded.decides_again().await;
}

#[tokio::test]
async fn demoted_to_a_replica() {
    let guarded = Guarded::start().await;
    let master = Redis::start();
    let (host, port) = (master.address.ip().to_string(), master.address.port().to_string());
    guarded.redis.command(&["REPLICAOF", &host, &port]);
    guarded.refuses_with("READONLY").await;
    guarded.redis.command(&["REPLICAOF", "NO", "ONE"]);
    guarded.decides_again().await;
}

#[tokio::test]
async fn without_the_replicas_that_it_wants() {
    let guarded = Guarded::start().await;
    guarded.redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    guarded.refuses_with("NOREPLICAS").await;
    guarded.redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    guarded.decides_again().await;
}

#[tokio::test]
async fn for_a_user_who_may_not_write() {
    let guarded = Guarded::start().await;
    guarded.redis.command(&["ACL", "SETUSER", "default", "-set"]);
    guarded.refuses_with("NOPERM").await;
    guarded.redis.command(&["ACL", "SETUSER", "default", "+set"]);
    guarded.decides_again().await;
}

/// A snapshot that cannot be written stops all writes.
#[tokio::test]
async fn unable_to_write_its_snapshot() {
    let guarded = Guarded::start().await;
    guarded.redis.command(&["CONFIG", "SET", "save", "3600 100000"]);
    guarded.redis.block_snapshots();
    guarded.redis.command(&["BGSAVE"]);
    eventually_async("the snapshot fails", Duration::from_secs(10), async || {
        guarded
            .redis
            .command(&["INFO", "persistence"])
            .contains("rdb_last_bgsave_status:err")
            .then_some(())
    })
    .await;
    guarded.refuses_with("MISCONF").await;
    guarded.redis.unblock_snapshots();
    guarded.redis.command(&["SAVE"]);
    guarded.decides_again().await;
}

/// The rules that `config check` names are all that a Redis user needs; if some are missing, it
/// says so.
#[tokio::test]
async fn the_acl_rules_that_are_named_are_enough() {
    let redis = Redis::start();
    let rules = ["~countersign:*", "&countersign:*"];
    redis.command(
        &[["ACL", "SETUSER", "narrow", "on", ">secret", "+set", "+get"].as_slice(), &rules]
            .concat(),
    );
    let url = |user: &str| format!("redis://{user}:secret@{}", redis.address);
    let at = |user: &str| Deployment::new().set("nonce.url", &url(user)).set("nonce.timeout", "1s");

    let refused = at("narrow").run(&["config", "check"]);
    assert!(refused.code == 1 && refused.stderr.contains("NOPERM"), "{refused:?}");
    let named = refused.stdout.lines().find_map(|line| Some(line.split_once("is enough: ")?.1));
    let named: Vec<&str> = named.unwrap_or_else(|| panic!("{refused:?}")).split(' ').collect();

    redis.command(&[["ACL", "SETUSER", "enough", "on", ">secret"].as_slice(), &named].concat());
    let deployment = at("enough");
    let checked = deployment.run(&["config", "check"]);
    assert!(checked.code == 0 && !checked.stdout.contains("warning"), "{checked:?}");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let replicas = [deployment.serve(), deployment.serve()];
    let question = Question {
        attempt: Some("one".to_owned()),
        ..Question::with(Claims::of("alice").authorization(&key))
    };
    assert!(Door::Grpc.ask(&replicas[0], &question).await.allowed());
    assert!(
        Door::Grpc.ask(&replicas[1], &question).await.allowed(),
        "the same attempt, which takes a GET"
    );
    assert_eq!(Door::Http.ask(&replicas[1], &question).await.code(), Some("replayed"));
    let token = question.authorization[0].trim_start_matches("JWT ").to_owned();
    let explained = deployment.run(&["explain", &token, "--output", "json"]).json();
    assert_eq!(explained["reason"], "nonce_claimed", "{explained:#}");

    redis.command(&["ACL", "SETUSER", "enough", "-subscribe"]);
    let warned = deployment.run(&["config", "check"]);
    assert!(warned.code == 0 && warned.stdout.contains("registry.poll_interval"), "{warned:?}");
}

#[tokio::test]
async fn a_redis_that_evicts_any_key_is_refused_at_the_start() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let deployment = Deployment::new().nonces_in(&redis);
    for command in [["serve"].as_slice(), &["config", "check"]] {
        let ran = deployment.run(command);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.code == 1 && said.contains("allkeys-lru") && said.contains("nonce.allow_eviction"),
            "{command:?}: {ran:?}"
        );
    }
    let allowed = Deployment::new().nonces_in(&redis).set("nonce.allow_eviction", "true");
    let key = Key::ed25519();
    allowed.enrol("alice", &key);
    let question = Question::with(Claims::of("alice").authorization(&key));
    let countersign = allowed.serve();
    let question =
        Question { authorization: vec![Claims::of("alice").authorization(&key)], ..question };
    assert!(Door::Http.ask(&countersign, &question).await.allowed());
}

/// Redis evicts keys with an expiry, so nonces, too: what was signed until then is denied, and new
/// tokens pass.
#[tokio::test]
async fn an_eviction_is_a_loss() {
    let guarded = Guarded::start().await;
    let checked = |policy: &str| {
        guarded.redis.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        guarded.deployment.run(&["config", "check"])
    };
    assert!(!checked("noeviction").stdout.contains("warning"));
    let warned = checked("volatile-ttl");
    assert!(warned.code == 0 && warned.stdout.contains("volatile-ttl"), "{warned:?}");
    let used = guarded.question();
    assert!(Door::Http.ask(&guarded.countersign, &used).await.allowed());
    guarded.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(
        Door::Http.ask(&guarded.countersign, &guarded.question()).await.status,
        503,
        "to write, it evicts, and is still full"
    );
    guarded.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually_async("the eviction is noticed", Duration::from_secs(10), async || {
        guarded.countersign.log().contains("it evicted keys").then_some(())
    })
    .await;
    assert_eq!(
        Door::Http.ask(&guarded.countersign, &used).await.code(),
        Some("timestamp_outside_tolerance")
    );
    guarded.decides_again().await;
}

/// Redis receives a claim, but its answer is lost: the repeated claim is recognised, and passes
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost() {
    let redis = Redis::start();
    let breaker = Breaker::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(breaker.address);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    for _ in 0..5 {
        let question = Question::with(Claims::of("alice").authorization(&key));
        breaker.lose_answers(1);
        let mut allowed = 0;
        for door in [Door::Http, Door::Grpc, Door::Http] {
            allowed += usize::from(door.ask(&countersign, &question).await.allowed());
        }
        assert!(allowed <= 1, "{allowed} of 3");
        assert_eq!(Door::Http.ask(&countersign, &question).await.code(), Some("replayed"));
    }
}

/// A claim counts only if as many Redis replicas have it as the settings say.
#[tokio::test]
async fn without_the_acknowledgements_that_are_asked_for() {
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis).set("nonce.replicas_ack", "1");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let question = || Question::with(Claims::of("alice").authorization(&key));
    let alone = Door::Http.ask(&countersign, &question()).await;
    assert_eq!(alone.status, 503, "{alone:?}");
    let replica = Redis::start();
    replica.command(&[
        "REPLICAOF",
        &redis.address.ip().to_string(),
        &redis.address.port().to_string(),
    ]);
    eventually_async("a claim that a replica has passes", Duration::from_secs(20), async || {
        Door::Http.ask(&countersign, &question()).await.allowed().then_some(())
    })
    .await;
}
