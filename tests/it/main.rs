//! The binary `countersign` from outside: real requests through real gateways, real stores, real
//! peers.
//!
//! Every test starts the servers that it needs on free loopback ports and stops them when it ends,
//! so tests run at the same time and in any order. Except for `batteries` and `book`, nothing here
//! calls into the library: these tests know of Countersign what its users know, and they sign
//! tokens with code of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::too_many_lines,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on says so by panicking, and has no readers of its API"
)]

mod harness;

mod admin;
mod api_key_commands;
mod bad_input;
mod batteries;
mod binding;
mod book;
mod chaos;
mod chart;
mod clients;
mod databases;
mod demo;
mod denials;
mod doors;
mod explain;
mod freshness;
mod gateways;
mod hints;
mod imports;
mod json_input;
mod jwks;
mod keys;
mod last_used;
mod log_overflow;
mod manifests;
mod offload;
mod outage;
mod outgoing_trust;
mod overload;
mod packaging;
mod peers;
mod redis;
mod registry_commands;
mod replicas;
mod revocation;
mod secrets;
mod seeds;
mod self_signed_certificates;
mod settings;
mod shutdown;
mod telemetry;
mod tls;
mod tokens;
mod top;
mod unix_sockets;
