//! One certificate as authority and as a peer's own, as `openssl req -x509` makes it: every
//! connection here accepts what curl and psql accept, and every refusal says what helps.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Authority, Behaviour, Countersign, Database, Deployment, JwksServer, Ran, Redis, SelfSigned,
    Signer, eventually, execute, free_port, program,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The result of every client of ours with a server. `connect` connects to a server that has the
/// first certificate, by this name, and trusts the second.
async fn servers_are_verified(connect: impl AsyncFn(&SelfSigned, &str, &SelfSigned) -> Ran) {
    let (own, twin, expired) = (SelfSigned::new(), SelfSigned::new(), SelfSigned::expired());
    let (named_as_of_old, plain) = (SelfSigned::with(&[]), plain());
    for trusted in [&own, &named_as_of_old, &plain] {
        let ran = connect(trusted, "localhost", trusted).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    for (shown, name, trusted, reason) in [
        (&own, "127.0.0.1", &own, "not valid for name"),
        (&named_as_of_old, "127.0.0.1", &named_as_of_old, "not valid for name"),
        (&expired, "localhost", &expired, "expired"),
        (&twin, "localhost", &own, "trust exactly this certificate, or give the peer one"),
    ] {
        let ran = connect(shown, name, trusted).await;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code != 0 && said.contains(reason), "{reason}: {ran:?}");
    }
}

#[tokio::test]
async fn of_key_sets() {
    let signer = Signer::named("one");
    servers_are_verified(async |shown, name, trusted| {
        let server = JwksServer::https_with(shown.certificate(), shown.private_key());
        server.put("/keys", Behaviour::set([signer.jwk()]));
        let deployment = Deployment::new()
            .set("jwks.allowed_hosts", "localhost,127.0.0.1")
            .set("jwks.ca_file", &trusted.pem());
        deployment.done(&["principal", "add", "alice"]);
        let trust = deployment.add_trust("alice", &server.url_of(name, "/keys"));
        deployment.run(&["trust", "refresh", &trust])
    })
    .await;
}

#[tokio::test]
async fn of_redis() {
    servers_are_verified(async |shown, name, trusted| {
        let port = free_port();
        let (cert, key, port_text) = (shown.pem(), shown.key(), port.to_string());
        // Redis requires a client certificate, and trusts this one as its own authority.
        let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
        let _redis = Redis::start_with(&[&["--tls-port", &port_text][..], &files].concat());
        let deployment = Deployment::new()
            .set("nonce.url", &format!("rediss://{name}:{port}"))
            .set("nonce.timeout", "1s");
        let deployment = deployment.set("nonce.client_cert", &cert).set("nonce.client_key", &key);
        deployment.set("nonce.ca_file", &trusted.pem()).run(&["config", "check"])
    })
    .await;
}

#[tokio::test]
async fn of_replicas() {
    servers_are_verified(async |shown, name, trusted| {
        let deployment = Deployment::new()
            .set("admin.tls.cert", &shown.pem())
            .set("admin.tls.key", &shown.key());
        let countersign = deployment.serve();
        eventually("it serves", PATIENCE, || std::net::TcpStream::connect(countersign.admin).ok());
        let url = format!("https://{name}:{}", countersign.admin.port());
        let deployment = deployment.variable("SSL_CERT_FILE", &trusted.pem());
        deployment.run(&["top", "--once", "--interval", "100ms", "--url", &url])
    })
    .await;
}

/// Its driver verifies certificates itself, and refuses this one; the error says what does work.
#[tokio::test]
async fn of_a_database_needs_another_certificate() {
    let database = Database::postgres();
    Deployment::bare().set("database.url", &database.url).done(&["migrate", "up"]);
    for (shown, is_taken) in [(SelfSigned::new(), false), (plain(), true)] {
        database.serve_certificate(shown.pem().as_ref(), shown.key().as_ref()).await;
        let localhost = database.url.replace("127.0.0.1", "localhost");
        let url = format!("{localhost}?sslmode=verify-full&sslrootcert={}", shown.pem());
        let check = || Deployment::bare().set("database.url", &url).run(&["config", "check"]);
        if is_taken {
            // The server reloads its files with a delay.
            eventually("the other certificate is served, and taken", PATIENCE, || {
                (check().code == 0).then_some(())
            });
        } else {
            let ran = check();
            let says_how = ran.stderr.contains("CA:TRUE")
                && ran.stderr.contains("-addext basicConstraints=critical,CA:FALSE");
            assert!(ran.code == 1 && says_how, "{ran:?}");
        }
    }
    execute(&database.url, "SELECT 1").await;
}

