//! The change feed on each database, as a replica follows it. A change that is visible is found by
//! the next look, whatever numbers the database gives to rows, however wrong the writers' clocks
//! are, and however long a transaction takes.

use std::{sync::Arc, time::Duration};

use countersign::{
    app,
    config::{database::DatabaseSettings, registry::RegistrySettings},
    domain::{
        algorithm::KeyFamily,
        key_set::{KeySet, KeySetContents, MostTrials},
        principal::KnownTrust,
        time::UnixMillis,
    },
    engine::ports::{
        Answer, Author, FetchFailure, KeyDirectory, KeySetSource, NewPrincipal, PrincipalChange,
        PrincipalSource, RegistryStore,
    },
    stores::{
        cache::{CachedDirectory, Follower},
        sql::{SqlRegistry, connect},
    },
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};

use super::{now, registry::username};
use crate::harness::Database;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn no_change_is_missed_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let world =
        World::new(&format!("sqlite://{}?mode=rwc", folder.path().join("feed.db").display())).await;
    world.changes_by_several_writers_are_followed().await;
    world.a_change_that_stays_invisible_for_long_is_followed(false).await;
}

#[tokio::test]
async fn no_change_is_missed_on_postgresql() {
    let database = Database::postgres();
    let mut world = World::new(&database.url).await;
    world.changes_by_several_writers_are_followed().await;
    world.a_change_that_stays_invisible_for_long_is_followed(true).await;
    // Each connection reserves a block of numbers: the second writer's numbers are far from those
    // with which the first continues.
    for numbers in [100, 5000] {
        world.execute(&format!("ALTER SEQUENCE registry_changes_id_seq CACHE {numbers}")).await;
        world.connect_anew(async |_| ()).await;
        world.changes_by_several_writers_are_followed().await;
        world.a_change_that_stays_invisible_for_long_is_followed(true).await;
        assert!(world.numbers_of_rows_go_back().await, "{numbers}: it shows nothing else");
    }
    // A strict server must not refuse concurrent writers.
    world
        .execute("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'")
        .await;
    world.connect_anew(async |_| ()).await;
    world.changes_at_once_are_followed().await;
}

#[tokio::test]
async fn no_change_is_missed_on_mariadb() {
    let database = Database::mariadb();
    let mut world = World::new(&database.url).await;
    world.changes_by_several_writers_are_followed().await;
    world.a_change_that_stays_invisible_for_long_is_followed(true).await;
    // As on three nodes of a Galera cluster: each node gives numbers of its own.
    world.execute("SET GLOBAL auto_increment_increment = 1000").await;
    world
        .connect_anew(async |node| {
            let statement = format!("SET GLOBAL auto_increment_offset = {}", 999 - 400 * node);
            crate::harness::execute(&database.url, &statement).await;
        })
        .await;
    world.changes_by_several_writers_are_followed().await;
    world.a_change_that_stays_invisible_for_long_is_followed(true).await;
    world.changes_at_once_are_followed().await;
}

/// Three writers, each with its own connection, and a replica that follows them.
struct World {
    url: String,
    writers: Vec<SqlRegistry>,
    replica: tokio::sync::Mutex<Replica>,
}

struct Replica {
    directory: Arc<CachedDirectory>,
    follower: Follower,
}

const NAMES: [&str; 3] = ["alice", "bob", "carol"];
const WRITERS: u64 = 3;

impl World {
    async fn new(url: &str) -> Self {
        let settings = settings(url);
        app::migrate_up(&settings).await.unwrap();
        let registry = SqlRegistry::new(connect(&settings).await.unwrap());
        for name in NAMES {
            registry.add_principal(NewPrincipal::named(username(name)), by(0)).await.unwrap();
        }
        let replica = Replica::start(registry).await;
        let mut world = Self {
            url: url.to_owned(),
            writers: Vec::new(),
            replica: tokio::sync::Mutex::new(replica),
        };
        world.connect_anew(async |_| ()).await;
        world
    }

