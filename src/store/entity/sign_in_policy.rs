use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sign_in_policy")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i16,
    pub version: i64,
    pub second_factor_required: i16,
    pub second_factor_roles: String,
    pub second_factor_from: Option<i64>,
    pub password_min_length: Option<i32>,
    pub password_max_length: Option<i32>,
    pub password_min_score: Option<i16>,
    pub password_reject_breached: Option<i16>,
    pub password_reject_user_info: Option<i16>,
    pub password_letter_and_digit: Option<i16>,
    pub password_history: i16,
    pub password_min_age: i64,
    pub password_check_breached: i16,
    pub password_judged_since: Option<i64>,
    pub password_max_age: i64,
    pub password_max_age_set_at: i64,
    pub password_rollout: i64,
    pub password_warnings: String,
    pub throttle_threshold: Option<i16>,
    pub throttle_initial: Option<i64>,
    pub throttle_max: Option<i64>,
    pub lockout_threshold: Option<i16>,
    pub lockout_duration: Option<i64>,
    pub failure_memory: Option<i64>,
    pub max_inactivity: i64,
    pub max_inactivity_set_at: i64,
    pub inactivity_warnings: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
