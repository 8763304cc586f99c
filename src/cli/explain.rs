//! `countersign explain`

use clap::Args;
use serde_json::{Value, json};
use url::Url;

use super::output::{self, Format};
use crate::{
    app,
    config::{Settings, self_signed::credentials},
    domain::{
        auth_request::{AuthRequest, Credentials, Door},
        decision::DenialReason,
    },
    engine::verify::{AskedUrl, Explanation, Step},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Others who are logged in see the arguments of a command. To keep the token from them, hand it over on standard \
                        input:\n\n    countersign explain - < token.txt"
)]
pub(super) struct ExplainArguments {
    /// The token, with or without its scheme; `-` reads it from standard input.
    #[arg(value_name = "-|TOKEN")]
    token: String,
    /// Method of the request that carries the token.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// URL of the request that carries the token.
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// Scopes that the route requires, separated by spaces. May be repeated.
    #[arg(long = "scope", value_name = "SCOPES")]
    scopes: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: [&str; 5] = ["step", "outcome", "reason", "seen", "expected"];

pub(super) fn run(arguments: ExplainArguments, settings: &Settings) -> super::CommandResult {
    let token = super::argument_or_input(arguments.token)?;
    let credentials = credentials(&settings.self_signed.scheme, &token);
    let url = arguments.url.as_ref().map(AskedUrl::of);
    let auth_request = AuthRequest {
        request: AskedUrl::request(url.as_ref(), arguments.method.as_deref()),
        required_scopes: arguments.scopes.iter().map(String::as_str).collect(),
        ..AuthRequest::alone(Door::Http, Credentials::One(&credentials))
    };
    let explanation = super::block_on(app::explain(settings, &auth_request))??;
    let rows: Vec<Vec<Value>> = explanation.steps.iter().map(row).collect();
    match arguments.output {
        Format::Json => {
            let steps: Vec<Value> =
                rows.into_iter().map(|row| output::object(&COLUMNS, row)).collect();
            let report = json!({
                "now": explanation.now,
                "verdict": explanation.verdict(),
                "code": explanation.told(),
                "reason": explanation.reason(),
                "steps": steps,
            });
            super::print(&format!("{report:#}\n"))?;
        }
        Format::Table => {
            output::list(&COLUMNS, rows, Format::Table)?;
            super::print(&format!("\n{}\n", summary(&explanation)))?;
        }
    }
    Ok(())
}

fn row(step: &Step) -> Vec<Value> {
    vec![
        step.name.into(),
        step.outcome.name().into(),
        output::text(step.outcome.reason().map(DenialReason::name)),
        step.seen.as_str().into(),
        step.expected.as_str().into(),
    ]
}

fn summary(explanation: &Explanation) -> String {
    let at = explanation.now.to_rfc3339();
    match (&explanation.identity, explanation.failure().zip(explanation.told())) {
        (Some(identity), _) => {
            format!("At {at} it would pass, as {}.", identity.principal().username)
        }
        (None, Some((step, told))) => {
            format!("At {at} it would not pass: {}. The client would be told {told}.", step.name)
        }
        (None, None) => format!("At {at} nothing could be said."),
    }
}
