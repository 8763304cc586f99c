//! Who reaches the admin API: no web page through its visitor's browser, no client that guesses
//! tokens, and, over TLS, only clients with a certificate if one is required.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::{Answer, Request};
use crate::harness::{
    ADMIN_TOKEN, Admin, Authority, Deployment, Jwthenticator, eventually, hold_to_promises,
};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";

/// A page makes its own name resolve to 127.0.0.1; its visitor's browser then sends this (DNS
/// rebinding).
#[tokio::test]
async fn a_page_whose_name_leads_here_registers_no_key() {
    let deployment = Deployment::new().administered().set("admin.open_key_registration", "true");
    let countersign = deployment.serve();
    let register = async |headers: &[(&str, &str)]| {
        let body = json!({ "key": "a key of the page's", "identifier": IDENTIFIER }).to_string();
        let request = Request::new("POST", "/register_key")
            .header("Content-Type", "application/json")
            .body(body);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.send(countersign.admin).await;
        hold_to_promises(&answer);
        answer.status
    };
    let port = countersign.admin.port();
    let (rebound, local) = (format!("page.example:{port}"), format!("localhost:{port}"));

    assert_eq!(
        register(&[("Host", &rebound), ("Origin", &format!("http://{rebound}"))]).await,
        421
    );
    assert_eq!(register(&[("Host", &rebound)]).await, 421);
    assert_eq!(register(&[("Origin", "http://page.example")]).await, 403);
    assert_eq!(register(&[("Origin", "null")]).await, 403);
    assert_eq!(register(&[("Sec-Fetch-Site", "cross-site")]).await, 403);
    let none: [Value; 0] = [];
    assert_eq!(Admin::of(&countersign).all("/api-keys").await, none);

    assert_eq!(register(&[("Host", &local), ("Origin", &format!("http://{local}"))]).await, 201);
    assert_eq!(register(&[]).await, 201, "a program, at the address");
}

#[tokio::test]
async fn the_admin_api_goes_by_its_own_names() {
    let deployment = Deployment::new()
        .administered()
        .set("admin.allowed_hosts", "countersign-admin, admin.example");
    let countersign = deployment.serve();
    let port = countersign.admin.port();
    let ask = async |host: &str| {
        Admin::request("GET", "/principals").header("Host", host).send(countersign.admin).await
    };

    // An IP address, a port-forward, and names of a service.
    for host in [
        &countersign.admin.to_string(),
        &format!("localhost:{port}"),
        "countersign-admin:8081",
        "Admin.Example",
        "10.0.0.7",
    ] {
        assert_eq!(ask(host).await.status, 200, "{host}");
    }
    let refused = ask("countersign-admin.page.example").await;
    hold_to_promises(&refused);
    assert_eq!(refused.status, 421, "{refused:?}");
    assert!(refused.text().contains("admin.allowed_hosts"), "{refused:?}");

    let absolute = Request::get("http://page.example/admin/v1/principals")
        .authorization(&format!("Bearer {ADMIN_TOKEN}"));
    assert_eq!(
        absolute.header("Host", "localhost").send(countersign.admin).await.status,
        421,
        "in the request line"
    );
    let own = Admin::request("GET", "/principals").header("Origin", "https://admin.example");
    assert_eq!(own.send(countersign.admin).await.status, 200, "a page of a listed host");
}

