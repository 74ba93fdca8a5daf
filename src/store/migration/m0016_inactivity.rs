//! The time without a sign-in after which accounts are locked, and which users were told so.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. An account that is
//! locked for inactivity is a corrupt record to them: set the policy when they are replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0016_inactivity"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // The time without a sign-in after which accounts are locked (0: never), and when it was set, in microseconds.
    "ALTER TABLE sign_in_policy ADD COLUMN max_inactivity BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE sign_in_policy ADD COLUMN max_inactivity_set_at BIGINT NOT NULL DEFAULT 0",
    // How long before users are told, in microseconds, the longest first, with commas between.
    "ALTER TABLE sign_in_policy ADD COLUMN inactivity_warnings TEXT NOT NULL DEFAULT ''",
    // An account counts as used then, without a sign-in: an operator unlocked it, say.
    r#"ALTER TABLE "user" ADD COLUMN active_from BIGINT NULL"#,
    // No index has the time of the last sign-in: each sign-in would write to it. Jobs read all accounts instead, a few times an hour.
    // By this the locks of the last hour are counted.
    r#"CREATE INDEX user_locked_for_inactivity ON "user" (locked_at) WHERE lock_cause = 4"#,
    // The last warning that a user was sent: of the account last used then, under that policy, this long before the lock.
    r#"CREATE TABLE inactivity_warning (
        user_id {key} NOT NULL PRIMARY KEY REFERENCES "user" (id) ON DELETE CASCADE,
        active_at BIGINT NOT NULL,
        max_inactivity BIGINT NOT NULL,
        max_inactivity_set_at BIGINT NOT NULL,
        before_end BIGINT NOT NULL
    )"#,
];
