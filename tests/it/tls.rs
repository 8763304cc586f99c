//! TLS on both doors: server certificates, client certificates, and files that change while the
//! service runs.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{Authority, Countersign, Deployment, eventually_async};

#[tokio::test]
async fn both_doors_speak_tls_and_nothing_else() {
    let (deployment, authority) = with_tls();
    let countersign = deployment.serve();

    assert!(alive(&countersign, &authority, None).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(health(&countersign, &authority).await, ServingStatus::Serving);

    let mut plain = TcpStream::connect(countersign.http).await.unwrap();
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The server may send an alert or close; it must not answer the request.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn with_a_client_authority_only_its_clients_may_ask() {
    let (deployment, authority) = with_tls();
    authority.certify("client");
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Authority::new(elsewhere.path());
    stranger.certify("client");
    let deployment = deployment.set("server.tls.client_ca", "ca.pem");
    let countersign = deployment.serve();

    assert!(
        alive(&countersign, &authority, Some(&authority))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    assert!(alive(&countersign, &authority, None).await.is_err(), "a client without a certificate");
    assert!(
        alive(&countersign, &authority, Some(&stranger)).await.is_err(),
        "a client of another authority"
    );
}

#[tokio::test]
async fn certificates_that_change_are_used_without_a_restart() {
    let (deployment, authority) = with_tls();
    let countersign = deployment.serve();
    let served = async || {
        connect(countersign.http, "http/1.1", &authority, None)
            .await
            .unwrap()
            .get_ref()
            .1
            .peer_certificates()
            .unwrap()[0]
            .clone()
    };
    let first = served().await;

    // A file that is being written, or is wrong, changes nothing at any moment until it has been
    // checked.
    deployment.file("server.pem", "-----BEGIN CERTIFICATE-----\nhalf");
    let looked_at = tokio::time::Instant::now() + Duration::from_secs(6);
    while tokio::time::Instant::now() < looked_at {
        assert_eq!(served().await, first);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    authority.certify("server");
    eventually_async("the new certificate is not served", Duration::from_secs(20), async || {
        (served().await != first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (deployment, authority) = with_tls();
    let deployment = deployment.set("server.max_connections", "4");
    let countersign = deployment.serve();
    for (door, protocol, told) in [
        (countersign.http, "http/1.1", &b"HTTP/1.1 503 "[..]),
        (countersign.grpc, "h2", &[0, 0, 0, 4]),
    ] {
        // After a second, silent connections make room for new ones.
        eventually_async("it is told", Duration::from_secs(20), async || {
            let mut held = Vec::new();
            for _ in 0..4 {
                held.push(TcpStream::connect(door).await.unwrap());
            }
            let mut answer = Vec::new();
            let refused = async {
                connect(door, protocol, &authority, None).await?.read_to_end(&mut answer).await
            };
            drop(tokio::time::timeout(Duration::from_secs(1), refused).await);
            answer.starts_with(told).then_some(())
        })
        .await;
    }
}

#[test]
fn unusable_files_stop_the_start_by_name() {
    let (deployment, _) = with_tls();
    let missing = deployment.set("server.tls.key", "nowhere.pem");
    let ran = missing.run(&["serve"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("nowhere.pem") && ran.stderr.contains("server.tls.key"), "{ran:?}");
    let ran = missing.set("server.tls.key", "ca.pem").run(&["serve"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("ca.pem") && ran.stderr.contains("server.tls.key"), "{ran:?}");
}

fn with_tls() -> (Deployment, Authority) {
    let deployment =
        Deployment::new().set("server.tls.cert", "server.pem").set("server.tls.key", "server.key");
    let authority = Authority::new(deployment.dir.path());
    authority.certify("server");
    (deployment, authority)
}

async fn connect(
    server: SocketAddr,
    protocol: &str,
    authority: &Authority,
    client: Option<&Authority>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate("ca")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    let builder =
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => builder
            .with_client_auth_cert(vec![client.certificate("client")], client.private_key("client"))
            .unwrap(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(server).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

/// The HTTP door's answer to a liveness request.
async fn alive(
    countersign: &Countersign,
    authority: &Authority,
    client: Option<&Authority>,
) -> io::Result<String> {
    let mut stream = connect(countersign.http, "http/1.1", authority, client).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn health(countersign: &Countersign, authority: &Authority) -> ServingStatus {
    let stream = connect(countersign.grpc, "h2", authority, None).await.unwrap();
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::other("one connection only")))
    });
    let channel =
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}
