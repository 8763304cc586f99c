//! What the chart renders, given to the real binary: settings, arguments, probes, mounted keys.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{all, of};
use crate::harness::chart::{Chart, Rendered};
use crate::harness::http::Request;
use crate::harness::{Claims, Countersign, Deployment, Key, Ran, eventually_async};

/// Settings whose values name what only a cluster has, and others for here.
const HERE: [(&str, &str); 8] = [
    ("database.url", "sqlite://countersign.db?mode=rwc"),
    ("nonce.url", "memory:"),
    ("issuer.signing_keys_dir", "signing-keys"),
    ("issuer.hs256_secret_file", ""),
    ("server.tls.cert", ""),
    ("server.tls.key", ""),
    ("server.tls.client_ca", ""),
    ("admin.token_file", ""),
];

/// A deployment with the rendered settings in its directory.
fn deployed(rendered: &Rendered) -> Deployment {
    let deployment = HERE.iter().fold(Deployment::bare(), |deployment, (key, value)| deployment.set(key, value));
    deployment.file("countersign.toml", rendered.settings());
    deployment
}

#[tokio::test]
async fn every_rendered_setting_is_accepted() {
    for (name, rendered) in all() {
        let deployment = deployed(&rendered);
        deployment.done(&["migrate", "up"]);
        let ran = deployment.run(&["config", "check"]);
        assert_eq!(ran.code, 0, "{name}: {ran:?}\n{}", rendered.settings());
    }
}

/// Without the values for here: the files and hosts are missing, and nothing else.
#[tokio::test]
async fn nothing_but_the_cluster_is_missing() {
    for (name, rendered) in all() {
        let deployment = Deployment::bare();
        let file = deployment.file("rendered.toml", rendered.settings());
        let mut command = deployment.command(&["config", "check", "--config", file.to_str().unwrap()]);
        let ran = Ran::of(&mut command);
        // 2 would be for a setting that is none, or has a bad value.
        assert!([0, 1].contains(&ran.code), "{name}: {ran:?}\n{}", rendered.settings());
    }
}

/// The schema of `config` has every setting that there is, and no other.
#[tokio::test]
async fn the_schema_knows_every_setting() {
    let chart = Chart::describe();
    let schema = properties(&chart["schema"]["properties"]["config"]);
    let sections = accepted("", "bogus = 1\n");
    assert_eq!(schema.keys().cloned().collect::<BTreeSet<_>>(), sections);
    for section in &sections {
        let inner = &schema[section];
        let known: BTreeSet<String> = properties(inner).keys().cloned().collect();
        assert_eq!(known, accepted(section, &format!("[{section}]\nbogus = 1\n")), "{section}");
        assert_eq!(inner["additionalProperties"], false, "{section}");
    }
}

/// The names that the binary says it accepts beside one that it does not.
fn accepted(section: &str, file: &str) -> BTreeSet<String> {
    let deployment = Deployment::bare();
    deployment.file("countersign.toml", file);
    let ran = deployment.run(&["config", "check"]);
    assert_eq!(ran.code, 2, "{section}: {ran:?}");
    let (_, list) = ran.stderr.split_once("accepted here are ").unwrap_or_else(|| panic!("{ran:?}"));
    list.trim().split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
}

fn properties(schema: &Value) -> serde_json::Map<String, Value> {
    schema["properties"].as_object().unwrap_or_else(|| panic!("no properties: {schema}")).clone()
}

/// The service, started with the arguments and settings of the pod, answers where the probes look and decides.
#[tokio::test]
async fn a_pod_serves_and_its_probes_pass() {
    for name in ["single-node", "own-environment", "production", "tls"] {
        let rendered = of(name);
        let container = rendered.container();
        assert_eq!(strings(&container["command"]), ["countersign"]);
        assert_eq!(strings(&container["args"]), ["serve", "--config", "/etc/countersign/countersign.toml"]);
        // The settings are where the command line looks for them by itself, too.
        assert_eq!(container["workingDir"], "/etc/countersign");
        let deployment = deployed(&rendered).set("server.url_prefix", prefix(&rendered)).set("self_signed.require", "");
        let key = Key::ed25519();
        deployment.enrol("alice", &key);

        let countersign = deployment.serve();

        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            let port = match get["port"].as_str().unwrap() {
                "http" => countersign.http,
                "admin" => countersign.admin,
                other => panic!("{name}: {probe} asks {other}"),
            };
            let answer = Request::get(get["path"].as_str().unwrap()).send(port).await;
            assert_eq!(answer.status, 200, "{name}: {probe}: {answer:?}");
        }
        let path = format!("{}/validate_request", prefix(&rendered));
        let token = Claims::of("alice").authorization(&key);
        let allow = Request::get(&path).authorization(&token).send(countersign.http).await;
        assert_eq!(allow.status, 200, "{name}: {allow:?}");
    }
}

