//! A disk that is full for a while.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use super::{login_status, registry_becomes};
use crate::harness::{Deployment, SmallDisk, eventually_async};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_work_again_as_soon_as_there_is_room() {
    let disk = SmallDisk::of_kib(16 * 1024);
    let url = format!("sqlite://{}/countersign.db?mode=rwc", disk.path().display());
    let deployment = Deployment::bare().set("database.url", &url).set("issuer.algorithm", "ES256");
    deployment.done(&["principal", "add", "alice"]);
    let api_key = deployment.api_key("alice");
    let countersign = deployment.serve();
    assert_eq!(login_status(&countersign, &api_key).await, 200);

    disk.fill();
    // Until the last free pages of the files are used, on every connection.
    let mut refused = 0;
    for _ in 0..200 {
        let statuses = [(); 8].map(|()| login_status(&countersign, &api_key));
        refused += futures_util::future::join_all(statuses)
            .await
            .into_iter()
            .filter(|status| *status == 503)
            .count();
        if refused >= 32 {
            break;
        }
    }
    assert!(refused >= 32, "the disk does not get full");
    registry_becomes(&countersign, "read_only").await;
    disk.make_room();

    eventually_async("logins do not work again", Duration::from_secs(2), async || {
        (login_status(&countersign, &api_key).await == 200).then_some(())
    })
    .await;
    // Not by chance: every connection works again, and none keeps the file locked for other
    // processes.
    for _ in 0..5 {
        let statuses =
            futures_util::future::join_all([(); 8].map(|()| login_status(&countersign, &api_key)))
                .await;
        assert_eq!(statuses, vec![200; 8]);
    }
    deployment.done(&["principal", "add", "bob"]);
    registry_becomes(&countersign, Value::Null).await;
}

/// Only the owner can read the database file and the files that SQLite puts beside it, whatever the
/// umask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_are_for_their_owner_alone() {
    let deployment = Deployment::bare().set("issuer.algorithm", "ES256");
    let countersign = deployment.serve();
    deployment.done(&["principal", "add", "alice"]);
    drop(deployment.api_key("alice"));
    let mode = |name: &str| {
        std::fs::metadata(deployment.dir.path().join(name))
            .map(|file| file.permissions().mode() & 0o777)
    };
    for name in ["countersign.db", "countersign.db-wal", "countersign.db-shm"] {
        assert_eq!(mode(name).unwrap_or_else(|error| panic!("{name}: {error}")), 0o600, "{name}");
    }
    drop(countersign);
}
