//! What must hold behind every gateway, tested through the real ones with the configurations of
//! `examples/`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::harness::http::{Answer, Request};
use crate::harness::{
    Breaker, Claims, Countersign, Deployment, Echo, Gateway, Key, RunningGateway, Seen, Signal,
    established_to, eventually_async,
};

/// The headers of an allow.
pub const IDENTITY: [&str; 7] = [
    "x-auth-username",
    "x-auth-principal-id",
    "x-auth-method",
    "x-auth-key-id",
    "x-auth-scopes",
    "x-auth-content-digest",
    "x-auth-decision-id",
];

/// A gateway between a client and an echo; alice, who has a key, and root, who also has the scope
/// `admin`.
pub struct Scene {
    pub gateway: RunningGateway,
    pub countersign: Countersign,
    pub key: Key,
    pub root_key: Key,
    pub deployment: Deployment,
    _echo: Echo,
}

impl Scene {
    pub async fn of(gateway: Gateway, key: Key) -> Self {
        Self::edited(gateway, key, &[]).await
    }

    /// With edits to the gateway's example.
    pub async fn edited(gateway: Gateway, key: Key, edits: &[(&str, &str)]) -> Self {
        Self::on(Deployment::new(), gateway, key, edits).await
    }

    /// On the given deployment.
    pub async fn on(
        deployment: Deployment,
        gateway: Gateway,
        key: Key,
        edits: &[(&str, &str)],
    ) -> Self {
        Self::complete(deployment, gateway, key, Echo::start(), edits).await
    }

    /// In front of the test's own back end, with edits to the gateway's example.
    pub async fn before(
        gateway: Gateway,
        key: Key,
        back_end: Echo,
        edits: &[(&str, &str)],
    ) -> Self {
        Self::complete(Deployment::new(), gateway, key, back_end, edits).await
    }

    async fn complete(
        deployment: Deployment,
        gateway: Gateway,
        key: Key,
        echo: Echo,
        edits: &[(&str, &str)],
    ) -> Self {
        let deployment = deployment.set("self_signed.attempt_header", "X-Request-Id");
        deployment.enrol("alice", &key);
        let root_key = Key::ed25519();
        deployment.done(&["principal", "add", "root", "--scope", "admin"]);
        deployment.add_key_with("root", &root_key, &["--scope", "admin"]);
        let countersign = deployment.serve();
        let gateway = gateway.start_edited(&countersign, &echo, edits).await;
        Self { gateway, countersign, key, root_key, deployment, _echo: echo }
    }

    /// A fresh value for `Authorization`.
    pub fn authorization(&self) -> String {
        Claims::of("alice").authorization(&self.key)
    }

    /// One kept-alive connection serves many decisions.
    pub async fn asks_over_one_connection(&self) {
        let connections = || established_to(self.countersign.http.port());
        Seen::by(&self.send(Request::get("/")).await);
        let first = connections();
        for _ in 0..20 {
            Seen::by(&self.send(Request::get("/")).await);
        }
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(connections(), first);
    }

    /// Sends `request` with a fresh token.
    pub async fn send(&self, request: Request) -> Answer {
        self.gateway.send(&request.authorization(&self.authorization())).await
    }
}

/// A gateway that gets no answer does not ask again: the token may be spent, and would be refused.
/// `asks` makes it ask at an address of the test's own.
pub async fn a_lost_answer_is_one_answer(gateway: Gateway, asks: Edit<'_>, edits: &[(&str, &str)]) {
    let lost = LostAnswer::of(gateway, &Deployment::new(), asks, edits, usize::MAX).await;

    assert_eq!(lost.answer.status, 503, "{:?}", lost.answer);
    assert_eq!(lost.answer.header("x-auth-error"), Some("unavailable"));
    assert_eq!(lost.answers, 1, "asked more than once");
}

/// A gateway that gets no answer asks again, and says that it is the same attempt. Without the
/// setting in Countersign that is a replay.
pub async fn a_lost_answer_is_asked_for_again_in_the_same_attempt(
    gateway: Gateway,
    asks: Edit<'_>,
    edits: &[(&str, &str)],
) {
    let named = Deployment::new().set("self_signed.attempt_header", "X-Request-Id");

    let lost = LostAnswer::of(gateway, &named, asks, edits, 1).await;
    assert_eq!(Seen::by(&lost.answer).values("x-auth-username"), ["alice"]);
    assert_eq!(lost.answers, 2);

    let lost = LostAnswer::of(gateway, &Deployment::new(), asks, edits, 1).await;
    assert_challenge(&lost.answer, "replayed");
    assert_eq!(lost.answers, 2);
}

