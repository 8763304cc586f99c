//! Imports from other systems.

use std::sync::Arc;

use super::{AppError, Shared, change_hints, use_one_crypto_library};
use crate::{
    config::{Settings, database::DatabaseUrl},
    engine::{
        import::{Import, ImportTerms},
        ports::{ImportStore, LegacyError, LegacySource},
    },
    stores::sql::legacy::{AsymmetricJwtAuth, Jwtconnect, Jwthenticator, UserTable},
};

/// The system to import from.
#[derive(Clone, Debug)]
pub enum LegacySystem {
    /// A Django project with `asymmetric_jwt_auth`.
    AsymmetricJwtAuth {
        /// Its table of users.
        users: LegacyUsers,
        /// Whether to import users with neither a key nor a trust, too.
        takes_all_users: bool,
    },
    /// A `jwthenticator`.
    Jwthenticator,
    /// A Django project with `django-jwtconnect-auth`.
    Jwtconnect {
        /// Its table of users.
        users: LegacyUsers,
    },
}

/// Where a Django project stores its users.
#[derive(Clone, Debug)]
pub struct LegacyUsers {
    /// The table, optionally with its schema.
    pub table: String,
    /// The primary key column of the table.
    pub id_column: String,
}

/// The database of `system`, at `url`.
pub async fn legacy_source(
    system: &LegacySystem,
    url: &DatabaseUrl,
) -> Result<Arc<dyn LegacySource>, LegacyError> {
    use_one_crypto_library();
    let user_table = |users: &LegacyUsers| UserTable {
        name: users.table.clone(),
        id_column: users.id_column.clone(),
    };
    Ok(match system {
        LegacySystem::AsymmetricJwtAuth { users, takes_all_users } => {
            Arc::new(AsymmetricJwtAuth::open(url, &user_table(users), *takes_all_users).await?)
        }
        LegacySystem::Jwthenticator => Arc::new(Jwthenticator::open(url).await?),
        LegacySystem::Jwtconnect { users } => {
            Arc::new(Jwtconnect::open(url, &user_table(users)).await?)
        }
    })
}

/// An import from `source` into the database of `settings`. A dry run changes nothing, so it does
/// not migrate the database either.
pub async fn import(
    settings: &Settings,
    source: Arc<dyn LegacySource>,
    is_rehearsal: bool,
    actor: &str,
) -> Result<Import, AppError> {
    let mut settings = settings.clone();
    if is_rehearsal {
        settings.database.auto_migrate = Some(false);
    }
    let shared = Shared::connect(&settings).await?;
    let registry = shared.registry(change_hints(&settings)?, actor);
    let audience = Some(settings.issuer.audience.clone()).filter(|audience| !audience.is_empty());
    let terms = ImportTerms { is_rehearsal, audience: audience.into_iter().collect() };
    Ok(Import::new(source, shared.store as Arc<dyn ImportStore>, registry, terms))
}