/// Every listener accepts the same clients, and refuses the same, each with a line in the log and a
/// count.
#[test]
fn clients_are_verified_by_every_listener() {
    let (server, own, twin, expired) =
        (SelfSigned::new(), SelfSigned::new(), SelfSigned::new(), SelfSigned::expired());
    let for_servers = SelfSigned::with(&["extendedKeyUsage=serverAuth"]);
    let signs_only = SelfSigned::with(&["keyUsage=critical,keyCertSign"]);
    let (plain, stranger, elsewhere) = (plain(), plain(), tempfile::tempdir().unwrap());
    let unknown = Authority::new(elsewhere.path());
    unknown.certify("client");
    let [unknown, unknown_key] =
        ["pem", "key"].map(|kind| unknown.file("client", kind).to_str().unwrap().to_owned());
    let (leaf, leaf_key) = own.sign();
    let (foreign_leaf, foreign_leaf_key) = SelfSigned::with(&["subjectKeyIdentifier=none"]).sign();

    let deployment = Deployment::new();
    let trusted: Vec<String> = [&own, &plain, &expired, &for_servers, &signs_only]
        .iter()
        .map(|one| std::fs::read_to_string(one.pem()).unwrap())
        .collect();
    let trusted = deployment.file("trusted.pem", &trusted.concat());
    let mut deployment = deployment;
    for listeners in ["server", "admin"] {
        let setting = |name: &str| format!("{listeners}.tls.{name}");
        deployment =
            deployment.set(&setting("cert"), &server.pem()).set(&setting("key"), &server.key());
        deployment = deployment.set(&setting("client_ca"), trusted.to_str().unwrap());
    }
    let countersign = deployment.serve();
    eventually("it serves", PATIENCE, || std::net::TcpStream::connect(countersign.admin).ok());

    let with = |pem: &str, key: &str| {
        vec!["--cert".to_owned(), pem.to_owned(), "--key".to_owned(), key.to_owned()]
    };
    let as_own = |shown: &SelfSigned| with(&shown.pem(), &shown.key());
    let taken = [as_own(&own), as_own(&plain), with(&leaf, &leaf_key)];
    let refused = [
        (vec![], "no_certificate", "showed no certificate"),
        (with(&unknown, &unknown_key), "unknown_issuer", "or the certificate itself"),
        (as_own(&twin), "authority", "add exactly this certificate"),
        (as_own(&expired), "expired", "has expired"),
        (as_own(&for_servers), "wrong_purpose", "`clientAuth`"),
        (as_own(&signs_only), "signs_only", "make one for the client"),
        // All of these have the same name, so by their contents they are issued by a trusted
        // authority.
        (as_own(&stranger), "bad_signature", "another key under the same name"),
        (
            with(&foreign_leaf, &foreign_leaf_key),
            "bad_signature",
            "another key under the same name",
        ),
    ];
    for (listener, address) in listeners(&countersign) {
        for client in &taken {
            let ran = curl(address, &server.pem(), client);
            assert_eq!(ran.code, 0, "{listener} {client:?}: {ran:?}");
        }
        for (client, reason, words) in &refused {
            let ran = curl(address, &server.pem(), client);
            assert_ne!(ran.code, 0, "{listener} {reason}: {ran:?}");
            is_told(&countersign, listener, reason, words);
        }
        // Certificates that the client refuses, and bytes that are not TLS.
        let ran = curl(address, &twin.pem(), &as_own(&own));
        assert_ne!(ran.code, 0, "{listener}: {ran:?}");
        is_told(
            &countersign,
            listener,
            "refused_by_client",
            "has to trust its authority, or the certificate itself",
        );
        let ran = Ran::of(Command::new(program("curl")).args([
            "-sS",
            "--max-time",
            "10",
            &format!("http://{address}/livez"),
        ]));
        assert_ne!(ran.code, 0, "{listener}: {ran:?}");
        is_told(&countersign, listener, "not_tls", "is not TLS");
    }

    let url = format!("https://localhost:{}/metrics", countersign.admin.port());
    let mut command = Command::new(program("curl"));
    let metrics = Ran::of(
        command
            .args(["-sS", "--cacert", &server.pem(), "--max-time", "10", &url])
            .args(as_own(&own)),
    )
    .stdout;
    for (listener, _) in listeners(&countersign) {
        let reasons =
            refused.iter().map(|(_, reason, _)| *reason).chain(["refused_by_client", "not_tls"]);
        for reason in reasons {
            let labels = [format!("listener=\"{listener}\""), format!("reason=\"{reason}\"")];
            let counted = metrics.lines().find(|line| {
                line.starts_with("countersign_tls_handshakes_failed_total{")
                    && labels.iter().all(|label| line.contains(label))
            });
            let count = counted.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            assert!(count.is_some_and(|count| count >= 1.0), "{listener} {reason}: {metrics}");
        }
    }
}

