//! What the gateways' own tests have in common, apart from their edits of the examples.

use crate::gateways::every::{Scene, assert_challenge};
use crate::harness::http::{Answer, Request};
use crate::harness::{Claims, Gateway, Key, Seen, repository};

/// The origin that every example allows.
const PAGES: &str = "https://app.example.com";

/// Requires no scope.
pub const LENIENT: &str = "lenient.test";
/// Requires the scope `admin`, whatever the path.
pub const STRICT: &str = "strict.test";

/// A request may name one host in its target and another in its Host line. Whichever a gateway
/// uses, it gives the back end and Countersign the site whose rules applied, and of two tokens the
/// one for this site passes. `edits` make two sites of the example.
pub async fn two_sites_keep_their_rules(gateway: Gateway, edits: &[(&str, &str)]) {
    let scene = Scene::edited(gateway, Key::ed25519(), edits).await;
    let port = scene.gateway.address.port();
    let listed = [LENIENT, STRICT, "Lenient.TEST", "STRICT.test", "elsewhere.test", "strict.test."]
        .map(|name| format!("{name}:{port}"));
    let names: Vec<_> =
        listed.into_iter().chain([LENIENT, STRICT].map(|name| format!("{name}:9"))).collect();
    let lines = names.iter().map(|name| (None, name));
    let targets =
        names.iter().flat_map(|target| names.iter().map(move |line| (Some(target), line)));
    let plain =
        |host: &str| host.split(':').next().unwrap().trim_end_matches('.').to_ascii_lowercase();
    let mut applied = Vec::new();

    for (target, line) in lines.chain(targets) {
        let host = target.map(|host| format!("http://{host}")).unwrap_or_default();
        let request = Request::get(&format!("{host}/orders")).header("Host", line);
        let by_root =
            |token: Claims| request.clone().authorization(&token.authorization(&scene.root_key));
        let bound =
            |site: &str| Claims::of("root").with("htu", format!("http://{site}:{port}/orders"));

        let anybody = scene.gateway.send(&request).await;
        let without = scene.send(request.clone()).await;
        let with = scene.gateway.send(&by_root(Claims::of("root"))).await;
        if with.status != 200 {
            // An unknown site, or two at once.
            assert!([400, 404, 421].contains(&with.status), "{target:?}, {line}: {with:?}");
            assert_eq!(
                (anybody.status, without.status),
                (with.status, with.status),
                "{target:?}, {line}"
            );
            continue;
        }
        assert_challenge(&anybody, "missing_credentials");
        let (rules, other) = match without.status {
            200 => (LENIENT, STRICT),
            403 => (STRICT, LENIENT),
            _ => panic!("{target:?}, {line}: {without:?}"),
        };
        let seen = [Some(&with), (without.status == 200).then_some(&without)]
            .map(|answer| answer.map(Seen::by));
        for seen in seen.into_iter().flatten() {
            let hosts: Vec<_> = seen.values("host").iter().map(|host| plain(host)).collect();
            assert_eq!(hosts, [rules], "{target:?}, {line}");
        }
        let told = target.unwrap_or(line).to_lowercase();
        if told == format!("{rules}:{port}") {
            Seen::by(&scene.gateway.send(&by_root(bound(rules))).await);
        }
        assert_challenge(&scene.gateway.send(&by_root(bound(other))).await, "request_mismatch");
        applied.push((target.is_none(), rules));
    }

    for rules in [LENIENT, STRICT] {
        assert!(applied.contains(&(true, rules)), "{rules} cannot be reached");
    }
}

