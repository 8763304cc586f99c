//! Listings, as a table or as JSON.

use std::io;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::{Map, Value};

/// How a listing is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// An array of objects for a list, one object for one thing.
    Json,
}

/// Writes `rows`, each with the values of `columns`, in the same order.
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

/// Writes one object: a line for each value, or JSON.
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

/// One row as an object.
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

/// A text, or null.
pub(super) fn text(value: Option<&str>) -> Value {
    value.map_or(Value::Null, Value::from)
}

/// A moment as RFC 3339, or null.
pub(super) fn moment(at: Option<crate::domain::time::UnixMillis>) -> Value {
    at.map_or(Value::Null, |at| Value::String(at.to_rfc3339()))
}
