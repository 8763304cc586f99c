//! Access and refresh tokens.

pub mod api;
pub mod attacks;
pub mod commands;
pub mod introspection;
pub mod oauth;
pub mod refresh;
pub mod replicas;
