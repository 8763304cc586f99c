//! Several processes that migrate one database at once.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread;

use sea_orm::{ConnectionTrait as _, Statement};

use super::statements_left;
use crate::harness::{Countersign, Database, Deployment, PgBouncer, PoolMode, Ran, execute};

const PROCESSES: usize = 4;
const ROUNDS: usize = 5;

/// Each round has an empty database on the same server.
async fn empty(url: &str, round: usize) -> String {
    let (server, database) = url.rsplit_once('/').unwrap();
    execute(url, &format!("CREATE DATABASE round{round}")).await;
    assert!(!database.is_empty());
    format!("{server}/round{round}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_commands_at_once() {
    let servers = [Database::postgres(), Database::mariadb()];
    for round in 0..ROUNDS {
        four_at_once(&Deployment::bare());
        for server in &servers {
            four_at_once(&Deployment::bare().set("database.url", &empty(&server.url, round).await));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_commands_at_once_behind_a_pooler() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let database = Database::postgres();
        let pooler = PgBouncer::before(&database, mode);
        four_at_once(&Deployment::bare().set("database.url", &pooler.url));
        assert_eq!(statements_left(&pooler.url).await, 0, "{mode:?}");
    }
}

fn four_at_once(deployment: &Deployment) {
    let commands = (0..PROCESSES).map(|_| {
        let mut command = deployment.command(&["migrate", "up"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let running: Vec<_> = commands.collect();
    let ran: Vec<Ran> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    let mut applied: Vec<&str> = Vec::new();
    for ran in &ran {
        assert_eq!(ran.code, 0, "{ran:?}");
        applied.extend(ran.stdout.lines().filter_map(|line| line.strip_prefix("applied ")));
    }
    let each: BTreeSet<&str> = applied.iter().copied().collect();
    assert_eq!(applied.len(), each.len(), "each migration is applied by one: {ran:?}");
    let states = deployment.list(&["migrate", "status"]);
    assert_eq!(states.len(), each.len(), "{states:?}");
    assert!(states.iter().all(|state| state["applied"] == true), "{states:?}");
}

/// Started as in a rolling update, with a command at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_and_a_command_start_on_an_empty_database() {
    let servers = [Database::postgres(), Database::mariadb()];
    for round in 0..2 {
        for server in &servers {
            let url = empty(&server.url, round).await;
            start_on(
                &Deployment::bare().set("database.url", &url).set("database.auto_migrate", "true"),
            );
        }
        start_on(&Deployment::bare());
    }
}

fn start_on(deployment: &Deployment) {
    // The replicas share a folder of keys; otherwise each would make its own.
    deployment.done(&["signing-key", "list"]);
    thread::scope(|scope| {
        let command = scope.spawn(|| deployment.run(&["principal", "add", "alice"]));
        let replicas: Vec<_> =
            (0..3).map(|_| scope.spawn(|| Countersign::start(deployment))).collect();
        for replica in replicas {
            replica.join().unwrap();
        }
        let ran = command.join().unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_makes_nothing() {
    let deployment = Deployment::bare();
    let states = deployment.list(&["migrate", "status"]);
    assert!(
        !states.is_empty() && states.iter().all(|state| state["applied"] == false),
        "{states:?}"
    );
    let check = deployment.run(&["config", "check"]);
    assert!(check.stderr.contains("the database is not migrated"), "{check:?}");
    assert_eq!(
        std::fs::read_dir(deployment.dir.path()).unwrap().count(),
        0,
        "a look at SQLite made a file"
    );

    for database in [Database::postgres(), Database::mariadb()] {
        let deployment = Deployment::bare().set("database.url", &database.url);
        assert_eq!(deployment.list(&["migrate", "status"]), states);
        let connection = sea_orm::Database::connect(&database.url).await.unwrap();
        let backend = connection.get_database_backend();
        let query = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('public', 'countersign')";
        let tables =
            connection.query_all_raw(Statement::from_string(backend, query)).await.unwrap();
        assert!(tables.is_empty(), "{}: {tables:?}", database.url);
    }
}
