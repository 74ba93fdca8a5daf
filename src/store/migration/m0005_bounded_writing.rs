//! Bounds on what callers can make the server write: counts of events of one kind, and budgets of rows.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0005_bounded_writing"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // Events of one kind within a minute. `event_id` is the first of them, `count` the number of the others.
    "CREATE TABLE event_count (
        kind {key} NOT NULL PRIMARY KEY,
        event_id {key} NOT NULL,
        began_at BIGINT NOT NULL,
        last_at BIGINT NOT NULL,
        count BIGINT NOT NULL
    )",
    "CREATE INDEX event_count_began ON event_count (began_at)",
    // Rows that strangers have written in a window.
    "CREATE TABLE row_budget (
        name {key} NOT NULL PRIMARY KEY,
        began_at BIGINT NOT NULL,
        taken BIGINT NOT NULL
    )",
    "CREATE INDEX row_budget_began ON row_budget (began_at)",
];
