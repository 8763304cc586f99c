//! Transports. They translate what a gateway asks and what the engine answers; they never decide.

pub mod grpc;
pub mod http;
mod in_flight;
pub mod listen;
mod response;
pub mod tls;
