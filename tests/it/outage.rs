//! Fails closed, and recovers without a restart.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{
    Claims, Database, Deployment, Door, Key, Question, Redis, ScriptedRedis, eventually_async,
};

#[tokio::test]
async fn redis_gone_and_back() {
    let mut redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let replicas = [(); 3].map(|()| deployment.serve());
    let question = || Question::with(Claims::of("alice").authorization(&key));
    for replica in &replicas {
        assert!(Door::Http.ask(replica, &question()).await.allowed());
    }

    redis.stop();
    for _ in 0..5 {
        for replica in &replicas {
            for door in Door::BOTH {
                let verdict = door.ask(replica, &question()).await;
                assert_eq!(
                    (verdict.status, verdict.code()),
                    (503, Some("unavailable")),
                    "{door:?}: {verdict:?}"
                );
            }
        }
    }

    for replica in &replicas {
        // A load balancer takes it out; no restart is needed.
        assert_eq!(Request::get("/readyz").send(replica.admin).await.status, 503);
        assert_eq!(Request::get("/livez").send(replica.http).await.status, 200);
    }

    redis.restart();
    for replica in &replicas {
        eventually_async("decisions resume", Duration::from_secs(10), async || {
            Door::Http.ask(replica, &question()).await.allowed().then_some(())
        })
        .await;
        // Not by chance: every connection works again.
        for door in Door::BOTH {
            for _ in 0..10 {
                let verdict = door.ask(replica, &question()).await;
                assert!(verdict.allowed(), "{door:?}: {verdict:?}");
            }
        }
        assert_eq!(Request::get("/readyz").send(replica.admin).await.status, 200);
    }
}

/// A token that could not be decided is not spent: its second presentation counts as the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecided_token_is_still_good() {
    let redis = Redis::start();
    let scripted = ScriptedRedis::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(scripted.address);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let question = Question::with(Claims::of("alice").authorization(&key));

    scripted.reply("-LOADING Redis is loading the dataset in memory\r\n");
    assert_eq!(Door::Http.ask(&countersign, &question).await.status, 503);
    scripted.pass();

    eventually_async("the token is decided", Duration::from_secs(10), async || {
        Door::Http.ask(&countersign, &question).await.allowed().then_some(())
    })
    .await;
    assert_eq!(Door::Http.ask(&countersign, &question).await.code(), Some("replayed"));
}

/// A Redis that comes back empty may have lost used nonces: tokens signed before are denied, used
/// or not, and new ones pass.
#[tokio::test]
async fn a_token_from_before_a_loss_is_fenced() {
    let mut redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let question = || Question::with(Claims::of("alice").authorization(&key));
    let (used, unused) = (question(), question());
    assert!(Door::Http.ask(&countersign, &used).await.allowed());

    redis.restart();

    eventually_async("decisions resume", Duration::from_secs(10), async || {
        Door::Grpc.ask(&countersign, &question()).await.allowed().then_some(())
    })
    .await;
    for door in Door::BOTH {
        for before in [&used, &unused] {
            assert_eq!(
                door.ask(&countersign, before).await.code(),
                Some("timestamp_outside_tolerance"),
                "{door:?}"
            );
        }
    }
    assert!(countersign.log().contains("\"fenced\""), "{}", countersign.log());
}

/// The directory answers from memory: without the database, principals whose keys are known still
/// pass (`registry.max_stale` limits how long), and others cannot be decided.
#[tokio::test]
async fn a_lost_database_stops_only_those_not_yet_known() {
    let mut deployment = Deployment::on(Database::postgres());
    let (alice, bob) = (Key::ed25519(), Key::ed25519());
    deployment.enrol("alice", &alice);
    deployment.enrol("bob", &bob);
    let countersign = deployment.serve();
    let ask = async |username: &str, key: &Key| {
        Door::Http.ask(&countersign, &Question::with(Claims::of(username).authorization(key))).await
    };
    assert!(ask("alice", &alice).await.allowed());

    deployment.lose_the_database();

    assert!(ask("alice", &alice).await.allowed());
    let unknown = ask("nobody-asked-before", &bob).await;
    assert!(!unknown.allowed(), "{unknown:?}");
}
