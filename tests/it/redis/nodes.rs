//! Redis at its limits, and where that is reported: a node that hangs or is gone, a cluster that is
//! down, a store that is full.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::http::Request;
use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Question, Redis, ReplicatedCluster, Signal,
    eventually, eventually_async,
};

const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    cluster: ReplicatedCluster,
    deployment: Deployment,
    countersign: Countersign,
    key: Key,
}

impl Scene {
    /// A cluster in which no replica takes over; it still serves the slots it can if `serves_some`.
    async fn start(serves_some: bool) -> Self {
        let cluster = ReplicatedCluster::start();
        for node in cluster.masters.iter().chain(&cluster.replicas) {
            node.command(&[
                "CONFIG",
                "SET",
                "cluster-require-full-coverage",
                if serves_some { "no" } else { "yes" },
            ]);
            node.command(&["CONFIG", "SET", "cluster-replica-no-failover", "yes"]);
        }
        let deployment =
            Deployment::new().set("nonce.url", &cluster.url()).set("nonce.timeout", "300ms");
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        let scene = Self { cluster, deployment, countersign, key };
        scene.outlives_its_fence(&scene.countersign, 24).await;
        scene
    }

    /// The service denies the tokens of the first second or two with a cluster that is new to it.
    /// Waits until `allowed` of 24 pass.
    async fn outlives_its_fence(&self, countersign: &Countersign, allowed: usize) {
        eventually_async("tokens pass", PATIENCE, async || {
            (self.allowed_of(countersign, 24).await >= allowed).then_some(())
        })
        .await;
    }

    async fn allowed_of(&self, countersign: &Countersign, count: usize) -> usize {
        let questions: Vec<_> = (0..count)
            .map(|_| Question::with(Claims::of("alice").authorization(&self.key)))
            .collect();
        let verdicts =
            join_all(questions.iter().map(|question| Door::Http.ask(countersign, question))).await;
        verdicts.iter().filter(|verdict| verdict.allowed()).count()
    }

    /// Waits until the others have noticed that the second master is gone.
    fn has_noticed(&self) {
        eventually("a master is taken for gone", PATIENCE, || {
            self.cluster.masters[0]
                .command(&["CLUSTER", "INFO"])
                .contains("cluster_slots_fail:5462")
                .then_some(())
        });
    }

