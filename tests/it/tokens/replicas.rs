//! Access tokens over several replicas: any may have issued the token that another decides about,
//! and a revocation applies everywhere.

use std::time::Duration;

use crate::harness::http::Request;
use crate::harness::{Countersign, Database, Deployment, claims_in, eventually_async};

/// They start at the same time on one empty folder of signing keys, and agree on one key.
#[tokio::test]
async fn what_one_replica_issues_every_replica_takes_until_it_is_revoked() {
    let deployment = Deployment::on(Database::postgres());
    deployment.done(&["principal", "add", "alice", "--scope", "read"]);
    let replicas: Vec<Countersign> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| deployment.serve())).collect();
        starting.into_iter().map(|replica| replica.join().unwrap()).collect()
    });
    let mut sets = Vec::new();
    for replica in &replicas {
        sets.push(Request::get("/jwks").send(replica.http).await.body);
    }
    assert!(sets.windows(2).all(|pair| pair[0] == pair[1]), "one key for all");

    for (what, end) in ENDS {
        let (token, jti) = issue(&deployment);
        for replica in &replicas {
            let answer = ask(replica, &token).await;
            assert_eq!(answer, (200, "alice".to_owned()), "{what}");
        }
        end(&deployment, &jti);
        for replica in &replicas {
            eventually_async(what, Duration::from_secs(5), async || {
                (ask(replica, &token).await.0 == 401).then_some(())
            })
            .await;
        }
        deployment.done(&["principal", "enable", "alice"]);
    }

    // Another principal with the same name.
    let (token, _) = issue(&deployment);
    deployment.done(&["principal", "remove", "alice"]);
    deployment.done(&["principal", "add", "alice", "--scope", "read"]);
    for replica in &replicas {
        eventually_async("the other alice", Duration::from_secs(5), async || {
            (ask(replica, &token).await.0 == 401).then_some(())
        })
        .await;
    }
}

type End = fn(&Deployment, &str);

const ENDS: [(&str, End); 2] = [
    ("a revoked token", |deployment, jti| drop(deployment.done(&["token", "revoke", jti]))),
    ("a disabled principal", |deployment, _| {
        drop(deployment.done(&["principal", "disable", "alice"]));
    }),
];

fn issue(deployment: &Deployment) -> (String, String) {
    let token = deployment.tokens("alice").access;
    let jti = claims_in(&token)["jti"].as_str().unwrap().to_owned();
    (token, jti)
}

async fn ask(replica: &Countersign, token: &str) -> (u16, String) {
    let answer = Request::get("/validate_request")
        .authorization(&format!("Bearer {token}"))
        .send(replica.http)
        .await;
    (answer.status, answer.header("x-auth-username").unwrap_or_default().to_owned())
}
