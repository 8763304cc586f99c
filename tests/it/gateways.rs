//! Real gateways, configured by the files of `examples/`.

pub mod apache;
pub mod caddy;
pub mod common;
pub mod envoy;
pub mod every;
pub mod haproxy;
pub mod hostile;
pub mod matrix;
pub mod nginx;
pub mod rolling;
pub mod shared;
pub mod traefik;