/// A text of the example, and its replacement, which asks at an address of the test's own.
pub type Edit<'a> = (&'a str, &'a dyn Fn(SocketAddr) -> String);

struct LostAnswer {
    /// What the client got.
    answer: Answer,
    /// The number of answers to its request.
    answers: usize,
}

impl LostAnswer {
    /// Loses the next `losses` answers.
    async fn of(
        gateway: Gateway,
        deployment: &Deployment,
        asks: Edit<'_>,
        edits: &[(&str, &str)],
        losses: usize,
    ) -> Self {
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        let breaker = Breaker::before(countersign.http).await;
        let there = asks.1(breaker.address);
        let edits = [&[(asks.0, there.as_str())], edits].concat();
        let gateway = gateway.start_edited(&countersign, &Echo::start(), &edits).await;
        let request = || Request::get("/").authorization(&Claims::of("alice").authorization(&key));
        // On a kept-alive connection, where a gateway assumes that the server has closed an idle
        // connection.
        for _ in 0..2 {
            Seen::by(&gateway.send(&request()).await);
        }
        let before = breaker.answers();

        breaker.lose_answers(losses);
        let answer = gateway.send(&request()).await;
        Self { answer, answers: breaker.answers() - before }
    }
}

/// Runs each test through each gateway, as a test of its own. The tests are functions of the
/// calling module.
macro_rules! through_every_gateway {
    ($($test:ident),+ $(,)?) => {
        through_every_gateway!(@ [$($test)+]
            nginx Nginx,
            nginx_mainline NginxMainline,
            envoy_grpc EnvoyGrpc,
            envoy_http EnvoyHttp,
            caddy Caddy,
            caddy_debian CaddyDebian,
            haproxy Haproxy,
            apache Apache,
            traefik Traefik);
    };
    // One list of tests in each of a list of modules.
    (@ $tests:tt $($module:ident $gateway:ident),+) => {
        $(through_every_gateway!(@@ $module $gateway $tests);)+
    };
    (@@ $module:ident $gateway:ident [$($test:ident)+]) => {
        mod $module {
            $(
                // Some block while a server starts, and requests continue meanwhile.
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::harness::Gateway::$gateway).await;
                }
            )+
        }
    };
}

pub(crate) use through_every_gateway;

through_every_gateway!(
    an_allowed_request_names_the_principal,
    rsa_keys_pass,
    a_token_passes_once,
    a_denial_tells_the_client_why,
    a_denial_is_handed_on_whole,
    a_route_asks_for_a_scope,
    the_spent_token_stays_outside,
    a_body_arrives_intact,
    errors_of_the_back_end_stay_its_own,
    the_largest_token_passes,
    a_token_bound_to_the_request_passes,
    the_command_line_client_signs_for_it,
    nobody_passes_while_countersign_is_down,
    nobody_passes_while_countersign_hangs,
);

async fn an_allowed_request_names_the_principal(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let answer = scene.send(Request::get("/orders/7?expand=lines")).await;

    // Our challenge is for the gateway; the back end sent none.
    assert_eq!(answer.header("cache-control"), None);
    let seen = Seen::by(&answer);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/orders/7?expand=lines"));
    assert_eq!(seen.values("x-auth-username"), ["alice"]);
    assert_eq!(seen.values("x-auth-method"), ["self_signed"]);
    assert_eq!(seen.values("x-auth-key-id"), [scene.key.fingerprint().as_str()]);
    assert_eq!(
        seen.values("x-auth-principal-id"),
        [scene.deployment.principal_id("alice").as_str()]
    );
    assert!(matches!(seen.values("x-auth-decision-id")[..], [id] if !id.is_empty()), "{seen:?}");
}

async fn rsa_keys_pass(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::rsa()).await;

    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let token = Claims::of("alice").with_header("alg", algorithm);
        let request = Request::get("/").authorization(&token.authorization(&scene.key));
        let seen = Seen::by(&scene.gateway.send(&request).await);
        assert_eq!(seen.values("x-auth-username"), ["alice"], "{algorithm}");
    }
}

async fn a_token_passes_once(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let request = Request::get("/").authorization(&scene.authorization());

    Seen::by(&scene.gateway.send(&request).await);
    let replayed = scene.gateway.send(&request).await;

    assert_eq!(replayed.status, 401);
    assert_challenge(&replayed, "replayed");
}

