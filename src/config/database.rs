//! The database of principals, their keys and trusts, API keys, issued tokens and the audit log.

use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::{
    Contradiction,
    values::{self, Secret},
};

/// `database.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseSettings {
    /// The database URL: `sqlite://FILE?mode=rwc`, `postgres://USER:PASSWORD@HOST/NAME` or
    /// `mysql://USER:PASSWORD@HOST/NAME`, the last also for MariaDB. All replicas share one
    /// database; SQLite works for a single replica only. If there are several servers and only one
    /// accepts writes, list them:
    /// `postgres://USER:PASSWORD@HOST1:5432,HOST2:5432/NAME?target_session_attrs=read-write`. A
    /// connection pooler such as `PgBouncer` is detected. Default
    /// `sqlite://countersign.db?mode=rwc`.
    #[serde(deserialize_with = "values::parsed")]
    pub url: DatabaseUrl,
    /// Whether `serve` migrates the database before it starts. If it does not, run
    /// `countersign migrate up`. Default true for SQLite, else false.
    #[serde(deserialize_with = "values::optional")]
    pub auto_migrate: Option<bool>,
}

/// The kind of database that a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// SQLite, embedded.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// A database URL. It may hold a password, so no part of it is ever shown.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    kind: DatabaseKind,
    servers: Vec<Secret>,
    /// Names of URL parameters that have no effect.
    ignored: Vec<String>,
}

const BAD_URL: &str = "not a database URL; expected sqlite://FILE?mode=rwc, postgres://USER:PASSWORD@HOST/NAME or \
                       mysql://USER:PASSWORD@HOST/NAME; in USER and PASSWORD, characters such as `/ ? # @ :` are percent-encoded";

/// The parameters that `sqlx` understands after the `?`; it would silently drop any other.
const POSTGRES_PARAMETERS: [&str; 19] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
    TARGET,
];
const MYSQL_PARAMETERS: [&str; 13] = [
    "charset",
    "collation",
    "socket",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "sslca",
    "sslcert",
    "sslkey",
    "sslmode",
    "statement-cache-capacity",
    TARGET,
];
const TARGET: &str = "target_session_attrs";

impl DatabaseUrl {
    /// One URL for each server, for connecting. The caller uses the server that accepts writes.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &str> {
        self.servers.iter().map(Secret::expose)
    }

    /// The kind of database.
    pub const fn kind(&self) -> DatabaseKind {
        self.kind
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Secret::new("").serialize(serializer)
    }
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = url.split_once(':').ok_or(BAD_URL)?;
        let (kind, scheme) = match scheme {
            "sqlite" => (DatabaseKind::Sqlite, scheme),
            "postgres" | "postgresql" => (DatabaseKind::Postgres, "postgres"),
            "mysql" | "mariadb" => (DatabaseKind::MySql, "mysql"),
            _ => return Err(BAD_URL),
        };
        if kind == DatabaseKind::Sqlite {
            return Ok(Self { kind, servers: vec![Secret::new(url)], ignored: Vec::new() });
        }
        let rest = rest.strip_prefix("//").ok_or(BAD_URL)?;
        let (authority, path_and_query) =
            rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        // An unencoded `/`, `?` or `#` in a password would make the rest of it look like the name
        // of the database.
        if path.contains(['@', '#']) || query.contains('#') {
            return Err(BAD_URL);
        }
        let (login, hosts) =
            authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let (query, ignored) = known_parameters(kind, query)?;
        let at = if login.is_empty() { "" } else { "@" };
        let servers = hosts.split(',').map(|host| {
            let server = format!("{scheme}://{login}{at}{host}{path}?{query}");
            let is_host = !host.is_empty() || !hosts.contains(',');
            (is_host && (host.is_empty() || Url::parse(&server).is_ok()))
                .then(|| Secret::new(server))
                .ok_or(BAD_URL)
        });
        Ok(Self { kind, servers: servers.collect::<Result<_, _>>()?, ignored })
    }
}

