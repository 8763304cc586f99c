//! `values.yaml`, `values.schema.json`, `Chart.yaml` and the README agree.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::harness::chart::Chart;

/// The marks before and after the table of values in the README.
const TABLE: (&str, &str) = ("<!-- values -->\n", "<!-- end of values -->\n");

/// `UPDATE_DOCS=1 cargo nextest run --all-features --test it chart::values` writes it.
#[tokio::test]
async fn the_readme_lists_every_value() {
    let readme = Chart::file("README.md");
    let (before, rest) = readme.split_once(TABLE.0).expect("where the table begins");
    let (_, after) = rest.split_once(TABLE.1).expect("where the table ends");
    let expected = format!("{before}{}{}{}{after}", TABLE.0, table(), TABLE.1);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(Chart::dir().join("README.md"), &expected).unwrap();
        return;
    }
    assert!(
        readme == expected,
        "the table is stale: run UPDATE_DOCS=1 cargo nextest run --all-features --test it chart::values"
    );
}

/// Every leaf of `values.yaml` has a description, its own or that of a parent.
#[tokio::test]
async fn every_value_is_described() {
    let described: BTreeSet<String> = described().into_iter().map(|(key, _)| key).collect();
    for leaf in leaves(&Chart::describe()["values"], "") {
        let mut own = leaf.as_str();
        while !described.contains(own) {
            own = own.rsplit_once('.').unwrap_or_else(|| panic!("{leaf} has no `# --`")).0;
        }
    }
}

/// The schema accepts exactly the values in `values.yaml`.
#[tokio::test]
async fn the_schema_takes_what_there_is() {
    let chart = Chart::describe();
    let (values, schema) = (&chart["values"], &chart["schema"]);
    let mut known = Vec::new();
    objects(schema, schema, values, "", &mut known);
    assert!(known.len() > 20, "{known:?}");
    for (path, properties) in known {
        let mut properties = properties.clone();
        // For charts that use this one as a dependency.
        if path.is_empty() {
            assert!(properties.remove("global"));
        }
        let value = chart["values"].pointer(&path).unwrap();
        let keys: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, properties, "{path}");
    }
}

#[tokio::test]
async fn versions_are_those_of_the_package() {
    let metadata = &Chart::describe()["metadata"];
    assert_eq!(metadata["apiVersion"], "v2");
    assert_eq!(metadata["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// The objects with a fixed list of keys, and these keys; users fill the objects that are empty in
/// `values.yaml`.
fn objects(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: &str,
    found: &mut Vec<(String, BTreeSet<String>)>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let Some(value) = value.as_object().filter(|value| !value.is_empty()) else { return };
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{path} takes anything");
    // Kubernetes defines what a container may request.
    if !path.ends_with("/resources") {
        found.push((path.to_owned(), properties.keys().cloned().collect()));
    }
    for (key, inner) in value {
        objects(root, &properties[key], inner, &format!("{path}/{key}"), found);
    }
}

fn table() -> String {
    let values = Chart::describe()["values"].clone();
    let mut table = String::from("| value | default | meaning |\n| --- | --- | --- |\n");
    for (key, description) in described() {
        let default = values
            .pointer(&format!("/{}", key.replace('.', "/")))
            .unwrap_or_else(|| panic!("{key} is not there"));
        let default = match default {
            Value::String(text) if text.is_empty() => "empty".to_owned(),
            Value::Object(object) if object.is_empty() => "none".to_owned(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::String(text) => format!("`{text}`"),
            Value::Object(_) => "see [values.yaml](values.yaml)".to_owned(),
            other => format!("`{other}`"),
        };
        writeln!(table, "| `{key}` | {default} | {} |", description.replace('|', "\\|")).unwrap();
    }
    table
}

/// The keys in `values.yaml` with a description (a line `# -- ...`), and the description.
fn described() -> Vec<(String, String)> {
    let text = Chart::file("values.yaml");
    let (mut found, mut path, mut description) = (Vec::new(), Vec::<(usize, String)>::new(), None);
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(words) = content.strip_prefix("# -- ") {
            description = Some(words.to_owned());
            continue;
        }
        let Some((key, _)) = content.split_once(':').filter(|_| !content.starts_with(['#', '-']))
        else {
            continue;
        };
        let indentation = line.len() - content.len();
        path.retain(|(outer, _)| *outer < indentation);
        path.push((indentation, key.to_owned()));
        if let Some(description) = description.take() {
            let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
            found.push((names.join("."), description));
        }
    }
    found
}

fn leaves(value: &Value, path: &str) -> Vec<String> {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => object
            .iter()
            .flat_map(|(key, inner)| {
                leaves(inner, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") })
            })
            .collect(),
        None => vec![path.to_owned()],
    }
}
