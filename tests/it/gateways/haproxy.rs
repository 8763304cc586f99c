//! Tests for HAProxy only.

use crate::gateways::common;
use crate::gateways::every::{Scene, a_lost_answer_is_one_answer, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Claims, Gateway, Key, Seen};

/// HAProxy then continues with the next rule, which has to refuse.
#[tokio::test]
async fn a_script_that_fails_lets_nobody_pass() {
    let broken = (
        "local answer = core.httpclient()",
        "error('broken')\n    local answer = core.httpclient()",
    );
    let scene = Scene::edited(Gateway::Haproxy, Key::ed25519(), &[broken]).await;

    let answer = scene.send(Request::get("/")).await;

    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-auth-error"), Some("unavailable"));
    assert_eq!(answer.json()["code"], "unavailable");
}

/// HAProxy drops headers that do not fit behind the request's own. The back end must get the full
/// identity, or nothing.
#[tokio::test]
async fn an_identity_that_does_not_fit_is_no_allow() {
    let scene = Scene::edited(
        Gateway::Haproxy,
        Key::ed25519(),
        &[("tune.maxrewrite 8192", "tune.maxrewrite 1024")],
    )
    .await;
    let scopes = (100..200)
        .map(|number| format!("a-scope-with-a-long-name-{number}"))
        .collect::<Vec<_>>()
        .join(" ");
    scene.deployment.done(&["principal", "add", "carol", "--scope", &scopes]);
    let key = Key::ed25519();
    scene.deployment.add_key_with("carol", &key, &["--scope", &scopes]);
    let mut unfit = 0;

    for kibibytes in 24..32 {
        let request = Request::get("/").header("X-Long", &"x".repeat(1_024 * kibibytes));
        let answer = scene
            .gateway
            .send(&request.authorization(&Claims::of("carol").authorization(&key)))
            .await;
        match answer.status {
            200 => assert_eq!(Seen::by(&answer).values("x-auth-scopes"), [scopes.as_str()]),
            503 => unfit += 1,
            status => assert_eq!(status, 400, "{answer:?}"),
        }
    }

    assert!(unfit > 0, "everything fits");
}

/// The client in Lua retries three times, so it asks through a proxy that does not.
#[tokio::test]
async fn a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("server countersign {address}");
    a_lost_answer_is_one_answer(
        Gateway::Haproxy,
        ("server countersign 127.0.0.1:8080", &asks),
        &[],
    )
    .await;
}

/// Kept-alive connections serve many decisions.
#[tokio::test]
async fn decisions_share_a_connection() {
    let one_thread = ("maxconn 1000", "maxconn 1000\n    nbthread 1");
    let scene = Scene::edited(Gateway::Haproxy, Key::ed25519(), &[one_thread]).await;

    scene.asks_over_one_connection().await;
}

/// `GET http://host/path` is equivalent to `GET /path` with a `Host`.
#[tokio::test]
async fn an_absolute_target_is_the_same_request() {
    let scene = Scene::of(Gateway::Haproxy, Key::ed25519()).await;
    let url = format!("http://{}/orders", scene.gateway.address);
    let bound =
        Claims::of("alice").with("htm", "GET").with("htu", url.as_str()).authorization(&scene.key);

    let seen = Seen::by(&scene.gateway.send(&Request::get(&url).authorization(&bound)).await);
    let nobody = scene.gateway.send(&Request::get(&url)).await;
    let admin = scene.send(Request::get(&url.replace("/orders", "/admin/x"))).await;

    assert_eq!(seen.target, "/orders");
    assert_challenge(&nobody, "missing_credentials");
    assert_challenge(&admin, "insufficient_scope");
}

/// A gateway ignores the headers that a client's `Connection` names, except for an upgrade.
#[tokio::test]
async fn an_upgrade_is_passed_on() {
    let scene = Scene::of(Gateway::Haproxy, Key::ed25519()).await;
    let upgrade = |request: Request| {
        request.header("Connection", "Upgrade, X-Auth-Username").header("Upgrade", "example")
    };

    let seen = Seen::by(&scene.send(upgrade(Request::get("/"))).await);
    let refused = scene.gateway.send(&upgrade(Request::get("/"))).await;

    assert_eq!(seen.values("upgrade"), ["example"]);
    assert_eq!(seen.values("connection").concat().to_ascii_lowercase(), "upgrade");
    assert_challenge(&refused, "missing_credentials");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_keep_their_rules() {
    let sites = "\
    http-request set-var(txn.site) req.hdr(Host),field(1,:),lower
    http-request deny deny_status 421 if !is_open !{ var(txn.site) -m str lenient.test strict.test }
    http-request set-var(txn.required_scope) str(admin) if { var(txn.site) -m str strict.test }
";
    common::advised("haproxy", sites);
    let before = "    # Everything else on this frontend";
    let edit = (before, format!("{sites}\n{before}"));
    common::two_sites_keep_their_rules(Gateway::Haproxy, &[(edit.0, &edit.1)]).await;
}

#[tokio::test]
async fn what_the_back_end_says_of_pages_is_replaced() {
    common::what_the_back_end_says_of_pages_is_replaced(Gateway::Haproxy).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_asks() {
    common::what_is_too_large_costs_no_token(Gateway::Haproxy, 16).await;
}

#[tokio::test]
async fn everything_may_ask_for_a_scope() {
    let (some, all) = (
        " if { var(txn.path) -m reg -i '^/admin([/.]|$)' }",
        "http-request set-var(txn.required_scope) str(admin)\n",
    );
    common::advised("haproxy", all);
    common::everything_asks_for_a_scope(Gateway::Haproxy, &[(some, "")]).await;
}
