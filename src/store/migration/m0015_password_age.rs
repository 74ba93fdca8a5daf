//! The maximum age of passwords, and which users were told that theirs will expire.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. To them, passwords
//! do not expire.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0015_password_age"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // The age at which passwords expire (0: never), when it was set, and the time over which older passwords expire, in
    // microseconds: 30 days.
    "ALTER TABLE sign_in_policy ADD COLUMN password_max_age BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE sign_in_policy ADD COLUMN password_max_age_set_at BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE sign_in_policy ADD COLUMN password_rollout BIGINT NOT NULL DEFAULT 2592000000000",
    // How long before users are told, in microseconds, the longest first, with commas between.
    "ALTER TABLE sign_in_policy ADD COLUMN password_warnings TEXT NOT NULL DEFAULT ''",
    // Its condition is that of no other query: SQLite would take this index for them instead of theirs.
    r#"CREATE INDEX user_password_age ON "user" (password_changed_at, id)
        WHERE password_hash IS NOT NULL AND password_kind = 1"#,
    // The last warning that a user was sent: of the password changed then, under that maximum age, this long before its end.
    r#"CREATE TABLE password_warning (
        user_id {key} NOT NULL PRIMARY KEY REFERENCES "user" (id) ON DELETE CASCADE,
        changed_at BIGINT NOT NULL,
        max_age BIGINT NOT NULL,
        max_age_set_at BIGINT NOT NULL,
        before_end BIGINT NOT NULL
    )"#,
];
