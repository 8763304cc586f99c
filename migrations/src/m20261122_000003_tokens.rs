//! API keys, and issued tokens. Only hashes and ids of them are stored.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, row_id};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261122_000003_tokens"
    }
}

#[derive(DeriveIden)]
enum Principals {
    Table,
    Id,
}

#[derive(DeriveIden)]
enum ApiKeys {
    Table,
    Id,
    PrincipalId,
    Identifier,
    KeyHash,
    Comment,
    ExpiresAt,
    RevokedAt,
    LastUsedOn,
    CreatedAt,
}

#[derive(DeriveIden)]
enum TokenGrants {
    Table,
    Id,
    PrincipalId,
    Family,
    AccessJti,
    RefreshJti,
    RefreshHash,
    RefreshSeed,
    Audience,
    Sid,
    Scopes,
    ApiKeyId,
    PredecessorId,
    IssuedAt,
    AccessExpiresAt,
    RefreshExpiresAt,
    RotatedAt,
    RevokedAt,
}

/// Length of a UUID as text, in lowercase with hyphens.
const UUID_TEXT: u32 = 36;
/// Length of a SHA-512 hash in hexadecimal.
const HASH_TEXT: u32 = 128;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager).await?;
        manager.create_table(api_keys(&dialect)).await?;
        manager.create_table(token_grants(&dialect)).await?;
        for table in ["api_keys", "token_grants"] {
            if let Some(statement) = dialect.any_text_in(table) {
                manager.get_connection().execute_unprepared(&statement).await?;
            }
        }
        let keys = Index::create()
            .name("api_keys_principal")
            .table(ApiKeys::Table)
            .col(ApiKeys::PrincipalId)
            .to_owned();
        manager.create_index(keys).await?;
        let grants = || Index::create().table(TokenGrants::Table).to_owned();
        manager
            .create_index(grants().name("token_grants_family").col(TokenGrants::Family).to_owned())
            .await?;
        // A refresh token can only ever be exchanged for one successor.
        let successor = grants()
            .name("token_grants_predecessor")
            .col(TokenGrants::PredecessorId)
            .unique()
            .to_owned();
        manager.create_index(successor).await?;
        let by_principal = grants()
            .name("token_grants_principal")
            .col(TokenGrants::PrincipalId)
            .col(TokenGrants::RevokedAt)
            .to_owned();
        manager.create_index(by_principal).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TokenGrants::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(ApiKeys::Table).to_owned()).await
    }
}

fn api_keys(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(ApiKeys::Table)
        .col(row_id(ApiKeys::Id))
        .col(ColumnDef::new(ApiKeys::PrincipalId).big_integer().not_null())
        .col(dialect.exact_text(ApiKeys::Identifier, UUID_TEXT).not_null())
        .col(dialect.exact_text(ApiKeys::KeyHash, HASH_TEXT).not_null().unique_key())
        .col(ColumnDef::new(ApiKeys::Comment).text().null())
        .col(dialect.moment(ApiKeys::ExpiresAt).not_null())
        .col(dialect.moment(ApiKeys::RevokedAt).null())
        .col(dialect.moment(ApiKeys::LastUsedOn).null())
        .col(dialect.moment(ApiKeys::CreatedAt).not_null())
        .foreign_key(&mut belongs_to_principal(
            "api_keys_principal_id",
            ApiKeys::Table,
            ApiKeys::PrincipalId,
        ))
        .to_owned()
}

/// No foreign key between grants: a grant outlives its predecessor. None to API keys: they are
/// removed only with their principal, which also removes the grants.
fn token_grants(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(TokenGrants::Table)
        .col(row_id(TokenGrants::Id))
        .col(ColumnDef::new(TokenGrants::PrincipalId).big_integer().not_null())
        .col(dialect.exact_text(TokenGrants::Family, UUID_TEXT).not_null())
        .col(dialect.exact_text(TokenGrants::AccessJti, UUID_TEXT).not_null().unique_key())
        .col(dialect.exact_text(TokenGrants::RefreshJti, UUID_TEXT).null().unique_key())
        .col(dialect.exact_text(TokenGrants::RefreshHash, HASH_TEXT).null().unique_key())
        .col(dialect.exact_text(TokenGrants::RefreshSeed, UUID_TEXT).null())
        .col(ColumnDef::new(TokenGrants::Audience).text().not_null())
        .col(ColumnDef::new(TokenGrants::Sid).text().null())
        .col(ColumnDef::new(TokenGrants::Scopes).text().not_null())
        .col(ColumnDef::new(TokenGrants::ApiKeyId).big_integer().null())
        .col(ColumnDef::new(TokenGrants::PredecessorId).big_integer().null())
        .col(dialect.moment(TokenGrants::IssuedAt).not_null())
        .col(dialect.moment(TokenGrants::AccessExpiresAt).not_null())
        .col(dialect.moment(TokenGrants::RefreshExpiresAt).null())
        .col(dialect.moment(TokenGrants::RotatedAt).null())
        .col(dialect.moment(TokenGrants::RevokedAt).null())
        .foreign_key(&mut belongs_to_principal(
            "token_grants_principal_id",
            TokenGrants::Table,
            TokenGrants::PrincipalId,
        ))
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
