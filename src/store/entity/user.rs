use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub kind: i16,
    pub username: String,
    pub email: Option<String>,
    pub email_key: Option<String>,
    pub display_name: Option<String>,
    pub locale: Option<String>,
    pub external_id: Option<String>,
    pub labels: String,
    pub roles: String,
    pub password_hash: Option<String>,
    pub password_kind: i16,
    pub password_changed_at: Option<i64>,
    pub password_expires_at: Option<i64>,
    pub password_ended_at: Option<i64>,
    pub ended_password_hash: Option<String>,
    pub change_demanded: bool,
    pub password_breached: bool,
    pub password_against_policy: bool,
    pub password_judged_at: Option<i64>,
    pub lock_cause: Option<i16>,
    pub lock_note: Option<String>,
    pub locked_at: Option<i64>,
    pub lock_expires_at: Option<i64>,
    pub lock_actor_id: Option<String>,
    pub lock_actor_name: Option<String>,
    pub version: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub last_sign_in_at: Option<i64>,
    pub devices_valid_after: Option<i64>,
    pub email_verified_at: Option<i64>,
    pub active_from: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Omits the secret columns.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("user::Model").field("id", &self.id).finish_non_exhaustive()
    }
}
