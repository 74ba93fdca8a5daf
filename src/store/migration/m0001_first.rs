//! Users, sessions, tickets, API tokens, throttle, audit, keys.
//!
//! Instants are microseconds since the Unix epoch. Ids and names are keys, which are compared byte by byte.

use sea_orm_migration::prelude::*;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::execute(manager, STATEMENTS).await
    }
}

const STATEMENTS: &[&str] = &[
    r#"CREATE TABLE "user" (
        id {key} NOT NULL PRIMARY KEY,
        kind SMALLINT NOT NULL,
        username {key} NOT NULL UNIQUE,
        email TEXT NULL,
        email_key {key} NULL UNIQUE,
        display_name TEXT NULL,
        locale TEXT NULL,
        external_id {key} NULL UNIQUE,
        labels TEXT NOT NULL,
        roles TEXT NOT NULL,
        password_hash TEXT NULL,
        password_kind SMALLINT NOT NULL,
        password_changed_at BIGINT NULL,
        password_expires_at BIGINT NULL,
        change_demanded BOOLEAN NOT NULL,
        lock_cause SMALLINT NULL,
        lock_note TEXT NULL,
        locked_at BIGINT NULL,
        lock_expires_at BIGINT NULL,
        lock_actor_id TEXT NULL,
        lock_actor_name TEXT NULL,
        version BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        last_sign_in_at BIGINT NULL
    )"#,
    r#"CREATE INDEX user_created ON "user" (created_at, id)"#,
    // One partial index for each filter of operators, so that rare rows are found without scanning the table. Narrow indexes
    // come last: of several that serve a query, SQLite uses the one that was created last.
    r#"CREATE INDEX user_attention ON "user" (username)
        WHERE (lock_cause IS NOT NULL OR change_demanded OR password_kind > 1)"#,
    r#"CREATE INDEX user_must_change ON "user" (username) WHERE (change_demanded OR password_kind > 1)"#,
    r#"CREATE INDEX user_pending ON "user" (username) WHERE (kind = 1 AND password_hash IS NULL)"#,
    r#"CREATE INDEX user_service ON "user" (username) WHERE kind = 2"#,
    r#"CREATE INDEX user_never_signed_in ON "user" (username) WHERE (kind = 1 AND last_sign_in_at IS NULL)"#,
    r#"CREATE INDEX user_locked ON "user" (username) WHERE lock_cause IS NOT NULL"#,
    r#"CREATE INDEX user_temporary ON "user" (username) WHERE password_kind > 1"#,
    // The roles again, one in each row, to list the members of a role.
    r#"CREATE TABLE user_role (
        role {key} NOT NULL,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        PRIMARY KEY (role, user_id)
    )"#,
    "CREATE INDEX user_role_of_user ON user_role (user_id)",
    // Username, email address and each word of the display name, folded, for text search by prefix. `shared` is the number of
    // leading bytes that a term has in common with the previous term of the same user: a prefix that is not longer has already
    // matched there. It is in the key so that the index alone answers.
    r#"CREATE TABLE user_term (
        term {key} NOT NULL,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        shared SMALLINT NOT NULL,
        PRIMARY KEY (term, user_id, shared)
    )"#,
    "CREATE INDEX user_term_of_user ON user_term (user_id, term)",
    "CREATE TABLE username_reservation (username {key} NOT NULL PRIMARY KEY, available_at BIGINT NOT NULL)",
    r#"CREATE TABLE session (
        id {key} NOT NULL PRIMARY KEY,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        app TEXT NOT NULL,
        client_name TEXT NULL,
        audiences TEXT NOT NULL,
        scopes TEXT NULL,
        client_address TEXT NOT NULL,
        auth_at BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        last_used_at BIGINT NOT NULL,
        idle_expires_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        ended_at BIGINT NULL,
        generation INTEGER NOT NULL,
        rotated_at BIGINT NULL
    )"#,
    "CREATE INDEX session_of_user ON session (user_id, created_at, id)",
    "CREATE INDEX session_live ON session (user_id) WHERE ended_at IS NULL",
    "CREATE INDEX session_expiry ON session (expires_at)",
    r#"CREATE TABLE ticket (
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        purpose SMALLINT NOT NULL,
        digest {bytes} NOT NULL UNIQUE,
        app TEXT NOT NULL,
        client_name TEXT NULL,
        audiences TEXT NOT NULL,
        scopes TEXT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        PRIMARY KEY (user_id, purpose)
    )"#,
    r#"CREATE TABLE api_token (
        id {key} NOT NULL PRIMARY KEY,
        user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
        digest {bytes} NOT NULL,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        last_used_at BIGINT NULL,
        revoked_at BIGINT NULL
    )"#,
    "CREATE INDEX api_token_of_user ON api_token (user_id, created_at, id)",
    "CREATE INDEX api_token_created ON api_token (created_at, id)",
    // Consecutive wrong passwords, one row for each user and for each bucket of unknown names.
    "CREATE TABLE throttle (
        id {key} NOT NULL PRIMARY KEY,
        user_id {key} NULL REFERENCES \"user\" (id) ON DELETE CASCADE,
        failures INTEGER NOT NULL,
        pending INTEGER NOT NULL,
        lease_expires_at BIGINT NOT NULL,
        waits_until BIGINT NULL,
        last_failure_at BIGINT NULL
    )",
    "CREATE INDEX throttle_of_user ON throttle (user_id)",
    "CREATE INDEX throttle_waiting ON throttle (waits_until) WHERE waits_until IS NOT NULL",
    "CREATE TABLE source_failure (
        id {key} NOT NULL PRIMARY KEY,
        source {key} NOT NULL,
        account {key} NOT NULL,
        at BIGINT NOT NULL
    )",
    "CREATE INDEX source_failure_source ON source_failure (source, at)",
    "CREATE INDEX source_failure_at ON source_failure (at)",
    "CREATE TABLE source_block (source {key} NOT NULL PRIMARY KEY, blocked_until BIGINT NOT NULL)",
    // `sequence` and `digest` are reserved for a job that seals events (ADR 0012).
    "CREATE TABLE audit_event (
        id {key} NOT NULL PRIMARY KEY,
        at BIGINT NOT NULL,
        class SMALLINT NOT NULL,
        kind TEXT NOT NULL,
        outcome SMALLINT NOT NULL,
        reason TEXT NULL,
        actor_id {key} NOT NULL,
        actor_name {key} NOT NULL,
        actor_session_id TEXT NOT NULL,
        actor_api_token_id TEXT NOT NULL,
        app TEXT NOT NULL,
        client_address TEXT NOT NULL,
        user_agent TEXT NOT NULL,
        target_user_id {key} NOT NULL,
        target_username {key} NOT NULL,
        subject_id TEXT NOT NULL,
        changed_fields TEXT NOT NULL,
        note TEXT NOT NULL,
        details TEXT NOT NULL,
        method TEXT NOT NULL,
        request_id {key} NOT NULL,
        sequence BIGINT NULL,
        digest {bytes} NULL
    )",
    "CREATE INDEX audit_event_at ON audit_event (at, id)",
    "CREATE INDEX audit_event_actor ON audit_event (actor_id, at, id)",
    "CREATE INDEX audit_event_target ON audit_event (target_user_id, at, id)",
    "CREATE INDEX audit_event_request ON audit_event (request_id)",
    "CREATE TABLE idempotency_key (
        principal {key} NOT NULL,
        method {key} NOT NULL,
        idempotency_key {key} NOT NULL,
        body_digest {bytes} NOT NULL,
        answer TEXT NOT NULL,
        expires_at BIGINT NOT NULL,
        PRIMARY KEY (principal, method, idempotency_key)
    )",
    "CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at)",
    // Keys that all replicas use, sealed with a key that is not in the database.
    "CREATE TABLE sealed_key (
        id {key} NOT NULL PRIMARY KEY,
        purpose SMALLINT NOT NULL,
        sealed {bytes} NOT NULL,
        public {bytes} NULL,
        seal_fingerprint TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        not_before BIGINT NOT NULL,
        not_after BIGINT NULL
    )",
    // The one row that each transaction locks first if it may remove an administrator.
    "CREATE TABLE administrator_guard (id SMALLINT NOT NULL PRIMARY KEY)",
    "INSERT INTO administrator_guard (id) VALUES (1)",
];