async fn a_denial_tells_the_client_why(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let nameless = scene.gateway.send(&Request::get("/")).await;
    let forged = Claims::of("alice").authorization(&Key::ed25519());
    let forged = scene.gateway.send(&Request::get("/").authorization(&forged)).await;

    assert_eq!((nameless.status, forged.status), (401, 401));
    assert_challenge(&nameless, "missing_credentials");
    assert_challenge(&forged, "invalid_token");
    for (denial, code) in [(nameless, "missing_credentials"), (forged, "invalid_token")] {
        assert_eq!(denial.header("x-auth-error"), Some(code));
    }
}

/// Code, problem details and all.
async fn a_denial_is_handed_on_whole(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let denial = scene.gateway.send(&Request::get("/")).await;

    // nginx passes on the challenge, and the headers that its configuration names.
    if !gateway.is_nginx() {
        assert_eq!(denial.header("content-type"), Some("application/problem+json"));
        assert_eq!(denial.header("cache-control"), Some("no-store"));
        assert_eq!(
            (&denial.json()["status"], &denial.json()["code"]),
            (&json!(401), &json!("missing_credentials"))
        );
        assert!(denial.header("x-auth-decision-id").is_some_and(|id| !id.is_empty()));
    }
    for name in IDENTITY.into_iter().filter(|name| *name != "x-auth-decision-id") {
        assert_eq!(denial.header(name), None);
    }
}

async fn a_route_asks_for_a_scope(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let token = Claims::of("root").authorization(&scene.root_key);

    let request = with_made_up_identity(Request::get("/admin/users")).authorization(&token);
    let allowed = scene.gateway.send(&request).await;
    let refused = scene.send(Request::get("/admin/users").header("X-Required-Scope", "")).await;
    let elsewhere = scene.send(Request::get("/administration")).await;

    let seen = Seen::by(&allowed);
    assert_eq!(seen.values("x-auth-scopes"), ["admin"]);
    assert_eq!(seen.values("x-auth-username"), ["root"]);
    assert_nothing_made_up(&seen);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(refused.header("x-auth-error"), Some("insufficient_scope"));
    assert_eq!(elsewhere.status, 200);
}

async fn the_spent_token_stays_outside(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    let seen = Seen::by(&scene.send(Request::get("/").header("X-Application", "kept")).await);

    assert!(seen.values("authorization").is_empty(), "{seen:?}");
    assert_eq!(seen.values("x-application"), ["kept"]);
}

async fn a_body_arrives_intact(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let body = "0123456789abcdef".repeat(4_096);

    let seen = Seen::by(&scene.send(Request::new("POST", "/upload").body(body.as_str())).await);

    assert_eq!(seen.method, "POST");
    assert_eq!(seen.body, body);
}

/// A gateway that reports our outage to the client must not do so for a back end's.
async fn errors_of_the_back_end_stay_its_own(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;

    for status in [401, 403, 404, 500, 502, 503] {
        let answer = scene.send(Request::get(&format!("/?answer={status}"))).await;
        assert_eq!(answer.status, status);
        assert!(answer.json()["headers"].is_array(), "{answer:?}");
        assert!(answer.header("x-auth-error").is_none_or(str::is_empty), "{answer:?}");
    }
}

/// 8 KiB is Countersign's limit: the gateway must not have a lower one.
async fn the_largest_token_passes(gateway: Gateway) {
    const CAP: usize = 8 * 1024;
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let padded =
        |length: usize| Claims::of("alice").with("padding", "x".repeat(length)).sign(&scene.key);

    // Three more characters in the claims are four more in the token.
    let spare = CAP - padded(1).len();
    let [fits, too_long] = [padded(1 + spare / 4 * 3), padded(1 + spare / 4 * 3 + 6)];
    assert!(
        (CAP - 8..=CAP).contains(&fits.len()) && too_long.len() > CAP,
        "{} {}",
        fits.len(),
        too_long.len()
    );

    let fits = scene.gateway.send(&Request::get("/").authorization(&format!("JWT {fits}"))).await;
    assert_eq!(Seen::by(&fits).values("x-auth-username"), ["alice"]);
    let too_long =
        scene.gateway.send(&Request::get("/").authorization(&format!("JWT {too_long}"))).await;
    assert_eq!(too_long.status, 401);
    assert_challenge(&too_long, "malformed_credentials");
}

