//! Every outgoing TLS connection trusts the same authorities: the system's, which `SSL_CERT_FILE`
//! and `SSL_CERT_DIR` replace, and those of its own setting.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{
    Authority, Behaviour, Claims, Collector, Countersign, Database, Deployment, Door, JwksServer,
    Key, Question, Ran, Redis, Signer, TlsFront, eventually_async, free_port,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// An unknown authority, with a certificate for `localhost`.
struct Private {
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Private {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        authority.certify("server");
        Self { authority, dir }
    }

    fn ca(&self) -> String {
        self.file("ca", "pem")
    }

    fn file(&self, name: &str, kind: &str) -> String {
        self.authority.file(name, kind).to_str().unwrap().to_owned()
    }

    /// A folder that holds only the authority's certificate.
    fn folder(&self) -> String {
        let folder = self.dir.path().join("authorities");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.authority.file("ca", "pem"), folder.join("private.pem")).unwrap();
        folder.to_str().unwrap().to_owned()
    }
}

/// Runs `check` without our authority, with `SSL_CERT_FILE`, and with `SSL_CERT_DIR`: only the
/// first may fail.
fn believes_the_environment(
    private: &Private,
    deployment: impl Fn() -> Deployment,
    fails_with: &str,
) {
    let ran = deployment().run(&["config", "check"]);
    assert!(ran.code == 1 && ran.stderr.contains(fails_with), "{ran:?}");
    for (variable, value) in [("SSL_CERT_FILE", private.ca()), ("SSL_CERT_DIR", private.folder())] {
        let ran = deployment().variable(variable, &value).run(&["config", "check"]);
        assert_eq!(ran.code, 0, "{variable}: {ran:?}");
        let told =
            ran.stdout.lines().find(|line| line.starts_with("outgoing TLS   note: ")).unwrap();
        assert!(told.contains("certificate authorities: 1 ") && told.contains(variable), "{told}");
    }
}

