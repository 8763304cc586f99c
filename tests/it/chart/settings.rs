//! What the chart renders works with the real binary: settings, arguments, probes, mounted keys.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::{all, of};
use crate::harness::chart::{Chart, Rendered};
use crate::harness::http::Request;
use crate::harness::{Claims, Countersign, Deployment, Key, eventually_async};

/// Replaces settings that need a cluster by others that work here.
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

/// A deployment that uses the rendered settings.
fn deployed(rendered: &Rendered) -> Deployment {
    let deployment =
        HERE.iter().fold(Deployment::bare(), |deployment, (key, value)| deployment.set(key, value));
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

/// Numbers in value files have more than one type, and TOML could read some texts as another type.
#[tokio::test]
async fn values_are_written_as_toml() {
    let config = r#"
config:
  self_signed: {realm: "a \"realm\" <with> # \\ and\ttabs"}
  jwks: {max_bytes: 123456789012}
  issuer: {failures_per_peer: 0, profile_claims: [email, given_name=first]}
  admin: {open_key_registration: false}
  telemetry: {trace_sample: 0.25, decision_log_sample: 1}
"#;
    let rendered = Chart::rendered(&format!("{}{config}", Chart::file("ci/minimal-values.yaml")));
    let lines: Vec<&str> = rendered.settings().lines().collect();
    for line in [
        r#"realm = "a \"realm\" \u003cwith\u003e # \\ and\ttabs""#,
        "max_bytes = 123456789012",
        "failures_per_peer = 0",
        r#"profile_claims = ["email","given_name=first"]"#,
        "open_key_registration = false",
        "trace_sample = 0.25",
        "decision_log_sample = 1",
    ] {
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }
}

/// Unchanged, read by a command that reads all settings and connects to nothing.
#[tokio::test]
async fn no_rendered_value_is_a_bad_one() {
    for (name, rendered) in all() {
        let deployment = Deployment::bare();
        let file = deployment.file("rendered.toml", rendered.settings());
        let ran = deployment.run(&["signing-key", "list", "--config", file.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{name}: {ran:?}\n{}", rendered.settings());
    }
}

/// The schema of `config` has every setting, and no other.
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

/// The names that the binary lists as accepted when it rejects an unknown one.
fn accepted(section: &str, file: &str) -> BTreeSet<String> {
    let deployment = Deployment::bare();
    deployment.file("countersign.toml", file);
    let ran = deployment.run(&["config", "check"]);
    assert_eq!(ran.code, 2, "{section}: {ran:?}");
    let (_, list) =
        ran.stderr.split_once("accepted here are ").unwrap_or_else(|| panic!("{ran:?}"));
    list.trim().split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
}

fn properties(schema: &Value) -> serde_json::Map<String, Value> {
    schema["properties"].as_object().unwrap_or_else(|| panic!("no properties: {schema}")).clone()
}

/// Started with the arguments and settings of the pod, the service answers the probes and decides.
#[tokio::test]
async fn a_pod_serves_and_its_probes_pass() {
    for name in ["single-node", "own-environment", "production", "tls"] {
        let rendered = of(name);
        let container = rendered.container();
        assert_eq!(strings(&container["command"]), ["countersign"]);
        assert_eq!(
            strings(&container["args"]),
            ["serve", "--config", "/etc/countersign/countersign.toml"]
        );
        // The command line finds the settings without an argument, too.
        assert_eq!(container["workingDir"], "/etc/countersign");
        let deployment = deployed(&rendered)
            .set("server.url_prefix", prefix(&rendered))
            .set("self_signed.require", "");
        deployment.done(&["migrate", "up"]);
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

/// The kubelet has no client certificate: if the door requires one, probes use the admin listener.
#[tokio::test]
async fn probes_ask_where_they_are_answered() {
    let probe = |name: &str| {
        let get = of(name).container()["livenessProbe"]["httpGet"].clone();
        (
            get["port"].as_str().unwrap().to_owned(),
            get["scheme"].as_str().unwrap_or("HTTP").to_owned(),
        )
    };
    assert_eq!(probe("minimal"), ("http".to_owned(), "HTTP".to_owned()));
    assert_eq!(probe("production"), ("http".to_owned(), "HTTPS".to_owned()));
    assert_eq!(probe("tls"), ("admin".to_owned(), "HTTP".to_owned()));
}

/// The listeners use the ports of the pod.
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

/// The arguments of the Job, and the one setting that it gets.
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

/// A secret is mounted as links into a folder that is replaced as a whole, and all of its files
/// have the same modification time.
#[tokio::test]
async fn signing_keys_are_read_as_a_secret_mounts_them() {
    let rendered = of("minimal");
    let deployment = deployed(&rendered);
    let folder = deployment.dir.path().join("signing-keys");
    let [old, new] = [Key::p256(), Key::p256()];
    let old_file = (format!("{}-1.pem", time_in_name(Duration::from_hours(24))), old.private_pem());
    let new_file = (format!("{}-2.pem", time_in_name(Duration::from_mins(1))), new.private_pem());
    deployment.done(&["migrate", "up"]);
    mount(&folder, "..1", std::slice::from_ref(&old_file));
    deployment.enrol("alice", &Key::ed25519());
    let countersign = deployment.serve();
    let before = kids(&countersign).await;
    assert_eq!(before.len(), 1);

    mount(&folder, "..2", &[new_file.clone(), old_file.clone()]);

    eventually_async("both keys are published", Duration::from_secs(20), async || {
        (kids(&countersign).await.len() == 2).then_some(())
    })
    .await;
    let keys = deployment.list(&["signing-key", "list"]);
    let states: Vec<(&str, &str)> = keys
        .iter()
        .map(|key| (key["file"].as_str().unwrap(), key["state"].as_str().unwrap()))
        .collect();
    let [old, new] = [old_file, new_file].map(|(name, _)| format!("signing-keys/{name}"));
    assert_eq!(states, [(old.as_str(), "signing"), (new.as_str(), "published")]);
}

/// The time in the name of a key that was made this long ago: the name begins with it.
fn time_in_name(ago: Duration) -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    (OffsetDateTime::now_utc() - ago).format(format).unwrap()
}

async fn kids(countersign: &Countersign) -> Vec<Value> {
    let set = Request::get("/jwks").send(countersign.http).await;
    set.json()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect()
}

/// Does as the kubelet does: a new folder, then `..data` points to it, then a link for each file.
fn mount(folder: &Path, version: &str, files: &[(String, String)]) {
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

/// The paths in the rendered settings, which the probes have to use.
fn prefix(rendered: &Rendered) -> &str {
    let line = rendered.settings().lines().find_map(|line| line.strip_prefix("url_prefix = "));
    line.map_or("", |value| value.trim_matches('"'))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}
