//! Transports. They translate what a gateway asks and what the engine answers; they never decide.

mod answer;
pub mod grpc;
pub mod http;
#[allow(dead_code, reason = "the doors take it up one after the other")]
mod in_flight;
pub mod listen;
pub mod tls;
