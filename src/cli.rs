//! The command line: one file per command. Exit codes: 0 success, 1 refused or failed, 2 bad usage.

mod api_key;
mod completions;
mod config;
mod demo;
mod explain;
mod import;
mod key;
mod man;
mod migrate;
mod output;
mod principal;
mod progress;
mod serve;
mod sign;
mod signing_key;
mod token;
mod top;
mod trust;

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    app::{self, AppError},
    config::{Settings, SettingsError},
    engine::registry::Registry,
};

/// External authorization for machine-to-machine traffic: signed, single-use tokens behind nginx
/// and Envoy.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, propagate_version = true)]
struct Cli {
    /// Settings file [default: countersign.toml, if it exists]. `COUNTERSIGN_<SECTION>__<KEY>` in
    /// the environment overrides it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decide requests over HTTP and gRPC until stopped by a signal.
    Serve,
    /// Serve with built-in defaults and a demo principal, and show some decisions.
    Demo,
    /// Create, change or inspect the database tables.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Add, list, show, enable, disable or remove principals.
    #[command(subcommand)]
    Principal(principal::PrincipalCommand),
    /// Generate key pairs; add, list or revoke public keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Add, list, refresh or remove trusts: remote key sets whose keys count as a principal's.
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Issue, list or revoke API keys, which clients exchange for access tokens.
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    /// Issue, inspect, list or revoke access and refresh tokens of this service.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Import the principals, keys and tokens of a system that this one replaces.
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// List this service's own signing keys, or create a new one.
    #[command(subcommand)]
    SigningKey(signing_key::SigningKeyCommand),
    /// Run a token through every step of a decision and report each step. No nonce is claimed.
    Explain(explain::ExplainArguments),
    /// Sign a token, on the client's side. It is valid for one request within the next seconds.
    Sign(sign::SignArguments),
    /// Watch running replicas: decisions, denials, latencies, dependencies and resource use.
    Top(top::TopArguments),
    /// Check the settings.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell to complete commands for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands.
    Man(man::ManArguments),
}

/// Why a command fails.
#[derive(Debug)]
enum Failure {
    /// Bad usage: exit code 2.
    Usage(Box<dyn Error + Send + Sync>),
    /// The command was refused or failed: exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        if error.is::<SettingsError>() { Self::Usage(error) } else { Self::Failed(error) }
    }
}

type CommandResult = Result<(), Failure>;

/// Runs the command given by the arguments of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let (error, code) = match dispatch(cli) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    // If standard error is closed, nobody can read the error.
    drop(writeln!(io::stderr(), "error: {}", one_line(&*error)));
    ExitCode::from(code)
}

fn dispatch(cli: Cli) -> CommandResult {
    let config = cli.config;
    let settings = || crate::config::load(config.as_deref(), std::env::vars());
    match cli.command {
        Command::Serve => serve::run(&settings()?),
        Command::Demo => demo::run(settings()?),
        Command::Migrate(command) => migrate::run(&command, &settings()?),
        Command::Principal(command) => principal::run(command, &settings()?),
        Command::Key(command) => key::run(command, settings),
        Command::Trust(command) => trust::run(command, &settings()?),
        Command::ApiKey(command) => api_key::run(command, &settings()?),
        Command::Token(command) => token::run(command, &settings()?),
        Command::Import(command) => import::run(command, &settings()?),
        Command::SigningKey(command) => signing_key::run(&command, &settings()?),
        Command::Explain(arguments) => explain::run(arguments, &settings()?),
        Command::Sign(arguments) => sign::run(&arguments),
        Command::Top(arguments) => top::run(arguments, settings),
        Command::Config(command) => config::run(&command, &settings()?),
        Command::Completions { shell } => completions::run(shell),
        Command::Man(arguments) => man::run(&arguments),
    }
}

/// The command line definition, for completions and manual pages.
fn command() -> clap::Command {
    Cli::command()
}

/// The error and its causes, on one line. A cause that the error already repeats is printed once.
fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The registry; audit events name the user who runs this command.
async fn registry(settings: &Settings) -> Result<Registry, AppError> {
    app::registry(settings, &actor()).await
}

/// The user who runs this command, as audit events name it.
fn actor() -> String {
    let user = ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    format!("cli:{}", user.as_deref().unwrap_or("unknown"))
}

/// Runs `work` on a new runtime, for commands that do one thing and end.
fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work))
}

/// The argument, or standard input if it is `-`.
fn argument_or_input(argument: String) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument);
    }
    Ok(io::read_to_string(io::stdin().lock()).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => "standard input is not text, as every token is".to_owned(),
        _ => format!("standard input cannot be read: {error}"),
    })?)
}

/// Prints a warning of a command that succeeds otherwise. If standard error is closed, nobody can
/// read it.
fn warn(text: &str) {
    drop(writeln!(io::stderr(), "warning: {text}"));
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
