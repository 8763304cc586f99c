//! What each door accepts and answers.

pub mod grpc;
pub mod grpc_limits;
pub mod http;
pub mod http2;
pub mod verification;
