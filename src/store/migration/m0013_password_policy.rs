//! What the policy says of new passwords, and the hashes of old ones.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They judge new
//! passwords by their configuration, and remember none.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0013_password_policy"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // NULL: as configured.
    "ALTER TABLE sign_in_policy ADD COLUMN password_min_length INTEGER",
    "ALTER TABLE sign_in_policy ADD COLUMN password_max_length INTEGER",
    "ALTER TABLE sign_in_policy ADD COLUMN password_min_score SMALLINT",
    "ALTER TABLE sign_in_policy ADD COLUMN password_reject_breached SMALLINT",
    "ALTER TABLE sign_in_policy ADD COLUMN password_reject_user_info SMALLINT",
    "ALTER TABLE sign_in_policy ADD COLUMN password_letter_and_digit SMALLINT",
    // How many old passwords are refused, and how soon after a change the next may follow, in microseconds.
    "ALTER TABLE sign_in_policy ADD COLUMN password_history SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE sign_in_policy ADD COLUMN password_min_age BIGINT NOT NULL DEFAULT 0",
    // Whether sign-ins look the password up in the list of leaked ones, and whether it was found there: that demands a change.
    "ALTER TABLE sign_in_policy ADD COLUMN password_check_breached SMALLINT NOT NULL DEFAULT 0",
    r#"ALTER TABLE "user" ADD COLUMN password_breached BOOLEAN NOT NULL DEFAULT FALSE"#,
    // The hashes of old passwords, as many as the policy asks for.
    r#"CREATE TABLE old_password (
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        ended_at BIGINT NOT NULL,
        hash TEXT NOT NULL,
        PRIMARY KEY (user_id, ended_at)
    )"#,
];
