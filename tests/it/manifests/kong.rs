//! Kong 3.9 with the plugin of `examples/kong`, which runs in `tests/it/peers/kong.py`.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::passage::{Asked, PORT, Passage};
use crate::harness::{Manifests, Ran, peer, repository};

const PLUGIN: &str = "kong/plugins/countersign";

pub struct Kong {
    routes: Vec<Route>,
    countersign: SocketAddr,
    /// The plugin after an edit of the example's.
    edited: Option<TempDir>,
}

struct Route {
    path: String,
    config: Value,
}

impl Kong {
    pub fn new(manifests: &Manifests, countersign: SocketAddr) -> Self {
        let kong = manifests.file("kong.yml");
        let global = config(&kong["plugins"]).expect("there is no global plugin");
        let routes = kong["services"][0]["routes"].as_array().unwrap().iter();
        let routes = routes.map(|route| Route {
            path: route["paths"][0].as_str().unwrap().to_owned(),
            // A route's own plugin replaces the global one.
            config: config(&route["plugins"]).unwrap_or_else(|| global.clone()),
        });
        let mut routes: Vec<_> = routes.collect();
        // Regular expressions first, then the longest prefix.
        routes.sort_by_key(|route| {
            (!route.path.starts_with('~'), std::cmp::Reverse(route.path.len()))
        });
        Self { routes, countersign, edited: None }
    }

    /// Puts `new` in place of `old` in the plugin's handler, as it is in the example.
    pub fn edit(&mut self, old: &str, new: &str) {
        let (example, edited) =
            (repository().join("examples/kong").join(PLUGIN), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(edited.path().join(PLUGIN)).unwrap();
        for file in ["handler.lua", "schema.lua"] {
            std::fs::copy(example.join(file), edited.path().join(PLUGIN).join(file)).unwrap();
        }
        let handler = std::fs::read_to_string(example.join("handler.lua")).unwrap();
        assert!(handler.contains(old), "the plugin has no `{old}` any more");
        std::fs::write(edited.path().join(PLUGIN).join("handler.lua"), handler.replace(old, new))
            .unwrap();
        self.edited = Some(edited);
    }

    pub fn send(&self, asked: &Asked) -> Passage {
        let route = self.routes.iter().find(|route| route.matches(asked.path())).unwrap();
        let told = self.run(asked, &route.config);
        let pairs =
            |list: &Value| serde_json::from_value::<Vec<(String, String)>>(list.clone()).unwrap();
        match told["exit"].as_object() {
            Some(exit) => {
                let status =
                    exit["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap();
                Passage { status, headers: pairs(&exit["headers"]), seen: None }
            }
            None => Passage::on(asked, pairs(&told["headers"])),
        }
    }

    /// Runs the plugin's access phase, with the address of the real service in its configuration.
    fn run(&self, asked: &Asked, config: &Value) -> Value {
        let mut config = config.clone();
        if let Some(url) = config["url"].as_str() {
            config["url"] = json!(url.replace("127.0.0.1:8080", &self.countersign.to_string()));
        }
        let input = json!({
            "config": config,
            "request": {
                "method": asked.method, "target": asked.target, "scheme": "http", "peer": "192.0.2.7", "headers": asked.headers,
                // The Host line, nginx's host from the target or the Host line, and Kong's own
                // port.
                "host": asked.host_line, "server": asked.server(), "port": PORT,
            },
        });
        let mut command = Command::new(peer("lupa/bin/python"));
        command.arg(repository().join("tests/it/peers/kong.py"));
        command.arg(
            self.edited
                .as_ref()
                .map_or_else(|| repository().join("examples/kong"), |dir| dir.path().to_owned()),
        );
        let ran = Ran::reading(&mut command, input.to_string().as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    }
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match self.path.strip_prefix('~').map(|pattern| pattern.strip_suffix('$')) {
            Some(whole) => whole == Some(path),
            None => path.starts_with(&self.path),
        }
    }
}

/// The configuration of our plugin, in a list of plugins.
fn config(plugins: &Value) -> Option<Value> {
    let ours = plugins.as_array()?.iter().find(|plugin| plugin["name"] == "countersign");
    ours.map(|plugin| plugin["config"].clone())
}
