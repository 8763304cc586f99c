//! `PgBouncer` in front of a `PostgreSQL`.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::database::{as_user, unprivileged_user};
use super::process::{Process, Signal};
use super::{Database, free_port, program};

/// How the pool assigns server connections to clients.
#[derive(Clone, Copy, Debug)]
pub enum PoolMode {
    /// A client keeps its server connection until it disconnects.
    Session,
    /// A client gets any free server connection for each transaction.
    Transaction,
}

pub struct PgBouncer {
    /// The URL of the database through it.
    pub url: String,
    _process: Process,
    _dir: TempDir,
}

impl PgBouncer {
    /// Has fewer server connections than a single replica may open, so that they are shared.
    pub fn before(database: &Database, mode: PoolMode) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        let size = if mode == "session" { 40 } else { 3 };
        let server = database.address();
        let path = dir.path().display();
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {path}/users\npool_mode = {mode}\ndefault_pool_size = {size}\n\
             pidfile = {path}/pid\nlogfile = {path}/log\n",
            server.ip(),
            server.port(),
        );
        std::fs::write(dir.path().join("settings.ini"), settings).unwrap();
        std::fs::write(dir.path().join("users"), "\"countersign\" \"\"\n").unwrap();
        let user = unprivileged_user(dir.path());
        let mut command = as_user(user.as_ref(), &program("pgbouncer"));
        command.arg("-q").arg(dir.path().join("settings.ini"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let process =
            Process::spawn("pgbouncer", &mut command, dir.path(), Signal::Kill).listening(address);
        Self { url: database.url_through(address), _process: process, _dir: dir }
    }
}
