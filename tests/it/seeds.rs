//! The systems that Countersign replaces, side by side with it.

pub mod asymmetric;
pub mod jwthenticator;
pub mod jwthenticator_service;
pub mod jwthenticator_wire;
