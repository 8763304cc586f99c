//! The registry at full size: adding many principals through the admin API, starting with them, and
//! the cost of a decision about a principal that is not in memory, compared with the one query that
//! it makes.

use std::{
    cell::Cell,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use countersign::{
    domain::{algorithm::Algorithm, principal::Username},
    engine::ports::PrincipalSource,
    stores::sql::{SqlRegistry, connect},
};
use futures_util::future::join_all;
use serde_json::json;

use crate::{
    client::{Gateway, Questions},
    machine::Description,
    resident::{QUIET_FOR, Resident, quiet},
    server::{Placement, Server, database_url},
    tokens::{Signer, sign},
};

/// Keys per principal, as in the middle of a rotation.
const KEYS_EACH: usize = 2;
/// Simultaneous requests that add principals.
const IMPORTERS: usize = 8;
/// Cache size of the service that is asked about principals it does not hold.
const FEW_ENTRIES: usize = 1000;
/// Number of samples for each latency.
const SAMPLES: usize = 1000;
const ADMIN_TOKEN: &str = "bench";

/// The results of the run.
#[derive(Debug)]
pub(crate) struct Results {
    principals: usize,
    import: Duration,
    database_bytes: u64,
    start: Duration,
    reading: Duration,
    memory_bytes: u64,
    /// Medians, in microseconds.
    known_us: f64,
    unknown_to_memory_us: f64,
    query_us: f64,
    /// Latency difference between the two decisions, as a multiple of the query's, turn by turn.
    queries: f64,
}

/// Measures with `principals` principals.
pub(crate) async fn run(principals: usize) -> Results {
    let dir = tempfile::tempdir().unwrap();
    let placement = Placement { is_pinned: false };
    let service = |settings: &[(&str, &str)]| {
        Server::countersign_with(placement, dir.path(), "memory:", settings)
    };

    let server = service(&[("COUNTERSIGN_ADMIN__TOKEN", ADMIN_TOKEN)]);
    let begun = Instant::now();
    let signers = import(&server, principals).await;
    let import = begun.elapsed();
    drop(server);

    let begun = Instant::now();
    let server = service(&[]);
    let start = begun.elapsed();
    quiet(&server).await;
    let reading = begun.elapsed().saturating_sub(QUIET_FOR);
    let memory_bytes = Resident::of_process(server.process_id()).bytes;
    drop(server);

    let entries = FEW_ENTRIES.to_string();
    let server = service(&[("COUNTERSIGN_REGISTRY__CACHE_ENTRIES", &entries)]);
    quiet(&server).await;
    let (known_us, unknown_to_memory_us, query_us, queries) =
        compare(&server, dir.path(), &signers).await;
    let database_bytes = fs::metadata(dir.path().join("countersign.db")).unwrap().len();
    Results {
        principals,
        import,
        database_bytes,
        start,
        reading,
        memory_bytes,
        known_us,
        unknown_to_memory_us,
        query_us,
        queries,
    }
}

/// Adds principals, each in one request with its keys, and returns the signers for those that will
/// be asked about: the first, which is in memory, and the last ones, which are not.
async fn import(server: &Server, principals: usize) -> Vec<Signer> {
    let url = format!("http://{}/admin/v1/principals", server.admin);
    let client = reqwest::Client::new();
    let (next, signers) = (Cell::new(0), Cell::new(Vec::new()));
    join_all((0..IMPORTERS).map(|_| async {
        while next.get() < principals {
            let number = next.replace(next.get() + 1);
            let name = format!("service-{number:06}");
            let keys: Vec<Signer> = (0..KEYS_EACH).map(|_| Signer::new(name.clone(), Algorithm::EdDsa)).collect();
            let texts: Vec<_> = keys.iter().map(|signer| json!({ "key": signer.public_key().to_pem() })).collect();
            let new = json!({ "username": name, "scopes": ["orders:read", "orders:write"], "keys": texts });
            let answer = client.post(&url).bearer_auth(ADMIN_TOKEN).json(&new).send().await.unwrap();
            let status = answer.status();
            assert!(status.is_success(), "{name}: {status} {}", answer.text().await.unwrap());
            if number == 0 || number + 2 * SAMPLES >= principals {
                let mut kept = signers.take();
                kept.extend(keys.into_iter().take(1));
                signers.set(kept);
            }
        }
    }))
    .await;
    let mut signers = signers.into_inner();
    signers.sort_by(|one, other| one.username().cmp(other.username()));
    signers
}

/// In turns, so that a machine whose speed changes affects all alike: a decision about a principal
/// in memory, one about a principal that is not, and the query that the latter makes, made here for
/// another principal.
async fn compare(server: &Server, dir: &Path, signers: &[Signer]) -> (f64, f64, f64, f64) {
    let settings = countersign::config::database::DatabaseSettings {
        url: database_url(dir).parse().unwrap(),
        auto_migrate: None,
    };
    let registry = SqlRegistry::new(connect(&settings).await.unwrap());
    let mut gateway = Gateway::connect(server.address, 1).await.unwrap();
    let (known, others) = signers.split_first().unwrap();
    let turns = others.len().min(2 * SAMPLES) / 2;
    let (mut in_memory, mut not_in_memory, mut query) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..turns {
        let tokens =
            [sign(std::slice::from_ref(known), 1, 0), sign(&others[2 * turn..=2 * turn], 1, 0)];
        for (tokens, latencies) in tokens.iter().zip([&mut in_memory, &mut not_in_memory]) {
            let answers = gateway.ask(Questions::once(tokens), 200).await;
            assert_eq!(answers.unexpected, 0, "{:?}", answers.first_unexpected);
            latencies.push(answers.latency_us(0.5));
        }
        let username = Username::new(others[2 * turn + 1].username()).unwrap();
        let begun = Instant::now();
        assert!(
            registry
                .load(&username)
                .await
                .unwrap()
                .is_some_and(|principal| principal.keys.len() == KEYS_EACH)
        );
        query.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let extra = in_memory
        .iter()
        .zip(&not_in_memory)
        .zip(&query)
        .map(|((known, unknown), query)| (unknown - known) / query);
    let queries = median(extra.collect());
    (median(in_memory), median(not_in_memory), median(query), queries)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The complete report, in Markdown.
pub(crate) fn render(results: &Results, description: &Description) -> String {
    let Description { date, commit, cpu, cores, others } = description;
    let (mut text, others) =
        (format!("## {date}, commit {commit}: the registry\n\n"), others * 100.0);
    let _ = writeln!(
        text,
        "{cpu}, {cores} cores; other processes used {others:.0} % of the machine meanwhile. SQLite.\n"
    );
    let _ = writeln!(
        text,
        "| {} principals with {KEYS_EACH} keys each | measured | bound |\n| --- | --- | --- |",
        results.principals
    );
    let mut row = |what: &str, measured: String, bound: &str| {
        let _ = writeln!(text, "| {what} | {measured} | {bound} |");
    };
    let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    row("added through the admin API, one by one", seconds(results.import), "5 min");
    row("size of the database", megabytes(results.database_bytes), "");
    row("start until ready", seconds(results.start), "2 s");
    row("start until all are in memory", seconds(results.reading), "");
    row("memory with all of them (RSS)", megabytes(results.memory_bytes), "300 MB");
    row("latency, principal in memory", format!("{:.0} us", results.known_us), "");
    row("latency, principal not in memory", format!("{:.0} us", results.unknown_to_memory_us), "");
    row(
        "one query for a principal with its keys and trusts",
        format!("{:.0} us", results.query_us),
        "",
    );
    row("difference of the two latencies, in such queries", format!("{:.2}", results.queries), "");
    text
}
