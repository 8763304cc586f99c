//! A real Envoy, nginx or Traefik with the configuration that another project would generate.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, program};
use super::{eventually_async, http};

#[derive(Debug)]
pub struct StandIn {
    pub address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl StandIn {
    /// Envoy, listening on `address`. It refuses to start if the configuration has unknown fields.
    pub async fn envoy(address: SocketAddr, config: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("envoy.json");
        std::fs::write(&file, serde_json::to_vec_pretty(config).unwrap()).unwrap();
        let mut command = Command::new(peer("envoy/envoy"));
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        Self::start("envoy", command.arg("-c").arg(file), address, dir, &address.to_string()).await
    }

    /// nginx, with `config` inside its `http` block.
    pub async fn nginx(address: SocketAddr, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nginx.conf");
        let log = dir.path().join("access.log");
        let main = "user root;\nworker_processes 1;\nerror_log stderr;\nevents {}\n";
        std::fs::write(
            &file,
            format!("{main}http {{\naccess_log {};\n{config}\n}}\n", log.display()),
        )
        .unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(dir.path()).arg("-c").arg(file);
        command
            .arg("-g")
            .arg(format!("daemon off; pid {};", dir.path().join("nginx.pid").display()));
        Self::start("nginx", &mut command, address, dir, &address.to_string()).await
    }

    /// Traefik, listening on `address` as its static configuration `fixed` says, with `dynamic`
    /// from a file. Its open route is at `host`.
    pub async fn traefik(
        address: SocketAddr,
        mut fixed: Value,
        dynamic: &Value,
        host: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [fixed_file, dynamic_file] =
            ["traefik.yaml", "dynamic.yaml"].map(|name| dir.path().join(name));
        fixed["providers"] = json!({"file": {"filename": dynamic_file}});
        // JSON is valid YAML.
        std::fs::write(&fixed_file, serde_json::to_vec_pretty(&fixed).unwrap()).unwrap();
        std::fs::write(&dynamic_file, serde_json::to_vec_pretty(dynamic).unwrap()).unwrap();
        let mut command = Command::new(peer("traefik/bin/traefik"));
        Self::start("traefik", command.arg("--configFile").arg(fixed_file), address, dir, host)
            .await
    }

    async fn start(
        name: &'static str,
        command: &mut Command,
        address: SocketAddr,
        dir: TempDir,
        host: &str,
    ) -> Self {
        let process = Process::spawn(name, command, dir.path(), Signal::Term).listening(address);
        // Listening does not mean serving.
        eventually_async("the open route", Duration::from_secs(30), async || {
            let answer =
                http::Request::get("/healthz").header("Host", host).try_send(address).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Self { address, _process: process, _dir: dir }
    }
}