    /// Of 120 fresh tokens, those pass whose nonces belong to the two masters that are there.
    async fn serves_the_rest(&self, countersign: &Countersign) {
        let mut allowed = 0;
        for _ in 0..10 {
            allowed += self.allowed_of(countersign, 12).await;
        }
        eprintln!("{allowed} of 120 allowed");
        assert!(allowed >= 60, "two of three masters are there, and {allowed} of 120 passed");
        let ready = Request::get("/readyz").send(countersign.admin).await;
        let gone = self.cluster.masters[1].address.to_string();
        assert!(
            ready.status == 503 && ready.text().contains(&gone),
            "{} {}",
            ready.status,
            ready.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_serve_goes_on_while_a_master_hangs() {
    let scene = Scene::start(true).await;
    scene.cluster.masters[1].signal(Signal::Stop);
    scene.serves_the_rest(&scene.countersign).await;
    scene.has_noticed();
    scene.serves_the_rest(&scene.countersign).await;
    // A process that starts now has to find the others, too.
    let late = Countersign::start_unready(&scene.deployment);
    scene.outlives_its_fence(&late, 12).await;
    scene.serves_the_rest(&late).await;
    let log = scene.countersign.log();
    let told = log.lines().filter(|line| line.contains("cannot claim nonces")).count();
    assert!(told <= 2, "once, and perhaps for a second server on a busy machine: {log}");
    scene.cluster.masters[1].signal(Signal::Continue);
    eventually_async("it is ready again", PATIENCE, async || {
        (Request::get("/readyz").send(scene.countersign.admin).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_serve_goes_on_while_a_master_is_gone() {
    let mut scene = Scene::start(true).await;
    scene.cluster.masters[1].stop();
    scene.serves_the_rest(&scene.countersign).await;
    scene.has_noticed();
    scene.serves_the_rest(&scene.countersign).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_is_told_as_that() {
    let mut scene = Scene::start(false).await;
    scene.cluster.masters[1].stop();
    scene.has_noticed();
    eventually_async("readiness says so", PATIENCE, async || {
        let ready = Request::get("/readyz").send(scene.countersign.admin).await;
        (ready.status == 503 && ready.text().contains("CLUSTERDOWN")).then_some(())
    })
    .await;
    let checked = scene.deployment.run(&["config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains("CLUSTERDOWN"), "{checked:?}");
    let endpoint = Endpoint::from_shared(format!("http://{}", scene.countersign.grpc)).unwrap();
    let health = HealthClient::new(endpoint.connect_lazy())
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_redis_that_hangs_is_told_as_that() {
    let redis = Redis::start();
    let deployment = Deployment::new().set("nonce.url", &redis.url()).set("nonce.timeout", "300ms");
    let countersign = deployment.serve();
    redis.signal(Signal::Stop);
    let ready = Request::get("/readyz").send(countersign.admin).await;
    let reason = format!("Redis at {} did not answer", redis.address);
    assert!(
        ready.status == 503 && ready.text().contains(&reason),
        "{} {}",
        ready.status,
        ready.text()
    );
    let checked = deployment.run(&["config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains(&reason), "{checked:?}");
    redis.signal(Signal::Continue);
    eventually_async("it is ready again", PATIENCE, async || {
        (Request::get("/readyz").send(countersign.admin).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_memory_that_is_full_is_told_as_that() {
    let deployment =
        Deployment::new().set("nonce.memory_entries", "3").set("self_signed.tolerance", "2s");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    eventually_async("it is full", PATIENCE, async || {
        let question = Question::with(Claims::of("alice").authorization(&key));
        (Door::Http.ask(&countersign, &question).await.status == 503).then_some(())
    })
    .await;
    let ready = Request::get("/readyz").send(countersign.admin).await;
    assert!(
        ready.status == 503 && ready.text().contains("nonce.memory_entries"),
        "{} {}",
        ready.status,
        ready.text()
    );
    // Nothing claims, because a load balancer has taken it out.
    eventually_async("it is ready again", PATIENCE, async || {
        (Request::get("/readyz").send(countersign.admin).await.status == 200).then_some(())
    })
    .await;
}

/// A claim that too few Redis replicas have stays unacknowledged if the same attempt comes again,
/// over another connection.
#[tokio::test]
async fn a_retry_is_acknowledged_like_the_first() {
    for start in [Redis::start, Redis::start_valkey] {
        let master = start();
        let replica = Redis::start_replica_of(&master);
        let deployment = Deployment::new().set("nonce.url", &master.url());
        let deployment = deployment.set("nonce.timeout", "500ms").set("nonce.replicas_ack", "1");
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let services = [deployment.serve(), deployment.serve()];
        let question = |attempt: &str| Question {
            attempt: Some(attempt.to_owned()),
            ..Question::with(Claims::of("alice").authorization(&key))
        };
        assert!(Door::Grpc.ask(&services[0], &question("warm")).await.allowed());
        assert!(Door::Grpc.ask(&services[1], &question("warm")).await.allowed());
        let question = question("one");
        replica.signal(Signal::Stop);
        for service in [&services[0], &services[1], &services[0], &services[1]] {
            let verdict = Door::Grpc.ask(service, &question).await;
            assert_eq!(
                verdict.code(),
                Some("unavailable"),
                "no replica has the claim: {verdict:?}"
            );
        }
        replica.signal(Signal::Continue);
        eventually_async("the attempt passes", PATIENCE, async || {
            Door::Grpc.ask(&services[1], &question).await.allowed().then_some(())
        })
        .await;
        assert_eq!(Door::Http.ask(&services[0], &question).await.code(), Some("replayed"));
    }
}
