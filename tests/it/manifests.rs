//! The manifests of `examples/` for gateways that cannot be installed here.
//!
//! The configuration that each gateway would make of its manifests is built from the manifests
//! themselves. Istio, Envoy Gateway and Cilium configure Envoy, and ingress-nginx configures nginx:
//! both run for real, with the configuration that these projects would write. So does Traefik, with
//! its custom resources as files. Kong runs our plugin, which runs here, too. APISIX is modelled:
//! what it sends, and what it does with the answer.

mod apisix;
mod envoy;
mod ingress_nginx;
mod kong;
mod passage;
mod schemas;
mod traefik;

use std::time::Duration;

use passage::{Asked, Passage};
use tokio_tungstenite::tungstenite::Message;

use crate::gateways::every::IDENTITY;
use crate::harness::{
    Claims, Countersign, Deployment, Echo, Key, Manifests, Seen, Signal, WebSocket,
};

/// A gateway, configured in one of the ways that its example shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    IstioGrpc,
    IstioHttp,
    EnvoyGatewayGrpc,
    EnvoyGatewayHttp,
    /// Configured by Cilium.
    GatewayApiGrpc,
    GatewayApiHttp,
    IngressNginx,
    TraefikFile,
    TraefikCrd,
    ApisixFile,
    ApisixCrd,
    Kong,
}

impl Way {
    fn example(self) -> &'static str {
        match self {
            Self::IstioGrpc | Self::IstioHttp => "istio",
            Self::EnvoyGatewayGrpc | Self::EnvoyGatewayHttp => "envoy-gateway",
            Self::GatewayApiGrpc | Self::GatewayApiHttp => "gateway-api",
            Self::IngressNginx => "ingress-nginx",
            Self::TraefikFile | Self::TraefikCrd => "traefik",
            Self::ApisixFile | Self::ApisixCrd => "apisix",
            Self::Kong => "kong",
        }
    }

    /// Over HTTP Istio asks about every route in the same way. The Gateway API's filter could ask
    /// with a path of its own; its example has one route.
    fn asks_for_scopes(self) -> bool {
        self != Self::IstioHttp && !self.is_by_filter()
    }

    /// Uses the Gateway API's own filter, which has neither a status for outages nor rules for
    /// header names.
    fn is_by_filter(self) -> bool {
        matches!(self, Self::GatewayApiGrpc | Self::GatewayApiHttp)
    }

    /// The status that the client gets when Countersign does not answer.
    fn on_outage(self) -> u16 {
        match self {
            Self::GatewayApiGrpc | Self::GatewayApiHttp => 403,
            Self::TraefikCrd | Self::IngressNginx => 500,
            Self::IstioGrpc
            | Self::IstioHttp
            | Self::EnvoyGatewayGrpc
            | Self::EnvoyGatewayHttp
            | Self::TraefikFile
            | Self::ApisixFile
            | Self::ApisixCrd
            | Self::Kong => 503,
        }
    }
}

/// The server that asks and forwards.
enum Gateway {
    Envoy(envoy::Running),
    IngressNginx(ingress_nginx::Running),
    Traefik(traefik::Running),
    Apisix(apisix::Apisix),
    Kong(kong::Kong),
}

impl Gateway {
    async fn start(
        way: Way,
        manifests: &Manifests,
        countersign: &Countersign,
        echo: &Echo,
    ) -> Self {
        match way {
            Way::IstioGrpc => {
                Self::Envoy(envoy::istio(manifests, "countersign", countersign, echo).await)
            }
            Way::IstioHttp => {
                Self::Envoy(envoy::istio(manifests, "countersign-http", countersign, echo).await)
            }
            Way::EnvoyGatewayGrpc => Self::Envoy(
                envoy::gateway(manifests, "security-policy-grpc.yaml", countersign, echo).await,
            ),
            Way::EnvoyGatewayHttp => Self::Envoy(
                envoy::gateway(manifests, "security-policy-http.yaml", countersign, echo).await,
            ),
            Way::GatewayApiGrpc => {
                Self::Envoy(envoy::filters(manifests, "route-grpc.yaml", countersign, echo).await)
            }
            Way::GatewayApiHttp => {
                Self::Envoy(envoy::filters(manifests, "route-http.yaml", countersign, echo).await)
            }
            Way::IngressNginx => {
                Self::IngressNginx(ingress_nginx::start(manifests, countersign, echo).await)
            }
            Way::TraefikFile => {
                Self::Traefik(traefik::Running::by_file(manifests, countersign, echo).await)
            }
            Way::TraefikCrd => {
                Self::Traefik(traefik::Running::by_crd(manifests, countersign, echo).await)
            }
            Way::ApisixFile => Self::Apisix(apisix::Apisix::by_file(manifests, countersign.http)),
            Way::ApisixCrd => Self::Apisix(apisix::Apisix::by_crd(manifests, countersign.http)),
            Way::Kong => Self::Kong(kong::Kong::new(manifests, countersign.http)),
        }
    }
}

