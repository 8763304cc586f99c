//! `countersign sign`, which runs on the client's side.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;

use crate::{
    client::{Binding, Signer},
    domain::{key::PrivateKey, principal::Username},
};

#[derive(Debug, Args)]
pub(super) struct SignArguments {
    /// Username of the principal that signs.
    username: Username,
    /// File with the private key, PEM or OpenSSH; `-` reads it from standard input.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Environment variable with the passphrase of the key.
    #[arg(long, value_name = "VAR")]
    passphrase_env: Option<String>,
    /// Bind the token to this HTTP method.
    #[arg(long, value_name = "M")]
    method: Option<String>,
    /// Bind the token to this URL, without its query and fragment (see `--bind-query`).
    #[arg(long, value_name = "U")]
    url: Option<String>,
    /// Also bind the token to the exact query of the URL; if the URL has none, to a request without
    /// a query.
    #[arg(long, requires = "url")]
    bind_query: bool,
    /// Bind the token to the body in this file; `-` reads it from standard input, `/dev/null` means
    /// a request without a body.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Restrict the token to the service with this audience.
    #[arg(long)]
    audience: Option<String>,
    /// Print the whole header, as `curl -H` takes it, instead of the token alone. Use
    /// `--header=NAME` if the service's `self_signed.header` is not `Authorization`.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "Authorization")]
    header: Option<String>,
    /// Scheme before the token in that header.
    #[arg(long, default_value = "JWT")]
    scheme: String,
}

pub(super) fn run(arguments: &SignArguments) -> super::CommandResult {
    if arguments.url.as_deref().is_some_and(|url| url::Url::parse(url).is_err()) {
        return Err(super::Failure::Usage(
            "--url takes a whole URL, such as https://api.example/orders".into(),
        ));
    }
    let stdin = Path::new(super::key::STDIN);
    if arguments.key == stdin && arguments.body.as_deref() == Some(stdin) {
        return Err(super::Failure::Usage(
            "--key and --body cannot both be read from standard input".into(),
        ));
    }
    let body = arguments.body.as_deref().map(super::key::read_bytes).transpose()?;
    let passphrase = super::key::passphrase(arguments.passphrase_env.as_deref())?;
    let text = super::key::read(&arguments.key)?;
    let key = PrivateKey::parse(&text, passphrase.as_ref())
        .map_err(|error| super::key::not_usable(&arguments.key, &error))?;
    let mut signer = Signer::new(arguments.username.as_str(), key);
    if let Some(audience) = &arguments.audience {
        signer = signer.with_audience(audience);
    }
    let url = arguments.url.as_deref();
    let binding = Binding {
        method: arguments.method.as_deref(),
        uri: url,
        query: url.filter(|_| arguments.bind_query).map(query),
        body: body.as_deref(),
    };
    let token = signer.sign(binding, SystemTime::now())?;
    let line = match &arguments.header {
        Some(name) => format!("{name}: {} {token}\n", arguments.scheme),
        None => format!("{token}\n"),
    };
    super::print(&line)?;
    Ok(())
}

/// The query exactly as the URL spells it; empty if there is none.
fn query(url: &str) -> &str {
    url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query)
}
