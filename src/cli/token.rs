//! `countersign token`

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::output::{self, Format, moment};
use crate::{
    app::{self, FirstKey},
    config::Settings,
    domain::{principal::Username, scope::Scopes, secret_token::OpaqueToken},
    engine::{
        issue::{Introspection, Issuer, MintTerms, Revoked, TokenKind, TokenName},
        ports::GrantRecord,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Issue an access token and a refresh token to a principal, and show them once.
    Issue(IssueArguments),
    /// Show the content of an access or refresh token of this service, and whether it is valid now.
    #[command(
        after_help = "Others who are logged in see the arguments of a command. To keep the token from them, hand it over on \
                            standard input:\n\n    countersign token introspect - < token.txt"
    )]
    Introspect {
        /// The token; `-` reads it from standard input.
        #[arg(value_name = "-|TOKEN")]
        token: String,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List issued tokens, including revoked and expired ones.
    List {
        /// Only tokens of this principal.
        username: Option<Username>,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Revoke a token and all others that come from the same login, permanently.
    Revoke {
        /// The `jti` of the access or refresh token, from `token list`; `-` reads the `jti` or the
        /// token itself from standard input.
        #[arg(value_name = "JTI|-")]
        jti: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct IssueArguments {
    /// Username of the principal.
    username: Username,
    /// Audience of the tokens [default: `issuer.audience`]. May be repeated.
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// Scopes of the tokens, out of those of the principal, separated by spaces [default: all of
    /// them]. May be repeated.
    #[arg(long = "scope", value_name = "SCOPES")]
    scopes: Vec<String>,
    /// Id of the session at the back end.
    #[arg(long, value_name = "SID")]
    sid: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: [&str; 16] = [
    "id",
    "username",
    "family",
    "access_jti",
    "refresh_jti",
    "audience",
    "sid",
    "scopes",
    "api_key_id",
    "key_id",
    "trust_id",
    "issued_at",
    "access_expires_at",
    "refresh_expires_at",
    "rotated_at",
    "revoked_at",
];

/// The columns that only a token just issued has.
const SECRETS: [&str; 4] = ["access_token", "refresh_token", "token_type", "expires_in"];

const INTROSPECTION: [&str; 11] = [
    "active",
    "kind",
    "jti",
    "iss",
    "username",
    "sub",
    "audience",
    "scopes",
    "sid",
    "issued_at",
    "expires_at",
];

pub(super) fn run(command: TokenCommand, settings: &Settings) -> super::CommandResult {
    super::block_on(async {
        let actor = super::actor();
        let first_key = if matches!(command, TokenCommand::Issue(_)) {
            FirstKey::Make
        } else {
            FirstKey::Leave
        };
        let issuer = app::issuer(settings, first_key).await?;
        match command {
            TokenCommand::Issue(arguments) => issue(&issuer, arguments, &actor).await?,
            TokenCommand::Introspect { token, output } => {
                let token = super::argument_or_input(token)?;
                let found = issuer.introspect(TokenName::Token(token.trim()), None).await?;
                let found = found.ok_or("the token is not active: it expired or was revoked, or is none of this service")?;
                output::one(&INTROSPECTION, introspected(&found), output)?;
            }
            TokenCommand::List { username, output } => {
                output::list(
                    &COLUMNS,
                    issuer.grants(username.as_ref()).await?.iter().map(row).collect(),
                    output,
                )?;
            }
            TokenCommand::Revoke { jti } => revoke(&issuer, jti, &actor).await?,
        }
        Ok(())
    })?
}

async fn issue(issuer: &Issuer, arguments: IssueArguments, actor: &str) -> super::CommandResult {
    let IssueArguments { username, audience, scopes, sid, output } = arguments;
    let audience = (!audience.is_empty()).then_some(audience);
    let scopes = (!scopes.is_empty()).then(|| Scopes::parse(&scopes.join(" "))).transpose()?;
    let given = issuer.mint(&username, MintTerms::new(audience, scopes, sid)?, actor).await?;
    let (columns, mut values) = ([&COLUMNS[..], &SECRETS].concat(), row(&given.grant));
    values.extend([
        given.access_token.into(),
        output::text(given.refresh_token.as_ref().map(OpaqueToken::expose)),
        "Bearer".into(),
        given.expires_in.as_secs().into(),
    ]);
    Ok(output::one(&columns, values, output)?)
}

/// Reads a token from standard input only, and does not print it.
async fn revoke(issuer: &Issuer, jti: String, actor: &str) -> super::CommandResult {
    let is_read = jti == "-";
    let text = super::argument_or_input(jti)?;
    let text = text.trim();
    let jti = Uuid::parse_str(text).map(|jti| jti.to_string());
    let (name, shown) = match &jti {
        Ok(jti) => (TokenName::Jti(jti), format!("token {jti}")),
        Err(_) if is_read => (TokenName::Token(text), "the token".to_owned()),
        Err(_) => {
            let expected = "expected the `jti` of a token, a UUID; a token itself is read from standard input: `token revoke -`";
            return Err(super::Failure::Usage(expected.into()));
        }
    };
    match issuer.revoke(name, None, actor).await? {
        Revoked::Done => Ok(super::print(&format!(
            "{shown} is revoked, and all that goes back to the same login\n"
        ))?),
        Revoked::NoSuchToken | Revoked::AnotherPrincipal => Err(match name {
            TokenName::Jti(_) => format!("there is no {shown}"),
            TokenName::Token(_) => "there is no such token".to_owned(),
        }
        .into()),
    }
}

fn row(record: &GrantRecord) -> Vec<Value> {
    let refresh = record.refresh.as_ref();
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.family.to_string().into(),
        record.access_jti.to_string().into(),
        refresh.map(|refresh| refresh.jti.to_string()).into(),
        record.audience.clone().into(),
        output::text(record.sid.as_deref()),
        record.scopes.as_str().into(),
        record.api_key().map(|id| id.0).into(),
        record.key().map(|id| id.0).into(),
        record.trust().map(|id| id.0).into(),
        moment(Some(record.issued_at)),
        moment(Some(record.access_expires_at)),
        moment(refresh.map(|refresh| refresh.expires_at)),
        moment(refresh.and_then(|refresh| refresh.rotated_at)),
        moment(record.revoked_at),
    ]
}

fn introspected(found: &Introspection) -> Vec<Value> {
    let kind = match found.kind {
        TokenKind::Access => "access",
        TokenKind::Refresh => "refresh",
    };
    vec![
        true.into(),
        kind.into(),
        found.jti.to_string().into(),
        (*found.issuer).into(),
        found.username.as_str().into(),
        found.subject.as_str().into(),
        found.audience.clone().into(),
        found.scopes.as_str().into(),
        output::text(found.sid.as_deref()),
        moment(Some(found.issued_at)),
        moment(Some(found.expires_at)),
    ]
}
