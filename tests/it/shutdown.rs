//! SIGTERM: no new connections, everything in flight finished, exit 0 within ten seconds.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::harness::http::{Connection, Request};
use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Question, Redis, Signal, Sluice, check_request, decision_request, eventually_async,
};

const EXIT_WITHIN: Duration = Duration::from_secs(10);

/// A decision that waits for its nonce is in flight at each door when the signal comes. Both are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_in_flight_are_finished() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address());
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let authorization = || Claims::of("alice").authorization(&key);
    let mut over_http = Connection::open(countersign.http).await.unwrap();
    let mut over_grpc = countersign.ext_authz();
    // Both have served before: kept-alive connections, one of them idle for good.
    let mut idle = Connection::open(countersign.http).await.unwrap();
    for connection in [&mut over_http, &mut idle] {
        let answer = connection.send(&decision_request().authorization(&authorization())).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    over_grpc.check(check_request(&authorization())).await.ok();

    sluice.shut();
    let (question, request) = (decision_request().authorization(&authorization()), check_request(&authorization()));
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

/// Clients that keep their connections do not keep the process.
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

/// A store that never answers does not keep the process either: what waits for it is denied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_store_holds_nothing_up() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address());
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let question = || decision_request().authorization(&Claims::of("alice").authorization(&key));
    // So that the store's connection is there to hang.
    let mut connection = Connection::open(countersign.http).await.unwrap();
    assert_eq!(connection.send(&question()).await.unwrap().status, 200);

    sluice.shut();
    let question = question();
    let undecided = tokio::spawn(async move { connection.send(&question).await.unwrap() });
    sluice.holds(1).await;
    countersign.signal(Signal::Term);

    let answer = undecided.await.unwrap();
    assert_eq!((answer.status, answer.header("x-auth-error")), (503, Some("unavailable")), "{answer:?}");
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
}

/// What was spent before a restart is spent after it, where nonces are kept outside of the process.
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

async fn refuses_connections(door: SocketAddr) {
    eventually_async("new connections are refused", EXIT_WITHIN, async || TcpStream::connect(door).await.is_err().then_some(()))
        .await;
}
