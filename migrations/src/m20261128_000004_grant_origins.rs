//! The key or trust for which a grant was issued, so that the grant ends with it.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261128_000004_grant_origins"
    }
}

#[derive(DeriveIden)]
enum TokenGrants {
    Table,
    PublicKeyId,
    JwksTrustId,
}

/// No foreign keys: a grant outlives its trust until it has expired, so that replicas learn that it
/// was revoked.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds only one column per statement.
        for column in [TokenGrants::PublicKeyId, TokenGrants::JwksTrustId] {
            let number = ColumnDef::new(column).big_integer().null().to_owned();
            manager
                .alter_table(Table::alter().table(TokenGrants::Table).add_column(number).to_owned())
                .await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [TokenGrants::JwksTrustId, TokenGrants::PublicKeyId] {
            manager
                .alter_table(
                    Table::alter().table(TokenGrants::Table).drop_column(column).to_owned(),
                )
                .await?;
        }
        Ok(())
    }
}
