//! SIGTERM: immediately not ready, every request that was sent is answered, exit 0 within ten
//! seconds.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::http::{Connection, Request};
use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Process, Question, Redis, Signal, Sluice,
    check_request, decision_request, eventually_async,
};

const EXIT_WITHIN: Duration = Duration::from_secs(10);

/// A decision that waits for its nonce is in flight at each door when the signal arrives. Both are
/// answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_in_flight_are_finished() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address()).set("server.drain", "0s");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let authorization = || Claims::of("alice").authorization(&key);
    let mut over_http = Connection::open(countersign.http).await.unwrap();
    let mut over_grpc = countersign.ext_authz();
    // Both have served before: kept-alive connections, one of them idle until the end.
    let mut idle = Connection::open(countersign.http).await.unwrap();
    for connection in [&mut over_http, &mut idle] {
        let answer =
            connection.send(&decision_request().authorization(&authorization())).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    over_grpc.check(check_request(&authorization())).await.ok();

    sluice.shut();
    let (question, request) =
        (decision_request().authorization(&authorization()), check_request(&authorization()));
    let http = tokio::spawn(async move { over_http.send(&question).await });
    let grpc = tokio::spawn(async move { over_grpc.check(request).await });
    sluice.holds(2).await;
    countersign.signal(Signal::Term);
    for door in [countersign.http, countersign.grpc] {
        refuses_connections(door).await;
    }
    sluice.open();

    assert_eq!(http.await.unwrap().unwrap().status, 200);
    grpc.await.unwrap().ok();
    let status = countersign.exited_within(EXIT_WITHIN);
    assert_eq!(status.code(), Some(0));
}

/// Clients that keep their connections open do not delay the exit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_hold_nothing_up() {
    let deployment = Deployment::new();
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let authorization = || Claims::of("alice").authorization(&key);
    let mut used = Connection::open(countersign.http).await.unwrap();
    used.send(&decision_request().authorization(&authorization())).await.unwrap();
    let unused = [countersign.http, countersign.grpc, countersign.admin].map(TcpStream::connect);
    let unused = futures_util::future::join_all(unused).await;
    let mut over_grpc = countersign.ext_authz();
    over_grpc.check(check_request(&authorization())).await.ok();

    countersign.signal(Signal::Term);

    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
    drop((used, unused, over_grpc));
}

/// Nor does a store that never answers: decisions that wait for it are denied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_store_holds_nothing_up() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address());
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let question = || decision_request().authorization(&Claims::of("alice").authorization(&key));
    // So that the store's connection exists and hangs.
    let mut connection = Connection::open(countersign.http).await.unwrap();
    assert_eq!(connection.send(&question()).await.unwrap().status, 200);

    sluice.shut();
    let question = question();
    let undecided = tokio::spawn(async move { connection.send(&question).await.unwrap() });
    sluice.holds(1).await;
    countersign.signal(Signal::Term);

    let answer = undecided.await.unwrap();
    assert_eq!(
        (answer.status, answer.header("x-auth-error")),
        (503, Some("unavailable")),
        "{answer:?}"
    );
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
}

/// The signal arrives when every request has been sent and none is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_answered() {
    for drain in ["0s", "1s"] {
        let deployment = Deployment::new().set("server.drain", drain);
        let mut countersign = deployment.serve();
        let mut connections = Vec::new();
        for _ in 0..60 {
            let mut connection = Connection::open(countersign.http).await.unwrap();
            assert_eq!(connection.send(&decision_request()).await.unwrap().status, 401);
            connections.push(connection);
        }
        for connection in &mut connections {
            connection.write(&decision_request()).await.unwrap();
        }
        countersign.signal(Signal::Term);
        for (number, mut connection) in connections.into_iter().enumerate() {
            let answer = connection
                .answer(false)
                .await
                .unwrap_or_else(|error| panic!("drain {drain}: {number}: {error}"));
            assert_eq!(answer.status, 401, "{answer:?}");
        }
        assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
    }
}

