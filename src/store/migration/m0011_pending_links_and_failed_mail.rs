//! Indexes for what lists show of links, mail and addresses.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0011_pending_links_and_failed_mail"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

/// The conditions are those of `users/derived.rs` and `users/condition.rs`.
const STATEMENTS: &[&str] = &[
    "CREATE INDEX link_unused ON link (user_id, expires_at, id) WHERE ended_at IS NULL",
    "CREATE INDEX delivery_given_up ON delivery (user_id, created_at)
        WHERE (state = 5 OR (state = 6 AND attempts > 0))",
    r#"CREATE INDEX user_email_unverified ON "user" (username)
        WHERE (kind = 1 AND email_key IS NOT NULL AND email_verified_at IS NULL)"#,
];