/// A gateway in front of an echo; alice, who has a key, and root, who also has the scope `admin`.
struct Scene {
    way: Way,
    gateway: Gateway,
    countersign: Countersign,
    deployment: Deployment,
    key: Key,
    root_key: Key,
    echo: Echo,
}

impl Scene {
    async fn of(way: Way) -> Self {
        // As in examples/ingress-nginx. The others do not send such a header.
        let deployment =
            Deployment::new().set("self_signed.attempt_header", "X-Countersign-Attempt");
        let [key, root_key] = [Key::ed25519(), Key::ed25519()];
        deployment.enrol("alice", &key);
        deployment.done(&["principal", "add", "root", "--scope", "admin"]);
        deployment.add_key_with("root", &root_key, &["--scope", "admin"]);
        let countersign = deployment.serve();
        let echo = Echo::start();
        let gateway = Gateway::start(way, &Manifests::of(way.example()), &countersign, &echo).await;
        Self { way, gateway, countersign, deployment, key, root_key, echo }
    }

    async fn send(&self, asked: &Asked) -> Passage {
        match &self.gateway {
            Gateway::Envoy(running) => asked.through(running.address()).await,
            Gateway::IngressNginx(running) => asked.through(running.address()).await,
            Gateway::Traefik(running) => {
                asked.clone().host(passage::HOST).through(running.address()).await
            }
            Gateway::Apisix(apisix) => apisix.send(asked).await,
            Gateway::Kong(kong) => kong.send(asked),
        }
    }

    /// A request with a fresh token of alice's.
    fn signed(&self, method: &str, target: &str) -> Asked {
        Asked::new(method, target).authorization(&Claims::of("alice").authorization(&self.key))
    }

    /// The host that clients use.
    fn host(&self) -> String {
        match &self.gateway {
            Gateway::Envoy(running) => running.address().to_string(),
            Gateway::IngressNginx(running) => running.address().to_string(),
            // In Kubernetes clients use the default port of APISIX's Service.
            Gateway::Apisix(_) if self.way == Way::ApisixCrd => {
                passage::HOST.split(':').next().unwrap().to_owned()
            }
            Gateway::Traefik(_) | Gateway::Apisix(_) | Gateway::Kong(_) => passage::HOST.to_owned(),
        }
    }
}

