//! Telling a link that was used from one that was ended, so that a user who cancels it too late is told so.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. A link that one of them
//! uses up counts as ended.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0019_used_links"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    "ALTER TABLE link ADD COLUMN used_at BIGINT",
    // The user said afterwards that they had not asked for it.
    "ALTER TABLE link ADD COLUMN disowned_at BIGINT",
];
