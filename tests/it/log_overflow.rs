//! A log that nobody reads: lines are lost and counted, and nothing else is affected.

use std::io::{BufRead as _, BufReader};
use std::process::ChildStderr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::http::{Connection, Request};
use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Question, Signal, decision_request,
};

/// Far more than pipes and memory hold: each is a line of about 300 bytes.
const DENIALS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_reader_of_the_log() {
    let (_deployment, countersign, unread, key) = alice();

    deny(&countersign, DENIALS).await;
    for door in Door::BOTH {
        assert!(
            door.ask(&countersign, &Question::with(Claims::of("alice").authorization(&key)))
                .await
                .allowed(),
            "{door:?}"
        );
    }
    for listener in [countersign.http, countersign.admin] {
        assert_eq!(Request::get("/livez").send(listener).await.status, 200);
    }
    let ready = Request::get("/readyz").send(countersign.admin).await;
    assert_eq!((ready.status, ready.json()["result"].as_bool()), (200, Some(true)));
    assert!(
        ready.json()["warnings"]["log"].as_str().is_some_and(|warning| warning.contains("dropped")),
        "{ready:?}"
    );
    let dropped = dropped(&countersign).await;
    assert!(dropped > 0);

    let (lines, told) = tokio::task::spawn_blocking(move || read_until_told(unread)).await.unwrap();
    assert_eq!(told, dropped);
    assert_eq!(lines + dropped, DENIALS);
    let ready = Request::get("/readyz").send(countersign.admin).await;
    assert!(ready.json().get("warnings").is_none(), "{ready:?}");
}

/// The process ends in time, even if nobody reads its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_read_does_not_keep_the_process() {
    let (_deployment, mut countersign, unread, _) = alice();
    deny(&countersign, DENIALS).await;

    countersign.signal(Signal::Term);

    assert_eq!(countersign.exited_within(Duration::from_secs(10)).code(), Some(0));
    drop(unread);
}

/// With `wait` no line is lost: a late reader gets all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_if_decisions_wait() {
    let deployment = Deployment::new().set("telemetry.log_overflow", "wait");
    let (countersign, unread) = Countersign::start_unread(&deployment);
    let reading = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(unread)
            .lines()
            .map(|line| line.unwrap())
            .filter(|line| is_denial(&parsed(line)));
        lines.take(usize::try_from(DENIALS).unwrap()).count() as u64
    });

    deny(&countersign, DENIALS).await;

    assert_eq!(reading.await.unwrap(), DENIALS);
    assert_eq!(dropped(&countersign).await, 0);
}

fn alice() -> (Deployment, Countersign, ChildStderr, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let (countersign, unread) = Countersign::start_unread(&deployment);
    (deployment, countersign, unread, key)
}

/// Makes the service deny this many requests, over a few connections.
async fn deny(countersign: &Countersign, denials: u64) {
    const CONNECTIONS: u64 = 8;
    let connections = (0..CONNECTIONS).map(async |_| {
        let mut connection = Connection::open(countersign.http).await.unwrap();
        for _ in 0..denials / CONNECTIONS {
            assert_eq!(connection.send(&decision_request()).await.unwrap().status, 401);
        }
    });
    join_all(connections).await;
}

async fn dropped(countersign: &Countersign) -> u64 {
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    let value =
        metrics.lines().find_map(|line| line.strip_prefix("countersign_log_lines_dropped_total "));
    value.unwrap_or_else(|| panic!("it is not counted: {metrics}")).parse().unwrap()
}

/// How many denials were written, and how many lines the log itself reports as lost, in a later
/// line.
fn read_until_told(unread: ChildStderr) -> (u64, u64) {
    let mut denials = 0;
    for line in BufReader::new(unread).lines() {
        let line = parsed(&line.unwrap());
        if line["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("lines of the log were dropped"))
        {
            return (denials, line["lines"].as_u64().unwrap());
        }
        denials += u64::from(is_denial(&line));
    }
    panic!("the log ended after {denials} denials");
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

fn is_denial(line: &Value) -> bool {
    line["target"] == "countersign::decision" && line["outcome"] == "denied"
}
