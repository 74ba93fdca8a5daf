use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sign_in_ticket")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    pub user_id: String,
    pub purpose: i16,
    pub second_factor: i16,
    pub goal: i16,
    pub session_id: Option<String>,
    pub sealed_key: Option<Vec<u8>>,
    pub app: String,
    pub client_name: Option<String>,
    pub audiences: String,
    pub scopes: Option<String>,
    pub created_at: i64,
    pub expires_at: i64,
    pub tries: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Omits the secret columns.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ticket::Model").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}
