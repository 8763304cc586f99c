//! Single use over every replica and at both doors, for any number of concurrent requests.

use tokio::task::JoinSet;

use crate::harness::http::Connection;
use crate::harness::{
    AsymmetricJwtAuth, Claims, Countersign, Deployment, ExtAuthz, Key, Redis, check_request,
    decision_request,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_passes_once_over_three_replicas() {
    const TOKENS: usize = 200;
    const AT_ONCE: usize = 64;
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let replicas = [(); 3].map(|()| deployment.serve());
    // Every fourth asks as Envoy does.
    let mut askers = Vec::new();
    for number in 0..AT_ONCE {
        askers.push(Asker::at(&replicas[number % 3], number % 4 == 3).await);
    }

    for token in 0..TOKENS {
        let authorization = Claims::of("alice").authorization(&key);
        let (allowed, returned) = present(&authorization, askers).await;
        assert_eq!(allowed, 1, "token {token}, presented {AT_ONCE} times");
        askers = returned;
    }
}

/// The case in which `asymmetric_jwt_auth` with a Redis cache let 492 to 703 presentations through:
/// with its own tokens, each passes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_400_tokens_sent_8_times_each_400_pass() {
    const TOKENS: usize = 400;
    const TIMES: usize = 8;
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let replicas = [(); 2].map(|()| deployment.serve());
    let mut askers = Vec::new();
    for number in 0..TIMES {
        askers.push(Asker::at(&replicas[number % 2], false).await);
    }

    let mut accepted = 0;
    // Signed in batches: a token is valid for 20 s.
    for _ in 0..TOKENS / 50 {
        for authorization in AsymmetricJwtAuth::new().authorizations("alice", &key, 50) {
            let (allowed, returned) = present(&authorization, askers).await;
            accepted += allowed;
            askers = returned;
        }
    }

    assert_eq!(accepted, TOKENS);
}

/// The store in memory makes the same promise for a single replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_passes_once_with_nonces_in_memory() {
    let deployment = Deployment::new();
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let mut askers = Vec::new();
    for number in 0..16 {
        askers.push(Asker::at(&countersign, number % 2 == 1).await);
    }

    for token in 0..100 {
        let authorization = Claims::of("alice").authorization(&key);
        let (allowed, returned) = present(&authorization, askers).await;
        assert_eq!(allowed, 1, "token {token}");
        askers = returned;
    }
}

/// One kept-alive connection to one replica.
enum Asker {
    Http(Connection),
    Grpc(ExtAuthz),
}

impl Asker {
    async fn at(replica: &Countersign, grpc: bool) -> Self {
        if grpc {
            Self::Grpc(replica.ext_authz())
        } else {
            Self::Http(Connection::open(replica.http).await.unwrap())
        }
    }

    /// Whether the token is allowed. Panics unless the answer is an allow or a replay.
    async fn ask(&mut self, authorization: &str) -> bool {
        match self {
            Self::Http(connection) => {
                let answer = connection
                    .send(&decision_request().authorization(authorization))
                    .await
                    .unwrap();
                let replayed = answer.header("x-auth-error") == Some("replayed");
                assert!(answer.status == 200 || replayed, "{answer:?}");
                answer.status == 200
            }
            Self::Grpc(ext_authz) => {
                let answer = ext_authz.check(check_request(authorization)).await;
                assert!([0, 16].contains(&answer.code()), "{answer:?}");
                answer.code() == 0
            }
        }
    }
}

/// Presents the token from every asker at once, and counts the allows.
async fn present(authorization: &str, askers: Vec<Asker>) -> (usize, Vec<Asker>) {
    let mut presentations = JoinSet::new();
    for mut asker in askers {
        let authorization = authorization.to_owned();
        presentations.spawn(async move { (asker.ask(&authorization).await, asker) });
    }
    let answers = presentations.join_all().await;
    let allowed = answers.iter().filter(|(allowed, _)| *allowed).count();
    (allowed, answers.into_iter().map(|(_, asker)| asker).collect())
}
