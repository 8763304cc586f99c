//! The binary `countersign` from outside: real requests through real gateways, real stores, real peers.
//!
//! Every test starts the servers that it needs on free loopback ports and stops them when it ends, so tests run at
//! once and in any order. But for `batteries` and `book`, nothing here calls into the library: what these tests know of
//! Countersign is what its users know, and the tokens that they send are signed by code of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on says so by panicking, and has no readers of its API"
)]

mod harness;

mod admin_api;
mod admin_api_keys;
mod admin_changes;
mod admin_entrance;
mod admin_keys;
mod admin_schema;
mod admin_tokens;
mod api_key_commands;
mod bad_input;
mod batteries;
mod binding;
mod book;
mod chaos;
mod chart;
mod client_session;
mod databases;
mod demo;
mod denials;
mod example_clients;
mod explain;
mod freshness;
mod gateways;
mod gateways_apache;
mod gateways_caddy;
mod gateways_common;
mod gateways_envoy;
mod gateways_haproxy;
mod gateways_hostile;
mod gateways_matrix;
mod gateways_nginx;
mod gateways_rolling;
mod gateways_shared;
mod gateways_traefik;
mod grpc_door;
mod grpc_limits;
mod guarded_redis;
mod hints;
mod http_door;
mod import_asymmetric;
mod import_jwtconnect;
mod import_jwthenticator;
mod json_input;
mod jwks;
mod jwks_fetching;
mod jwks_guards;
mod jwks_hostile;
mod jwks_proxy;
mod jwks_real;
mod jwks_server;
mod jwks_sets;
mod jwthenticator;
mod jwthenticator_wire;
mod key_registration;
mod last_used;
mod log_overflow;
mod manifests;
mod offload;
mod outage;
mod outgoing_trust;
mod overload;
mod packaging;
mod peers;
mod real_clients;
mod real_keys;
mod redis_access;
mod redis_far;
mod redis_nodes;
mod registry_commands;
mod replicas;
mod revocation;
mod secrets;
mod seed_asymmetric;
mod seed_jwthenticator;
mod self_signed_certificates;
mod settings;
mod shutdown;
mod signing_keys;
mod telemetry;
mod tls;
mod token_api;
mod token_attacks;
mod token_commands;
mod token_introspection;
mod token_oauth;
mod token_refresh;
mod token_replicas;
mod top;
mod verification_door;
