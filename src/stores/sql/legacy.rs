//! The databases of the systems that this one takes over from, read as of one moment and never
//! written.
//!
//! Their tables have no entities here: they are other people's, and differ from version to version.

mod asymmetric_jwt_auth;
mod django;
mod jwtconnect;
mod jwthenticator;
mod snapshot;

pub use asymmetric_jwt_auth::AsymmetricJwtAuth;
pub use django::UserTable;
pub use jwtconnect::Jwtconnect;
pub use jwthenticator::Jwthenticator;
