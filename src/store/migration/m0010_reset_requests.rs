//! Requests for a link that wait to be resolved.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0010_reset_requests"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // One row for each login, which is a keyed digest.
    "CREATE TABLE reset_request (
        login {key} NOT NULL PRIMARY KEY,
        sealed {bytes} NOT NULL,
        created_at BIGINT NOT NULL
    )",
    "CREATE INDEX reset_request_age ON reset_request (created_at, login)",
    // The messages that strangers had sent to an address. The condition is that of `deliveries.rs`.
    "CREATE INDEX delivery_self_service ON delivery (address_key, created_at) WHERE requested_by = ''",
];
