//! Reading settings from their sources, with errors that name the source.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::{Contradiction, Settings};

/// The file that is read if none is named and this one exists.
pub const DEFAULT_FILE: &str = "countersign.toml";

const PREFIX: &str = "COUNTERSIGN_";

/// Why the settings cannot be used. Messages name the key, where it was set, and what is expected.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file named by the user cannot be read.
    #[error("the settings file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the settings file {path} is not valid TOML: {reason}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The position and the cause.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown setting `{key}`, set in {origin}; accepted here are {accepted}")]
    UnknownKey {
        /// The full key, with its sections.
        key: String,
        /// The file or variable that sets it.
        origin: String,
        /// The keys that exist in the same section.
        accepted: String,
    },
    /// A value that is not valid for the key.
    #[error("bad value for the setting `{key}`, set in {origin}: {reason}")]
    BadValue {
        /// The full key, with its sections.
        key: String,
        /// The file or variable that sets it.
        origin: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The sources could not be merged.
    #[error("the settings cannot be read")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

/// Reads the settings: `file`, or [`DEFAULT_FILE`] if it exists, overridden by `environment`.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let path = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned);
    match std::fs::read_to_string(&path) {
        Ok(text) => read(Some(text), path, environment),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            read(None, path, environment)
        }
        Err(source) => Err(SettingsError::Unreadable { path, source }),
    }
}

/// Like [`load`], but from the `text` of a file, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn load_text(text: &str) -> Result<Settings, SettingsError> {
    read(Some(text.to_owned()), PathBuf::from(DEFAULT_FILE), [])
}

/// Reads the settings from the `text` of the file at `path`, if there is one, overridden by
/// `environment`.
fn read(
    text: Option<String>,
    path: PathBuf,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let mut builder = Config::builder();
    if let Some(text) = text {
        builder = builder.add_source(FileText { text, path: path.clone() });
    }
    let schema = schema()?;
    let environment = Environment::read(environment, &schema)?;
    let merged = builder.add_source(environment).build().map_err(|error| match error {
        ConfigError::FileParse { cause, .. } => {
            SettingsError::NotToml { path, reason: one_line(&without_source(&cause.to_string())) }
        }
        other => SettingsError::Other(other.into()),
    })?;
    let root = merged.cache;
    check_keys(&root, &schema, "")?;
    let settings: Settings = serde_path_to_error::deserialize(root.clone()).map_err(|error| {
        let key = error.path().to_string();
        let reason = without_value(error.into_inner());
        SettingsError::BadValue { origin: origin(&root, &key), reason, key }
    })?;
    match settings.contradictions().into_iter().next() {
        None => Ok(settings),
        Some(Contradiction { key, reason }) => {
            Err(SettingsError::BadValue { key: key.to_owned(), origin: origin(&root, key), reason })
        }
    }
}

/// All keys that exist, taken from the serialized default settings.
fn schema() -> Result<Json, SettingsError> {
    serde_json::to_value(Settings::default()).map_err(|error| SettingsError::Other(error.into()))
}

fn check_keys(value: &Value, schema: &Json, path: &str) -> Result<(), SettingsError> {
    let (ValueKind::Table(table), Json::Object(known)) = (&value.kind, schema) else {
        return Ok(());
    };
    for (name, value) in table {
        let key = join(path, name);
        let Some(schema) = known.get(name) else {
            let origin = first_origin(value);
            return Err(SettingsError::UnknownKey { key, origin, accepted: names(known) });
        };
        check_keys(value, schema, &key)?;
    }
    Ok(())
}

fn names(known: &serde_json::Map<String, Json>) -> String {
    known.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The file or variable that set the value at `key`.
fn origin(root: &Value, key: &str) -> String {
    let mut value = root;
    for name in key.split('.') {
        match &value.kind {
            ValueKind::Table(table) => match table.get(name) {
                Some(inner) => value = inner,
                None => break,
            },
            _ => break,
        }
    }
    match &value.kind {
        ValueKind::Table(_) if value.origin().is_none() && key.contains('.') => {
            "its default".to_owned()
        }
        _ => first_origin(value),
    }
}

/// A table has no origin itself; its first entry does.
fn first_origin(value: &Value) -> String {
    match (value.origin(), &value.kind) {
        (Some(origin), _) => origin.to_owned(),
        (None, ValueKind::Table(table)) => {
            table.values().next().map_or_else(|| "the settings".to_owned(), first_origin)
        }
        (None, _) => "the settings".to_owned(),
    }
}

/// The reason without the value, which may be a secret.
fn without_value(error: ConfigError) -> String {
    match error {
        ConfigError::Type { expected, .. } => {
            format!("the value is of the wrong type; expected is {expected}")
        }
        ConfigError::At { error, .. } => without_value(*error),
        ConfigError::Message(message) => message,
        other => one_line(&other.to_string()),
    }
}

/// The parser quotes the offending line between the position and the reason, and that line may hold
/// a password.
fn without_source(text: &str) -> String {
    let is_source = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|')
    };
    text.lines().filter(|line| !is_source(line)).collect::<Vec<_>>().join("\n")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Clone, Debug)]
struct FileText {
    text: String,
    path: PathBuf,
}

impl Source for FileText {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut table = File::from_str(&self.text, FileFormat::Toml).collect()?;
        for value in table.values_mut() {
            set_origin(value, &self.path.display().to_string());
        }
        Ok(table)
    }
}

fn set_origin(value: &mut Value, origin: &str) {
    let kind = std::mem::replace(&mut value.kind, ValueKind::Nil);
    let kind = match kind {
        ValueKind::Table(mut table) => {
            for inner in table.values_mut() {
                set_origin(inner, origin);
            }
            ValueKind::Table(table)
        }
        other => other,
    };
    *value = Value::new(Some(&origin.to_owned()), kind);
}

/// The environment variables that are settings: `COUNTERSIGN_`, then the sections and the key,
/// joined by `__`.
#[derive(Clone, Debug)]
struct Environment(Vec<(String, String, String)>);

impl Environment {
    /// Other variables with our prefix are ignored: orchestrators set variables such as
    /// `COUNTERSIGN_SERVICE_HOST` for a service of our name. But a variable that only lacks the
    /// second underscore is an error, since the mistake would go unnoticed.
    fn read(
        variables: impl IntoIterator<Item = (String, String)>,
        schema: &Json,
    ) -> Result<Self, SettingsError> {
        let known = leaves(schema, "");
        let mut settings = Vec::new();
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            let name = name.to_ascii_lowercase();
            if name.contains("__") {
                settings.push((name.replace("__", "."), value, variable));
            } else if let Some(meant) = known.iter().find(|key| key.replace('.', "_") == name) {
                let spelling = format!("{PREFIX}{}", meant.replace('.', "__").to_ascii_uppercase());
                return Err(SettingsError::UnknownKey {
                    key: name,
                    origin: format!("the environment ({variable})"),
                    accepted: spelling,
                });
            }
        }
        settings.sort();
        Ok(Self(settings))
    }
}

fn leaves(schema: &Json, path: &str) -> Vec<String> {
    match schema {
        Json::Object(known) => {
            known.iter().flat_map(|(name, inner)| leaves(inner, &join(path, name))).collect()
        }
        _ => vec![path.to_owned()],
    }
}

impl Source for Environment {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let entries = self.0.iter().map(|(key, value, variable)| {
            let origin = format!("the environment ({variable})");
            (key.clone(), Value::new(Some(&origin), ValueKind::String(value.clone())))
        });
        Ok(entries.collect())
    }
}

#[cfg(test)]
mod tests;
