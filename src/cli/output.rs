//! Output as a table or as JSON.

use std::io;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::{Map, Value};

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people to read.
    #[default]
    Table,
    /// JSON: an array of objects for a list, or a single object.
    Json,
}

/// Prints `rows`; each has its values in the order of `columns`.
pub(super) fn list(
    columns: &[&'static str],
    rows: Vec<Vec<Value>>,
    format: Format,
) -> io::Result<()> {
    match format {
        Format::Json => {
            let objects: Vec<Value> = rows.into_iter().map(|row| object(columns, row)).collect();
            super::print(&format!("{:#}\n", Value::Array(objects)))
        }
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(columns);
            for row in rows {
                table.add_row(row.iter().map(cell));
            }
            super::print(&format!("{}\n", table.trim_fmt()))
        }
    }
}

/// Prints one object: a line per value, or JSON.
pub(super) fn one(columns: &[&'static str], row: Vec<Value>, format: Format) -> io::Result<()> {
    match format {
        Format::Json => super::print(&format!("{:#}\n", object(columns, row))),
        Format::Table => {
            let lines = columns
                .iter()
                .zip(row)
                .map(|(name, value)| format!("{name:<14} {}\n", cell(&value)));
            super::print(&lines.collect::<String>())
        }
    }
}

/// A row as a JSON object.
pub(super) fn object(columns: &[&'static str], row: Vec<Value>) -> Value {
    Value::Object(columns.iter().map(|name| (*name).to_owned()).zip(row).collect::<Map<_, _>>())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A JSON string, or null.
pub(super) fn text(value: Option<&str>) -> Value {
    value.map_or(Value::Null, Value::from)
}

/// A time as RFC 3339, or null.
pub(super) fn moment(at: Option<crate::domain::time::UnixMillis>) -> Value {
    at.map_or(Value::Null, |at| Value::String(at.to_rfc3339()))
}
