//! What tests of several gateways share, although each gateway is configured differently.

use crate::gateways::every::{Scene, assert_challenge};
use crate::harness::http::{Answer, Request};
use crate::harness::{Claims, Gateway, Key, Seen, Signal, repository};

/// The site that every principal with a key may use.
pub const SHOP: &str = "shop.example.com";

/// The site that requires the scope `admin` everywhere.
pub const OFFICE: &str = "office.example.com";

/// A gateway's example, as it is in the repository.
pub fn example(file: &str) -> String {
    std::fs::read_to_string(repository().join("examples").join(file))
        .unwrap_or_else(|error| panic!("examples/{file}: {error}"))
}

/// The block of code in an example's README that begins with `beginning`.
pub fn block_of(readme: &str, beginning: &str) -> String {
    let text = example(readme);
    let blocks = text.split("\n```").skip(1).step_by(2);
    let mut found = blocks.filter_map(|block| block.split_once('\n')).map(|(_, code)| code);
    let block = found.find(|code| code.trim_start().starts_with(beginning));
    block
        .unwrap_or_else(|| panic!("{readme} has no block that begins with `{beginning}`"))
        .to_owned()
        + "\n"
}

/// Behind a gateway that serves [`SHOP`] and [`OFFICE`] and names in `X-Server` the site whose
/// rules applied: a request never reaches one site by the rules of the other, and a bound token
/// must be for the site whose rules applied, whatever the request target and the Host line say.
pub async fn two_sites_keep_their_rules(gateway: Gateway, edits: &[(&str, &str)]) {
    let scene = Scene::edited(gateway, Key::ed25519(), edits).await;
    let port = scene.gateway.address.port();
    let plain =
        |host: &str| host.split(':').next().unwrap().trim_end_matches('.').to_ascii_lowercase();
    let hosts = [
        SHOP.to_owned(),
        OFFICE.to_owned(),
        format!("{SHOP}:{port}"),
        format!("{OFFICE}:{port}"),
        format!("{OFFICE}:9"),
        format!("{}.", OFFICE.to_ascii_uppercase()),
        "elsewhere.example.com".to_owned(),
    ];
    let mut lines: Vec<Option<&str>> = hosts.iter().map(|host| Some(host.as_str())).collect();
    lines.push(None);
    let mut targets: Vec<_> =
        hosts.iter().map(|host| (Some(host.as_str()), format!("http://{host}/orders"))).collect();
    targets.push((None, "/orders".to_owned()));

    let mut passed = 0;
    for (named, target) in &targets {
        for line in &lines {
            for is_old in [false, true] {
                let what = format!("{target}, Host {line:?}, HTTP/1.{}", u8::from(!is_old));
                let request = || site_request(target, *line, is_old);
                // HTTP/1.1 requires a Host line.
                let site = (is_old || line.is_some()).then(|| named.or(*line).map(plain)).flatten();
                let site = site.filter(|site| [SHOP, OFFICE].contains(&site.as_str()));

                let by_alice = scene.send(request()).await;
                assert_eq!(
                    by_alice.status == 200,
                    site.as_deref() == Some(SHOP),
                    "{what}: {by_alice:?}"
                );
                if by_alice.status == 200 {
                    assert_is_at(&by_alice, SHOP, port, &what);
                }
                for bound_to in [SHOP, OFFICE] {
                    let claims =
                        Claims::of("root").with("htu", format!("http://{bound_to}:{port}/orders"));
                    let token = claims.authorization(&scene.root_key);
                    let answer = scene.gateway.send(&request().authorization(&token)).await;
                    match &site {
                        Some(site) if site == bound_to => {
                            assert_is_at(&answer, bound_to, port, &what);
                            passed += 1;
                        }
                        Some(_) => assert_challenge(&answer, "request_mismatch"),
                        None => {
                            assert!([400, 403, 421].contains(&answer.status), "{what}: {answer:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(passed > 50, "only {passed} requests had a site");

    // Gateways differ in the host that they take from this one.
    for line in [SHOP, OFFICE] {
        let target = format!("https://{OFFICE}/orders");
        let answer = scene.send(site_request(&target, Some(line), false)).await;
        if answer.status == 200 {
            assert_is_at(&answer, SHOP, port, &target);
        }
    }
    // Other names have no open route.
    let answer =
        scene.gateway.send(&Request::get("/healthz").header("Host", "elsewhere.example.com")).await;
    assert!([403, 421].contains(&answer.status), "{answer:?}");
}

/// With headers that name the other site.
fn site_request(target: &str, line: Option<&str>, is_old: bool) -> Request {
    let request = Request::get(target).without_host();
    let request = line.iter().fold(request, |request, line| request.header("Host", line));
    let request = ["X-Forwarded-Host", "X-Forwarded-Server"]
        .iter()
        .fold(request, |request, name| request.header(name, OFFICE));
    let request = request
        .header("Forwarded", &format!("host={OFFICE}"))
        .header("X-Original-URL", &format!("http://{OFFICE}/"));
    if is_old { request.over_http_1_0() } else { request }
}

fn assert_is_at(answer: &Answer, site: &str, port: u16, what: &str) {
    let seen = Seen::by(answer);
    let authority = format!("{site}:{port}");
    assert_eq!(seen.values("x-server"), [site], "{what}");
    assert_eq!(seen.values("host"), [authority.as_str()], "{what}");
    assert_eq!(seen.values("x-forwarded-host"), [authority.as_str()], "{what}");
    assert_eq!(seen.target, "/orders", "{what}");
    let other = if site == SHOP { OFFICE } else { SHOP };
    let told = seen.headers.iter().find(|(_, value)| value.to_ascii_lowercase().contains(other));
    assert_eq!(told, None, "{what}");
}

/// Behind a gateway that requires the scope `admin` for everything except `/orders`,
/// `/orders/NUMBER` and the open `/healthz`.
pub async fn only_listed_paths_pass_without_the_scope(gateway: Gateway, edits: &[(&str, &str)]) {
    let scene = Scene::edited(gateway, Key::ed25519(), edits).await;
    let root = |path: &str| {
        Request::get(path).authorization(&Claims::of("root").authorization(&scene.root_key))
    };

    for path in ["/orders", "/orders?page=2", "/orders/7", "/%6frders", "/orders/7?page=2"] {
        assert_eq!(
            Seen::by(&scene.send(Request::get(path)).await).values("x-auth-username"),
            ["alice"],
            "{path}"
        );
    }
    for path in [
        "/",
        "/admin",
        "/ADMIN/keys",
        "/adm%C4%B0n",
        "/anything?/orders",
        "/orders/",
        "/Orders",
        "/orders;v=1",
        "/orders.json",
        "/orders%20",
        "/orders/7/",
        "/orders/seven",
        "/orders/7%0A",
        "/orders/7/lines",
        "/healthz/",
        "/HEALTHZ",
        "/healthz;v=1",
    ] {
        let refused = scene.send(Request::get(path)).await;
        assert_eq!(
            (refused.status, refused.header("x-auth-error")),
            (403, Some("insufficient_scope")),
            "{path}: {refused:?}"
        );
        assert_eq!(
            Seen::by(&scene.gateway.send(&root(path)).await).values("x-auth-scopes"),
            ["admin"],
            "{path}"
        );
        assert_challenge(&scene.gateway.send(&Request::get(path)).await, "missing_credentials");
    }
    assert_eq!(scene.gateway.send(&Request::get("/healthz")).await.status, 200);
}

/// What a page may read of denials, and of a back end with CORS headers of its own.
pub async fn a_page_may_read_its_answers(gateway: Gateway) {
    const ORIGIN: &str = "https://app.example.com";
    let mut scene = Scene::of(gateway, Key::ed25519()).await;
    let from = |origin: &str, path: &str| Request::get(path).header("Origin", origin);

    let allowed = scene.send(from(ORIGIN, "/with-cors")).await;
    let replayed = {
        let request = from(ORIGIN, "/").authorization(&scene.authorization());
        scene.gateway.send(&request).await;
        scene.gateway.send(&request).await
    };
    let no_scope = scene.send(from(ORIGIN, "/admin/keys")).await;
    let stranger = scene.send(from("https://elsewhere.example", "/with-cors")).await;
    scene.countersign.signal(Signal::Kill);
    scene.countersign.exited_within(std::time::Duration::from_secs(10));
    let outage = scene.send(from(ORIGIN, "/")).await;

    assert_eq!((allowed.status, stranger.status), (200, 200));
    for (denial, status, code) in [
        (&replayed, 401, "replayed"),
        (&no_scope, 403, "insufficient_scope"),
        (&outage, 503, "unavailable"),
    ] {
        assert_eq!(
            (denial.status, denial.header("x-auth-error")),
            (status, Some(code)),
            "{denial:?}"
        );
    }
    for answer in [&allowed, &replayed, &no_scope, &outage] {
        assert_eq!(values(answer, "access-control-allow-origin"), [ORIGIN], "{answer:?}");
        let exposed =
            values(answer, "access-control-expose-headers").join(", ").to_ascii_lowercase();
        for name in ["x-auth-error", "www-authenticate"] {
            assert!(exposed.contains(name), "{answer:?}");
        }
        assert!(values(answer, "vary").iter().any(|names| names.contains("Origin")), "{answer:?}");
    }
    // The other headers that pages may read are the back end's.
    assert!(values(&allowed, "access-control-expose-headers").contains(&"X-Pages"), "{allowed:?}");
    for answer in [&allowed, &stranger] {
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
    }
    assert_eq!(stranger.header("access-control-allow-origin"), None, "{stranger:?}");
    assert!(values(&stranger, "vary").iter().any(|names| names.contains("Origin")), "{stranger:?}");
}

fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer
        .headers
        .iter()
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value.as_str())
        .collect()
}

/// Anything sent over another protocol on the same connection would bypass decisions.
pub async fn no_protocol_but_websockets_is_passed_on(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    for protocol in ["h2c", "TLS/1.3", "h2c, websocket"] {
        let request = Request::get("/orders")
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", protocol);
        let seen = Seen::by(
            &scene.send(request.header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")).await,
        );
        assert!(seen.values("upgrade").is_empty(), "{seen:?}");
        assert!(
            !seen.values("connection").concat().to_ascii_lowercase().contains("upgrade"),
            "{seen:?}"
        );
    }
}