/// Where clients have to show a certificate, the node has none.
#[tokio::test]
async fn probes_ask_where_they_are_answered() {
    let probe = |name: &str| {
        let get = of(name).container()["livenessProbe"]["httpGet"].clone();
        (get["port"].as_str().unwrap().to_owned(), get["scheme"].as_str().unwrap_or("HTTP").to_owned())
    };
    assert_eq!(probe("minimal"), ("http".to_owned(), "HTTP".to_owned()));
    assert_eq!(probe("production"), ("http".to_owned(), "HTTPS".to_owned()));
    assert_eq!(probe("tls"), ("admin".to_owned(), "HTTP".to_owned()));
}

/// Listeners are where the ports of the pod are.
#[tokio::test]
async fn listeners_bind_the_ports_of_the_container() {
    for (name, rendered) in all() {
        let ports = rendered.container()["ports"].as_array().unwrap();
        for port in ports {
            let line = format!(":{}\"", port["containerPort"]);
            let listener = format!("{}_listen = ", port["name"].as_str().unwrap());
            let found = rendered.settings().lines().find(|found| found.starts_with(&listener));
            let found = found.unwrap_or_else(|| panic!("{name}: no {listener}"));
            assert!(found.ends_with(&line), "{name}: {found}");
            assert!(!found.contains("127.0.0.1"), "{name}: {found}: the node could not reach it");
        }
        assert_eq!(ports.len(), 3, "{name}");
    }
    assert!(of("own-environment").settings().contains("http_listen = \"[::]:8080\""));
}

/// The Job's own arguments, with the one setting that it is given.
#[tokio::test]
async fn the_migration_job_migrates() {
    let rendered = of("minimal");
    let container = &rendered.one("Job", "-migrate")["spec"]["template"]["spec"]["containers"][0];
    let arguments = strings(&container["args"]);
    let deployment = Deployment::bare().set("database.url", "sqlite://countersign.db?mode=rwc");

    let first = deployment.done(&arguments);

    assert!(first.contains("applied"), "{first}");
    assert_eq!(deployment.done(&arguments).trim(), "nothing to apply");
}

/// A Secret is mounted as links to a folder that is exchanged as a whole, and all of its files have one time.
#[tokio::test]
async fn signing_keys_are_read_as_a_secret_mounts_them() {
    let rendered = of("minimal");
    let deployment = deployed(&rendered);
    let folder = deployment.dir.path().join("signing-keys");
    let [old, new] = [Key::p256(), Key::p256()];
    let old_file = ("20260101T000000Z-1.pem", old.private_pem());
    mount(&folder, "..2026_01_01", &[old_file.clone()]);
    deployment.enrol("alice", &Key::ed25519());
    let countersign = deployment.serve();
    let before = kids(&countersign).await;
    assert_eq!(before.len(), 1);

    mount(&folder, "..2026_02_02", &[("20260201T000000Z-2.pem", new.private_pem()), old_file]);

    eventually_kids(&countersign, 2).await;
    let states = deployment.list(&["signing-key", "list"]);
    let signing: Vec<&Value> = states.iter().filter(|key| key["state"] == "signing").collect();
    assert_eq!(signing.len(), 1, "{states:?}");
    assert!(signing[0].to_string().contains("20260201T000000Z-2.pem"), "{states:?}");
}

async fn kids(countersign: &Countersign) -> Vec<Value> {
    let set = Request::get("/jwks").send(countersign.http).await;
    set.json()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect()
}

async fn eventually_kids(countersign: &Countersign, count: usize) {
    eventually_async("both keys are published", Duration::from_secs(20), async || {
        (kids(countersign).await.len() == count).then_some(())
    })
    .await;
}

/// As the kubelet does it: a new folder, then `..data` is turned to it, then a link for each file.
fn mount(folder: &Path, version: &str, files: &[(&str, String)]) {
    let content = folder.join(version);
    std::fs::create_dir_all(&content).unwrap();
    for (name, text) in files {
        std::fs::write(content.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for (name, _) in files {
        if !folder.join(name).exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
    }
}

/// What the rendered settings say; the probes know it, too.
fn prefix(rendered: &Rendered) -> &str {
    let line = rendered.settings().lines().find_map(|line| line.strip_prefix("url_prefix = "));
    line.map_or("", |value| value.trim_matches('"'))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}
