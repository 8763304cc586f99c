//! The page that says what is tested behind which gateway matches the tests of this program.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use super::hold;
use crate::harness::Gateway;

const PAGE: &str = "examples/matrix.md";

/// One version of a gateway: its name, the module that holds its tests in each shared list, and the
/// module with its own tests.
struct Column {
    name: &'static str,
    gateway: Gateway,
    module: &'static str,
    own: &'static str,
}

/// Without tests of its own: those of the newest Envoy run with that version only.
const NONE: &str = "none";

/// One line for each version of a gateway.
const COLUMNS: &[Column] = &[
    column("nginx", Gateway::Nginx, "nginx", "gateways::nginx"),
    column("nginx", Gateway::NginxMainline, "nginx_mainline", "gateways::nginx"),
    column("Envoy, gRPC", Gateway::EnvoyGrpc, "envoy_grpc", "gateways::envoy"),
    column("Envoy, HTTP", Gateway::EnvoyHttp, "envoy_http", "gateways::envoy"),
    column("Envoy, gRPC", Gateway::OlderEnvoyGrpc("1.36.4"), "envoy_1_36_grpc", NONE),
    column("Envoy, HTTP", Gateway::OlderEnvoyHttp("1.36.4"), "envoy_1_36_http", NONE),
    column("Envoy, gRPC", Gateway::OlderEnvoyGrpc("1.37.0"), "envoy_1_37_grpc", NONE),
    column("Envoy, HTTP", Gateway::OlderEnvoyHttp("1.37.0"), "envoy_1_37_http", NONE),
    column("Envoy, gRPC", Gateway::OlderEnvoyGrpc("1.38.3"), "envoy_1_38_grpc", NONE),
    column("Envoy, HTTP", Gateway::OlderEnvoyHttp("1.38.3"), "envoy_1_38_http", NONE),
    column("Envoy, gRPC", Gateway::OlderEnvoyGrpc("1.39.3"), "envoy_1_39_grpc", NONE),
    column("Envoy, HTTP", Gateway::OlderEnvoyHttp("1.39.3"), "envoy_1_39_http", NONE),
    column("Traefik", Gateway::Traefik, "traefik", "gateways::traefik"),
    column("Caddy", Gateway::CaddyDebian, "caddy_debian", "gateways::caddy"),
    column("Caddy", Gateway::Caddy, "caddy", "gateways::caddy"),
    column("HAProxy", Gateway::Haproxy, "haproxy", "gateways::haproxy"),
    column("Apache httpd", Gateway::Apache, "apache", "gateways::apache"),
];

const fn column(
    name: &'static str,
    gateway: Gateway,
    module: &'static str,
    own: &'static str,
) -> Column {
    Column { name, gateway, module, own }
}

/// What is tested, and the tests of it: one of them is enough. `{module}` and `{own}` are replaced
/// by the column's.
const TRIED: [(&str, &[&str]); 13] = [
    ("allow", &["gateways::every::{module}::an_allowed_request_names_the_principal"]),
    ("replay", &["gateways::every::{module}::a_token_passes_once"]),
    (
        "made-up identity",
        &["gateways::hostile::{module}::made_up_identity_headers_are_overwritten"],
    ),
    (
        "two sites",
        &["{own}::two_sites_keep_their_rules", "{own}::{module}::two_sites_keep_their_rules"],
    ),
    ("WebSocket", &["gateways::matrix::{module}::a_websocket_is_decided_once_and_carried"]),
    ("events", &["gateways::matrix::{module}::events_arrive_one_by_one"]),
    (
        "gRPC",
        &["{own}::grpc_calls_and_streams_pass", "{own}::{module}::grpc_calls_and_streams_pass"],
    ),
    ("preflight", &["gateways::matrix::{module}::a_preflight_is_answered_by_the_gateway"]),
    ("200 headers", &["gateways::matrix::{module}::two_hundred_headers_pass"]),
    ("8 KiB token", &["gateways::every::{module}::the_largest_token_passes"]),
    ("absolute form", &["gateways::hostile::{module}::a_bound_token_passes_to_its_host_alone"]),
    (
        "readings of a path",
        &["gateways::matrix::{module}::no_reading_of_a_path_goes_round_the_scope"],
    ),
    ("rolling restart", &["gateways::rolling::{module}::a_rolling_restart_fails_nobody"]),
];

