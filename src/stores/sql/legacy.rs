//! Databases of the systems that this one replaces, read as a consistent snapshot and never
//! written.
//!
//! There are no entities for their tables: we do not own them, and they differ between versions.

mod asymmetric_jwt_auth;
mod django;
mod jwtconnect;
mod jwthenticator;
mod snapshot;

pub use asymmetric_jwt_auth::AsymmetricJwtAuth;
pub use django::UserTable;
pub use jwtconnect::Jwtconnect;
pub use jwthenticator::Jwthenticator;
