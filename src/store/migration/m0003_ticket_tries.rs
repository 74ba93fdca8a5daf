//! The number of tries that were made with a ticket.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They do not count
//! tries.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_ticket_tries"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &["ALTER TABLE ticket ADD COLUMN tries INTEGER NOT NULL DEFAULT 0"];
