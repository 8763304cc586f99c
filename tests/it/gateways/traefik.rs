//! Tests for Traefik only.

use crate::gateways::common;
use crate::gateways::every::{Scene, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Gateway, Key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_keep_their_rules() {
    let sites = "\
      rule: Host(`lenient.test`)
      middlewares: [pages, countersign]
      service: backend
    strict:
      entryPoints: [gateway]
      rule: Host(`strict.test`)
      middlewares: [pages, countersign-admin]
      service: backend
";
    let one = "\
      rule: PathPrefix(`/`)
      middlewares: [pages, countersign]
      service: backend
";
    common::two_sites_keep_their_rules(Gateway::Traefik, &[(one, sites)]).await;
}

#[tokio::test]
async fn what_the_back_end_says_of_pages_is_replaced() {
    common::what_the_back_end_says_of_pages_is_replaced(Gateway::Traefik).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_asks() {
    common::what_is_too_large_costs_no_token(Gateway::Traefik, 300).await;
}

#[tokio::test]
async fn everything_may_ask_for_a_scope() {
    let (some, all) =
        ("middlewares: [pages, countersign]", "middlewares: [pages, countersign-admin]");
    common::advised("traefik", all);
    common::everything_asks_for_a_scope(Gateway::Traefik, &[(some, all)]).await;
}

#[tokio::test]
async fn path_parameters_are_refused() {
    let scene = Scene::of(Gateway::Traefik, Key::ed25519()).await;
    let authorization = scene.authorization();
    for path in ["/orders;v=1", "/;/orders", "/orders/7;"] {
        let answer = scene.gateway.send(&Request::get(path).authorization(&authorization)).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    let answer =
        scene.gateway.send(&Request::get("/orders?a=1;b=2").authorization(&authorization)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_challenge(
        &scene.gateway.send(&Request::get("/").authorization(&authorization)).await,
        "replayed",
    );
}
