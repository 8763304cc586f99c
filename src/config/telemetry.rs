//! Logs and traces.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values;

/// `telemetry.*`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetrySettings {
    /// What is logged: a level, or directives such as `info,countersign=debug`. Default `info`.
    #[serde(deserialize_with = "values::parsed")]
    pub log: LogFilter,
    /// `json` or `text`. Default `json`.
    #[serde(deserialize_with = "values::parsed")]
    pub log_format: LogFormat,
    /// Where traces are sent. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub otlp_endpoint: Option<String>,
    /// Which decisions are logged: `all`, `denied` (with those that were *unavailable*) or `off`. Default `denied`.
    #[serde(deserialize_with = "values::parsed")]
    pub decision_log: DecisionLog,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives, known to be valid.
    pub fn directives(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = &'static str;

    fn from_str(directives: &str) -> Result<Self, Self::Err> {
        const ACCEPTED: &str = "accepted are error, warn, info, debug, trace, or directives such as info,countersign=debug";
        // A word that is no level would be taken for the name of a module, and silence everything else.
        let is_level =
            |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str());
        let plain_words_are_levels =
            directives.split(',').all(|directive| directive.contains(['=', '[']) || is_level(directive.trim()));
        match tracing_subscriber::EnvFilter::try_new(directives) {
            Ok(_) if plain_words_are_levels => Ok(Self(directives.to_owned())),
            _ => Err(ACCEPTED),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("accepted are `json` and `text`"),
        }
    }
}

/// Which decisions are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecisionLog {
    /// Every one.
    All,
    /// Denials, and decisions that could not be made.
    #[default]
    Denied,
    /// None.
    Off,
}

impl FromStr for DecisionLog {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "all" => Ok(Self::All),
            "denied" => Ok(Self::Denied),
            "off" => Ok(Self::Off),
            _ => Err("accepted are `all`, `denied` and `off`"),
        }
    }
}
