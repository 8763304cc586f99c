//! Databases that store principals and keys.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use sea_orm::ConnectionTrait as _;
use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{postgres_program, program};
use super::{Authority, free_port};

/// An empty database. Its server, if it has one, ends when this is dropped.
pub struct Database {
    pub url: String,
    server: Option<Process>,
    /// The server's files, kept after the server has ended.
    files: Option<Files>,
}

struct Files {
    dir: TempDir,
    port: u16,
}

impl Database {
    /// A SQLite file in the directory of the deployment.
    pub fn sqlite() -> Self {
        Self { url: "sqlite://countersign.db?mode=rwc".to_owned(), server: None, files: None }
    }

    /// Ends the server like a crash would.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Its URL through a relay at `address`.
    pub fn url_through(&self, address: SocketAddr) -> String {
        self.url.replace(&self.address().to_string(), &address.to_string())
    }

    /// Starts a stopped `PostgreSQL` at the same address, with its data.
    pub fn restart(&mut self) {
        let files = self.files.as_ref().expect("a database with a server");
        self.server = Some(start_postgres(files));
    }

    pub fn postgres() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = unprivileged_user(dir.path());
        let data = dir.path().join("data");
        run(as_user(user.as_ref(), &postgres_program("initdb"))
            .args([
                "--username=countersign",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(&data));
        let files = Files { dir, port: free_port() };
        let server = start_postgres(&files);
        let url = format!("postgres://countersign@127.0.0.1:{}/postgres", files.port);
        Self { url, server: Some(server), files: Some(files) }
    }

    pub fn mariadb() -> Self {
        Self::mariadb_with(&[])
    }

    /// A MariaDB with these command line options.
    pub fn mariadb_with(options: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        // If root runs the server, it requires this option.
        let user = format!(
            "--user={}",
            String::from_utf8(run(Command::new("id").arg("-un"))).unwrap().trim()
        );
        run(Command::new(program("mariadb-install-db"))
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                &user,
            ])
            .arg(format!("--datadir={}", data.display()))
            // Two servers at the same time would use the same names for temporary files.
            .env("TMPDIR", dir.path()));
        let init = dir.path().join("init.sql");
        std::fs::write(&init, "CREATE DATABASE countersign;\n").unwrap();
        let port = free_port();
        let process = Process::spawn(
            "mariadbd",
            Command::new(program("mariadbd"))
                .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-networking=0", &user])
                .arg(format!("--port={port}"))
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--init-file={}", init.display()))
                .arg(format!("--socket={}", dir.path().join("socket").display()))
                .arg(format!("--pid-file={}", dir.path().join("pid").display()))
                .args(options),
            dir.path(),
            Signal::Term,
        );
        let process = process.listening(SocketAddr::from(([127, 0, 0, 1], port)));
        let url = format!("mysql://root@127.0.0.1:{port}/countersign");
        Self { url, server: Some(process), files: Some(Files { dir, port }) }
    }

    /// A `PostgreSQL` that replicates this one, and is read-only until it is promoted.
    pub fn standby(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = unprivileged_user(dir.path());
        let primary = self.files.as_ref().expect("a database with a server");
        run(as_user(user.as_ref(), &postgres_program("pg_basebackup"))
            .args([
                "--host=127.0.0.1",
                "--username=countersign",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .arg(format!("--port={}", primary.port))
            .arg(format!("--pgdata={}", dir.path().join("data").display())));
        let files = Files { dir, port: free_port() };
        let server = start_postgres(&files);
        Self {
            url: self.url_through(SocketAddr::from(([127, 0, 0, 1], files.port))),
            server: Some(server),
            files: Some(files),
        }
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        execute(&self.url, "SELECT pg_promote()").await;
    }

    /// Makes it read-only, like a primary that was replaced, or writable again. Connections stay
    /// open.
    pub async fn refuse_changes(&self, refused: bool) {
        if self.url.starts_with("mysql") {
            execute(&self.url, &format!("SET GLOBAL read_only = {}", u8::from(refused))).await;
            return;
        }
        execute(&self.url, &format!("ALTER SYSTEM SET default_transaction_read_only = {refused}"))
            .await;
        execute(&self.url, "SELECT pg_reload_conf()").await;
    }

    /// The URL of a user who may change the tables in any way, but not the server.
    pub async fn url_of_a_user(&self) -> String {
        if self.url.starts_with("postgres") {
            for statement in
                ["CREATE USER tables PASSWORD 'tables'", "GRANT ALL ON SCHEMA public TO tables"]
            {
                execute(&self.url, statement).await;
            }
            return self.url.replace("countersign@", "tables:tables@");
        }
        for statement in [
            "CREATE USER tables@'%' IDENTIFIED BY 'tables'",
            "GRANT ALL ON countersign.* TO tables@'%'",
        ] {
            execute(&self.url, statement).await;
        }
        self.url.replace("root@", "tables:tables@")
    }

    /// Sends a signal to every process of its server.
    pub fn signal(&self, signal: Signal) {
        self.server.as_ref().expect("a database with a server").signal_all(signal);
    }

    /// The address of its server.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((
            [127, 0, 0, 1],
            self.files.as_ref().expect("a database with a server").port,
        ))
    }
}

