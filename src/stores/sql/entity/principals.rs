use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "principals")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    #[sea_orm(unique)]
    pub username: String,
    pub is_active: bool,
    pub given_name: Option<String>,
    pub family_name: Option<String>,
    pub email: Option<String>,
    pub scopes: String,
    pub created_at: TimeDateTime,
    pub updated_at: TimeDateTime,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    /// Keys that can still be used: revoked ones keep their rows.
    #[sea_orm(
        has_many = "super::public_keys::Entity",
        on_condition = r#"super::public_keys::Column::RevokedAt.is_null()"#
    )]
    PublicKeys,
    #[sea_orm(has_many = "super::jwks_trusts::Entity")]
    JwksTrusts,
}

impl Related<super::public_keys::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::PublicKeys.def()
    }
}

impl Related<super::jwks_trusts::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::JwksTrusts.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
