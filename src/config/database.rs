//! The database of principals, their keys and trusts, API keys, tokens that were given out, and the audit.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values::{self, Secret};

/// `database.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseSettings {
    /// Where it is: `sqlite://FILE?mode=rwc`, `postgres://USER:PASSWORD@HOST/NAME` or `mysql://USER:PASSWORD@HOST/NAME`, the
    /// latter for MariaDB, too. Replicas share one, and SQLite is for a single one. Default `sqlite://countersign.db?mode=rwc`.
    #[serde(deserialize_with = "values::parsed")]
    pub url: DatabaseUrl,
    /// Whether `serve` migrates the database before it starts. Where it does not, `countersign migrate up` does. Default true for
    /// SQLite, else false.
    #[serde(deserialize_with = "values::optional")]
    pub auto_migrate: Option<bool>,
}

/// Which database a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// SQLite, embedded.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// A database URL. It may hold a password, so it is not shown.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct DatabaseUrl(Secret);

impl DatabaseUrl {
    /// The URL, for connecting.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Which database it names.
    pub fn kind(&self) -> DatabaseKind {
        match self.expose().split(':').next() {
            Some("postgres" | "postgresql") => DatabaseKind::Postgres,
            Some("mysql" | "mariadb") => DatabaseKind::MySql,
            _ => DatabaseKind::Sqlite,
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        match url.split_once(':') {
            Some(("sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb", _)) => Ok(Self(Secret::new(url))),
            _ => Err(
                "not a database URL; accepted are sqlite://FILE?mode=rwc, postgres://USER:PASSWORD@HOST/NAME and mysql://USER:PASSWORD@HOST/NAME",
            ),
        }
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self { url: DatabaseUrl(Secret::new("sqlite://countersign.db?mode=rwc")), auto_migrate: None }
    }
}

impl DatabaseSettings {
    /// Whether to migrate at start, the default resolved.
    pub fn migrates_at_start(&self) -> bool {
        self.auto_migrate.unwrap_or(self.url.kind() == DatabaseKind::Sqlite)
    }
}
