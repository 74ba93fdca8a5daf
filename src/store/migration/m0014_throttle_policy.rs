//! What the policy says of throttle and lockout.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They throttle and
//! lock by their configuration.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0014_throttle_policy"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // NULL: as configured. Times are in microseconds.
    "ALTER TABLE sign_in_policy ADD COLUMN throttle_threshold SMALLINT",
    "ALTER TABLE sign_in_policy ADD COLUMN throttle_initial BIGINT",
    "ALTER TABLE sign_in_policy ADD COLUMN throttle_max BIGINT",
    "ALTER TABLE sign_in_policy ADD COLUMN lockout_threshold SMALLINT",
    "ALTER TABLE sign_in_policy ADD COLUMN lockout_duration BIGINT",
    "ALTER TABLE sign_in_policy ADD COLUMN failure_memory BIGINT",
];
