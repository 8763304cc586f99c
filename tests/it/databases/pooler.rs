//! `PgBouncer` between the service and `PostgreSQL`.

use super::{login_status, statements_left};
use crate::harness::{
    Claims, Database, Deployment, Door, Key, PgBouncer, PoolMode, Question, TokenApi,
    eventually_async,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_pgbouncer() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let database = Database::postgres();
        let pooler = PgBouncer::before(&database, mode);
        let deployment = Deployment::unmigrated(database).set("database.url", &pooler.url);
        deployment.done(&["migrate", "up"]);
        let check = deployment.run(&["config", "check"]);
        assert!(check.code == 0 && check.stdout.contains("PgBouncer"), "{mode:?}: {check:?}");
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let api_key = deployment.api_key("alice");
        let replicas = [(); 2].map(|()| deployment.serve());

        // More requests at once, over both replicas, than there are connections to the server.
        for _ in 0..5 {
            let logins = (0..20).map(|number| login_status(&replicas[number % 2], &api_key));
            assert_eq!(futures_util::future::join_all(logins).await, vec![200; 20], "{mode:?}");
        }
        let api = TokenApi::of(&replicas[0]);
        let pair = deployment.tokens("alice");
        let next = api.rotated(&pair.refresh).await;
        assert_eq!(api.validate(&next.access).await, 200);
        for replica in &replicas {
            let question = Question::with(Claims::of("alice").authorization(&key));
            assert!(Door::Http.ask(replica, &question).await.allowed(), "{mode:?}");
        }
        deployment.done(&["principal", "disable", "alice"]);
        for replica in &replicas {
            eventually_async("the change is not seen", super::PATIENCE, async || {
                let question = Question::with(Claims::of("alice").authorization(&key));
                (!Door::Http.ask(replica, &question).await.allowed()).then_some(())
            })
            .await;
        }
        for replica in &replicas {
            assert!(!replica.log().contains("prepared statement"), "{mode:?}: {}", replica.log());
        }
        drop(replicas);
        assert_eq!(statements_left(&pooler.url).await, 0, "{mode:?}");
    }
}

/// Without a pooler the log does not mention one.
#[test]
fn a_direct_connection_is_none() {
    let deployment = Deployment::on(Database::postgres());
    let check = deployment.run(&["config", "check"]);
    assert!(check.code == 0 && !check.stdout.contains("PgBouncer"), "{check:?}");
}