/// A resumed session presents no certificate again: when the files change, earlier sessions end.
#[test]
fn a_client_that_is_no_longer_trusted_resumes_no_session() {
    let (server, own, other) = (SelfSigned::new(), SelfSigned::new(), SelfSigned::new());
    for version in ["-tls1_2", "-tls1_3"] {
        let deployment = Deployment::new()
            .set("server.tls.cert", &server.pem())
            .set("server.tls.key", &server.key());
        let trusted = deployment.file("trusted.pem", &std::fs::read_to_string(own.pem()).unwrap());
        let session = deployment.dir.path().join("session").to_str().unwrap().to_owned();
        let deployment = deployment.set("server.tls.client_ca", trusted.to_str().unwrap());
        let countersign = deployment.serve();
        let ask = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command.args([
                "s_client",
                "-ign_eof",
                "-verify_return_error",
                "-CAfile",
                &server.pem(),
                version,
            ]);
            command
                .args(["-connect", &countersign.http.to_string(), "-servername", "localhost"])
                .args(arguments);
            Ran::reading(
                &mut command,
                b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            )
            .stdout
        };
        let begin = || {
            let begun = ask(&["-cert", &own.pem(), "-key", &own.key(), "-sess_out", &session]);
            assert!(
                begun.contains("HTTP/1.1 200") && begun.contains("New, "),
                "{version}: {begun}"
            );
        };
        begin();
        let resumed = ask(&["-sess_in", &session]);
        assert!(
            resumed.contains("HTTP/1.1 200") && resumed.contains("Reused, "),
            "{version}: {resumed}"
        );

        // A session of TLS 1.3 can be used once.
        begin();
        std::fs::copy(other.pem(), &trusted).unwrap();
        eventually("the files are looked at", PATIENCE, || {
            countersign
                .log()
                .contains("the TLS files have changed and are used from now on")
                .then_some(())
        });
        let refused = ask(&["-sess_in", &session]);
        assert!(!refused.contains("HTTP/1.1"), "{version}: {refused}");
    }
}

/// A self-signed certificate that says that it is not an authority.
fn plain() -> SelfSigned {
    SelfSigned::with(&["subjectAltName=DNS:localhost", "basicConstraints=critical,CA:FALSE"])
}

fn listeners(countersign: &Countersign) -> [(&'static str, SocketAddr); 3] {
    [("http", countersign.http), ("grpc", countersign.grpc), ("admin", countersign.admin)]
}

/// Sends any request: an answer with any status means that the client was let in.
fn curl(address: SocketAddr, authorities: &str, client: &[String]) -> Ran {
    let url = format!("https://localhost:{}/livez", address.port());
    let mut command = Command::new(program("curl"));
    Ran::of(
        command
            .args(["-sS", "--http2", "--max-time", "10", "--cacert", authorities, &url])
            .args(client),
    )
}

/// The log has a line with these words and an address.
fn is_told(countersign: &Countersign, listener: &str, reason: &str, words: &str) {
    let what = format!("a line about {reason} on {listener} with {words:?}");
    eventually(&what, PATIENCE, || {
        countersign.log().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            let is_it = text("listener") == listener
                && text("reason") == reason
                && text("peer").starts_with("127.0.0.1:");
            let helps = text("message").contains(words)
                && line["level"] == "WARN"
                && line["count"].as_u64() >= Some(1);
            (is_it && helps).then_some(())
        })
    });
}
