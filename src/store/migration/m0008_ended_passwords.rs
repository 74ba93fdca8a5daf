//! Passwords that were ended and not yet replaced.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. Until then they
//! take an account with an ended password for one that never had a password, and an account that is locked as compromised or
//! deactivated for a corrupt record. They let neither sign in.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0008_ended_passwords"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    r#"ALTER TABLE "user" ADD COLUMN password_ended_at BIGINT NULL"#,
    // Only compared with new passwords, never with those that are used to sign in.
    r#"ALTER TABLE "user" ADD COLUMN ended_password_hash TEXT NULL"#,
    // Part of the list of accounts that need attention.
    r#"CREATE INDEX user_password_ended ON "user" (username)
        WHERE (kind = 1 AND password_hash IS NULL AND password_ended_at IS NOT NULL)"#,
];
