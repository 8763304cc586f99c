//! The tables of the database: made, taken back, looked at.

use migrations::{
    Migrator,
    sea_orm_migration::{MigrationStatus, MigratorTrait},
};

use super::{AppError, use_one_crypto_library};
use crate::{config::database::DatabaseSettings, stores::sql::connect};

/// A migration and whether the database has it.
#[derive(Clone, Debug)]
pub struct MigrationState {
    /// Its name.
    pub name: String,
    /// Whether it was applied.
    pub is_applied: bool,
}

/// What migrating says as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationStep<'a> {
    /// So many migrations are missing.
    Missing(usize),
    /// This one was applied.
    Applied(&'a str),
}

/// Applies every migration that is missing, and says which.
pub async fn migrate_up(settings: &DatabaseSettings) -> Result<Vec<String>, AppError> {
    migrate_up_telling(settings, |_| ()).await
}

/// [`migrate_up`], which tells `observer` of each step when it is done: those before one that fails stay.
pub async fn migrate_up_telling(
    settings: &DatabaseSettings,
    mut observer: impl FnMut(MigrationStep<'_>),
) -> Result<Vec<String>, AppError> {
    use_one_crypto_library();
    let database = connect(settings).await?;
    let failed = |error: migrations::sea_orm_migration::DbErr| AppError::Migration(error.into());
    let pending: Vec<String> = Migrator::get_pending_migrations(&database)
        .await
        .map_err(failed)?
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    observer(MigrationStep::Missing(pending.len()));
    for name in &pending {
        Migrator::up(&database, Some(1)).await.map_err(failed)?;
        observer(MigrationStep::Applied(name));
    }
    Ok(pending)
}

/// Takes the newest migration back, with the data of its tables, and says which.
pub async fn migrate_down(settings: &DatabaseSettings) -> Result<Option<String>, AppError> {
    use_one_crypto_library();
    let database = connect(settings).await?;
    let failed = |error: migrations::sea_orm_migration::DbErr| AppError::Migration(error.into());
    let applied = Migrator::get_applied_migrations(&database).await.map_err(failed)?;
    let Some(newest) = applied.last().map(|migration| migration.name().to_owned()) else { return Ok(None) };
    Migrator::down(&database, Some(1)).await.map_err(failed)?;
    Ok(Some(newest))
}

/// Every migration, in order.
pub async fn migration_status(settings: &DatabaseSettings) -> Result<Vec<MigrationState>, AppError> {
    use_one_crypto_library();
    let database = connect(settings).await?;
    let all = Migrator::get_migration_with_status(&database).await.map_err(|error| AppError::Migration(error.into()))?;
    let state = |migration: &migrations::sea_orm_migration::Migration| MigrationState {
        name: migration.name().to_owned(),
        is_applied: migration.status() == MigrationStatus::Applied,
    };
    Ok(all.iter().map(state).collect())
}
