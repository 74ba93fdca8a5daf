//! Second factors, the policy that requires them, and tickets of which a user can have several.
//!
//! Only adds, so that replicas of the version before work with the new schema while they are being replaced. They ask for no
//! second factor, and issue and end tickets in the table `ticket`; see `docs/operations.md`. A later migration drops it.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0012_second_factors"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    // 0: the password alone.
    "ALTER TABLE session ADD COLUMN second_factor SMALLINT NOT NULL DEFAULT 0",
    r#"CREATE TABLE sign_in_ticket (
        digest {bytes} NOT NULL PRIMARY KEY,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        purpose SMALLINT NOT NULL,
        second_factor SMALLINT NOT NULL,
        goal SMALLINT NOT NULL,
        session_id {key},
        sealed_key {bytes},
        app TEXT NOT NULL,
        client_name TEXT,
        audiences TEXT NOT NULL,
        scopes TEXT,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        tries INTEGER NOT NULL
    )"#,
    // Tickets in users' hands go on.
    "INSERT INTO sign_in_ticket (digest, user_id, purpose, second_factor, goal, app, client_name, audiences, scopes,
        created_at, expires_at, tries)
        SELECT digest, user_id, purpose, 0, 1, app, client_name, audiences, scopes, created_at, expires_at, tries FROM ticket",
    "CREATE INDEX sign_in_ticket_of_user ON sign_in_ticket (user_id, purpose, created_at)",
    "CREATE INDEX sign_in_ticket_expiry ON sign_in_ticket (expires_at)",
    // The authenticator of a user, and the wrong codes since the last right one.
    r#"CREATE TABLE totp (
        user_id {key} NOT NULL PRIMARY KEY REFERENCES "user" (id) ON DELETE CASCADE,
        sealed_key {bytes} NOT NULL,
        enrolled_at BIGINT NOT NULL,
        last_step BIGINT NOT NULL,
        failures INTEGER NOT NULL,
        waits_until BIGINT,
        last_failure_at BIGINT
    )"#,
    // The one row of the policy: in which cases users need a second factor, and from when on. The roles have spaces between.
    "CREATE TABLE sign_in_policy (
        id SMALLINT NOT NULL PRIMARY KEY,
        version BIGINT NOT NULL,
        second_factor_required SMALLINT NOT NULL,
        second_factor_roles TEXT NOT NULL,
        second_factor_from BIGINT
    )",
    "INSERT INTO sign_in_policy (id, version, second_factor_required, second_factor_roles) VALUES (1, 1, 0, '')",
    // The recovery codes that were not used.
    r#"CREATE TABLE recovery_code (
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        digest {bytes} NOT NULL,
        PRIMARY KEY (user_id, digest)
    )"#,
];
