//! A server in lax mode.

use sea_orm::{ConnectionTrait as _, Statement};

use crate::harness::{Database, Deployment, execute};

/// MariaDB without an SQL mode silently truncates texts that are too long. Tests the limit of every
/// column that people fill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_on_a_lax_server() {
    let database = Database::mariadb();
    execute(&database.url, "SET GLOBAL sql_mode = ''").await;
    let url = database.url.clone();
    let deployment = Deployment::on(database);
    deployment.done(&["principal", "add", "alice"]);
    let connection = sea_orm::Database::connect(&url).await.unwrap();
    // What the service writes no longer fits into the column.
    connection
        .execute_unprepared("ALTER TABLE audit_events MODIFY action VARCHAR(8) NOT NULL")
        .await
        .unwrap_or_else(|error| {
            panic!("{error}");
        });

    let ran = deployment.run(&["principal", "add", "bob"]);

    assert_ne!(ran.code, 0, "{ran:?}");
    let query = Statement::from_string(
        connection.get_database_backend(),
        "SELECT username FROM principals",
    );
    assert_eq!(
        connection.query_all_raw(query).await.unwrap().len(),
        1,
        "bob was added with half of an audit event"
    );
}
