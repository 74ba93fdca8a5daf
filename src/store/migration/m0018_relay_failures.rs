//! Telling a relay that fails from a recipient who is refused.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. What their attempts meet
//! counts as the recipient's.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0018_relay_failures"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // The last attempt failed because of the relay or the folder: mail to others would have failed too.
    "ALTER TABLE delivery ADD COLUMN relay_failed BOOLEAN NOT NULL DEFAULT FALSE",
    "CREATE INDEX delivery_relay_failed ON delivery (created_at, id) WHERE relay_failed",
];
