//! Audit events; an index of trusts by URL; and on MySQL and MariaDB, comments, names and addresses
//! in any script.

use sea_orm_migration::{prelude::*, sea_orm::DatabaseBackend};

use crate::dialect::{Dialect, row_id};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261122_000002_audit"
    }
}

#[derive(DeriveIden)]
enum AuditEvents {
    Table,
    Id,
    At,
    Actor,
    Action,
    Username,
    SubjectId,
    Before,
    After,
}

#[derive(DeriveIden)]
enum JwksTrusts {
    Table,
    JwksUrl,
}

const TRUSTS_BY_URL: &str = "jwks_trusts_url";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager).await?;
        manager.create_table(audit_events(&dialect)).await?;
        for table in ["principals", "public_keys", "jwks_trusts", "audit_events"] {
            if let Some(statement) = dialect.any_text_in(table) {
                manager.get_connection().execute_unprepared(&statement).await?;
            }
        }
        let by_username = Index::create()
            .name("audit_events_username")
            .table(AuditEvents::Table)
            .col(AuditEvents::Username)
            .to_owned();
        manager.create_index(by_username).await?;
        let mut by_url = Index::create().name(TRUSTS_BY_URL).table(JwksTrusts::Table).to_owned();
        match manager.get_database_backend() {
            // MySQL indexes only a prefix of a text.
            DatabaseBackend::MySql => by_url.col((JwksTrusts::JwksUrl, 255)),
            _ => by_url.col(JwksTrusts::JwksUrl),
        };
        manager.create_index(by_url).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_index(Index::drop().name(TRUSTS_BY_URL).table(JwksTrusts::Table).to_owned())
            .await?;
        manager.drop_table(Table::drop().table(AuditEvents::Table).to_owned()).await
    }
}

/// No foreign key: audit events outlive the principals that they concern.
fn audit_events(dialect: &Dialect) -> TableCreateStatement {
    Table::create()
        .table(AuditEvents::Table)
        .col(row_id(AuditEvents::Id))
        .col(dialect.moment(AuditEvents::At).not_null())
        .col(ColumnDef::new(AuditEvents::Actor).string().not_null())
        .col(ColumnDef::new(AuditEvents::Action).string_len(64).not_null())
        .col(dialect.exact_text(AuditEvents::Username, 255).not_null())
        .col(ColumnDef::new(AuditEvents::SubjectId).big_integer().not_null())
        .col(ColumnDef::new(AuditEvents::Before).text().null())
        .col(ColumnDef::new(AuditEvents::After).text().null())
        .to_owned()
}
