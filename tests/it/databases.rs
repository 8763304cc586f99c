//! Databases as people run them: concurrent migrations, failovers, poolers, full disks, outages.

mod failover;
mod full_disk;
mod migrating;
mod outages;
mod pooler;
mod strictness;

use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use serde_json::Value;

use crate::harness::http::Request;
use crate::harness::{ApiKey, Countersign, TokenApi, eventually_async};

/// How soon logins work again once the database can take writes; doubled for a machine that is busy
/// with other tests.
const RECOVERY: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(20);

async fn login_status(countersign: &Countersign, key: &ApiKey) -> u16 {
    TokenApi::of(countersign).authenticate(key).await.status
}

async fn logs_in_within(deadline: Duration, countersign: &Countersign, key: &ApiKey) {
    eventually_async("logins do not work", deadline, async || {
        (login_status(countersign, key).await == 200).then_some(())
    })
    .await;
}

/// The registry's entry in `/readyz`; null if the registry is ready.
async fn registry_state(countersign: &Countersign) -> (u16, Value) {
    let answer = Request::get("/readyz").send(countersign.admin).await;
    (answer.status, answer.json()["dependencies"]["registry"].clone())
}

async fn registry_becomes(countersign: &Countersign, state: impl Into<Value>) {
    let state = state.into();
    let what = format!("/readyz does not say that the registry is {state}");
    eventually_async(&what, PATIENCE, async || {
        (registry_state(countersign).await.1 == state).then_some(())
    })
    .await;
}

/// The number of named statements on any connection of the pooler at `url` to the server. The query
/// itself leaves none.
async fn statements_left(url: &str) -> i64 {
    let options = url.parse::<PgConnectOptions>().unwrap().extra_float_digits(None);
    let mut asking = Vec::new();
    for _ in 0..3 {
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        // Held, so that the next query gets another connection.
        connection.execute("BEGIN").await.unwrap();
        asking.push(connection);
    }
    let mut left = 0;
    for connection in &mut asking {
        let row =
            connection.fetch_one("SELECT count(*) FROM pg_prepared_statements").await.unwrap();
        left += row.try_get::<i64, _>(0).unwrap();
    }
    left
}
