//! Taking over from another system.

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

/// What is taken over from.
#[derive(Clone, Debug)]
pub enum LegacySystem {
    /// A Django project with `asymmetric_jwt_auth`.
    AsymmetricJwtAuth {
        /// Its users.
        users: LegacyUsers,
        /// Whether users with neither a key nor a trust are taken, too.
        takes_all_users: bool,
    },
    /// A `jwthenticator`.
    Jwthenticator,
    /// A Django project with `django-jwtconnect-auth`.
    Jwtconnect {
        /// Its users.
        users: LegacyUsers,
    },
}

/// Where a Django project keeps its users.
#[derive(Clone, Debug)]
pub struct LegacyUsers {
    /// The table, perhaps with its schema.
    pub table: String,
    /// The column of its primary key.
    pub id_column: String,
}

/// The database at `url`, which is that of `system`.
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

/// An import from `source` into the database of `settings`. A rehearsal changes nothing, so it also
/// migrates nothing.
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
