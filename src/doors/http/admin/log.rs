//! Log settings that can be changed while the service runs.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::ToSchema;

use super::{body, problem::Problem};
use crate::{
    config::telemetry::{DecisionLog, LogFilter, Share},
    doors::http::AdminDoor,
    telemetry::log::LogControl,
};

/// The current log settings.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Logging)]
struct LogView {
    /// `telemetry.log`.
    #[schema(value_type = String, example = "info,countersign=debug")]
    log: LogFilter,
    /// `telemetry.decision_log`.
    #[schema(value_type = DecisionLogName)]
    decision_log: DecisionLog,
    /// `telemetry.decision_log_sample`.
    #[schema(value_type = f64, minimum = 0, maximum = 1)]
    decision_log_sample: Share,
}

/// Changes to the log settings. Absent members stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoggingChange, example = json!({ "log": "info,countersign=debug" }))]
struct Change {
    /// A level. Directives are accepted, too.
    #[serde(default, deserialize_with = "parsed")]
    #[schema(value_type = Option<String>, nullable = false, pattern = "^(off|error|warn|info|debug|trace)$")]
    log: Option<LogFilter>,
    /// Which decisions are logged.
    #[serde(default, deserialize_with = "parsed")]
    #[schema(value_type = Option<DecisionLogName>, nullable = false)]
    decision_log: Option<DecisionLog>,
    /// The share of allowed decisions that `denied` logs as well, from 0 to 1.
    #[serde(default, deserialize_with = "share")]
    #[schema(value_type = Option<f64>, nullable = false, minimum = 0, maximum = 1)]
    decision_log_sample: Option<Share>,
}

/// Which decisions are logged.
#[derive(ToSchema)]
#[schema(as = DecisionLog, rename_all = "lowercase")]
#[allow(dead_code, reason = "a schema")]
enum DecisionLogName {
    All,
    Denied,
    Off,
}

/// Show the log settings.
#[utoipa::path(get, path = "/admin/v1/log", operation_id = "show_log", tag = "log",
    responses((status = 200, description = "What is logged.", body = LogView)))]
pub(super) async fn show(door: web::Data<AdminDoor>) -> HttpResponse {
    HttpResponse::Ok().json(LogView::by(&door.log))
}

/// Change what this replica logs, until it restarts.
#[utoipa::path(patch, path = "/admin/v1/log", operation_id = "change_log", tag = "log", request_body = Change,
    responses((status = 200, description = "What is logged from now on.", body = LogView)))]
pub(super) async fn change(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let change: Change = body::merge_patch(&request, payload).await?;
    let decisions = door.log.decisions();
    let (log, sample) = decisions.now();
    decisions.set(change.decision_log.unwrap_or(log), change.decision_log_sample.unwrap_or(sample));
    if let Some(filter) = change.log {
        door.log.set_filter(filter);
    }
    let shown = LogView::by(&door.log);
    let (log, sample) = (shown.log.directives(), shown.decision_log_sample.get());
    tracing::warn!(actor = AdminDoor::actor(&request), log, decision_log = ?shown.decision_log, sample, "what is logged was changed");
    Ok(HttpResponse::Ok().json(shown))
}

impl LogView {
    fn by(control: &LogControl) -> Self {
        let (decision_log, decision_log_sample) = control.decisions().now();
        Self { log: control.filter(), decision_log, decision_log_sample }
    }
}

fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err = &'static str>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Share>, D::Error> {
    let share = Share::new(f64::deserialize(deserializer)?);
    share.map(Some).ok_or_else(|| D::Error::custom("accepted are numbers from 0 to 1"))
}
