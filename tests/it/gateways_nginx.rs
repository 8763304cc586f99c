//! What is nginx's own.

use crate::gateways::{IDENTITY, Scene, a_lost_answer_is_one_answer, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Echo, Gateway, Key};

/// `index` redirects inside nginx, which then asks a second time about the same request.
#[tokio::test]
async fn an_internal_redirect_is_one_attempt() {
    let scene = Scene::of(Gateway::Nginx, Key::ed25519()).await;
    scene.gateway.static_file("docs/index.html", "welcome");
    let request = Request::get("/docs/").authorization(&scene.authorization());

    let answer = scene.gateway.send(&request).await;
    let replayed = scene.gateway.send(&request).await;

    assert_eq!((answer.status, answer.body.as_slice()), (200, b"welcome".as_slice()), "{answer:?}");
    assert_eq!(replayed.status, 401);
    assert_challenge(&replayed, "replayed");
}

/// Without the setting the second question is a replay, whatever the header says.
#[tokio::test]
async fn without_the_setting_an_internal_redirect_is_refused() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let gateway = Gateway::Nginx.start(&countersign, &Echo::start()).await;
    gateway.static_file("docs/index.html", "welcome");

    let token = Claims::of("alice").authorization(&key);
    let answer = gateway.send(&Request::get("/docs/").authorization(&token)).await;

    assert_challenge(&answer, "replayed");
}

/// The subrequest's location is nginx's alone: from outside it would be an oracle.
#[tokio::test]
async fn the_question_cannot_be_asked_from_outside() {
    let scene = Scene::of(Gateway::Nginx, Key::ed25519()).await;

    let answer = scene.send(Request::get("/_countersign")).await;

    assert_eq!(answer.status, 404);
    for name in IDENTITY {
        assert_eq!(answer.header(name), None);
    }
}

/// Nginx would ask again, and the token that was spent the first time would be refused.
#[tokio::test]
async fn a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("server {address};");
    let one_worker = ("worker_processes auto;", "worker_processes 1;");
    a_lost_answer_is_one_answer(Gateway::Nginx, ("server 127.0.0.1:8080;", asks), &[one_worker]).await;
}

/// One kept-alive connection serves many decisions.
#[tokio::test]
async fn decisions_share_a_connection() {
    let scene = Scene::edited(Gateway::Nginx, Key::ed25519(), &[("worker_processes auto;", "worker_processes 1;")]).await;

    scene.asks_over_one_connection().await;
}
