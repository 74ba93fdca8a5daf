//! Places from which accounts have signed in, the end of device tokens, and budgets of failed sign-ins by account.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They read a throttle
//! by `throttle.user_id`, which therefore stays NULL in all rows but the one that they know.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_familiar_places"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // `place` is a keyed digest.
    r#"CREATE TABLE familiar_place (
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        place {key} NOT NULL,
        last_used_at BIGINT NOT NULL,
        PRIMARY KEY (user_id, place)
    )"#,
    "CREATE INDEX familiar_place_last_used ON familiar_place (last_used_at)",
    // NULL until the first reset of the password.
    r#"ALTER TABLE "user" ADD COLUMN devices_valid_after BIGINT NULL"#,
    // The account of every budget: of familiar places too, and of each name. NULL for unknown names.
    r#"ALTER TABLE throttle ADD COLUMN account_id {key} NULL REFERENCES "user" (id) ON DELETE CASCADE"#,
    "UPDATE throttle SET account_id = user_id WHERE user_id IS NOT NULL",
    "CREATE INDEX throttle_of_account ON throttle (account_id, waits_until)",
];
