use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sealed_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub purpose: i16,
    pub sealed: Vec<u8>,
    pub public: Option<Vec<u8>>,
    pub seal_fingerprint: String,
    pub created_at: i64,
    pub not_before: i64,
    pub not_after: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Omits the secret columns.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("sealed_key::Model").field("id", &self.id).finish_non_exhaustive()
    }
}
