//! Principals, their public keys and trusts, and the change feed that replicas follow.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, row_id};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261121_000001_registry"
    }
}

#[derive(DeriveIden)]
enum Principals {
    Table,
    Id,
    Username,
    IsActive,
    GivenName,
    FamilyName,
    Email,
    Scopes,
    CreatedAt,
    UpdatedAt,
}

#[derive(DeriveIden)]
enum PublicKeys {
    Table,
    Id,
    PrincipalId,
    Key,
    Fingerprint,
    Family,
    Comment,
    Scopes,
    NotBefore,
    ExpiresAt,
    RevokedAt,
    LastUsedOn,
    CreatedAt,
}

#[derive(DeriveIden)]
enum JwksTrusts {
    Table,
    Id,
    PrincipalId,
    JwksUrl,
    LastUsedOn,
    LastFetchedAt,
    LastError,
    CreatedAt,
}

#[derive(DeriveIden)]
enum RegistryChanges {
    Table,
    Id,
    PrincipalId,
    At,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager).await?;
        manager.create_table(principals(&dialect)).await?;
        manager.create_table(public_keys(&dialect)).await?;
        manager.create_table(jwks_trusts(&dialect)).await?;
        manager.create_table(registry_changes(&dialect)).await?;
        let unique_key = Index::create()
            .name("public_keys_principal_fingerprint")
            .table(PublicKeys::Table)
            .col(PublicKeys::PrincipalId)
            .col(PublicKeys::Fingerprint)
            .unique()
            .to_owned();
        manager.create_index(unique_key).await?;
        let trusts = Index::create()
            .name("jwks_trusts_principal")
            .table(JwksTrusts::Table)
            .col(JwksTrusts::PrincipalId)
            .to_owned();
        manager.create_index(trusts).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(RegistryChanges::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(JwksTrusts::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(PublicKeys::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(Principals::Table).to_owned()).await
    }
}

fn principals(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(Principals::Table)
        .col(row_id(Principals::Id))
        .col(dialect.exact_text(Principals::Username, 255).not_null().unique_key())
        .col(ColumnDef::new(Principals::IsActive).boolean().not_null())
        .col(ColumnDef::new(Principals::GivenName).string().null())
        .col(ColumnDef::new(Principals::FamilyName).string().null())
        .col(ColumnDef::new(Principals::Email).string().null())
        .col(ColumnDef::new(Principals::Scopes).text().not_null())
        .col(dialect.moment(Principals::CreatedAt).not_null())
        .col(dialect.moment(Principals::UpdatedAt).not_null())
        .to_owned()
}

fn public_keys(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(PublicKeys::Table)
        .col(row_id(PublicKeys::Id))
        .col(ColumnDef::new(PublicKeys::PrincipalId).big_integer().not_null())
        .col(ColumnDef::new(PublicKeys::Key).text().not_null())
        .col(dialect.exact_text(PublicKeys::Fingerprint, 64).not_null())
        .col(ColumnDef::new(PublicKeys::Family).string_len(16).not_null())
        .col(ColumnDef::new(PublicKeys::Comment).text().null())
        .col(ColumnDef::new(PublicKeys::Scopes).text().null())
        .col(dialect.moment(PublicKeys::NotBefore).null())
        .col(dialect.moment(PublicKeys::ExpiresAt).null())
        .col(dialect.moment(PublicKeys::RevokedAt).null())
        .col(dialect.moment(PublicKeys::LastUsedOn).null())
        .col(dialect.moment(PublicKeys::CreatedAt).not_null())
        .foreign_key(&mut belongs_to_principal(
            "public_keys_principal",
            PublicKeys::Table,
            PublicKeys::PrincipalId,
        ))
        .to_owned()
}

fn jwks_trusts(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(JwksTrusts::Table)
        .col(row_id(JwksTrusts::Id))
        .col(ColumnDef::new(JwksTrusts::PrincipalId).big_integer().not_null())
        .col(ColumnDef::new(JwksTrusts::JwksUrl).text().not_null())
        .col(dialect.moment(JwksTrusts::LastUsedOn).null())
        .col(dialect.moment(JwksTrusts::LastFetchedAt).null())
        .col(ColumnDef::new(JwksTrusts::LastError).text().null())
        .col(dialect.moment(JwksTrusts::CreatedAt).not_null())
        .foreign_key(&mut belongs_to_principal(
            "jwks_trusts_principal_id",
            JwksTrusts::Table,
            JwksTrusts::PrincipalId,
        ))
        .to_owned()
}

/// No foreign key: the record of a principal's removal outlives the principal.
fn registry_changes(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(RegistryChanges::Table)
        .col(row_id(RegistryChanges::Id))
        .col(ColumnDef::new(RegistryChanges::PrincipalId).big_integer().not_null())
        .col(dialect.moment(RegistryChanges::At).not_null())
        .to_owned()
}

fn belongs_to_principal(
    name: &str,
    table: impl IntoIden,
    column: impl IntoIden,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(name)
        .from(table.into_iden(), column.into_iden())
        .to(Principals::Table, Principals::Id)
        .on_delete(ForeignKeyAction::Cascade)
        .to_owned()
}
