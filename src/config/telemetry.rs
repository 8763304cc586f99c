//! Logs, traces and metrics.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values;

/// `telemetry.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetrySettings {
    /// What to log: a level, or directives such as `info,countersign=debug`. Default `info`.
    #[serde(deserialize_with = "values::parsed")]
    pub log: LogFilter,
    /// Format of log lines: `json` or `text`. Default `json`.
    #[serde(deserialize_with = "values::parsed")]
    pub log_format: LogFormat,
    /// What to do with log lines when there is no room because the reader of standard error is slow
    /// or gone. `drop` discards and counts them; once there is room again, one line reports how
    /// many were lost. `wait` loses nothing, but decisions that are logged wait, and if the reader
    /// is gone they wait indefinitely. Default `drop`.
    #[serde(deserialize_with = "values::parsed")]
    pub log_overflow: LogOverflow,
    /// The collector to which traces and metrics are sent over OTLP, such as
    /// `http://127.0.0.1:4317`. The URL must not contain credentials; set headers that the
    /// collector needs in the environment variable `OTEL_EXPORTER_OTLP_HEADERS`. Without a
    /// collector, nothing is sent. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Protocol of the collector: `grpc`, or `http` with protobuf bodies. Default `grpc`.
    #[serde(deserialize_with = "values::parsed")]
    pub otlp_protocol: OtlpProtocol,
    /// The share of decisions to trace, from `0` to `1`, if the gateway does not say whether to
    /// trace the request. If it does, the gateway decides. Default `0.01`.
    #[serde(deserialize_with = "values::parsed_or_number")]
    pub trace_sample: Share,
    /// Which decisions are logged: `all`, `denied` (with those that were *unavailable*) or `off`.
    /// Default `denied`.
    #[serde(deserialize_with = "values::parsed")]
    pub decision_log: DecisionLog,
    /// The share of allowed decisions that are also logged with `denied`, from `0` to `1`. Default
    /// `0`.
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

/// The URL of a collector: `http:` or `https:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    /// The base URL.
    pub fn url(&self) -> &str {
        &self.0
    }

    /// Whether the collector is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The URL of `path` under the base URL.
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
            // Credentials would not be sent, but would show in errors.
            let has_credentials = !url.username().is_empty() || url.password().is_some();
            matches!(url.scheme(), "http" | "https") && url.has_host() && !has_credentials
        });
        if is_url { Ok(Self(text.to_owned())) } else { Err(EXPECTED) }
    }
}

/// The protocol of a collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// OTLP over gRPC, usually on port 4317.
    #[default]
    Grpc,
    /// OTLP over HTTP with protobuf bodies, usually on port 4318.
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

/// A share of a total, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Share(f64);

impl Share {
    /// A number from 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// `None` if `share` is not from 0 to 1.
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

/// Log filter: a level or directives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives, already validated.
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
        // A word that is not a level would be read as the name of a module, and would silence
        // everything else.
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
    /// One JSON object per line.
    #[default]
    Json,
    /// Lines for people to read.
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

/// What happens to log lines when there is no room for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogOverflow {
    /// Lines are dropped and counted.
    #[default]
    Drop,
    /// The thread that logs waits.
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
    /// Every decision.
    All,
    /// Denials, and decisions that could not be made.
    #[default]
    Denied,
    /// No decision.
    Off,
}

impl DecisionLog {
    /// All variants.
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
