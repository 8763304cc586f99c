//! Transports. They translate between gateways and the engine; they never decide.

pub mod grpc;
pub mod http;
mod in_flight;
pub mod listen;
mod response;
pub mod tls;