/// These paths are read-only; probes and scrapers ask for them under any name.
#[tokio::test]
async fn health_and_metrics_answer_under_every_name() {
    let deployment = Deployment::new().set("server.url_prefix", "/auth");
    let countersign = deployment.serve();
    for path in ["/readyz", "/livez", "/metrics", "/auth/readyz", "/auth/metrics"] {
        let request = Request::get(path)
            .header("Host", "countersign-admin.monitoring.svc:8081")
            .header("Sec-Fetch-Site", "cross-site");
        assert_eq!(request.send(countersign.admin).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let deployment = Deployment::new().administered().set("admin.failures_per_peer", "3");
    let countersign = deployment.serve();
    let ask = async |token: Option<&str>| -> Answer {
        let request = Request::get("/admin/v1/principals");
        let request = token
            .iter()
            .fold(request, |request, token| request.authorization(&format!("Bearer {token}")));
        let answer = request.send(countersign.admin).await;
        hold_to_promises(&answer);
        answer
    };
    for _ in 0..2 {
        assert_eq!(ask(Some("a wrong token that is long")).await.status, 401);
        assert_eq!(ask(None).await.status, 401, "no guess");
        assert_eq!(ask(Some(ADMIN_TOKEN)).await.status, 200);
    }
    assert_eq!(ask(Some("a wrong token that is long")).await.status, 401);
    let waits = ask(Some("another")).await;
    assert_eq!(waits.status, 429, "{waits:?}");
    let seconds: u64 = waits.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{waits:?}");
    assert_eq!(ask(Some(ADMIN_TOKEN)).await.status, 429, "what would be right is not told");
    assert_eq!(ask(None).await.status, 401);
    let told = || {
        let log = countersign.log();
        let lines = log.lines().filter(|line| {
            line.contains("wrong admin token") && line.contains(r#""peer":"127.0.0.1""#)
        });
        (lines.count() == 3).then_some(())
    };
    eventually("the log tells each wrong token", Duration::from_secs(10), told);
    assert!(!countersign.log().contains("a wrong token that is long"), "{}", countersign.log());
}

#[test]
fn a_token_has_a_length() {
    for (deployment, key) in [
        (Deployment::new().set("admin.token", "fifteen letters"), "admin.token"),
        (Deployment::new().set("admin.token_file", "token"), "admin.token_file"),
    ] {
        deployment.file("token", "fifteen letters\n");
        for command in [["serve"].as_slice(), &["config", "check"]] {
            let ran = deployment.run(command);
            assert!(
                ran.code != 0 && ran.stderr.contains(key) && ran.stderr.contains("16 characters"),
                "{ran:?}"
            );
            assert!(!ran.stderr.contains("fifteen letters"), "{ran:?}");
        }
    }
    let ran = Deployment::new().set("admin.token", "sixteen letters!").run(&["config", "check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn hosts_are_names() {
    for host in
        ["http://admin.example", "admin.example:8081", "admin.example/", "*.example", "[::1]"]
    {
        let ran = Deployment::new().set("admin.allowed_hosts", host).run(&["config", "check"]);
        assert!(ran.code == 2 && ran.stderr.contains("admin.allowed_hosts"), "{host}: {ran:?}");
    }
}

/// jwthenticator's own client sends a host name with a port.
#[tokio::test]
async fn an_internal_client_of_jwthenticator_is_let_in() {
    let deployment = Deployment::new().set("admin.open_key_registration", "true");
    let countersign = deployment.serve();
    let peer = Jwthenticator::start();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("http://{host}:{}/", countersign.admin.port());
        let internal = peer.internal_client(&url, IDENTIFIER).await;
        internal.register_key("a key").await.unwrap();
        assert!(internal.is_key_registered("a key").await.unwrap(), "{url}");
    }
}

#[tokio::test]
async fn the_admin_listener_speaks_tls() {
    let authority_dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(authority_dir.path());
    authority.certify("server");
    authority.certify("client");
    let path = |name: &str, kind: &str| authority.file(name, kind).to_str().unwrap().to_owned();
    let deployment = Deployment::new()
        .administered()
        .set("admin.tls.cert", &path("server", "pem"))
        .set("admin.tls.key", &path("server", "key"))
        .variable("SSL_CERT_FILE", &path("ca", "pem"));
    let countersign = deployment.serve();
    let base = format!("https://localhost:{}", countersign.admin.port());
    let client = |identity: bool| {
        let ca =
            reqwest::Certificate::from_pem(&std::fs::read(authority.file("ca", "pem")).unwrap())
                .unwrap();
        let mut builder = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
        if identity {
            let pem = ["pem", "key"]
                .map(|kind| std::fs::read(authority.file("client", kind)).unwrap())
                .concat();
            builder = builder.identity(reqwest::Identity::from_pem(&pem).unwrap());
        }
        builder.build().unwrap()
    };
    let ask = async |client: reqwest::Client, base: &str| {
        client
            .get(format!("{base}/admin/v1/principals"))
            .bearer_auth(ADMIN_TOKEN)
            .send()
            .await
            .map(|answer| answer.status().as_u16())
    };
    assert_eq!(ask(client(false), &base).await.unwrap(), 200);
    assert!(Request::get("/readyz").try_send(countersign.admin).await.is_err(), "plain text");
    let ran = deployment.run(&["top", "--once", "--interval", "100ms", "--url", &base]);
    assert_eq!(ran.code, 0, "{ran:?}");

    // Each listener has its own files.
    assert_eq!(Request::get("/livez").send(countersign.http).await.status, 200);

    // A changed file is used from then on.
    let served = async || {
        let answer = client(false).get(format!("{base}/readyz")).send().await;
        answer.is_ok()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::new(elsewhere.path());
    other.certify("server");
    for kind in ["pem", "key"] {
        std::fs::copy(other.file("server", kind), authority.file("server", kind)).unwrap();
    }
    crate::harness::eventually_async(
        "another certificate is served",
        Duration::from_secs(20),
        async || (!served().await).then_some(()),
    )
    .await;
    authority.certify("server");
    drop(countersign);

    let deployment = deployment.set("admin.tls.client_ca", &path("ca", "pem"));
    let countersign = deployment.serve();
    let base = format!("https://localhost:{}", countersign.admin.port());
    eventually("it listens", Duration::from_secs(10), || {
        std::net::TcpStream::connect(countersign.admin).ok()
    });
    assert_eq!(ask(client(true), &base).await.unwrap(), 200);
    assert!(ask(client(false), &base).await.is_err(), "without a certificate");
}

#[test]
fn unusable_files_are_named_by_their_settings() {
    let deployment = Deployment::new().set("admin.tls.cert", "nowhere.pem");
    let ran = deployment.run(&["config", "check"]);
    assert!(
        ran.code == 2
            && ran.stderr.contains("admin.tls.cert")
            && ran.stderr.contains("admin.tls.key"),
        "{ran:?}"
    );
    let deployment = deployment.set("admin.tls.key", "nowhere.key");
    for command in [["serve"].as_slice(), &["config", "check"]] {
        let ran = deployment.run(command);
        assert!(
            ran.code == 1
                && ran.stderr.contains("`admin.tls.cert`")
                && ran.stderr.contains("nowhere.pem"),
            "{ran:?}"
        );
    }
}
