use sea_orm::entity::prelude::*;

use super::super::by_principal::Owned;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "token_grants")]
pub(crate) struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub principal_id: i64,
    pub family: String,
    #[sea_orm(unique)]
    pub access_jti: String,
    #[sea_orm(unique)]
    pub refresh_jti: Option<String>,
    #[sea_orm(unique)]
    pub refresh_hash: Option<String>,
    pub refresh_seed: Option<String>,
    /// Audiences separated by spaces.
    pub audience: String,
    pub sid: Option<String>,
    pub scopes: String,
    pub api_key_id: Option<i64>,
    /// The credential for which the grant was issued: at most one of these three is set.
    pub public_key_id: Option<i64>,
    pub jwks_trust_id: Option<i64>,
    /// The grant that was exchanged for this one.
    pub predecessor_id: Option<i64>,
    pub issued_at: TimeDateTime,
    pub access_expires_at: TimeDateTime,
    pub refresh_expires_at: Option<TimeDateTime>,
    pub rotated_at: Option<TimeDateTime>,
    pub revoked_at: Option<TimeDateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {
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
