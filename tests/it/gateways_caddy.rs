//! What is Caddy's own.

use crate::gateways::{Scene, assert_challenge};
use crate::harness::http::{Answer, Request};
use crate::harness::{Breaker, Claims, Deployment, Echo, Gateway, Key, Seen};

const CADDIES: [Gateway; 2] = [Gateway::Caddy, Gateway::CaddyDebian];

/// Its HTTP client asks again by itself when a kept-alive connection breaks, and cannot be told not to.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again_in_the_same_attempt() {
    for gateway in CADDIES {
        let named = Deployment::new().set("self_signed.attempt_header", "X-Request-Id");

        let (answer, answers) = after_a_lost_answer(gateway, &named).await;

        assert_eq!(Seen::by(&answer).values("x-auth-username"), ["alice"]);
        assert_eq!(answers, 2);
    }
}

/// What the setting is for.
#[tokio::test]
async fn without_the_setting_a_lost_answer_burns_the_token() {
    for gateway in CADDIES {
        let (answer, answers) = after_a_lost_answer(gateway, &Deployment::new()).await;

        assert_challenge(&answer, "replayed");
        assert_eq!(answers, 2);
    }
}

/// The answer to an honest request whose first question was answered in vain, and how many were.
async fn after_a_lost_answer(gateway: Gateway, deployment: &Deployment) -> (Answer, usize) {
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let breaker = Breaker::before(countersign.http).await;
    let edit = ("forward_auth 127.0.0.1:8080", format!("forward_auth {}", breaker.address));
    let gateway = gateway.start_edited(&countersign, &Echo::start(), &[(edit.0, &edit.1)]).await;
    let request = || Request::get("/").authorization(&Claims::of("alice").authorization(&key));
    // On a kept-alive connection, where the client takes the loss for the server's right to close it.
    Seen::by(&gateway.send(&request()).await);
    let before = breaker.answers();

    breaker.lose_an_answer();
    let answer = gateway.send(&request()).await;
    (answer, breaker.answers() - before)
}

/// To a host that no site of its configuration names it answers 200 by itself, which a client takes for an allow.
#[tokio::test]
async fn every_host_is_decided() {
    for gateway in CADDIES {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        for host in ["elsewhere.test", "127.0.0.1", "[::1]:80"] {
            let answer = scene.gateway.send(&Request::get("/").header("Host", host)).await;
            assert_challenge(&answer, "missing_credentials");
        }
    }
}

/// Our outage is told from one of the back end, where both are errors of a proxy to Caddy.
#[tokio::test]
async fn a_back_end_that_is_down_is_not_our_outage() {
    for gateway in CADDIES {
        let down = ("# The application.\n\t\treverse_proxy 127.0.0.1:3000", "reverse_proxy 127.0.0.1:1");
        let scene = Scene::edited(gateway, Key::ed25519(), &[down]).await;

        let answer = scene.send(Request::get("/")).await;

        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("x-auth-error"), None);
    }
}

/// Clients may not say what the next hop drops, but for this.
#[tokio::test]
async fn an_upgrade_is_passed_on() {
    for gateway in CADDIES {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let upgrade = |request: Request| request.header("Connection", "Upgrade, X-Auth-Username").header("Upgrade", "example");

        let seen = Seen::by(&scene.send(upgrade(Request::get("/"))).await);
        let refused = scene.gateway.send(&upgrade(Request::get("/"))).await;

        assert_eq!(seen.values("upgrade"), ["example"]);
        assert_eq!(seen.values("x-auth-username"), ["alice"]);
        assert_challenge(&refused, "missing_credentials");
    }
}
