//! Bounds on what callers can make the server write: counts of events of one kind, budgets of rows, and
//! deletion of old events.
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
    // How far events of a class were deleted, and until when the next deletion waits.
    "CREATE TABLE event_horizon (
        class SMALLINT NOT NULL PRIMARY KEY,
        swept_until BIGINT NOT NULL,
        waits_until BIGINT NULL,
        complete_since BIGINT NULL
    )",
    // The events of each class by age. The conditions are those of `horizons.rs`.
    "CREATE INDEX audit_event_administration ON audit_event (at) WHERE class = 1",
    "CREATE INDEX audit_event_sign_in ON audit_event (at)
        WHERE class = 2 AND target_user_id || actor_id <> ''",
    "CREATE INDEX audit_event_stranger ON audit_event (at) WHERE class = 2 AND target_user_id || actor_id = ''",
];
