//! Replicas that stop and start behind every gateway, with the example's lines for several replicas
//! enabled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gateways::every::through_every_gateway;
use crate::harness::http::Request;
use crate::harness::{
    CLIENTS, Claims, Countersign, Deployment, Echo, Exchange, Gateway, Key, Redis, RunningGateway,
    Signal, Traffic, eventually_async, wrong,
};

through_every_gateway!(
    a_rolling_restart_fails_nobody,
    a_crash_fails_what_was_being_asked_at_most,
    requests_pass_again_soon_after_all_replicas_were_down,
);

/// A gateway that asks three replicas; alice, who has a key.
struct Scene {
    gateway: RunningGateway,
    replicas: Vec<Countersign>,
    deployment: Deployment,
    key: Arc<Key>,
    _redis: Redis,
    _echo: Echo,
}

impl Scene {
    async fn of(gateway: Gateway) -> Self {
        let redis = Redis::start();
        let deployment =
            Deployment::new().nonces_in(&redis).set("self_signed.attempt_header", "X-Request-Id");
        let key = Arc::new(Key::ed25519());
        deployment.enrol("alice", &key);
        let replicas: Vec<_> = (0..3).map(|_| deployment.serve()).collect();
        let echo = Echo::start();
        let gateway = gateway.start_asking(&replicas, &echo, &[]).await;
        Self { gateway, replicas, deployment, key, _redis: redis, _echo: echo }
    }
}

/// One after the other, as an orchestrator does. The next one stops once the one before has been
/// ready for a second.
async fn a_rolling_restart_fails_nobody(gateway: Gateway) {
    let mut scene = Scene::of(gateway).await;
    let traffic = Traffic::start(scene.gateway.address, &scene.key);
    traffic.goes_on_for(100).await;

    for replica in &mut scene.replicas {
        replica.restart(&scene.deployment, Signal::Term);
        traffic.goes_on_for(150).await;
    }

    let exchanges = traffic.end().await;
    assert_eq!(wrong(&exchanges), [""; 0], "of {} requests", exchanges.len());
    assert!(exchanges.iter().any(|exchange| exchange.is_replay), "nothing was replayed");
}

/// A killed replica does not answer the questions that it has. No other request is affected,
/// neither while it is gone nor when it is back.
async fn a_crash_fails_what_was_being_asked_at_most(gateway: Gateway) {
    let mut scene = Scene::of(gateway).await;
    let traffic = Traffic::start(scene.gateway.address, &scene.key);
    traffic.goes_on_for(100).await;

    let [replica, ..] = &mut scene.replicas[..] else { panic!("no replica") };
    let killed = Instant::now();
    replica.signal(Signal::Kill);
    replica.exited_within(Duration::from_secs(10));
    let gone = Instant::now();
    traffic.goes_on_for(450).await;
    replica.start_again(&scene.deployment);
    traffic.goes_on_for(300).await;

    let exchanges = traffic.end().await;
    let was_asked = |exchange: &Exchange| {
        !exchange.is_replay && exchange.started <= gone && exchange.ended >= killed
    };
    let excused = |exchange: &Exchange| !resends(gateway) && was_asked(exchange);
    let counting: Vec<_> = exchanges.into_iter().filter(|exchange| !excused(exchange)).collect();
    assert_eq!(wrong(&counting), [""; 0], "of {} requests", counting.len());
}

/// Whether a question without an answer is sent again, to another replica.
fn resends(gateway: Gateway) -> bool {
    !matches!(gateway, Gateway::Apache | Gateway::Traefik)
}

/// A gateway that avoids replicas for long would keep refusing every request.
async fn requests_pass_again_soon_after_all_replicas_were_down(gateway: Gateway) {
    let mut scene = Scene::of(gateway).await;
    for replica in &mut scene.replicas {
        replica.signal(Signal::Kill);
        replica.exited_within(Duration::from_secs(10));
    }
    let request =
        || Request::get("/orders").authorization(&Claims::of("alice").authorization(&scene.key));
    for _ in 0..2 * CLIENTS {
        assert!(scene.gateway.send(&request()).await.status >= 500);
    }

    for replica in &mut scene.replicas {
        replica.start_again(&scene.deployment);
    }

    eventually_async("requests pass", Duration::from_secs(4), async || {
        (scene.gateway.send(&request()).await.status == 200).then_some(())
    })
    .await;
    let traffic = Traffic::start(scene.gateway.address, &scene.key);
    traffic.goes_on_for(150).await;
    let exchanges = traffic.end().await;
    assert_eq!(wrong(&exchanges), [""; 0], "of {} requests", exchanges.len());
}
