//! What clients must not achieve behind any gateway, whatever they send.

use crate::gateways::every::{
    IDENTITY, Scene, assert_challenge, assert_nothing_made_up, through_every_gateway,
    with_made_up_identity,
};
use crate::harness::http::Request;
use crate::harness::{Claims, Gateway, Key, Seen};

through_every_gateway!(
    made_up_identity_headers_are_overwritten,
    an_open_route_drops_made_up_identity_headers,
    no_spelling_of_a_path_goes_round_the_scope,
    two_tokens_are_refused,
    paths_in_disguise_match_no_bound_token,
    a_client_cannot_tell_the_original_request,
    a_client_cannot_drop_the_identity,
    a_client_cannot_choose_the_attempt,
    a_bound_token_passes_to_its_host_alone,
    a_query_of_the_clients_asks_for_no_scope,
);

async fn made_up_identity_headers_are_overwritten(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let seen = Seen::by(&scene.send(with_made_up_identity(Request::get("/"))).await);

    assert_nothing_made_up(&seen);
    assert_eq!(seen.values("x-auth-username"), ["alice"]);
    // alice has no scopes: a gateway may pass the header on empty, or drop it.
    assert!(seen.values("x-auth-scopes").concat().is_empty());
}

/// A gateway that adds the client's query to its own question would ask for whatever scopes the
/// client names.
async fn a_query_of_the_clients_asks_for_no_scope(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let seen = Seen::by(&scene.send(Request::get("/?scope=never-held&limit=5")).await);

    assert_eq!(seen.values("x-auth-username"), ["alice"]);
}

async fn an_open_route_drops_made_up_identity_headers(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let request = IDENTITY
        .iter()
        .fold(Request::get("/healthz"), |request, name| request.header(name, "made-up"));
    let seen = Seen::by(&scene.gateway.send(&request).await);

    for name in IDENTITY {
        assert!(seen.values(name).is_empty(), "{name} in {seen:?}");
    }
}

/// The back end serves the path that the gateway judged: no reading of the path that it gets is one
/// of those that require a scope, and without a token it is the open one.
async fn no_spelling_of_a_path_goes_round_the_scope(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let spellings = [
        "/admin/x",
        "//admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/x/..%2fadmin/x",
        "/x/..%5cadmin/x",
        "/%61dmin/x",
        "/admi%6e/x",
        "/admin%2fx",
        "/admin/%zz",
        "/%61dmin/%",
        "/x/..\\admin/x",
        "/admin/../healthz",
        "/admin/x/../../healthz",
        "/admin/..%2fhealthz",
        "/healthz/../admin/x",
        "/healthz%2f..%2fadmin/x",
        "/healthz/x",
        "/HEALTHZ",
        "/admin/%2e./healthz",
        "/admin/.%2e/orders",
        "/healthz?/admin/",
        "/orders?/../admin/",
    ];

    for path in spellings {
        let answer = scene.send(Request::get(path)).await;
        if answer.status == 200 {
            let target = Seen::by(&answer).target;
            let served = target.split('?').next().unwrap();
            let readings = [served.to_owned(), decoded(served), cleaned(&decoded(served))];
            assert!(
                readings.iter().all(|path| !path.starts_with("/admin/")),
                "{path}: {readings:?}"
            );
        } else {
            assert!([400, 403, 404].contains(&answer.status), "{path}: {answer:?}");
        }
        let nobody = scene.gateway.send(&Request::get(path)).await;
        if nobody.status == 200 {
            assert_eq!(Seen::by(&nobody).target.split('?').next(), Some("/healthz"), "{path}");
        }
    }
}

async fn two_tokens_are_refused(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let [first, second] = [scene.authorization(), scene.authorization()];
    let request = Request::get("/").authorization(&first).authorization(&second);
    let answer = scene.gateway.send(&request).await;

    // nginx itself refuses them; Envoy joins them with a comma.
    let expected = if gateway.is_nginx() { 400 } else { 401 };
    assert_eq!(answer.status, expected);
    // Refused before they were examined, so both are still valid.
    for authorization in [first, second] {
        Seen::by(&scene.gateway.send(&Request::get("/").authorization(&authorization)).await);
    }
}

