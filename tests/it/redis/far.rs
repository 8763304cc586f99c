//! A Redis that is far away: late answers are not lost, and a slow connection is not closed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::{
    ChaosProxy, Claims, Countersign, Deployment, Door, Key, Network, Question, Redis,
    eventually_async,
};

/// `nonce.timeout`: the default.
const CLAIM_WITHIN: &str = "100ms";
const AT_ONCE: usize = 6;

struct Scene {
    proxy: ChaosProxy,
    countersign: Countersign,
    key: Key,
    _deployment: Deployment,
    _redis: Redis,
}

impl Scene {
    async fn behind(network: Network) -> Self {
        let redis = Redis::start();
        let proxy = ChaosProxy::before(redis.address).await;
        proxy.becomes(network);
        let deployment = Deployment::new()
            .set("nonce.url", &format!("redis://{}", proxy.address))
            .set("nonce.timeout", CLAIM_WITHIN);
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        Self { proxy, countersign, key, _deployment: deployment, _redis: redis }
    }

    fn question(&self) -> Question {
        Question::with(Claims::of("alice").authorization(&self.key))
    }

    /// The number of answers at both doors by code; some are requested at once.
    async fn ask_all(&self, questions: &[Question]) -> BTreeMap<String, usize> {
        let mut codes = BTreeMap::new();
        for (number, some) in questions.chunks(AT_ONCE).enumerate() {
            let door = Door::BOTH[number % 2];
            for verdict in
                join_all(some.iter().map(|question| door.ask(&self.countersign, question))).await
            {
                *codes.entry(verdict.code().unwrap_or("allowed").to_owned()).or_default() += 1;
            }
        }
        codes
    }

    fn questions(&self, count: usize) -> Vec<Question> {
        (0..count).map(|_| self.question()).collect()
    }
}

/// A claim takes one round trip, even the first of a thread, although the thread's own connection
/// takes longer to open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_milliseconds_away() {
    for delay in [20, 30] {
        let scene = Scene::behind(Network::Slow(Duration::from_millis(delay))).await;
        let codes = scene.ask_all(&scene.questions(300)).await;
        eprintln!("{delay} ms away: {codes:?}");
        // The machine may be busy with other tests.
        assert!(codes.get("allowed").is_some_and(|allowed| *allowed >= 290), "{codes:?}");
    }
}

/// Slower than a claim may take, but not silent: connections are kept. What was claimed meanwhile
/// is spent, and no late reply is taken for that of another claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_far_away() {
    let scene = Scene::behind(Network::Fine).await;
    assert_eq!(scene.ask_all(&scene.questions(60)).await.get("allowed"), Some(&60));
    let connections = scene.proxy.connections();

    scene.proxy.becomes(Network::Slow(Duration::from_millis(160)));
    let late = scene.questions(120);
    let codes = scene.ask_all(&late).await;
    assert_eq!(codes.get("unavailable"), Some(&late.len()), "{codes:?}");
    let made = scene.proxy.connections() - connections;
    // One for each thread that was idle before, and those of a watch that starts again.
    assert!(
        made <= connections + 4,
        "{made} connections were made, where there had been {connections}"
    );

    scene.proxy.becomes(Network::Fine);
    eventually_async("decisions resume", Duration::from_secs(10), async || {
        Door::Http.ask(&scene.countersign, &scene.question()).await.allowed().then_some(())
    })
    .await;
    let codes = scene.ask_all(&late).await;
    assert_eq!(
        codes.get("replayed"),
        Some(&late.len()),
        "each of these claims was carried out: {codes:?}"
    );
    let fresh = scene.questions(60);
    assert_eq!(scene.ask_all(&fresh).await.get("allowed"), Some(&fresh.len()));
    assert_eq!(scene.ask_all(&fresh).await.get("replayed"), Some(&fresh.len()));
}
