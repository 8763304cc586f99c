//! Another server takes over: logins and changes follow it without a restart.

use serde_json::Value;

use super::{PATIENCE, RECOVERY, login_status, logs_in_within, registry_becomes, registry_state};
use crate::harness::http::Request;
use crate::harness::{
    Claims, Countersign, Database, Deployment, Door, Key, MovableName, Question, Signal,
    eventually_async,
};

async fn decides(countersign: &Countersign, key: &Key) -> bool {
    Door::Http
        .ask(countersign, &Question::with(Claims::of("alice").authorization(key)))
        .await
        .allowed()
}

/// The old primary lives on read-only, and connections to it stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_moves_to_the_new_primary() {
    let (old, mut named) = (Database::postgres(), Database::sqlite());
    let name = MovableName::of(old.address()).await;
    named.url = old.url_through(name.address);
    let deployment = Deployment::on(named);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let api_key = deployment.api_key("alice");
    let new = old.standby();
    let countersign = deployment.serve();
    assert_eq!(login_status(&countersign, &api_key).await, 200);
    assert_eq!(registry_state(&countersign).await, (200, Value::Null));

    old.refuse_changes(true).await;

    registry_becomes(&countersign, "read_only").await;
    assert_eq!(login_status(&countersign, &api_key).await, 503);
    let answer = Request::get("/readyz").send(countersign.admin).await;
    assert_eq!(
        (answer.status, &answer.json()["result"]),
        (200, &true.into()),
        "decisions go on: {answer:?}"
    );
    assert!(
        answer.json()["reasons"]["registry"]
            .as_str()
            .unwrap()
            .contains("default_transaction_read_only"),
        "{answer:?}"
    );
    assert!(decides(&countersign, &key).await);
    let check = deployment.run(&["config", "check"]);
    assert!(check.code != 0 && check.stderr.contains("the database is read-only"), "{check:?}");

    new.promote().await;
    name.moves_to(new.address());

    logs_in_within(RECOVERY, &countersign, &api_key).await;
    registry_becomes(&countersign, Value::Null).await;
    assert!(deployment.run(&["config", "check"]).code == 0);
    // Changes there are seen: no connection to the old primary is left.
    deployment.done(&["principal", "disable", "alice"]);
    eventually_async("the change is not seen", PATIENCE, async || {
        (!decides(&countersign, &key).await).then_some(())
    })
    .await;
}

/// Without a look at the changes in between: the first login that the old primary refuses is the
/// sign.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_follow_within_two_seconds() {
    let (old, mut named) = (Database::postgres(), Database::sqlite());
    let name = MovableName::of(old.address()).await;
    named.url = old.url_through(name.address);
    let deployment = Deployment::on(named);
    deployment.done(&["principal", "add", "alice"]);
    let api_key = deployment.api_key("alice");
    let new = old.standby();
    let replicas = [(); 3].map(|()| deployment.serve());
    for replica in &replicas {
        assert_eq!(login_status(replica, &api_key).await, 200);
    }

    new.promote().await;
    name.moves_to(new.address());
    old.refuse_changes(true).await;

    for replica in &replicas {
        logs_in_within(RECOVERY, replica, &api_key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_names_several_servers() {
    let (mut old, mut named) = (Database::postgres(), Database::sqlite());
    named.url.clone_from(&old.url);
    let deployment = Deployment::on(named);
    deployment.done(&["principal", "add", "alice"]);
    let api_key = deployment.api_key("alice");
    let new = old.standby();
    // The second server is the one that takes changes.
    let url = format!(
        "postgres://countersign@{},{}/postgres?target_session_attrs=read-write",
        new.address(),
        old.address()
    );
    let deployment = deployment.set("database.url", &url);
    assert_eq!(deployment.run(&["config", "check"]).code, 0);
    let countersign = deployment.serve();
    assert_eq!(login_status(&countersign, &api_key).await, 200);

    old.stop();
    registry_becomes(&countersign, "read_only").await;
    new.promote().await;

    logs_in_within(RECOVERY, &countersign, &api_key).await;
    deployment.done(&["principal", "add", "bob"]);
}

/// `target_session_attrs` with any other value would be useless.
#[test]
fn a_server_to_read_from_is_refused() {
    let url = "postgres://countersign:hunter2@one,two/postgres?target_session_attrs=standby";
    let ran = Deployment::bare().set("database.url", url).run(&["config", "check"]);
    assert!(
        ran.code != 0
            && ran.stderr.contains("`target_session_attrs`")
            && !ran.stderr.contains("hunter2"),
        "{ran:?}"
    );
}

/// A server that is set to read-only and back again, while connections stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_takes_no_changes_for_a_while() {
    for database in [Database::postgres(), Database::mariadb()] {
        let url = database.url_of_a_user().await;
        let deployment = Deployment::unmigrated(database).set("database.url", &url);
        deployment.done(&["migrate", "up"]);
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        let api_key = deployment.api_key("alice");
        let countersign = deployment.serve();
        assert_eq!(login_status(&countersign, &api_key).await, 200);

        deployment.database().refuse_changes(true).await;

        eventually_async("logins go on", PATIENCE, async || {
            (login_status(&countersign, &api_key).await == 503).then_some(())
        })
        .await;
        registry_becomes(&countersign, "read_only").await;
        let check = deployment.run(&["config", "check"]);
        assert!(check.code != 0 && check.stderr.contains("read-only"), "{check:?}");
        let refused = deployment.run(&["principal", "add", "bob"]);
        assert!(
            refused.code != 0 && refused.stderr.contains("the database is read-only"),
            "{refused:?}"
        );
        assert!(decides(&countersign, &key).await, "decisions go on");

        deployment.database().refuse_changes(false).await;

        logs_in_within(RECOVERY, &countersign, &api_key).await;
        registry_becomes(&countersign, Value::Null).await;
        countersign.signal(Signal::Term);
    }
}