/// The back end's own CORS headers are replaced: a browser rejects an answer with two origins, and
/// the list belongs in one place.
pub async fn what_the_back_end_says_of_pages_is_replaced(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let send = async |origin: &str| {
        let answer = scene.send(Request::get("/with-cors").header("Origin", origin)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    let values = |answer: &Answer, name: &str| -> Vec<String> {
        answer
            .headers
            .iter()
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value.to_lowercase())
            .collect()
    };

    let page = send(PAGES).await;
    let stranger = send("https://elsewhere.example").await;

    assert_eq!(values(&page, "access-control-allow-origin"), [PAGES]);
    let exposed = values(&page, "access-control-expose-headers");
    assert!(
        matches!(&exposed[..], [names] if names.contains("x-auth-error") && names.contains("www-authenticate")),
        "{page:?}"
    );
    assert_eq!(values(&stranger, "access-control-allow-origin"), [""; 0]);
    for answer in [page, stranger] {
        assert_eq!(values(&answer, "access-control-allow-credentials"), [""; 0]);
        assert!(values(&answer, "vary").iter().any(|vary| vary.contains("origin")), "{answer:?}");
    }
}

/// A gateway refuses an oversized request before it asks: the token is not spent. What the gateway
/// accepts reaches the back end together with the identity, even with a long list of scopes. It
/// accepts headers of `kibibytes` in addition to the token.
pub async fn what_is_too_large_costs_no_token(gateway: Gateway, kibibytes: usize) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let scopes = (100..200)
        .map(|number| format!("a-scope-with-a-long-name-{number}"))
        .collect::<Vec<_>>()
        .join(" ");
    let key = Key::ed25519();
    scene.deployment.done(&["principal", "add", "carol", "--scope", &scopes]);
    scene.deployment.add_key_with("carol", &key, &["--scope", &scopes]);
    let send = async |request: Request, authorization: &str| {
        scene.gateway.send(&request.authorization(authorization)).await
    };
    let many = |count: usize| {
        (0..count).fold(Request::get("/"), |request, number| {
            request.header(&format!("X-{number}"), "value")
        })
    };
    let long =
        |kibibytes: usize| Request::get("/").header("X-Long", &"x".repeat(1_024 * kibibytes));
    let has_to_pass = [many(200), long(kibibytes)].map(|request| (request, true));
    let may_be_refused = [240, 250, 256, 400]
        .map(many)
        .into_iter()
        .chain((8..40).step_by(2).chain([60, 100, 2_000]).map(long));
    let mut refused = 0;

    for (request, has_to_pass) in
        has_to_pass.into_iter().chain(may_be_refused.map(|request| (request, false)))
    {
        let token = Claims::of("carol").with("padding", "x".repeat(4_000)).authorization(&key);
        let answer = send(request, &token).await;
        if answer.status != 200 && !has_to_pass {
            assert!([400, 413, 431].contains(&answer.status), "{answer:?}");
            refused += 1;
            assert_eq!(
                Seen::by(&send(Request::get("/"), &token).await).values("x-auth-username"),
                ["carol"]
            );
            continue;
        }
        let seen = Seen::by(&answer);
        assert_eq!(
            (seen.values("x-auth-username"), seen.values("x-auth-scopes")),
            (vec!["carol"], vec![scopes.as_str()])
        );
        assert!(
            matches!(seen.values("x-auth-decision-id")[..], [id] if !id.is_empty()),
            "{seen:?}"
        );
    }
    assert!(refused > 0, "nothing is too large");
}

/// The other form of rules: every path except the open routes requires a scope, even a path that
/// nobody thought of.
pub async fn everything_asks_for_a_scope(gateway: Gateway, edits: &[(&str, &str)]) {
    let scene = Scene::edited(gateway, Key::ed25519(), edits).await;
    let root = |path: &str| {
        Request::get(path).authorization(&Claims::of("root").authorization(&scene.root_key))
    };

    for path in [
        "/orders",
        "/",
        "/admin/keys",
        "/HEALTHZ",
        "/healthz/",
        "/healthz.json",
        "/%68ealthz/x",
        "/forgotten/ADMIN.json",
    ] {
        let denied = scene.send(Request::get(path)).await;
        assert_eq!(
            (denied.status, denied.header("x-auth-error")),
            (403, Some("insufficient_scope")),
            "{path}: {denied:?}"
        );
        assert_eq!(
            Seen::by(&scene.gateway.send(&root(path)).await).values("x-auth-username"),
            ["root"]
        );
    }
    assert_eq!(scene.gateway.send(&Request::get("/healthz")).await.status, 200);
}

/// The edits that a test makes are what the example's README advises.
pub fn advised(example: &str, lines: &str) {
    let readme =
        std::fs::read_to_string(repository().join("examples").join(example).join("README.md"))
            .unwrap();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(readme.contains(line), "examples/{example}/README.md does not say `{line}`");
    }
}
