use sea_orm::entity::prelude::*;

#[expect(clippy::struct_excessive_bools, reason = "each is a column")]
#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "delivery")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub user_id: String,
    pub letter: i16,
    pub address: String,
    pub address_key: String,
    pub locale: Option<String>,
    pub state: i16,
    pub attempts: i32,
    /// The words of the last attempt, also if it was accepted.
    pub last_error: String,
    pub relay: String,
    pub created_at: i64,
    pub updated_at: i64,
    pub next_attempt_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub link_id: Option<String>,
    pub resend_of: Option<String>,
    pub requested_by: String,
    pub contents_version: i16,
    pub contents: Option<Vec<u8>>,
    pub lease: Option<Vec<u8>>,
    pub is_slow: bool,
    /// Whether the last attempt failed because of the relay or the folder.
    pub relay_failed: bool,
    pub was_unknown: bool,
    pub is_cancelled: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Omits the secret columns.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("delivery::Model").field("id", &self.id).finish_non_exhaustive()
    }
}
