//! Links and deliveries, and when a user confirmed the address.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They end no links
//! when they change a password; see `docs/operations.md`.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0009_links_and_deliveries"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    r#"ALTER TABLE "user" ADD COLUMN email_verified_at BIGINT"#,
    r#"CREATE TABLE link (
        id {key} NOT NULL PRIMARY KEY,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        purpose SMALLINT NOT NULL,
        digest {bytes} NOT NULL,
        cancel_digest {bytes},
        address {key},
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        ended_at BIGINT
    )"#,
    "CREATE UNIQUE INDEX link_digest ON link (digest)",
    "CREATE UNIQUE INDEX link_cancel_digest ON link (cancel_digest) WHERE cancel_digest IS NOT NULL",
    "CREATE INDEX link_user ON link (user_id, created_at)",
    "CREATE INDEX link_expiry ON link (expires_at)",
    r#"CREATE TABLE delivery (
        id {key} NOT NULL PRIMARY KEY,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        letter SMALLINT NOT NULL,
        address TEXT NOT NULL,
        address_key {key} NOT NULL,
        locale TEXT,
        state SMALLINT NOT NULL,
        attempts INTEGER NOT NULL,
        last_error TEXT NOT NULL,
        relay TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        next_attempt_at BIGINT,
        expires_at BIGINT,
        link_id {key},
        resend_of {key},
        requested_by {key} NOT NULL,
        contents_version SMALLINT NOT NULL,
        contents {bytes},
        lease {bytes},
        is_slow BOOLEAN NOT NULL,
        was_unknown BOOLEAN NOT NULL,
        is_cancelled BOOLEAN NOT NULL
    )"#,
    "CREATE INDEX delivery_due ON delivery (next_attempt_at) WHERE next_attempt_at IS NOT NULL",
    "CREATE INDEX delivery_sending ON delivery (address_key) WHERE lease IS NOT NULL",
    "CREATE INDEX delivery_user ON delivery (user_id, created_at, id)",
    "CREATE INDEX delivery_requester ON delivery (requested_by, created_at)",
    "CREATE INDEX delivery_age ON delivery (created_at, id)",
    "CREATE INDEX delivery_link ON delivery (link_id) WHERE link_id IS NOT NULL",
];
