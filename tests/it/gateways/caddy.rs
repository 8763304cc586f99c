//! Tests for Caddy only.

use crate::gateways::common::{self, LENIENT, STRICT};
use crate::gateways::every::{
    Scene, a_lost_answer_is_asked_for_again_in_the_same_attempt, assert_challenge,
};
use crate::harness::http::Request;
use crate::harness::{Echo, Gateway, Key, Seen, repository};

const CADDIES: [Gateway; 2] = [Gateway::Caddy, Gateway::CaddyDebian];

/// Its HTTP client retries by itself when a kept-alive connection breaks, which cannot be disabled.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    for gateway in CADDIES {
        let asks = |address| format!("forward_auth {address}");
        a_lost_answer_is_asked_for_again_in_the_same_attempt(
            gateway,
            ("forward_auth 127.0.0.1:8080", &asks),
            &[],
        )
        .await;
    }
}

/// For a host without a site in its configuration Caddy itself answers 200, which a client takes
/// for an allow.
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

/// Clients can distinguish our outage from one of the back end, although Caddy treats both as proxy
/// errors.
#[tokio::test]
async fn a_back_end_that_is_down_is_not_our_outage() {
    for gateway in CADDIES {
        let down =
            ("# The application.\n\t\treverse_proxy 127.0.0.1:3000", "reverse_proxy 127.0.0.1:1");
        let scene = Scene::edited(gateway, Key::ed25519(), &[down]).await;

        let answer = scene.send(Request::get("/")).await;

        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("x-auth-error"), None);
    }
}

/// A gateway ignores the headers that a client's `Connection` names, except for an upgrade.
#[tokio::test]
async fn an_upgrade_is_passed_on() {
    for gateway in CADDIES {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let upgrade = |request: Request| {
            request.header("Connection", "Upgrade, X-Auth-Username").header("Upgrade", "example")
        };

        let seen = Seen::by(&scene.send(upgrade(Request::get("/"))).await);
        let refused = scene.gateway.send(&upgrade(Request::get("/"))).await;

        assert_eq!(seen.values("upgrade"), ["example"]);
        assert_eq!(seen.values("x-auth-username"), ["alice"]);
        assert_challenge(&refused, "missing_credentials");
    }
}

/// Each host has the example's site, and no other host has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_keep_their_rules() {
    let example = std::fs::read_to_string(repository().join("examples/caddy/Caddyfile")).unwrap();
    let site = &example[example.find("http://:8000 {").expect("no site in the example")..];
    let named = |name: &str| site.replacen("http://:8000", &format!("http://{name}:8000"), 1);
    let strict =
        named(STRICT).replace("vars @admin required_scope admin", "vars required_scope admin");
    let others = "http://:8000 {\n\tbind 127.0.0.1\n\trespond 421\n}\n";
    common::advised("caddy", others);
    // The address that shows this test that Caddy is ready.
    let others = others.replace("respond 421", "respond /healthz 200\n\trespond 421");
    let sites = named(LENIENT) + &strict + &others;
    for gateway in CADDIES {
        common::two_sites_keep_their_rules(gateway, &[(site, &sites)]).await;
    }
}

#[tokio::test]
async fn what_the_back_end_says_of_pages_is_replaced() {
    for gateway in CADDIES {
        common::what_the_back_end_says_of_pages_is_replaced(gateway).await;
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_asks() {
    for gateway in CADDIES {
        common::what_is_too_large_costs_no_token(gateway, 48).await;
    }
}

#[tokio::test]
async fn everything_may_ask_for_a_scope() {
    let all = "vars required_scope admin";
    common::advised("caddy", all);
    for gateway in CADDIES {
        common::everything_asks_for_a_scope(gateway, &[("vars @admin required_scope admin", all)])
            .await;
    }
}

/// Countersign needs one of the client's headers, and gets no other.
#[tokio::test]
async fn the_question_has_nothing_else_of_the_clients() {
    for (gateway, gets_all) in [(Gateway::Caddy, false), (Gateway::CaddyDebian, true)] {
        let asked = asked_of(gateway).await;
        let has = |name: &str| !asked.values(name).is_empty();
        assert_eq!(asked.values("authorization"), ["of the client"], "{asked:?}");
        assert_eq!(asked.values("x-forwarded-method"), ["DELETE"]);
        assert_eq!(asked.values("x-forwarded-uri"), ["/orders?id=7"]);
        assert_eq!(asked.values("x-forwarded-proto"), ["http"]);
        assert_eq!(asked.values("x-forwarded-host"), ["client.test"]);
        assert_eq!((has("cookie"), has("x-own")), (gets_all, gets_all), "{asked:?}");
        assert!(!has("x-original-uri"), "{asked:?}");
    }
}

/// What reaches the authorizer, which is an echo here.
async fn asked_of(gateway: Gateway) -> Seen {
    let authorizer = Echo::start();
    let there = format!("forward_auth {}", authorizer.address);
    // The client receives its answer.
    let asks = [
        ("forward_auth 127.0.0.1:8080", there.as_str()),
        ("uri /validate_request?", "uri /validate_request?answer=403"),
    ];
    let scene = Scene::edited(gateway, Key::ed25519(), &asks).await;
    let request = Request::new("DELETE", "/orders?id=7")
        .header("Host", "client.test")
        .authorization("of the client");
    let request = request
        .header("Cookie", "own=1")
        .header("X-Own", "1")
        .header("X-Original-URI", "/")
        .header("X-Forwarded-Host", "a.test");
    let answer = scene.gateway.send(&request).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    Seen::told(&answer.json())
}
