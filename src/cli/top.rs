//! `countersign top`

mod exposition;
mod figures;
#[cfg(test)]
mod fixtures;
mod histogram;
mod live;
mod replica;
mod report;
mod scrape;
mod screen;
mod table;
mod units;
mod view;

use std::{
    io::{self, IsTerminal},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};

use self::{
    replica::State,
    scrape::{Scraper, Target},
    screen::{Screen, Snapshot},
};
use crate::config::Settings;

/// With a shorter interval, the requests would distort what they measure.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// Admin listener of a replica: a URL, an address, or `unix:` and a path. Repeat for each
    /// replica [default: `server.admin_listen`].
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Refresh interval, over which rates are computed.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print one snapshot, taken over one interval, and exit. This is the default without a
    /// terminal.
    #[arg(long)]
    once: bool,
    /// Format of the snapshot. JSON always prints a single one.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line per figure.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

pub(super) fn run(
    arguments: TopArguments,
    settings: impl FnOnce() -> Result<Settings, crate::config::SettingsError>,
) -> super::CommandResult {
    let TopArguments { urls, interval, once, output } = arguments;
    // Parsed here, because the argument parser would repeat an invalid URL in its error, and a URL
    // may hold a password.
    let mut urls = urls
        .iter()
        .map(|url| scrape::target(url))
        .collect::<Result<Vec<Target>, _>>()
        .map_err(|reason| bad_url(&reason))?;
    if urls.is_empty() {
        let settings = settings()?;
        urls.push(scrape::local(&settings.server.admin_listen, settings.admin.tls.cert.is_some())?);
    }
    let names: Vec<String> = urls.iter().map(Target::name).collect();
    let snapshot = Snapshot::of(names.iter().map(String::as_str));
    let scraper = Scraper::new(urls)?;
    let is_live =
        !once && output == Output::Text && io::stdout().is_terminal() && io::stdin().is_terminal();
    if is_live {
        return Ok(super::block_on(async {
            live::run(scraper, Screen::new(snapshot, interval))
        })??);
    }
    let snapshot = super::block_on(look_twice(&scraper, snapshot, interval))?;
    super::print(&match output {
        Output::Text => report::lines(&snapshot, interval),
        Output::Json => report::json(&snapshot, interval)?,
    })?;
    let is_there = |state: &State| matches!(state, State::Up | State::NotReady(_));
    if snapshot.replicas.iter().any(|replica| is_there(&replica.state)) {
        Ok(())
    } else {
        Err("no replica answers".into())
    }
}

fn bad_url(reason: &str) -> super::Failure {
    super::Failure::Usage(format!("--url: {reason}").into())
}

async fn look_twice(scraper: &Scraper, mut snapshot: Snapshot, interval: Duration) -> Snapshot {
    let end = tokio::time::Instant::now() + interval;
    snapshot.take(scraper.look().await, now());
    tokio::time::sleep_until(end).await;
    snapshot.take(scraper.look().await, now());
    snapshot
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= SHORTEST => Ok(interval),
        _ => Err("accepted are durations from 100ms on, such as 500ms, 1s and 1m".to_owned()),
    }
}

/// Now, in seconds since 1970, the unit that metrics use.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Removes control characters, so that replicas cannot control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
