//! Migrations of the database: apply, revert, list.

use migrations::{
    Migrator,
    sea_orm_migration::{
        MigrationStatus, MigratorTrait,
        sea_orm::{DatabaseTransaction, DbErr},
    },
};

use super::{AppError, use_one_crypto_library};
use crate::{
    config::database::DatabaseSettings,
    stores::sql::{Schema, SchemaError},
};

/// A migration and whether it is applied.
#[derive(Clone, Debug)]
pub struct MigrationState {
    /// Name of the migration.
    pub name: String,
    /// Whether it was applied.
    pub is_applied: bool,
}

/// Progress of a migration run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationStep<'a> {
    /// This many migrations are pending.
    Missing(usize),
    /// Another process is migrating; this one waits.
    Waiting,
    /// The named migration was applied.
    Applied(&'a str),
}

/// Applies every pending migration and returns their names.
pub async fn migrate_up(settings: &DatabaseSettings) -> Result<Vec<String>, AppError> {
    migrate_up_telling(settings, |_| ()).await
}

/// Like [`migrate_up`], but reports each step to `observer` when it is done: if one fails, those
/// before it stay applied. If several processes migrate at the same time, each migration is applied
/// by one of them.
pub async fn migrate_up_telling(
    settings: &DatabaseSettings,
    mut observer: impl FnMut(MigrationStep<'_>),
) -> Result<Vec<String>, AppError> {
    use_one_crypto_library();
    let schema = Schema::open(settings).await?;
    let missing = schema
        .look(async |transaction| Migrator::get_pending_migrations_read_only(transaction).await)
        .await;
    let missing = missing.map_err(failed)?.len();
    observer(MigrationStep::Missing(missing));
    let (mut applied, mut has_waited) = (Vec::new(), false);
    if missing > 0 {
        loop {
            let waits = || {
                if !std::mem::replace(&mut has_waited, true) {
                    observer(MigrationStep::Waiting);
                }
            };
            let Some(name) = schema.change(waits, apply_next).await.map_err(AppError::Migration)?
            else {
                break;
            };
            observer(MigrationStep::Applied(&name));
            applied.push(name);
        }
    }
    schema.close().await;
    Ok(applied)
}

async fn apply_next(transaction: &DatabaseTransaction) -> Result<Option<String>, DbErr> {
    let pending = Migrator::get_pending_migrations(transaction).await?;
    let Some(name) = pending.first().map(|migration| migration.name().to_owned()) else {
        return Ok(None);
    };
    Migrator::up(transaction, Some(1)).await?;
    Ok(Some(name))
}

/// Reverts the newest migration, deletes the data of its tables, and returns its name; `None` if
/// there is nothing to revert.
pub async fn migrate_down(settings: &DatabaseSettings) -> Result<Option<String>, AppError> {
    use_one_crypto_library();
    let schema = Schema::open(settings).await?;
    let taken_back = schema.change(|| (), take_newest_back).await.map_err(AppError::Migration)?;
    schema.close().await;
    Ok(taken_back)
}

async fn take_newest_back(transaction: &DatabaseTransaction) -> Result<Option<String>, DbErr> {
    let applied = Migrator::get_applied_migrations(transaction).await?;
    let Some(newest) = applied.last().map(|migration| migration.name().to_owned()) else {
        return Ok(None);
    };
    Migrator::down(transaction, Some(1)).await?;
    Ok(Some(newest))
}

/// All migrations, in order. Changes nothing.
pub async fn migration_status(
    settings: &DatabaseSettings,
) -> Result<Vec<MigrationState>, AppError> {
    use_one_crypto_library();
    let Some(schema) = Schema::look_at(settings).await? else {
        let state = |name: &str| MigrationState { name: name.to_owned(), is_applied: false };
        return Ok(Migrator::migrations()
            .iter()
            .map(|migration| state(migration.name()))
            .collect());
    };
    let all = schema
        .look(async |transaction| Migrator::get_migration_with_status_read_only(transaction).await)
        .await;
    let all = all.map_err(failed)?;
    schema.close().await;
    let state = |migration: &migrations::sea_orm_migration::Migration| MigrationState {
        name: migration.name().to_owned(),
        is_applied: migration.status() == MigrationStatus::Applied,
    };
    Ok(all.iter().map(state).collect())
}

fn failed(error: DbErr) -> AppError {
    AppError::Migration(SchemaError::Database(error))
}
