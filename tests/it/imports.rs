//! `countersign import` from the systems that it replaces.

pub mod asymmetric;
pub mod jwtconnect;
pub mod jwthenticator;