async fn a_token_bound_to_the_request_passes(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let url = format!("http://{}/orders/7", scene.gateway.address);
    let bound = |method: &str| Claims::of("alice").with("htm", method).with("htu", url.as_str());
    let request = |method: &str, path: &str, token: &Claims| {
        Request::new(method, path).authorization(&token.authorization(&scene.key))
    };

    let wrong_method = scene.gateway.send(&request("GET", "/orders/7", &bound("DELETE"))).await;
    let wrong_path = scene.gateway.send(&request("GET", "/orders/8", &bound("GET"))).await;
    let right =
        scene.gateway.send(&request("DELETE", "/orders/7?really=yes", &bound("DELETE"))).await;

    assert_challenge(&wrong_method, "request_mismatch");
    assert_challenge(&wrong_path, "request_mismatch");
    assert_eq!(Seen::by(&right).method, "DELETE");
}

/// `countersign sign`, as used with curl.
async fn the_command_line_client_signs_for_it(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::rsa()).await;
    let [ed25519, p256] = [Key::ed25519(), Key::p256()];
    scene.deployment.enrol("bob", &ed25519);
    scene.deployment.enrol("carol", &p256);
    for (username, key) in [("alice", &scene.key), ("bob", &ed25519), ("carol", &p256)] {
        let file = scene.deployment.file("private.pem", &key.private_pem());
        let url = format!("http://{}/orders", scene.gateway.address);
        let sign =
            ["sign", username, "--key", file.to_str().unwrap(), "--method", "POST", "--url", &url];

        let header = scene.deployment.done(&[sign.as_slice(), &["--header"]].concat());
        let (name, value) =
            header.trim().split_once(": ").unwrap_or_else(|| panic!("no header: {header}"));
        let seen = Seen::by(
            &scene.gateway.send(&Request::new("POST", "/orders").header(name, value)).await,
        );
        assert_eq!(seen.values("x-auth-username"), [username]);

        let token = scene.deployment.done(&sign);
        let request = Request::get("/orders").authorization(&format!("JWT {}", token.trim()));
        assert_challenge(&scene.gateway.send(&request).await, "request_mismatch");
    }
}

async fn nobody_passes_while_countersign_is_down(gateway: Gateway) {
    let mut scene = Scene::of(gateway, Key::ed25519()).await;
    Seen::by(&scene.send(Request::get("/")).await);
    scene.countersign.signal(Signal::Kill);
    scene.countersign.exited_within(Duration::from_secs(10));

    for method in ["GET", "POST"] {
        let answer = scene.send(Request::new(method, "/")).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        // Traefik has a status for that, and no headers.
        if gateway != Gateway::Traefik {
            assert_eq!(answer.header("x-auth-error"), Some("unavailable"));
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
}

/// A check that is never answered is not an allow, and ends before a client loses patience.
async fn nobody_passes_while_countersign_hangs(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let request = Request::get("/").authorization(&scene.authorization());
    scene.countersign.signal(Signal::Stop);

    let answer = tokio::time::timeout(Duration::from_secs(10), scene.gateway.send(&request)).await;

    let answer = answer.expect("the gateway waits for ever");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        gateway == Gateway::Traefik || answer.header("x-auth-error") == Some("unavailable"),
        "{answer:?}"
    );
    scene.countersign.signal(Signal::Continue);
    eventually_async("decisions resume", Duration::from_secs(10), async || {
        let answer = scene.send(Request::get("/")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

pub fn with_made_up_identity(request: Request) -> Request {
    IDENTITY.iter().fold(request, |request, name| {
        let request = request.header(name, "made-up").header(&name.replace('-', "_"), "made-up");
        request.header(&name.to_ascii_uppercase(), "made-up")
    })
}

pub fn assert_nothing_made_up(seen: &Seen) {
    for name in IDENTITY {
        let values = seen.values(name);
        assert!(values.len() <= 1 && !values.contains(&"made-up"), "{name}: {values:?}");
    }
}

/// The error code is in the one header that every gateway passes on.
pub fn assert_challenge(denial: &Answer, code: &str) {
    let challenge =
        denial.header("www-authenticate").unwrap_or_else(|| panic!("no challenge in {denial:?}"));
    assert!(challenge.starts_with("JWT realm=\""), "{challenge}");
    assert!(challenge.contains(&format!("error=\"{code}\"")), "{challenge} does not say {code}");
}

/// The set of names in a list of headers.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().collect()
}
