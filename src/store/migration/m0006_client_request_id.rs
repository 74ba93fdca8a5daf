//! The id that a client gave to its request, beside the server's own.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0006_client_request_id"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // NULL in most rows, which keeps them out of the index.
    "ALTER TABLE audit_event ADD COLUMN client_request_id {key} NULL",
    "CREATE INDEX audit_event_client_request ON audit_event (client_request_id) WHERE client_request_id IS NOT NULL",
];
