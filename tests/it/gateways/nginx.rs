//! Tests for nginx only.

use crate::gateways::every::{
    Edit, IDENTITY, Scene, a_lost_answer_is_asked_for_again_in_the_same_attempt,
    a_lost_answer_is_one_answer, assert_challenge, with_made_up_identity,
};
use crate::gateways::shared::{self, OFFICE, SHOP, block_of, example};
use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Echo, Gateway, Key, Seen};

/// `index` redirects inside nginx, which then asks a second time about the same request.
#[tokio::test]
async fn an_internal_redirect_is_one_attempt() {
    let scene = Scene::of(Gateway::Nginx, Key::ed25519()).await;
    scene.gateway.static_file("docs/index.html", "welcome");
    let request = Request::get("/docs/").authorization(&scene.authorization());

    let answer = scene.gateway.send(&request).await;
    let replayed = scene.gateway.send(&request).await;

    assert_eq!((answer.status, answer.body.as_slice()), (200, b"welcome".as_slice()), "{answer:?}");
    assert_eq!(replayed.status, 401);
    assert_challenge(&replayed, "replayed");
}

/// Without the setting the second question is a replay, whatever the header says.
#[tokio::test]
async fn without_the_setting_an_internal_redirect_is_refused() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let gateway = Gateway::Nginx.start(&countersign, &Echo::start()).await;
    gateway.static_file("docs/index.html", "welcome");

    let token = Claims::of("alice").authorization(&key);
    let answer = gateway.send(&Request::get("/docs/").authorization(&token)).await;

    assert_challenge(&answer, "replayed");
}

/// The subrequest's location is internal to nginx: from outside it would be an oracle.
#[tokio::test]
async fn the_question_cannot_be_asked_from_outside() {
    let scene = Scene::of(Gateway::Nginx, Key::ed25519()).await;

    let answer = scene.send(Request::get("/_countersign")).await;

    assert_eq!(answer.status, 404);
    for name in IDENTITY {
        assert_eq!(answer.header(name), None);
    }
}

/// What users put beside the example's server, as README.md says: a copy of it, and a server for
/// all other names.
#[tokio::test]
async fn two_sites_keep_their_rules() {
    let config = example("nginx/nginx.conf");
    let server = server_of(&config);
    let named = |names: &str| {
        server.replacen(
            "127.0.0.1:8000;",
            &format!("127.0.0.1:8000;\n        server_name {names};"),
            1,
        )
    };
    let everywhere = "location / {\n            set $required_scope admin;";
    let office = named(OFFICE).replace("location / {", everywhere);
    // The tests' paths start at its address.
    let servers = block_of("nginx/README.md", "# Names that no site has.")
        + &named(&format!("{SHOP} 127.0.0.1"))
        + &office;
    assert!(office.contains(everywhere));
    let marked = "proxy_set_header X-Server $server_name;\n    proxy_set_header Upgrade ";
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        shared::two_sites_keep_their_rules(
            gateway,
            &[(server, &servers), ("proxy_set_header Upgrade ", marked)],
        )
        .await;
    }
}

fn server_of(config: &str) -> &str {
    let start = config
        .find("    server {\n        listen 127.0.0.1:8000;")
        .expect("no server in the example");
    config[start..].strip_suffix("}\n").expect("something behind the server")
}

/// As an added location may be: what it passes on has no identity.
#[tokio::test]
async fn a_server_that_does_not_ask_drops_made_up_identity_headers() {
    let config = example("nginx/nginx.conf");
    let server = server_of(&config);
    let added = "    server {\n listen 127.0.0.1:8000;\n server_name added.example.com;\n location / { proxy_pass http://backend; }\n }\n";
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        let scene =
            Scene::edited(gateway, Key::ed25519(), &[(server, &(server.to_owned() + added))]).await;
        let request =
            with_made_up_identity(Request::get("/admin")).header("Host", "added.example.com");

        let seen = Seen::by(&scene.gateway.send(&request).await);

        for name in IDENTITY {
            assert!(seen.values(name).is_empty(), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn only_listed_paths_pass_without_the_scope() {
    let config = example("nginx/nginx.conf");
    let [start, end] = ["        # The application.\n", "        # Events, "]
        .map(|part| config.find(part).expect(part));
    let listed = block_of("nginx/README.md", "# Everything that is not listed below.");
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        shared::only_listed_paths_pass_without_the_scope(
            gateway,
            &[(&config[start..end], &listed)],
        )
        .await;
    }
}

#[tokio::test]
async fn a_page_may_read_its_answers() {
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        shared::a_page_may_read_its_answers(gateway).await;
    }
}

#[tokio::test]
async fn no_protocol_but_websockets_is_passed_on() {
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        shared::no_protocol_but_websockets_is_passed_on(gateway).await;
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let asks = |address| format!("server {address} fail_timeout=1s;");
    let asks: Edit = ("server 127.0.0.1:8080 fail_timeout=1s;", &asks);
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        a_lost_answer_is_asked_for_again_in_the_same_attempt(
            gateway,
            asks,
            &[("worker_processes auto;", "worker_processes 1;")],
        )
        .await;
    }
}

/// As the example says for users without the setting.
#[tokio::test]
async fn without_next_upstream_a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("server {address} fail_timeout=1s;");
    let off = ("proxy_next_upstream error timeout;", "proxy_next_upstream off;");
    a_lost_answer_is_one_answer(
        Gateway::Nginx,
        ("server 127.0.0.1:8080 fail_timeout=1s;", &asks),
        &[off],
    )
    .await;
}

/// One kept-alive connection serves many decisions.
#[tokio::test]
async fn decisions_share_a_connection() {
    let scene = Scene::edited(
        Gateway::Nginx,
        Key::ed25519(),
        &[("worker_processes auto;", "worker_processes 1;")],
    )
    .await;

    scene.asks_over_one_connection().await;
}
