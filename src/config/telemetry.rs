//! Logs, traces and metrics.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values;

/// `telemetry.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetrySettings {
    /// What is logged: a level, or directives such as `info,countersign=debug`. Default `info`.
    #[serde(deserialize_with = "values::parsed")]
    pub log: LogFilter,
    /// `json` or `text`. Default `json`.
    #[serde(deserialize_with = "values::parsed")]
    pub log_format: LogFormat,
    /// What happens to lines for which there is no room, because whoever reads standard error does
    /// not keep up, or is gone: `drop` (they are counted, and one line says how many they were
    /// when there is room again) or `wait` (nothing is lost; decisions that are logged wait,
    /// and for a reader that is gone they wait for ever). Default `drop`.
    #[serde(deserialize_with = "values::parsed")]
    pub log_overflow: LogOverflow,
    /// The collector to which traces and metrics are sent over OTLP, such as `http://127.0.0.1:4317`. It takes no
    /// credentials; headers that the collector asks for go into the environment variable
    /// `OTEL_EXPORTER_OTLP_HEADERS`. Default none: nothing is sent.
    #[serde(deserialize_with = "values::optional")]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// How the collector is spoken to: `grpc`, or `http` with protobuf bodies. Default `grpc`.
    #[serde(deserialize_with = "values::parsed")]
    pub otlp_protocol: OtlpProtocol,
    /// The share of decisions that are traced, from `0` to `1`, among those whose gateway says
    /// nothing about it; where it does, it has the last word. Default `0.01`.
    #[serde(deserialize_with = "values::parsed_or_number")]
    pub trace_sample: Share,
    /// Which decisions are logged: `all`, `denied` (with those that were *unavailable*) or `off`.
    /// Default `denied`.
    #[serde(deserialize_with = "values::parsed")]
    pub decision_log: DecisionLog,
    /// The share of allowed decisions that `denied` logs as well, from `0` to `1`. Default `0`.
    #[serde(deserialize_with = "values::parsed_or_number")]
    pub decision_log_sample: Share,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log: LogFilter::default(),
            log_format: LogFormat::default(),
            log_overflow: LogOverflow::default(),
            otlp_endpoint: None,
            otlp_protocol: OtlpProtocol::default(),
            trace_sample: Share(0.01),
            decision_log: DecisionLog::default(),
            decision_log_sample: Share(0.0),
        }
    }
}

/// Where a collector listens: an `http:` or `https:` URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    /// The URL.
    pub fn url(&self) -> &str {
        &self.0
    }

    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The URL of `path` under it.
    pub fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.0.trim_end_matches('/'))
    }
}

impl FromStr for OtlpEndpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected an http: or https: URL without credentials, such as http://127.0.0.1:4317; what a collector asks \
                                for goes into the environment variable OTEL_EXPORTER_OTLP_HEADERS";
        let is_url = url::Url::parse(text).is_ok_and(|url| {
            // They would not be sent, and would show in errors.
            let has_credentials = !url.username().is_empty() || url.password().is_some();
            matches!(url.scheme(), "http" | "https") && url.has_host() && !has_credentials
        });
        if is_url { Ok(Self(text.to_owned())) } else { Err(EXPECTED) }
    }
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// OTLP over gRPC, by custom on port 4317.
    #[default]
    Grpc,
    /// OTLP over HTTP, with protobuf bodies, by custom on port 4318.
    Http,
}

impl FromStr for OtlpProtocol {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "grpc" => Ok(Self::Grpc),
            "http" => Ok(Self::Http),
            _ => Err("accepted are `grpc` and `http`"),
        }
    }
}

/// A part of all, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Share(f64);

impl Share {
    /// As a number from 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// `share`, where it is one.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or("accepted are numbers from 0 to 1, such as 0.01")
    }
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
        // A word that is no level would be taken for the name of a module, and silence everything
        // else.
        let is_level = |word: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .contains(&word.to_ascii_lowercase().as_str())
        };
        let plain_words_are_levels = directives
            .split(',')
            .all(|directive| directive.contains(['=', '[']) || is_level(directive.trim()));
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

/// What happens to lines of the log for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogOverflow {
    /// They are dropped and counted.
    #[default]
    Drop,
    /// Whoever logs them waits.
    Wait,
}

impl FromStr for LogOverflow {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "drop" => Ok(Self::Drop),
            "wait" => Ok(Self::Wait),
            _ => Err("accepted are `drop` and `wait`"),
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

impl DecisionLog {
    /// Each of them.
    pub const EVERY: [Self; 3] = [Self::All, Self::Denied, Self::Off];
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
