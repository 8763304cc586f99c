//! A cluster of which one node hangs, or is gone: what the others have goes on.

use std::time::{Duration, Instant};

use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, ReplicatedCluster, Signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repro() {
    let cluster = ReplicatedCluster::start();
    let deployment = Deployment::new().set("nonce.url", &cluster.url()).set("nonce.timeout", "100ms");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let ask = async |countersign: &Countersign| {
        Door::Http.ask(countersign, &Question::with(Claims::of("alice").authorization(&key))).await.status
    };
    for _ in 0..100 {
        ask(&countersign).await;
    }
    let began = Instant::now();
    let mut hung = false;
    while began.elapsed() < Duration::from_secs(14) {
        if !hung && began.elapsed() > Duration::from_secs(2) {
            hung = true;
            cluster.masters[1].hang();
        }
        let second = began.elapsed().as_secs();
        let mut statuses = std::collections::BTreeMap::new();
        while began.elapsed().as_secs() == second {
            let asked = futures_util::future::join_all((0..16).map(|_| ask(&countersign))).await;
            for status in asked {
                *statuses.entry(status).or_insert(0) += 1;
            }
        }
        eprintln!("{second}: {statuses:?}");
    }
    cluster.masters[1].go_on();
    eprintln!("{}", countersign.log());
    let _ = Signal::Stop;
}