/// The gateway may route a path differently from its spelling.
async fn paths_in_disguise_match_no_bound_token(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    for path in [
        "/t/ok/..%2f/admin//x",
        "/t/ok/%2e%2e/admin/x",
        "/t/ok/../admin/x",
        "/t//ok",
        "/t/ok/..%5cadmin",
    ] {
        let url = format!("http://{}{path}", scene.gateway.address);
        let token = Claims::of("alice").with("htm", "GET").with("htu", url);
        let answer = scene
            .gateway
            .send(&Request::get(path).authorization(&token.authorization(&scene.key)))
            .await;
        // Apache does not find a path with an encoded slash.
        let refusals: &[u16] =
            if gateway == Gateway::Apache { &[400, 401, 404] } else { &[400, 401] };
        assert!(refusals.contains(&answer.status), "{path}: {answer:?}");
    }
}

/// What a gateway says about a request is its own, even if the client sends headers of the same
/// name.
async fn a_client_cannot_tell_the_original_request(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let bound = |method: &str, path: &str| {
        let url = format!("http://{}{path}", scene.gateway.address);
        Claims::of("alice").with("htm", method).with("htu", url).authorization(&scene.key)
    };
    let request = |authorization: &str| {
        Request::new("DELETE", "/precious")
            .header("X-Original-Method", "GET")
            .header("X-Original-URI", "/harmless")
            .header("X-Forwarded-Method", "GET")
            .header("X-Forwarded-Uri", "/harmless")
            .header("X-Forwarded-Host", "elsewhere.test")
            .header("X-Forwarded-Proto", "https")
            .authorization(authorization)
    };

    let lie = scene.gateway.send(&request(&bound("GET", "/harmless"))).await;
    let truth = scene.gateway.send(&request(&bound("DELETE", "/precious"))).await;

    assert_challenge(&lie, "request_mismatch");
    assert_eq!(Seen::by(&truth).method, "DELETE");
}

/// The headers that `Connection` names are for the next hop only: a gateway that removes them after
/// it has asked drops the identity for the back end.
async fn a_client_cannot_drop_the_identity(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let seen =
        Seen::by(&scene.send(Request::get("/").header("Connection", &IDENTITY.join(", "))).await);

    assert_eq!(seen.values("x-auth-username"), ["alice"]);
    assert_eq!(
        seen.values("x-auth-principal-id"),
        [scene.deployment.principal_id("alice").as_str()]
    );
    // It must not reach a next hop that would do so, either.
    assert!(!seen.values("connection").concat().contains("x-auth"), "{seen:?}");
}

/// The gateway's own id makes two questions one attempt: a client cannot pass a replay off as the
/// first.
async fn a_client_cannot_choose_the_attempt(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let request =
        Request::get("/").header("X-Request-Id", "mine").authorization(&scene.authorization());

    Seen::by(&scene.gateway.send(&request).await);
    assert_challenge(&scene.gateway.send(&request).await, "replayed");
}

/// A request target may name a host, and then the Host line is void (RFC 9112 section 3.2.2): a
/// gateway that uses one must not send us the other.
async fn a_bound_token_passes_to_its_host_alone(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let port = scene.gateway.address.port();
    let [line, target] = ["line.test", "target.test"].map(|host| format!("{host}:{port}"));
    let mut passed = 0;

    for bound in [&line, &target] {
        let token = Claims::of("alice")
            .with("htu", format!("http://{bound}/orders"))
            .authorization(&scene.key);
        let request = Request::get(&format!("http://{target}/orders"))
            .header("Host", &line)
            .authorization(&token);
        let answer = scene.gateway.send(&request).await;
        if answer.status == 200 {
            assert_eq!(Seen::by(&answer).values("host"), [bound.as_str()]);
            passed += 1;
        } else {
            assert!([400, 401, 421].contains(&answer.status), "{bound}: {answer:?}");
        }
    }

    assert!(passed < 2, "two tokens for two hosts passed to one");
}

fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Without empty segments, `.` and `..`, and with forward slashes only.
fn cleaned(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}/", segments.join("/"))
}
