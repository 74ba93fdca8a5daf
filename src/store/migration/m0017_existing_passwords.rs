//! Judging passwords that are older than the rules of the policy.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They show the cause of
//! such a change as an operator's.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0017_existing_passwords"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // Since when sign-ins judge passwords that are older (NULL: they do not), in microseconds.
    "ALTER TABLE sign_in_policy ADD COLUMN password_judged_since BIGINT NULL",
    // The change is demanded because the password breaks a rule of the policy.
    r#"ALTER TABLE "user" ADD COLUMN password_against_policy BOOLEAN NOT NULL DEFAULT FALSE"#,
    // When a sign-in last found that the password keeps the rules. Until then, it was found when the password was set.
    r#"ALTER TABLE "user" ADD COLUMN password_judged_at BIGINT NULL"#,
];