    /// Reconnects every writer. What `before` sets for a writer applies to its new connections.
    async fn connect_anew(&mut self, before: impl AsyncFn(u64)) {
        self.writers.clear();
        for number in 0..WRITERS {
            before(number).await;
            let registry = SqlRegistry::new(connect(&settings(&self.url)).await.unwrap());
            // So that the writer has its connection, settings and numbers.
            registry
                .change_principal(&username(NAMES[0]), email(number), None, by(0))
                .await
                .unwrap();
            self.writers.push(registry);
        }
    }

    async fn execute(&self, statement: &str) {
        crate::harness::execute(&self.url, statement).await;
    }

    /// Also with writers whose clocks are an hour behind and an hour ahead.
    async fn changes_by_several_writers_are_followed(&self) {
        for round in 0..4 {
            for (writer, offset) in self.writers.iter().zip([0, -1, 1]) {
                for name in NAMES {
                    let is_active = round % 2 == 1;
                    self.set_active(writer, name, is_active, by(offset)).await;
                    assert_eq!(
                        self.sees(name).await,
                        is_active,
                        "{name} in round {round}, written {offset} h from now"
                    );
                    self.set_active(writer, name, !is_active, by(offset)).await;
                    assert_eq!(
                        self.sees(name).await,
                        !is_active,
                        "{name} in round {round}, written {offset} h from now"
                    );
                }
            }
        }
    }

    /// A row is written, then its transaction stays open for a while. A writer of an old version,
    /// which does not number changes, blocks nobody and is overtaken; a writer of this version
    /// cannot be overtaken. On SQLite nobody else can write meanwhile.
    async fn a_change_that_stays_invisible_for_long_is_followed(&self, others_may_write: bool) {
        for is_numbered in [false, true] {
            for name in NAMES {
                self.set_active(&self.writers[0], name, true, by(0)).await;
                assert!(self.sees(name).await);
            }
            let database = sea_orm::Database::connect(&self.url).await.unwrap();
            let slow = database.begin().await.unwrap();
            disable(&slow, "alice", is_numbered).await;
            let (writers, name) = (self.writers.clone(), username("bob"));
            let others = tokio::spawn(async move {
                for writer in writers.iter().filter(|_| others_may_write) {
                    writer.change_principal(&name, active(false), None, by(1)).await.unwrap();
                    writer.change_principal(&name, active(true), None, by(-1)).await.unwrap();
                }
            });
            for _ in 0..5 {
                assert!(self.sees("alice").await, "not yet");
            }
            if others_may_write && !is_numbered {
                others.await.unwrap();
                assert!(self.sees("alice").await, "not yet, although later ones were followed");
                slow.commit().await.unwrap();
            } else {
                slow.commit().await.unwrap();
                others.await.unwrap();
            }
            assert!(!self.sees("alice").await, "numbered: {is_numbered}");
            assert!(self.sees("bob").await);
        }
    }

    async fn changes_at_once_are_followed(&self) {
        for is_active in [false, true] {
            let mut at_once = tokio::task::JoinSet::new();
            for (writer, name) in self.writers.iter().zip(NAMES).flat_map(|pair| [pair; 5]) {
                let (writer, number) = (writer.clone(), at_once.len() as u64);
                at_once.spawn(async move {
                    writer
                        .change_principal(&username(name), active(is_active), None, by(0))
                        .await
                        .unwrap();
                    writer
                        .change_principal(&username(name), email(number), None, by(0))
                        .await
                        .unwrap();
                });
            }
            at_once.join_all().await;
            for name in NAMES {
                assert_eq!(self.sees(name).await, is_active, "{name}");
            }
        }
        let changes = self.writers[0].changes(0, u64::from(u32::MAX)).await.unwrap();
        assert!(changes.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "no gaps");
    }