impl Database {
    /// Makes a `PostgreSQL` accept connections over TLS as well, with the certificate `server` of
    /// `authority`.
    pub async fn serve_tls(&self, authority: &Authority) {
        self.serve_certificate(&authority.file("server", "pem"), &authority.file("server", "key"))
            .await;
    }

    /// Makes it accept TLS connections with the certificate in these files.
    pub async fn serve_certificate(&self, certificate: &Path, key: &Path) {
        let data = self.files.as_ref().expect("a database with a server").dir.path().join("data");
        let owner = std::fs::metadata(&data).unwrap();
        for (kind, from) in [("pem", certificate), ("key", key)] {
            let file = data.join(format!("server.{kind}"));
            std::fs::copy(from, &file).unwrap();
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        for (setting, value) in
            [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("ssl", "on")]
        {
            execute(&self.url, &format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
        }
        execute(&self.url, "SELECT pg_reload_conf()").await;
    }
}

/// Runs one statement at the server of `url`.
pub async fn execute(url: &str, statement: &str) {
    let connection = sea_orm::Database::connect(url).await.unwrap();
    connection
        .execute_unprepared(statement)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
    connection.close().await.unwrap();
}

fn start_postgres(files: &Files) -> Process {
    let (user, data, port) =
        (unprivileged_user(files.dir.path()), files.dir.path().join("data"), files.port);
    let process = Process::spawn(
        "postgres",
        as_user(user.as_ref(), &postgres_program("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
            ])
            .args(["-c", "max_wal_senders=4"])
            .args(["-c", &format!("port={port}")]),
        files.dir.path(),
        Signal::Quit,
    );
    let mut process = process.listening(SocketAddr::from(([127, 0, 0, 1], port)));
    process.wait_until(|| process_says(&data.join("postmaster.pid"), "ready"));
    process
}

/// The last line of `postmaster.pid` is the state of the server.
fn process_says(file: &Path, state: &str) -> Option<()> {
    let text = std::fs::read_to_string(file).ok()?;
    (text.lines().last()?.trim() == state).then_some(())
}

/// `PostgreSQL` refuses to run as root. If root runs the tests, a user to run it as, who becomes
/// the owner of `dir`.
pub(super) fn unprivileged_user(dir: &Path) -> Option<(String, String)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    if id(&["-u"]).unwrap() != "0" {
        return None;
    }
    let name = if id(&["-u", "postgres"]).is_some() { "postgres" } else { "nobody" };
    let (user, group) = (id(&["-u", name]).unwrap(), id(&["-g", name]).unwrap());
    std::os::unix::fs::chown(dir, Some(user.parse().unwrap()), Some(group.parse().unwrap()))
        .unwrap();
    Some((user, group))
}

pub(super) fn as_user(user: Option<&(String, String)>, program: &Path) -> Command {
    let Some((user, group)) = user else { return Command::new(program) };
    let mut command = Command::new(super::tools::program("setpriv"));
    command.args(["--reuid", user, "--regid", group, "--clear-groups"]).arg(program);
    // The user may not be allowed to enter the directory in which the tests were started.
    command.current_dir("/");
    command
}

/// Runs a setup command to its end, and returns its output.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {complaint}");
    output.stdout
}
