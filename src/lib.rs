//! Countersign answers one question for a gateway: may this request pass, and who is asking?
//!
//! The layers, from the inside out; `tests/layering.rs` keeps them apart:
//!
//! - [`domain`]: what a key, a token, a nonce, a principal and a decision are. Pure, synchronous,
//!   `now` is an argument.
//! - `roots`: the certificate authorities that outgoing connections trust.
//! - [`client`]: sign a token and build the header. Without the feature `server`, this and `domain`
//!   are everything.
//! - `config`: one struct of settings per concern, read from a file and the environment.
//! - `telemetry`: the log, metrics and traces.
//! - `engine`: the use cases. `engine::verify::Verifier::decide` is the only place that decides
//!   about requests; `engine::ports` says what it needs from outside.
//! - `stores`: adapters behind those ports: SQL through SeaORM, nonces in memory or Redis, the key
//!   directory in memory.
//! - `doors`: transports, HTTP and gRPC. They translate and never decide.
//! - `app`: builds adapters and wires them together.
//! - `cli`: one file per command.

// The futures of commands contain those of SeaORM and its migrations, nested deeper than the
// compiler's default limit.
#![recursion_limit = "256"]

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
pub mod domain;
#[cfg(feature = "server")]
pub mod doors;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(any(feature = "server", feature = "client-http"))]
pub mod roots;
#[cfg(feature = "server")]
pub mod stores;
#[cfg(feature = "server")]
pub mod telemetry;