const OLDER: &str =
    "an older Envoy with the same files; what differs between versions is what is run";

/// Why something is not tested, by the beginning of a column's module. A reason for something that
/// is tested is an error.
const NOT_TRIED: &[(&str, &str, &str)] = &[
    (
        "gRPC",
        "nginx",
        "the example speaks HTTP/1.1 to the back end; gRPC would be a `grpc_pass` of its own",
    ),
    ("allow", "envoy_1_", OLDER),
    ("replay", "envoy_1_", OLDER),
    ("made-up identity", "envoy_1_", OLDER),
    ("8 KiB token", "envoy_1_", OLDER),
    ("absolute form", "envoy_1_", OLDER),
    ("rolling restart", "envoy_1_", OLDER),
    ("two sites", "envoy_1_", OLDER),
    ("gRPC", "envoy_1_", OLDER),
    (
        "gRPC",
        "traefik",
        "the example speaks HTTP/1.1 to the back end; gRPC would be an `h2c://` service",
    ),
    (
        "gRPC",
        "caddy",
        "the example speaks HTTP/1.1 to the back end; gRPC would be an `h2c://` upstream",
    ),
    (
        "gRPC",
        "haproxy",
        "the example speaks HTTP/1.1 to both sides; gRPC would be `proto h2` on both",
    ),
    (
        "gRPC",
        "apache",
        "`mod_proxy_http2`, which could carry it, is an experiment of the httpd project",
    ),
];

#[test]
fn what_is_tried_behind_which_gateway() {
    let compiled = compiled_tests();
    let mut rows = format!("| gateway |{}\n", TRIED.map(|(what, _)| format!(" {what} |")).concat());
    let _ = writeln!(rows, "| --- |{}", " :-: |".repeat(TRIED.len()));
    let mut reasons: Vec<String> = Vec::new();
    let mut faults = Vec::new();
    for column in COLUMNS {
        let _ = write!(rows, "| {} {} |", column.name, column.gateway.version());
        for (what, tests) in TRIED {
            let is_run = tests.iter().any(|test| compiled.contains(&column.name_of(test)));
            let cell = match (is_run, column.reason_against(what)) {
                (true, None) => "run".to_owned(),
                (false, Some(reason)) => {
                    let note = reason.to_owned();
                    let number =
                        reasons.iter().position(|known| *known == note).unwrap_or_else(|| {
                            reasons.push(note);
                            reasons.len() - 1
                        });
                    format!("- ({})", number + 1)
                }
                (true, Some(reason)) => {
                    faults.push(format!("{}: {what} is tried, and not `{reason}`", column.module));
                    String::new()
                }
                (false, None) => {
                    faults.push(format!(
                        "{}: {what} is neither tried nor said to be out of place",
                        column.module
                    ));
                    String::new()
                }
            };
            let _ = write!(rows, " {cell} |");
        }
        rows.push('\n');
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for (number, reason) in reasons.iter().enumerate() {
        let _ = write!(rows, "\n{}. {reason}", number + 1);
    }
    hold(PAGE, "the tests", &rows);
}

impl Column {
    fn name_of(&self, test: &str) -> String {
        test.replace("{module}", self.module).replace("{own}", self.own)
    }

    fn reason_against(&self, what: &str) -> Option<&'static str> {
        let reason = NOT_TRIED
            .iter()
            .find(|(tried, modules, _)| *tried == what && self.module.starts_with(modules))?;
        Some(reason.2)
    }
}

/// The tests that this binary would run.
fn compiled_tests() -> BTreeSet<String> {
    let listed = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let tests: BTreeSet<_> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    assert!(tests.contains("book::gateways::what_is_tried_behind_which_gateway"), "{listed}");
    tests
}
