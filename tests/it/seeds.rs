//! The systems that Countersign replaces, compared to it.

pub mod asymmetric;
pub mod jwthenticator;
pub mod jwthenticator_service;
pub mod jwthenticator_wire;