#[tokio::test]
async fn redis() {
    let private = Private::new();
    let port = free_port();
    let (port_text, cert, key, ca) = (
        port.to_string(),
        private.file("server", "pem"),
        private.file("server", "key"),
        private.ca(),
    );
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port_text,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{port}");
    let deployment = || Deployment::new().set("nonce.url", &url).set("nonce.timeout", "1s");
    believes_the_environment(&private, deployment, "nonce.url");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases() {
    let private = Private::new();
    let postgres = Database::postgres();
    postgres.serve_tls(&private.authority).await;
    let maria = Database::mariadb_with(&[
        format!("--ssl-cert={}", private.file("server", "pem")),
        format!("--ssl-key={}", private.file("server", "key")),
    ]);
    for (database, verified, ca) in [
        (postgres, "sslmode=verify-full", "sslrootcert"),
        (maria, "ssl-mode=VERIFY_IDENTITY", "ssl-ca"),
    ] {
        let url = format!("{}?{verified}", database.url.replace("127.0.0.1", "localhost"));
        Deployment::bare().set("database.url", &database.url).done(&["migrate", "up"]);
        believes_the_environment(
            &private,
            || Deployment::bare().set("database.url", &url),
            "database.url",
        );

        let named = format!("{url}&{ca}={}", private.ca());
        let ran = Deployment::bare().set("database.url", &named).run(&["config", "check"]);
        assert_eq!(ran.code, 0, "by the URL: {ran:?}");
        let elsewhere = Private::new();
        let ran = Deployment::bare()
            .set("database.url", &named)
            .variable("SSL_CERT_FILE", &elsewhere.ca())
            .run(&["config", "check"]);
        assert_eq!(ran.code, 0, "besides those of the environment: {ran:?}");
        let ran = Deployment::bare()
            .set("database.url", &url)
            .variable("SSL_CERT_FILE", &elsewhere.ca())
            .run(&["config", "check"]);
        assert_eq!(ran.code, 1, "another authority: {ran:?}");
    }
}

#[tokio::test]
async fn key_sets() {
    let (server, other) = (JwksServer::https(), JwksServer::https());
    let signer = Signer::named("one");
    for server in [&server, &other] {
        server.put("/keys", Behaviour::set([signer.jwk()]));
    }
    let ca_file = server.ca_file();
    let believed = |variable: Option<&str>, setting: Option<&str>, server: &JwksServer| {
        let mut deployment = Deployment::new().set("jwks.allowed_hosts", "localhost");
        if let Some(file) = variable {
            deployment = deployment.variable("SSL_CERT_FILE", file);
        }
        if let Some(file) = setting {
            deployment = deployment.set("jwks.ca_file", file);
        }
        deployment.done(&["principal", "add", "alice"]);
        let trust = deployment.add_trust("alice", &server.url("/keys"));
        let ran = deployment.run(&["trust", "refresh", &trust]);
        ran.code == 0
    };
    let (ours, others) = (ca_file.to_str(), other.ca_file());
    assert!(!believed(None, None, &server));
    assert!(believed(ours, None, &server));
    assert!(believed(None, ours, &server));
    // The setting adds to the other authorities.
    assert!(believed(ours, others.to_str(), &server) && believed(ours, others.to_str(), &other));
    assert!(
        !believed(others.to_str(), None, &server),
        "what the environment names replaces the rest"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors() {
    for (protocol, collector) in [("grpc", Collector::grpc()), ("http", Collector::http())] {
        let private = Private::new();
        let front = TlsFront::start(&private.authority, collector.address()).await;
        let key = Key::ed25519();
        let deployment = Deployment::new()
            .set("telemetry.otlp_endpoint", &front.url())
            .set("telemetry.otlp_protocol", protocol)
            .set("telemetry.trace_sample", "1")
            .variable("OTEL_BSP_SCHEDULE_DELAY", "50");
        deployment.enrol("alice", &key);
        // This authority is unknown there.
        let stranger = deployment.serve();
        let ask = async |countersign: &Countersign| {
            let question = Question::with(Claims::of("alice").authorization(&key));
            assert!(Door::Http.ask(countersign, &question).await.allowed());
        };
        ask(&stranger).await;
        drop(stranger);
        assert_eq!(collector.spans().len(), 0, "{protocol}");

        let deployment = deployment.variable("SSL_CERT_FILE", &private.ca());
        let countersign = deployment.serve();
        ask(&countersign).await;
        eventually_async(&format!("spans arrive over {protocol}"), PATIENCE, async || {
            (!collector.spans().is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top() {
    let private = Private::new();
    let deployment = Deployment::new();
    let countersign = deployment.serve();
    let front = TlsFront::start(&private.authority, countersign.admin).await;
    let look = |front: SocketAddr, ca: Option<&str>| -> Ran {
        let url = format!("https://localhost:{}", front.port());
        let mut command =
            deployment.command(&["top", "--once", "--interval", "100ms", "--url", &url]);
        Ran::of(command.envs(ca.map(|ca| ("SSL_CERT_FILE", ca))))
    };
    let address = front.address;
    let ran = tokio::task::block_in_place(|| look(address, None));
    assert!(ran.code == 1 && ran.stdout.contains("UnknownIssuer"), "{ran:?}");
    let ran = tokio::task::block_in_place(|| look(address, Some(&private.ca())));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// In a container without certificates, everything works that needs none.
#[tokio::test]
async fn without_authorities_what_needs_none_works() {
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis).variable("SSL_CERT_FILE", "/nowhere.pem");
    let ran = deployment.run(&["config", "check"]);
    assert!(ran.stderr.contains("jwks") && ran.stderr.contains("/nowhere.pem"), "{ran:?}");
    assert!(
        ran.stdout.contains(
            "outgoing TLS   warning: there are no certificate authorities named by SSL_CERT_FILE"
        ),
        "{ran:?}"
    );
    let countersign = deployment.serve();
    let url = format!("http://{}", countersign.admin);
    let ran = deployment.run(&["top", "--once", "--interval", "100ms", "--url", &url]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
