//! What is HAProxy's own.

use crate::gateways::{Scene, a_lost_answer_is_one_answer, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Claims, Gateway, Key, Seen};

/// HAProxy goes on to the next rule then, which has to refuse.
#[tokio::test]
async fn a_script_that_fails_lets_nobody_pass() {
    let broken = ("local answer = core.httpclient()", "error('broken')\n    local answer = core.httpclient()");
    let scene = Scene::edited(Gateway::Haproxy, Key::ed25519(), &[broken]).await;

    let answer = scene.send(Request::get("/")).await;

    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-auth-error"), Some("unavailable"));
    assert_eq!(answer.json()["code"], "unavailable");
}

/// The client in Lua asks three times more, and so it asks by way of a proxy that does not.
#[tokio::test]
async fn a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("server countersign {address}");
    a_lost_answer_is_one_answer(Gateway::Haproxy, ("server countersign 127.0.0.1:8080", &asks), &[]).await;
}

/// Kept-alive connections serve many decisions.
#[tokio::test]
async fn decisions_share_a_connection() {
    let one_thread = ("maxconn 1000", "maxconn 1000\n    nbthread 1");
    let scene = Scene::edited(Gateway::Haproxy, Key::ed25519(), &[one_thread]).await;

    scene.asks_over_one_connection().await;
}

/// `GET http://host/path` is another way to say `GET /path` with a `Host`.
#[tokio::test]
async fn an_absolute_target_is_the_same_request() {
    let scene = Scene::of(Gateway::Haproxy, Key::ed25519()).await;
    let url = format!("http://{}/orders", scene.gateway.address);
    let bound = Claims::of("alice").with("htm", "GET").with("htu", url.as_str()).authorization(&scene.key);

    let seen = Seen::by(&scene.gateway.send(&Request::get(&url).authorization(&bound)).await);
    let nobody = scene.gateway.send(&Request::get(&url)).await;
    let admin = scene.send(Request::get(&url.replace("/orders", "/admin/x"))).await;

    assert_eq!(seen.target, "/orders");
    assert_challenge(&nobody, "missing_credentials");
    assert_challenge(&admin, "insufficient_scope");
}

/// Clients may not say what the next hop drops, but for this.
#[tokio::test]
async fn an_upgrade_is_passed_on() {
    let scene = Scene::of(Gateway::Haproxy, Key::ed25519()).await;
    let upgrade = |request: Request| request.header("Connection", "Upgrade, X-Auth-Username").header("Upgrade", "example");

    let seen = Seen::by(&scene.send(upgrade(Request::get("/"))).await);
    let refused = scene.gateway.send(&upgrade(Request::get("/"))).await;

    assert_eq!(seen.values("upgrade"), ["example"]);
    assert_eq!(seen.values("connection").concat().to_ascii_lowercase(), "upgrade");
    assert_challenge(&refused, "missing_credentials");
}
