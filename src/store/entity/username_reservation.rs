use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "username_reservation")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// A username or the key of an e-mail address: only an address has an '@'.
    pub username: String,
    pub available_at: i64,
    pub user_id: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
