use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event_horizon")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub class: i16,
    pub swept_until: i64,
    pub waits_until: Option<i64>,
    pub complete_since: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