/// Runs each test with each gateway, as a test of its own.
macro_rules! in_the_ways_of {
    ($($module:ident $way:ident),+ $(,)?) => {
        $(mod $module {
            in_the_ways_of!(@ $way
                an_allowed_request_names_the_principal
                a_token_passes_once
                made_up_identity_headers_are_overwritten
                an_open_route_drops_made_up_identity_headers
                a_route_asks_for_a_scope
                the_spent_token_stays_outside
                a_body_arrives_intact
                a_client_cannot_tell_the_original_request
                nobody_passes_while_countersign_is_down
            );
        })+
    };
    (who name headers in lists: $($module:ident $way:ident),+ $(,)?) => {
        $(mod $module {
            in_the_ways_of!(@ $way a_forgotten_header_is_noticed);
        })+
    };
    (that may go by the target: $($module:ident $way:ident),+ $(,)?) => {
        $(mod $module {
            in_the_ways_of!(@ $way a_bound_token_passes_to_its_host_alone);
        })+
    };
    (of Envoy: $($module:ident $way:ident),+ $(,)?) => {
        $(mod $module {
            in_the_ways_of!(@ $way
                an_open_route_hands_on_no_token
                a_websocket_is_decided_once_and_carried
                a_scope_covers_every_spelling
                a_preflight_is_answered_by_the_gateway
                many_headers_pass_if_envoy_is_told
            );
        })+
    };
    (@ $way:ident $($test:ident)+) => {
        $(#[tokio::test] async fn $test() { super::$test(super::Way::$way).await; })+
    };
}

in_the_ways_of!(
    istio_grpc IstioGrpc,
    istio_http IstioHttp,
    envoy_gateway_grpc EnvoyGatewayGrpc,
    envoy_gateway_http EnvoyGatewayHttp,
    gateway_api_grpc GatewayApiGrpc,
    gateway_api_http GatewayApiHttp,
    ingress_nginx_controller IngressNginx,
    traefik_crd TraefikCrd,
    apisix_file ApisixFile,
    apisix_crd ApisixCrd,
    kong_plugin Kong,
);

in_the_ways_of!(who name headers in lists:
    istio_lists IstioHttp,
    istio_open_route IstioGrpc,
    envoy_gateway_lists EnvoyGatewayHttp,
    envoy_gateway_open_route EnvoyGatewayGrpc,
    gateway_api_lists GatewayApiHttp,
    gateway_api_open_route GatewayApiGrpc,
    ingress_nginx_lists IngressNginx,
    traefik_file_lists TraefikFile,
    traefik_crd_lists TraefikCrd,
    apisix_file_lists ApisixFile,
    apisix_crd_lists ApisixCrd,
);

in_the_ways_of!(of Envoy:
    istio_grpc_envoy IstioGrpc,
    istio_http_envoy IstioHttp,
    envoy_gateway_grpc_envoy EnvoyGatewayGrpc,
    envoy_gateway_http_envoy EnvoyGatewayHttp,
    gateway_api_grpc_envoy GatewayApiGrpc,
    gateway_api_http_envoy GatewayApiHttp,
);

in_the_ways_of!(that may go by the target:
    ingress_nginx_host IngressNginx,
    apisix_file_host ApisixFile,
    apisix_crd_host ApisixCrd,
    kong_host Kong,
);

/// nginx and APISIX use the host that a request target names, if any, Kong the Host line; they must
/// send that host to Countersign and to the back end.
async fn a_bound_token_passes_to_its_host_alone(way: Way) {
    let scene = Scene::of(way).await;
    let line = scene.host();
    let target = line
        .rsplit_once(':')
        .map_or_else(|| "other.test".to_owned(), |(_, port)| format!("other.test:{port}"));
    let asked = |bound: &str| {
        let token = Claims::of("alice")
            .with("htu", format!("http://{bound}/orders"))
            .authorization(&scene.key);
        Asked::new("GET", &format!("http://{target}/orders")).host(&line).authorization(&token)
    };

    let by_line = scene.send(&asked(&line)).await;
    let by_target = scene.send(&asked(&target)).await;

    assert!(by_line.seen.is_none(), "{by_line:?}");
    if way == Way::Kong {
        assert_eq!((by_line.status, by_target.status), (400, 400));
    } else {
        by_line.assert_challenge("request_mismatch");
        by_target.seen();
    }
    if way == Way::IngressNginx {
        assert_eq!(by_target.seen().values("host"), ["other.test"]);
    }
}

async fn an_allowed_request_names_the_principal(way: Way) {
    let scene = Scene::of(way).await;

    let passage = scene.send(&scene.signed("GET", "/orders/7?expand=lines")).await;

    let seen = passage.seen();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/orders/7?expand=lines"));
    assert_eq!(whole_identity(&scene, seen), Ok(()));
    assert_eq!(scene.deployment.principal_id("alice"), seen.values("x-auth-principal-id")[0]);
}

async fn a_token_passes_once(way: Way) {
    let scene = Scene::of(way).await;
    let asked = scene.signed("GET", "/");

    scene.send(&asked).await.seen();
    let replayed = scene.send(&asked).await;

    assert_eq!(replayed.status, 401, "{replayed:?}");
    replayed.assert_challenge("replayed");
}

/// Every header of ours, in every spelling that a back end could read as ours, unless the README
/// says that it passes.
async fn made_up_identity_headers_are_overwritten(way: Way) {
    let scene = Scene::of(way).await;

    let passage = scene.send(&with_made_up_identity(scene.way, scene.signed("GET", "/"))).await;

    assert_eq!(whole_identity(&scene, passage.seen()), Ok(()));
    if way.is_by_filter() {
        // Its README therefore excludes back ends that read the two alike.
        let passage =
            scene.send(&scene.signed("GET", "/").header("X_Auth_Scopes", passage::MADE_UP)).await;
        assert_eq!(passage.seen().values("x-auth-scopes"), [passage::MADE_UP, ""], "{passage:?}");
    }
}

async fn an_open_route_drops_made_up_identity_headers(way: Way) {
    let scene = Scene::of(way).await;

    let passage =
        scene.send(&with_made_up_identity(scene.way, Asked::new("GET", "/healthz"))).await;

    for name in IDENTITY {
        assert!(passage.seen().values(name).is_empty(), "{name} in {passage:?}");
    }
}

async fn a_route_asks_for_a_scope(way: Way) {
    let scene = Scene::of(way).await;
    let by_root = Asked::new("GET", "/admin/users")
        .authorization(&Claims::of("root").authorization(&scene.root_key));

    let allowed = scene.send(&with_made_up_identity(way, by_root)).await;
    let refused =
        scene.send(&scene.signed("GET", "/admin/users").header("X-Required-Scope", "")).await;
    let elsewhere = scene.send(&scene.signed("GET", "/administration")).await;

    if way.asks_for_scopes() {
        assert_eq!(refused.status, 403, "{refused:?}");
    } else {
        // Its README therefore excludes users who need scopes.
        refused.seen();
    }
    assert_eq!(allowed.seen().values("x-auth-scopes"), ["admin"]);
    assert_eq!(allowed.seen().values("x-auth-username"), ["root"]);
    elsewhere.seen();
}

async fn the_spent_token_stays_outside(way: Way) {
    let scene = Scene::of(way).await;

    let passage = scene.send(&scene.signed("GET", "/").header("X-Application", "kept")).await;

    assert!(passage.seen().values("authorization").is_empty(), "{passage:?}");
    assert_eq!(passage.seen().values("x-application"), ["kept"]);
}

async fn a_body_arrives_intact(way: Way) {
    let scene = Scene::of(way).await;
    let body = "0123456789abcdef".repeat(1_024);

    let passage = scene.send(&scene.signed("POST", "/upload").body(&body)).await;

    assert_eq!(
        (passage.seen().method.as_str(), passage.seen().body.as_str()),
        ("POST", body.as_str())
    );
}

/// What a gateway says about a request is its own, even if the client sends headers of the same
/// name.
async fn a_client_cannot_tell_the_original_request(way: Way) {
    let scene = Scene::of(way).await;
    let bound = |method: &str, path: &str| {
        let url = format!("http://{}{path}", scene.host());
        Claims::of("alice").with("htm", method).with("htu", url).authorization(&scene.key)
    };
    let asked = |authorization: &str| {
        let asked = Asked::new("DELETE", "/precious%20things").authorization(authorization);
        [
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/harmless"),
            ("X-Original-URL", "/harmless"),
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Uri", "/harmless"),
            ("X-Forwarded-Host", "elsewhere.test"),
            ("X-Forwarded-Proto", "https"),
            ("X-Countersign-Attempt", "mine"),
        ]
        .into_iter()
        .fold(asked, |asked, (name, value)| asked.header(name, value))
    };

    let lie = scene.send(&asked(&bound("GET", "/harmless"))).await;
    let truth = asked(&bound("DELETE", "/precious%20things"));
    let told = scene.send(&truth).await;
    let again = scene.send(&truth).await;

    lie.assert_challenge("request_mismatch");
    assert_eq!(told.seen().method, "DELETE");
    again.assert_challenge("replayed");
}

async fn nobody_passes_while_countersign_is_down(way: Way) {
    let mut scene = Scene::of(way).await;
    scene.send(&scene.signed("GET", "/")).await.seen();
    scene.countersign.signal(Signal::Kill);
    scene.countersign.exited_within(Duration::from_secs(10));

    for method in ["GET", "POST"] {
        let passage = scene.send(&scene.signed(method, "/")).await;
        assert_eq!(passage.status, way.on_outage(), "{passage:?}");
        assert!(passage.seen.is_none());
    }
}

/// The unspent token would be valuable to anyone who reads it.
async fn an_open_route_hands_on_no_token(way: Way) {
    let scene = Scene::of(way).await;

    let passage =
        scene.send(&scene.signed("GET", "/healthz").header("X-Application", "kept")).await;

    assert_eq!(passage.seen().values("x-application"), ["kept"]);
    assert!(passage.seen().values("authorization").is_empty(), "{passage:?}");
}

async fn a_websocket_is_decided_once_and_carried(way: Way) {
    let scene = Scene::of(way).await;
    let Gateway::Envoy(running) = &scene.gateway else { panic!("no Envoy") };
    let authorization = Claims::of("alice").authorization(&scene.key);
    let headers =
        [("Authorization", authorization.as_str()), ("X-Auth-Username", passage::MADE_UP)];

    let mut socket =
        WebSocket::open(running.address(), "/socket", &headers).await.expect("a socket");
    assert_eq!(whole_identity(&scene, &socket.seen), Ok(()));
    assert!(socket.seen.values("authorization").is_empty(), "{:?}", socket.seen);
    socket.bounce(Message::text("hello")).await;

    let refused =
        WebSocket::open(running.address(), "/socket", &headers).await.err().expect("no socket");
    assert_eq!(
        (refused.status, refused.header("x-auth-error")),
        (401, Some("replayed")),
        "{refused:?}"
    );
}

/// Istio's example passes it on. The others cannot, and their READMEs describe the consequences.
async fn many_headers_pass_if_envoy_is_told(way: Way) {
    let scene = Scene::of(way).await;
    let with = |count| {
        (0..count).fold(scene.signed("GET", "/"), |asked, number| {
            asked.header(&format!("X-Own-{number}"), "value")
        })
    };

    if matches!(way, Way::IstioGrpc | Way::IstioHttp) {
        assert_eq!(whole_identity(&scene, scene.send(&with(200)).await.seen()), Ok(()));
    } else {
        assert_eq!(whole_identity(&scene, scene.send(&with(80)).await.seen()), Ok(()));
        assert_eq!(scene.send(&with(92)).await.status, 500);
    }
}

/// Many back ends take these for `/admin`.
async fn a_scope_covers_every_spelling(way: Way) {
    let scene = Scene::of(way).await;
    let spellings = [
        "/admin",
        "/ADMIN/",
        "/Admin/keys",
        "/admin;v=1/keys",
        "/admin.json",
        "/%41dmin",
        "/orders/..;/admin",
        "/;v=1/admin",
    ];
    for path in spellings {
        let passage = scene.send(&scene.signed("GET", path)).await;
        // The others have no scopes.
        let expected = if way.asks_for_scopes() { 403 } else { 200 };
        assert_eq!(passage.status, expected, "{path}: {passage:?}");
    }
    for path in ["/administration", "/admin-guide", "/orders/admin", "/orders;v=1/a..;b"] {
        scene.send(&scene.signed("GET", path)).await.seen();
    }
}

/// In some gateways the Gateway API's own CORS filter runs after the check, so its example has
/// none.
async fn a_preflight_is_answered_by_the_gateway(way: Way) {
    let scene = Scene::of(way).await;
    let preflight = |origin: &str| {
        let asked = Asked::new("OPTIONS", "/orders")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "DELETE");
        asked.header("Access-Control-Request-Headers", "authorization")
    };

    let known = scene.send(&preflight("https://app.example.com")).await;
    let stranger = scene.send(&preflight("https://elsewhere.example.com")).await;

    let value = |passage: &Passage, name: &str| {
        passage
            .headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    assert_eq!(value(&stranger, "access-control-allow-origin"), "");
    if way.is_by_filter() {
        return known.assert_challenge("missing_credentials");
    }
    assert_eq!(known.status, 200, "{known:?}");
    assert_eq!(value(&known, "access-control-allow-origin"), "https://app.example.com");
    assert!(value(&known, "access-control-allow-methods").contains("DELETE"), "{known:?}");
    assert!(value(&known, "access-control-allow-headers").contains("authorization"), "{known:?}");
    let denied =
        scene.send(&Asked::new("GET", "/orders").header("Origin", "https://app.example.com")).await;
    denied.assert_challenge("missing_credentials");
    assert_eq!(value(&denied, "access-control-allow-origin"), "https://app.example.com");
}

/// These tests notice if one of the seven headers is missing in the manifests: the back end then
/// misses it, or believes the client.
async fn a_forgotten_header_is_noticed(way: Way) {
    let mut scene = Scene::of(way).await;
    let manifests = Manifests::of(way.example());
    for name in IDENTITY {
        // Empty for alice, so nothing is missing if the controller drops the client's own anyway.
        if way == Way::IngressNginx && ["x-auth-scopes", "x-auth-content-digest"].contains(&name) {
            continue;
        }
        scene.gateway =
            Gateway::start(way, &manifests.clone().without(name), &scene.countersign, &scene.echo)
                .await;
        assert!(is_noticed(&scene, name).await, "{name}");
    }
}

/// Whether a test of this file would fail.
async fn is_noticed(scene: &Scene, name: &str) -> bool {
    let passage = scene.send(&with_made_up_identity(scene.way, scene.signed("GET", "/"))).await;
    let open = scene.send(&with_made_up_identity(scene.way, Asked::new("GET", "/healthz"))).await;
    whole_identity(scene, passage.seen()).is_err() || !open.seen().values(name).is_empty()
}

/// Kong's list is in the plugin.
#[tokio::test]
async fn a_header_that_the_plugin_forgets_is_noticed() {
    let mut scene = Scene::of(Way::Kong).await;
    for name in IDENTITY {
        let Gateway::Kong(kong) = &mut scene.gateway else { panic!("no Kong") };
        kong.edit(&format!("  [\"{name}\"] = true,\n"), "");
        assert!(is_noticed(&scene, name).await, "{name}");
    }
}

/// 8 KiB is Countersign's limit: nginx must not have a lower one.
#[tokio::test]
async fn the_largest_token_passes_ingress_nginx() {
    const CAP: usize = 8 * 1024;
    let scene = Scene::of(Way::IngressNginx).await;
    let padded =
        |length: usize| Claims::of("alice").with("padding", "x".repeat(length)).sign(&scene.key);
    // Three more characters in the claims are four more in the token.
    let token = padded(1 + (CAP - padded(1).len()) / 4 * 3);
    assert!((CAP - 8..=CAP).contains(&token.len()), "{}", token.len());

    let passage = scene.send(&Asked::new("GET", "/").authorization(&format!("JWT {token}"))).await;

    assert_eq!(passage.seen().values("x-auth-username"), ["alice"]);
}

/// Whether the back end takes the client for alice, by all seven headers.
fn whole_identity(scene: &Scene, seen: &Seen) -> Result<(), String> {
    let fingerprint = scene.key.fingerprint();
    let expected = [
        ("x-auth-username", "alice"),
        ("x-auth-method", "self_signed"),
        ("x-auth-key-id", fingerprint.as_str()),
    ];
    for (name, value) in expected {
        if seen.values(name) != [value] {
            return Err(format!("{name} is not {value} in {seen:?}"));
        }
    }
    for name in ["x-auth-principal-id", "x-auth-decision-id"] {
        if !matches!(seen.values(name)[..], [value] if !value.is_empty() && value != passage::MADE_UP)
        {
            return Err(format!("{name} in {seen:?}"));
        }
    }
    // Empty for alice: a gateway may pass the header on empty, or drop it.
    for name in ["x-auth-scopes", "x-auth-content-digest"] {
        if !seen.values(name).concat().is_empty() {
            return Err(format!("{name} in {seen:?}"));
        }
    }
    Ok(())
}

/// In every spelling that the gateway has a rule for.
fn with_made_up_identity(way: Way, asked: Asked) -> Asked {
    IDENTITY.iter().fold(asked, |asked, name| {
        let asked = asked
            .header(name, passage::MADE_UP)
            .header(&name.to_ascii_uppercase(), passage::MADE_UP);
        if way.is_by_filter() {
            return asked;
        }
        asked
            .header(&name.replace('-', "_"), passage::MADE_UP)
            .header(&name.replacen('-', "_", 1), passage::MADE_UP)
    })
}
