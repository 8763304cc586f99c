//! A Redis that answers and still cannot claim: nothing is allowed, and everybody who asks is told why.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, Redis, eventually_async};

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

    /// While Redis refuses with `code`, no door allows, readiness and `config check` say so, and the log says it once.
    async fn refuses_with(&self, code: &str) {
        for door in Door::BOTH {
            let question = self.question();
            for _ in 0..3 {
                let verdict = door.ask(&self.countersign, &question).await;
                assert_eq!((verdict.status, verdict.code()), (503, Some("unavailable")), "{door:?}: {verdict:?}");
            }
        }
        let ready = Request::get("/readyz").send(self.countersign.admin).await;
        assert_eq!(ready.status, 503);
        assert!(ready.text().contains(code), "{}", ready.text());
        let checked = self.deployment.run(&["config", "check"]);
        assert!(checked.code == 1 && checked.stderr.contains(code), "{checked:?}");
        let log = self.countersign.log();
        let told = log.lines().filter(|line| line.contains("cannot claim nonces")).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].contains(code), "{told:?}");
        let kind = format!("countersign_nonce_failures_total{{kind=\"{}\"}}", code.to_lowercase());
        let metrics = Request::get("/metrics").send(self.countersign.admin).await.text();
        let counted = metrics.lines().find_map(|line| line.strip_prefix(&kind)?.trim().parse::<u64>().ok());
        assert!(counted.is_some_and(|count| count >= 6), "{kind}: {counted:?}");
    }

    /// As soon as Redis claims again, fresh tokens pass, once.
    async fn decides_again(&self) {
        eventually_async("decisions resume", Duration::from_secs(10), async || {
            Door::Http.ask(&self.countersign, &self.question()).await.allowed().then_some(())
        })
        .await;
        for door in Door::BOTH {
            let question = self.question();
            assert!(door.ask(&self.countersign, &question).await.allowed(), "{door:?}");
            assert_eq!(door.ask(&self.countersign, &question).await.code(), Some("replayed"), "{door:?}");
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
        guarded.redis.command(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    guarded.refuses_with("MISCONF").await;
    guarded.redis.unblock_snapshots();
    guarded.redis.command(&["SAVE"]);
    guarded.decides_again().await;
}
