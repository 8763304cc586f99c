use sea_orm::entity::prelude::*;

use super::super::by_principal::Owned;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "public_keys")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub principal_id: i64,
    /// The key as it was given, in any supported format.
    pub key: String,
    pub fingerprint: String,
    pub family: String,
    pub comment: Option<String>,
    pub scopes: Option<String>,
    pub not_before: Option<TimeDateTime>,
    pub expires_at: Option<TimeDateTime>,
    pub revoked_at: Option<TimeDateTime>,
    pub last_used_on: Option<TimeDateTime>,
    pub created_at: TimeDateTime,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::principals::Entity",
        from = "Column::PrincipalId",
        to = "super::principals::Column::Id",
        on_delete = "Cascade"
    )]
    Principal,
}

impl Related<super::principals::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Principal.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}

impl Owned for Entity {
    const ID: Column = Column::Id;
    const PRINCIPAL_ID: Column = Column::PrincipalId;
}
