//! An index for events of some kinds: a kind that is rare must be found without reading the whole log.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0007_events_by_kind"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &["CREATE INDEX audit_event_kind ON audit_event (kind, at, id)"];
