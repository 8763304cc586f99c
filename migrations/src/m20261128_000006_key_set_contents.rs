//! The contents of a key set when it was last fetched, stored beside the time of that fetch.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261128_000006_key_set_contents"
    }
}

#[derive(DeriveIden)]
enum JwksTrusts {
    Table,
    UsableKeys,
    LeftOut,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // One at a time: SQLite adds only one column per statement.
        let usable_keys = ColumnDef::new(JwksTrusts::UsableKeys).big_integer().null().to_owned();
        manager
            .alter_table(Table::alter().table(JwksTrusts::Table).add_column(usable_keys).to_owned())
            .await?;
        let left_out = ColumnDef::new(JwksTrusts::LeftOut).text().null().to_owned();
        manager
            .alter_table(Table::alter().table(JwksTrusts::Table).add_column(left_out).to_owned())
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .alter_table(
                Table::alter().table(JwksTrusts::Table).drop_column(JwksTrusts::LeftOut).to_owned(),
            )
            .await?;
        manager
            .alter_table(
                Table::alter()
                    .table(JwksTrusts::Table)
                    .drop_column(JwksTrusts::UsableKeys)
                    .to_owned(),
            )
            .await
    }
}
