//! The content of the manifests in `examples/`, and errors in them, found by
//! `tests/it/peers/manifests.py`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::Ran;
use super::tools::{peer, repository};

/// The documents of one gateway's example.
#[derive(Debug, Clone)]
pub struct Manifests(Vec<Manifest>);

#[derive(Debug, Clone)]
pub struct Manifest {
    pub path: PathBuf,
    pub document: Value,
    pub problems: Vec<String>,
}

impl Manifests {
    /// The documents in `examples/GATEWAY`.
    pub fn of(gateway: &str) -> Self {
        Self::in_files(&example_files(gateway))
    }

    /// The documents in any files, in the order of the files.
    pub fn in_files(files: &[PathBuf]) -> Self {
        Self(run("check", files).iter().map(Manifest::from).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Manifest> {
        self.0.iter()
    }

    /// The only document of a file.
    pub fn file(&self, name: &str) -> &Value {
        let mut found = self.0.iter().filter(|manifest| manifest.path.ends_with(name));
        let manifest = found.next().unwrap_or_else(|| panic!("there is no {name}"));
        assert!(found.next().is_none(), "{name} has several documents");
        &manifest.document
    }

    /// The documents of a kind, in one file, or in all if `file` is `None`.
    pub fn kind(&self, kind: &str, file: Option<&str>) -> Vec<&Value> {
        let in_file = |manifest: &&Manifest| file.is_none_or(|file| manifest.path.ends_with(file));
        let found: Vec<_> = self
            .0
            .iter()
            .filter(in_file)
            .map(|manifest| &manifest.document)
            .filter(|it| it["kind"] == kind)
            .collect();
        assert!(!found.is_empty(), "there is no {kind}");
        found
    }

    /// The document of a kind and a name.
    pub fn named(&self, kind: &str, name: &str) -> &Value {
        let found =
            self.kind(kind, None).into_iter().find(|document| document["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Removes a name wherever it occurs in a list or in a text with commas, as if the author had
    /// forgotten it.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        for manifest in &mut self.0 {
            leave_out(&mut manifest.document, name);
        }
        self
    }
}

impl From<&Value> for Manifest {
    fn from(found: &Value) -> Self {
        Self {
            path: PathBuf::from(found["file"].as_str().unwrap()),
            document: found["document"].clone(),
            problems: texts(&found["problems"]),
        }
    }
}

/// Places in which an unknown field would go unnoticed, as `file kind path`.
pub fn unnoticed(files: &[PathBuf]) -> Vec<String> {
    let place = |found: &Value| {
        let file = PathBuf::from(found["file"].as_str().unwrap());
        let kind = found["kind"].as_str().unwrap_or("-");
        format!(
            "{} {kind} {}",
            file.file_name().unwrap().to_str().unwrap(),
            found["path"].as_str().unwrap()
        )
    };
    run("unnoticed", files).iter().map(place).collect()
}

/// A list of texts.
pub fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter()
        .map(|text| text.as_str().unwrap_or_else(|| panic!("no text: {text}")).to_owned())
        .collect()
}

/// The manifests of one gateway's example.
pub fn example_files(gateway: &str) -> Vec<PathBuf> {
    let is_yaml = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
    };
    let entries = std::fs::read_dir(repository().join("examples").join(gateway)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(is_yaml).collect();
    files.sort();
    assert!(!files.is_empty(), "examples/{gateway} has no manifests");
    files
}

fn run(action: &str, files: &[PathBuf]) -> Vec<Value> {
    let mut command = Command::new(peer("kubernetes_validate/bin/python"));
    command.arg(repository().join("tests/it/peers/manifests.py")).arg(action).args(files);
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_value(ran.json()).unwrap()
}

fn leave_out(value: &mut Value, name: &str) {
    match value {
        Value::Array(list) => {
            list.retain(|item| !item.as_str().is_some_and(|text| text.eq_ignore_ascii_case(name)));
            for item in list {
                leave_out(item, name);
            }
        }
        Value::Object(members) => {
            for member in members.values_mut() {
                leave_out(member, name);
            }
        }
        Value::String(text) if text.contains(", ") => {
            let others: Vec<_> =
                text.split(", ").filter(|item| !item.eq_ignore_ascii_case(name)).collect();
            *text = others.join(", ");
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
