//! The change feed, in the order in which its entries become visible. The `id` of a row is assigned
//! when the row is written; with a sequence, its order depends on the connection and on who commits
//! first. `ordinal` comes from a single row that each writer locks until its transaction ends.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261128_000005_feed_order"
    }
}

#[derive(DeriveIden)]
enum RegistryChanges {
    Table,
    Id,
    Ordinal,
}

/// A table with a single row.
#[derive(DeriveIden)]
enum RegistryFeed {
    Table,
    Id,
    Newest,
}

const BY_ORDINAL: &str = "registry_changes_ordinal";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Null if written by a replica of an earlier version during the rollout of a new one.
        let ordinal = ColumnDef::new(RegistryChanges::Ordinal).big_integer().null().to_owned();
        manager
            .alter_table(
                Table::alter().table(RegistryChanges::Table).add_column(ordinal).to_owned(),
            )
            .await?;
        let in_order_of_ids = Query::update()
            .table(RegistryChanges::Table)
            .value(RegistryChanges::Ordinal, Expr::col(RegistryChanges::Id))
            .to_owned();
        manager.execute(in_order_of_ids).await?;
        let by_ordinal = Index::create()
            .name(BY_ORDINAL)
            .table(RegistryChanges::Table)
            .col(RegistryChanges::Ordinal)
            .unique()
            .to_owned();
        manager.create_index(by_ordinal).await?;
        let feed = Table::create()
            .table(RegistryFeed::Table)
            .col(ColumnDef::new(RegistryFeed::Id).integer().not_null().primary_key())
            .col(ColumnDef::new(RegistryFeed::Newest).big_integer().not_null())
            .to_owned();
        manager.create_table(feed).await?;
        let newest = Expr::col(RegistryChanges::Ordinal).max().if_null(0);
        let first_row = Query::insert()
            .into_table(RegistryFeed::Table)
            .columns([RegistryFeed::Id, RegistryFeed::Newest])
            .select_from(
                Query::select()
                    .expr(Expr::val(1))
                    .expr(newest)
                    .from(RegistryChanges::Table)
                    .to_owned(),
            )
            .map_err(|error| DbErr::Migration(error.to_string()))?
            .to_owned();
        manager.execute(first_row).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(RegistryFeed::Table).to_owned()).await?;
        manager
            .drop_index(Index::drop().name(BY_ORDINAL).table(RegistryChanges::Table).to_owned())
            .await?;
        let ordinal = Table::alter()
            .table(RegistryChanges::Table)
            .drop_column(RegistryChanges::Ordinal)
            .to_owned();
        manager.alter_table(ordinal).await
    }
}
