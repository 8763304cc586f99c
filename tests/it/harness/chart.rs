//! The Helm chart: rendered by Helm 4 as a library (`tests/it/peers/helm.py`), without a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::Ran;
use super::tools::{peer, program, repository};

/// The Kubernetes releases that manifests must be valid for: the oldest that `Chart.yaml` allows,
/// and the newest with schemas.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

pub struct Chart;

/// The chart rendered with some values.
#[derive(Debug)]
pub struct Rendered {
    pub documents: Vec<Value>,
    pub notes: String,
}

impl Chart {
    pub fn dir() -> PathBuf {
        repository().join("charts/countersign")
    }

    /// A file of the chart.
    pub fn file(name: &str) -> String {
        let path = Self::dir().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The value files under `ci`, by name.
    pub fn value_files() -> Vec<(String, String)> {
        let mut names: Vec<String> = std::fs::read_dir(Self::dir().join("ci"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), Self::file(&format!("ci/{name}")))).collect()
    }

    /// `Chart.yaml`, `values.yaml` and `values.schema.json`, as Helm reads them.
    pub fn describe() -> Value {
        Self::helm(&["describe"], &[])
    }

    /// The findings of `helm lint --strict` for each of these values.
    pub fn lint(values: &[&str]) -> Vec<Value> {
        list(Self::helm(&["lint"], values))
    }

    /// The chart rendered with each of these values, or the error that rejects them.
    pub fn render(values: &[&str]) -> Vec<Result<Rendered, String>> {
        let answers = list(Self::helm(&["render"], values));
        assert_eq!(answers.len(), values.len());
        answers.into_iter().map(read).collect()
    }

    /// The chart rendered with values that must be accepted.
    pub fn rendered(values: &str) -> Rendered {
        Self::render(&[values]).remove(0).unwrap_or_else(|error| panic!("{error}\n{values}"))
    }

    /// The names of the files in the packaged chart.
    pub fn package() -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let names = list(Self::helm(&["package", dir.path().to_str().unwrap()], &[]));
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// The errors that an API server would report for these manifests.
    pub fn complaints(manifests: &[Value]) -> Vec<Value> {
        let mut command = Command::new(peer("kubernetes_validate/bin/python"));
        command
            .arg(script("chart_check.py"))
            .arg(repository().join("tests/it/fixtures/chart"))
            .args(KUBERNETES);
        list(answer(&mut command, &json!(manifests)))
    }

    fn helm(command: &[&str], values: &[&str]) -> Value {
        let mut helm = Command::new(peer("helm/bin/python"));
        helm.arg(script("helm.py")).arg(command[0]).arg(Self::dir()).args(&command[1..]);
        answer(&mut helm, &json!(values))
    }
}

impl Rendered {
    /// The only manifest of this kind whose name has this suffix.
    pub fn one(&self, kind: &str, suffix: &str) -> &Value {
        let mut found = self
            .all(kind)
            .filter(|manifest| manifest["metadata"]["name"].as_str().unwrap().ends_with(suffix));
        let one =
            found.next().unwrap_or_else(|| panic!("no {kind} *{suffix} in {:?}", self.kinds()));
        assert!(found.next().is_none(), "several {kind} *{suffix} in {:?}", self.kinds());
        one
    }

    pub fn all<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.documents.iter().filter(move |manifest| manifest["kind"] == kind)
    }

    pub fn kinds(&self) -> Vec<&str> {
        self.documents.iter().map(|manifest| manifest["kind"].as_str().unwrap()).collect()
    }

    pub fn deployment(&self) -> &Value {
        self.one("Deployment", "")
    }

    /// The service's own container.
    pub fn container(&self) -> &Value {
        let containers = &self.deployment()["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["name"], "countersign");
        &containers[0]
    }

    /// `countersign.toml`.
    pub fn settings(&self) -> &str {
        let mut found =
            self.all("ConfigMap").filter_map(|map| map["data"]["countersign.toml"].as_str());
        let settings = found.next().expect("a ConfigMap with settings");
        assert_eq!(found.next(), None, "a second ConfigMap with settings");
        settings
    }
}

/// Debian's `promtool`, in `dir`.
pub fn promtool(arguments: &[&str], dir: &Path) -> Ran {
    Ran::of(Command::new(program("promtool")).args(arguments).current_dir(dir))
}

fn script(name: &str) -> PathBuf {
    repository().join("tests/it/peers").join(name)
}

fn answer(command: &mut Command, input: &Value) -> Value {
    let ran = Ran::reading(command, input.to_string().as_bytes());
    assert_eq!(ran.code, 0, "{command:?}: {}", ran.stderr);
    ran.json()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        other => panic!("no list: {other}"),
    }
}

fn read(mut answer: Value) -> Result<Rendered, String> {
    if let Some(error) = answer["error"].as_str() {
        return Err(error.to_owned());
    }
    let notes = answer["notes"].as_str().unwrap().to_owned();
    Ok(Rendered { documents: list(answer["documents"].take()), notes })
}
