//! What is nginx's own.

use crate::gateways::{
    Edit, IDENTITY, Scene, a_lost_answer_is_asked_for_again_in_the_same_attempt, a_lost_answer_is_one_answer, assert_challenge,
};
use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Echo, Gateway, Key, Seen, repository};

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

/// The subrequest's location is nginx's alone: from outside it would be an oracle.
#[tokio::test]
async fn the_question_cannot_be_asked_from_outside() {
    let scene = Scene::of(Gateway::Nginx, Key::ed25519()).await;

    let answer = scene.send(Request::get("/_countersign")).await;

    assert_eq!(answer.status, 404);
    for name in IDENTITY {
        assert_eq!(answer.header(name), None);
    }
}

/// Of two servers in one nginx the target chooses, and `$http_host` is the other: with it, a token for one host was good on the other.
#[tokio::test]
async fn a_token_is_good_on_the_server_of_its_host_alone() {
    let example = std::fs::read_to_string(repository().join("examples/nginx/nginx.conf")).unwrap();
    let start = example.find("    server {\n        listen 127.0.0.1:8000;").expect("no server in the example");
    let server = example[start..].strip_suffix("}\n").expect("something behind the server");
    let named = |name: &str| {
        let named = server.replacen("listen 127.0.0.1:8000;", &format!("listen 127.0.0.1:8000;\n        server_name {name};"), 1);
        // Which of the two it was.
        named.replace(
            "proxy_set_header Authorization       \"\";",
            &format!("proxy_set_header Authorization \"\";\n proxy_set_header X-Server {name};"),
        )
    };
    let both = named("a.test") + &named("b.test");
    for (told, is_good) in [("$authority", false), ("$http_host", true)] {
        let both = both.replace("$authority", told);
        let scene = Scene::edited(Gateway::Nginx, Key::ed25519(), &[(server, &both)]).await;
        let [a, b] = ["a.test", "b.test"].map(|host| format!("{host}:{}", scene.gateway.address.port()));
        let bound = |host: &str| Claims::of("alice").with("htu", format!("http://{host}/orders")).authorization(&scene.key);

        let plain = scene.gateway.send(&Request::get("/orders").header("Host", &a).authorization(&bound(&a))).await;
        let elsewhere = Request::get(&format!("http://{b}/orders")).header("Host", &a);
        let relayed = scene.gateway.send(&elsewhere.clone().authorization(&bound(&a))).await;

        assert_eq!(Seen::by(&plain).values("x-server"), ["a.test"], "{told}");
        if is_good {
            // What this test is about: the host told is not that of the server.
            assert_eq!(Seen::by(&relayed).values("x-server"), ["b.test"], "{told}");
        } else {
            assert_challenge(&relayed, "request_mismatch");
            let meant = Seen::by(&scene.gateway.send(&elsewhere.authorization(&bound(&b))).await);
            assert_eq!((meant.values("x-server"), meant.values("host")), (vec!["b.test"], vec![b.as_str()]));
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let asks = |address| format!("server {address} fail_timeout=1s;");
    let asks: Edit = ("server 127.0.0.1:8080 fail_timeout=1s;", &asks);
    for gateway in [Gateway::Nginx, Gateway::NginxMainline] {
        a_lost_answer_is_asked_for_again_in_the_same_attempt(gateway, asks, &[("worker_processes auto;", "worker_processes 1;")])
            .await;
    }
}

/// As the example says for those who do without the setting.
#[tokio::test]
async fn without_next_upstream_a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("server {address} fail_timeout=1s;");
    let off = ("proxy_next_upstream error timeout;", "proxy_next_upstream off;");
    a_lost_answer_is_one_answer(Gateway::Nginx, ("server 127.0.0.1:8080 fail_timeout=1s;", &asks), &[off]).await;
}

/// One kept-alive connection serves many decisions.
#[tokio::test]
async fn decisions_share_a_connection() {
    let scene = Scene::edited(Gateway::Nginx, Key::ed25519(), &[("worker_processes auto;", "worker_processes 1;")]).await;

    scene.asks_over_one_connection().await;
}
