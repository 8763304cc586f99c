//! What is Caddy's own.

use crate::gateways::{Scene, a_lost_answer_is_asked_for_again_in_the_same_attempt, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Gateway, Key, Seen};

const CADDIES: [Gateway; 2] = [Gateway::Caddy, Gateway::CaddyDebian];

/// Its HTTP client asks again by itself when a kept-alive connection breaks, and cannot be told not to.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    for gateway in CADDIES {
        let asks = |address| format!("forward_auth {address}");
        a_lost_answer_is_asked_for_again_in_the_same_attempt(gateway, ("forward_auth 127.0.0.1:8080", &asks), &[]).await;
    }
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
