use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub at: i64,
    pub class: i16,
    pub kind: String,
    pub outcome: i16,
    pub reason: Option<String>,
    pub actor_id: String,
    pub actor_name: String,
    pub actor_session_id: String,
    pub actor_api_token_id: String,
    pub app: String,
    pub client_address: String,
    pub user_agent: String,
    pub target_user_id: String,
    pub target_username: String,
    pub subject_id: String,
    pub changed_fields: String,
    pub note: String,
    pub details: String,
    pub method: String,
    pub request_id: String,
    pub sequence: Option<i64>,
    pub digest: Option<Vec<u8>>,
    /// `NULL` if the client gave the request no id.
    pub client_request_id: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