/// A gateway under load notices nothing: each of its requests is answered, over kept-alive
/// connections and over new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_service_drains() {
    let deployment = Deployment::new().set("server.drain", "4s");
    let mut countersign = deployment.serve();
    let http = countersign.http;
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    let clients: Vec<_> = (0..60)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(http).await.unwrap();
                let (mut answered, mut closed) = (0, 0);
                while tokio::time::Instant::now() < until {
                    let answer = connection.send(&decision_request()).await.expect("an answer");
                    assert_eq!(answer.status, 401);
                    answered += 1;
                    if answer.header("connection") == Some("close") {
                        closed += 1;
                        connection = Connection::open(http).await.expect("a new connection");
                    }
                }
                (answered, closed)
            })
        })
        .collect();
    eventually_async("there is load", EXIT_WITHIN, async || {
        let metrics = Request::get("/metrics").send(countersign.admin).await.text();
        metrics.contains("reason=\"no_credentials\"} ").then_some(())
    })
    .await;
    countersign.signal(Signal::Term);
    eventually_async("it is not ready", EXIT_WITHIN, async || {
        let answer = Request::get("/readyz").try_send(countersign.admin).await.ok()?;
        (answer.status == 503 && answer.json()["reasons"]["service"] == "it was told to stop")
            .then_some(())
    })
    .await;
    for client in clients {
        let (answered, closed) = client.await.unwrap();
        assert!(
            answered > 0 && closed > 0,
            "{answered} answers, {closed} of which closed the connection"
        );
    }
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
}

/// The last moment is no exception: a client that could connect is answered. A gateway that cannot
/// connect asks another replica, but must not once it has sent its question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_that_was_taken_is_answered() {
    for round in 0..5 {
        let deployment = Deployment::new().set("server.drain", "200ms");
        let mut countersign = deployment.serve();
        let http = countersign.http;
        let clients: Vec<_> = (0..16)
            .map(|_| {
                tokio::spawn(async move {
                    let mut answered = 0;
                    while let Ok(mut connection) = Connection::open(http).await {
                        let answer = connection.send(&decision_request()).await;
                        let answer = answer.unwrap_or_else(|error| {
                            panic!("round {round}, after {answered} answers: {error}")
                        });
                        assert_eq!(answer.status, 401);
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();

        countersign.signal(Signal::Term);

        for client in clients {
            assert!(client.await.unwrap() > 0);
        }
        assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
    }
}

/// Envoy learns of it from the health service, and from GOAWAY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_says_that_it_is_not_serving_and_goes_on() {
    let deployment = Deployment::new().set("server.drain", "5s");
    let countersign = deployment.serve();
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", countersign.grpc)).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let mut over_grpc = countersign.ext_authz();
    over_grpc.check(check_request("JWT nonsense")).await;
    countersign.signal(Signal::Term);
    eventually_async("it says that it does not serve", EXIT_WITHIN, async || {
        let status = health
            .check(HealthCheckRequest { service: String::new() })
            .await
            .unwrap()
            .into_inner()
            .status();
        (status == ServingStatus::NotServing).then_some(())
    })
    .await;
    over_grpc.check(check_request("JWT nonsense")).await;
    // Also over a new connection.
    countersign.ext_authz().check(check_request("JWT nonsense")).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let deployment = Deployment::new().set("server.drain", "1m");
    let mut countersign = deployment.serve();
    countersign.signal(Signal::Term);
    eventually_async("it drains", EXIT_WITHIN, async || {
        countersign.log().contains("stopping").then_some(())
    })
    .await;
    countersign.signal(Signal::Term);
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
}

/// Port 0 is any free port, and only the log names it. By then, decisions are answered.
#[tokio::test]
async fn the_log_names_the_addresses_that_were_bound() {
    let deployment = Deployment::new();
    let mut served = deployment.command(&["serve"]);
    let process = Process::spawn("countersign", &mut served, deployment.dir.path(), Signal::Kill);
    let http = eventually_async("it serves", Duration::from_mins(1), async || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("\"serving\""))?;
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(
            line["http"]
                .as_str()
                .unwrap_or_else(|| panic!("{line}"))
                .parse::<SocketAddr>()
                .unwrap(),
        )
    })
    .await;
    assert_ne!(http.port(), 0);
    assert_eq!(decision_request().send(http).await.status, 401);
}

/// A nonce used before a restart is still used after it, if nonces are kept outside of the process.
#[tokio::test]
async fn a_restart_forgets_no_nonce() {
    let redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);

    let mut before: Countersign = deployment.serve();
    let question = Question::with(Claims::of("alice").authorization(&key));
    assert!(Door::Http.ask(&before, &question).await.allowed());
    before.signal(Signal::Term);
    before.exited_within(EXIT_WITHIN);
    let after = deployment.serve();

    assert_eq!(Door::Http.ask(&after, &question).await.code(), Some("replayed"));
    assert_eq!(Request::get("/livez").send(after.http).await.status, 200);
}

/// A connection made at the very moment of the end is lost, and would be retried only after a
/// second.
async fn refuses_connections(door: SocketAddr) {
    eventually_async("new connections are refused", EXIT_WITHIN, async || {
        let connected =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(door)).await;
        connected.is_ok_and(|connected| connected.is_err()).then_some(())
    })
    .await;
}