    /// Whether rows that became visible later have smaller numbers, by more than a follower would
    /// look back.
    async fn numbers_of_rows_go_back(&self) -> bool {
        let database = sea_orm::Database::connect(&self.url).await.unwrap();
        let statement = "SELECT COUNT(*) AS found FROM registry_changes a JOIN registry_changes b ON b.ordinal = a.ordinal + 1 AND b.id < a.id";
        let row = database
            .query_one_raw(sea_orm::Statement::from_string(
                database.get_database_backend(),
                statement,
            ))
            .await
            .unwrap();
        row.unwrap().try_get::<i64>("", "found").unwrap() > 0
    }

    async fn set_active(
        &self,
        writer: &SqlRegistry,
        name: &str,
        is_active: bool,
        author: Author<'_>,
    ) {
        writer.change_principal(&username(name), active(is_active), None, author).await.unwrap();
    }

    /// Whether the replica takes the principal for active after one look.
    async fn sees(&self, name: &str) -> bool {
        let mut replica = self.replica.lock().await;
        replica.follower.poll().await.unwrap();
        replica.directory.lookup(&username(name), now()).await.unwrap().unwrap().is_active
    }
}

impl Replica {
    async fn start(registry: SqlRegistry) -> Self {
        let (source, settings) =
            (Arc::new(registry) as Arc<dyn PrincipalSource>, RegistrySettings::default());
        let (directory, follower) =
            CachedDirectory::start(source, Arc::new(NoKeySets), &settings).await.unwrap();
        Self { directory, follower }
    }
}

/// Sends the SQL statements of a writer.
async fn disable(transaction: &DatabaseTransaction, name: &str, is_numbered: bool) {
    let run = async |statement: &str| transaction.execute_unprepared(statement).await.unwrap();
    let is_mysql = transaction.get_database_backend() == sea_orm::DatabaseBackend::MySql;
    let (no, quoted) = if is_mysql { ("0", "`at`") } else { ("FALSE", "\"at\"") };
    run(&format!("UPDATE principals SET is_active = {no} WHERE username = '{name}'")).await;
    let ordinal = if is_numbered {
        run("UPDATE registry_feed SET newest = newest + 1").await;
        "(SELECT newest FROM registry_feed)"
    } else {
        "NULL"
    };
    run(&format!(
        "INSERT INTO registry_changes (principal_id, {quoted}, ordinal) \
         SELECT id, created_at, {ordinal} FROM principals WHERE username = '{name}'"
    ))
    .await;
}

fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings { url: url.parse().unwrap(), auto_migrate: None }
}

/// A writer whose clock is wrong by this many hours.
fn by(hours: i32) -> Author<'static> {
    let now = UnixMillis(now().0 + i64::from(hours) * i64::try_from(HOUR.as_millis()).unwrap());
    Author { actor: "battery", now }
}

fn active(is_active: bool) -> PrincipalChange {
    PrincipalChange { is_active: Some(is_active), ..PrincipalChange::default() }
}

fn email(number: u64) -> PrincipalChange {
    let address = format!("{number}-{}@example.com", now().0);
    PrincipalChange { email: Some(Some(address)), ..PrincipalChange::default() }
}

struct NoKeySets;

impl KeySetSource for NoKeySets {
    fn set<'a>(&'a self, _: &'a KnownTrust, _: UnixMillis) -> Answer<'a, Option<Arc<KeySet>>> {
        Answer::ready(None)
    }

    fn missed(&self, _: &KnownTrust, _: UnixMillis) {}

    fn most_trials(&self, _: KeyFamily) -> MostTrials {
        MostTrials::default()
    }

    fn anticipate(&self, _: &[KnownTrust], _: bool) {}

    fn check_url(&self, _: &str) -> Result<(), FetchFailure> {
        Ok(())
    }

    fn refresh<'a>(&'a self, _: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        Answer::ready(Ok(KeySetContents::default()))
    }
}