/// Splits parameters into the known ones and the names of the others.
fn known_parameters(
    kind: DatabaseKind,
    query: &str,
) -> Result<(String, Vec<String>), &'static str> {
    let known: &[&str] =
        if kind == DatabaseKind::Postgres { &POSTGRES_PARAMETERS } else { &MYSQL_PARAMETERS };
    let (mut kept, mut ignored) =
        (url::form_urlencoded::Serializer::new(String::new()), Vec::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name == TARGET {
            if !matches!(&*value, "read-write" | "primary") {
                return Err(
                    "not a database URL that can be used: expected of `target_session_attrs` is `read-write` or `primary`, \
                            because this service makes changes",
                );
            }
        } else if known.contains(&&*name) || name.starts_with("options[") {
            kept.append_pair(&name, &value);
        } else {
            ignored.push(name.into_owned());
        }
    }
    Ok((kept.finish(), ignored))
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        let url = Secret::new("sqlite://countersign.db?mode=rwc");
        let url =
            DatabaseUrl { kind: DatabaseKind::Sqlite, servers: vec![url], ignored: Vec::new() };
        Self { url, auto_migrate: None }
    }
}

impl DatabaseSettings {
    /// Whether to migrate at start, with the default applied.
    pub fn migrates_at_start(&self) -> bool {
        self.auto_migrate.unwrap_or(self.url.kind() == DatabaseKind::Sqlite)
    }

    pub(super) fn warnings(&self) -> Vec<Contradiction> {
        let reason = |name: &String| {
            format!("the parameter {name:?} of the URL means nothing here and is ignored")
        };
        self.url
            .ignored
            .iter()
            .map(|name| Contradiction { key: "database.url", reason: reason(name) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(url: &str) -> Vec<String> {
        url.parse::<DatabaseUrl>().unwrap().servers().map(str::to_owned).collect()
    }

    #[test]
    fn each_server_has_a_url() {
        for (url, expected) in [
            ("sqlite://a.db?mode=rwc", vec!["sqlite://a.db?mode=rwc"]),
            ("sqlite::memory:", vec!["sqlite::memory:"]),
            ("postgres://u:p@h/n", vec!["postgres://u:p@h/n?"]),
            (
                "postgresql://u:p%2F@[::1]:5433/n?sslmode=require",
                vec!["postgres://u:p%2F@[::1]:5433/n?sslmode=require"],
            ),
            ("postgres:///n?host=/run/postgresql", vec!["postgres:///n?host=%2Frun%2Fpostgresql"]),
            ("mariadb://u:p@h/n", vec!["mysql://u:p@h/n?"]),
            (
                "postgres://u:p@one:1,two:2/n?target_session_attrs=read-write&sslmode=require",
                vec![
                    "postgres://u:p@one:1/n?sslmode=require",
                    "postgres://u:p@two:2/n?sslmode=require",
                ],
            ),
            (
                "mysql://u:p@one,two/n?target_session_attrs=primary",
                vec!["mysql://u:p@one/n?", "mysql://u:p@two/n?"],
            ),
        ] {
            assert_eq!(servers(url), expected, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_not_quoted() {
        for url in [
            "",
            "h",
            "oracle://u:hunter2@h",
            "postgres:u:hunter2@h",
            "postgres://u:hunter2@h:port/n",
            "postgres://u:hun/ter2@h/n",
            "postgres://u:hun#ter2@h/n",
            "postgres://u:hun?ter2@h/n#",
            "postgres://u:hunter2@one,/n",
            "mysql://u:hunter2@[::1/n",
            "postgres://u:hunter2@one,two/n?target_session_attrs=any",
            "postgres://u:hunter2@h/n?target_session_attrs=standby",
        ] {
            let error = url.parse::<DatabaseUrl>().unwrap_err();
            assert!(!error.contains("hun") && !error.contains("ter2"), "{url}: {error}");
        }
    }

    #[test]
    fn parameters_that_mean_nothing_are_named_and_dropped() {
        let settings = DatabaseSettings {
            url: "postgres://u@h/n?connect_timeout=10&passwort=hunter2&sslmode=require"
                .parse()
                .unwrap(),
            auto_migrate: None,
        };
        assert!(settings.url.servers().eq(["postgres://u@h/n?sslmode=require"]));
        let warnings: Vec<String> =
            settings.warnings().into_iter().map(|warning| warning.reason).collect();
        assert!(
            warnings.len() == 2
                && warnings[0].contains("connect_timeout")
                && !warnings[1].contains("hunter2"),
            "{warnings:?}"
        );
    }
}
