//! Indexes for lists by the ability to sign in, and for events by a name that no account has now; owners of reservations.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. The index that
//! is dropped is one that they can do without.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_ability_and_reservations"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // Accounts that need attention. `IS TRUE` hides the alternatives: of several indexes that serve a query, SQLite uses the
    // one that was created last, and would scan this wide one for each of them.
    r#"CREATE INDEX user_needs_attention ON "user" (username)
        WHERE (lock_cause IS NOT NULL OR change_demanded OR password_kind > 1 OR (kind = 1 AND password_hash IS NULL)) IS TRUE"#,
    // The parts of that list, worst first, where no index served them yet.
    r#"CREATE INDEX user_locked_for_good ON "user" (username) WHERE lock_cause IS NOT NULL AND lock_expires_at IS NULL"#,
    r#"CREATE INDEX user_lock_expiry ON "user" (lock_expires_at, id) WHERE lock_expires_at IS NOT NULL"#,
    r#"CREATE INDEX user_password_expiry ON "user" (password_expires_at, id) WHERE password_expires_at IS NOT NULL"#,
    r#"CREATE INDEX user_change_required ON "user" (username)
        WHERE (change_demanded OR password_kind > 1) AND password_expires_at IS NULL"#,
    // Events of users who were deleted or renamed.
    "CREATE INDEX audit_event_actor_name ON audit_event (actor_name, at, id)",
    "CREATE INDEX audit_event_target_name ON audit_event (target_username, at, id)",
    // The account that gave up the name. NULL in rows of the version before, which reserved the names of deleted accounts only.
    "ALTER TABLE username_reservation ADD COLUMN user_id {key} NULL",
    // Last, because on PostgreSQL it keeps out readers until the transaction ends.
    "DROP INDEX user_attention",
];
