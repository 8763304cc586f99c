//! Databases with many principals, written directly by SQLite: adding a million through the admin
//! API would take an hour.

use std::{fmt::Write as _, path::Path};

use countersign::{app, config::database::DatabaseSettings, domain::algorithm::Algorithm};
use sea_orm::{ConnectionTrait, TransactionTrait};
use tempfile::TempDir;

use crate::{server::database_url, tokens::Signer};

/// A database of principals with the same number of keys each. The keys are few and shared, but the
/// service does not know that: it reads, parses and keeps the keys of each principal.
pub(super) struct Registry {
    pub(super) principals: usize,
    /// Principal `n` signs with the key at index `n` modulo the pool's size.
    pool: Vec<Signer>,
    dir: TempDir,
}

impl Registry {
    /// Creates `principals` principals, with `keys_each` keys out of a pool of `pool` keys for
    /// `algorithm`.
    pub(super) async fn new(
        principals: usize,
        keys_each: usize,
        algorithm: Algorithm,
        pool: usize,
    ) -> Self {
        assert!(keys_each <= pool, "a principal has no key twice");
        let pool: Vec<Signer> = (0..pool).map(|_| Signer::new(String::new(), algorithm)).collect();
        let dir = tempfile::tempdir().unwrap();
        let settings =
            DatabaseSettings { url: database_url(dir.path()).parse().unwrap(), auto_migrate: None };
        app::migrate_up(&settings).await.unwrap();
        let database = sea_orm::Database::connect(database_url(dir.path())).await.unwrap();
        let transaction = database.begin().await.unwrap();
        for statement in [
            principals_statement(principals),
            keys_statement(principals, keys_each, algorithm, &pool),
        ] {
            transaction.execute_unprepared(&statement).await.unwrap();
        }
        transaction.commit().await.unwrap();
        // Leaves no work for the next process that opens the database.
        database.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        database.close().await.unwrap();
        Self { principals, pool, dir }
    }

    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(self.dir.path().join("countersign.db")).unwrap().len()
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Principal `number`, counted from 0, with its first key. The service reads principals in this
    /// order.
    pub(super) fn signer(&self, number: usize) -> Signer {
        self.pool[number % self.pool.len()].renamed(format!("service-{number:07}@example.com"))
    }
}

fn principals_statement(principals: usize) -> String {
    format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {principals})
        INSERT INTO principals (id, username, is_active, scopes, created_at, updated_at)
        SELECT n + 1, printf('service-%07d@example.com', n), 1, 'orders:read orders:write', {AT}, {AT} FROM numbers"
    )
}

fn keys_statement(
    principals: usize,
    keys_each: usize,
    algorithm: Algorithm,
    pool: &[Signer],
) -> String {
    let (family, size) = (algorithm.family(), pool.len());
    let mut rows = String::new();
    for (number, signer) in pool.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let key = signer.public_key();
        let _ = write!(rows, "{comma}({number}, '{}', '{}')", key.to_pem(), key.fingerprint());
    }
    format!(
        "WITH RECURSIVE pool(number, key, fingerprint) AS (VALUES {rows}),
        each(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM each WHERE k + 1 < {keys_each})
        INSERT INTO public_keys (principal_id, key, fingerprint, family, created_at)
        SELECT principals.id, pool.key, pool.fingerprint, '{family}', {AT}
        FROM principals CROSS JOIN each JOIN pool ON pool.number = (principals.id - 1 + each.k) % {size}
        WHERE principals.id <= {principals} ORDER BY principals.id"
    )
}

/// The creation time of all of them.
const AT: &str = "'2026-01-01 00:00:00'";
