-- A database of the first schema, written by the first version, with rows in every table. `{key}`, `{bytes}`, `{true}`, `{false}`
-- and `{hex …}` stand for what the two databases write differently.

CREATE TABLE seaql_migrations (version VARCHAR NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL);
CREATE TABLE "user" (
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
);
CREATE INDEX user_created ON "user" (created_at, id);
CREATE INDEX user_attention ON "user" (username)
    WHERE (lock_cause IS NOT NULL OR change_demanded OR password_kind > 1);
CREATE INDEX user_must_change ON "user" (username) WHERE (change_demanded OR password_kind > 1);
CREATE INDEX user_pending ON "user" (username) WHERE (kind = 1 AND password_hash IS NULL);
CREATE INDEX user_service ON "user" (username) WHERE kind = 2;
CREATE INDEX user_never_signed_in ON "user" (username) WHERE (kind = 1 AND last_sign_in_at IS NULL);
CREATE INDEX user_locked ON "user" (username) WHERE lock_cause IS NOT NULL;
CREATE INDEX user_temporary ON "user" (username) WHERE password_kind > 1;
CREATE TABLE user_role (
    role {key} NOT NULL,
    user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    PRIMARY KEY (role, user_id)
);
CREATE INDEX user_role_of_user ON user_role (user_id);
CREATE TABLE user_term (
    term {key} NOT NULL,
    user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    shared SMALLINT NOT NULL,
    PRIMARY KEY (term, user_id, shared)
);
CREATE INDEX user_term_of_user ON user_term (user_id, term);
CREATE TABLE username_reservation (username {key} NOT NULL PRIMARY KEY, available_at BIGINT NOT NULL);
CREATE TABLE session (
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
);
CREATE INDEX session_of_user ON session (user_id, created_at, id);
CREATE INDEX session_live ON session (user_id) WHERE ended_at IS NULL;
CREATE INDEX session_expiry ON session (expires_at);
CREATE TABLE ticket (
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
);
CREATE TABLE api_token (
    id {key} NOT NULL PRIMARY KEY,
    user_id {key} NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    digest {bytes} NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT NULL,
    revoked_at BIGINT NULL
);
CREATE INDEX api_token_of_user ON api_token (user_id, created_at, id);
CREATE INDEX api_token_created ON api_token (created_at, id);
CREATE TABLE throttle (
    id {key} NOT NULL PRIMARY KEY,
    user_id {key} NULL REFERENCES "user" (id) ON DELETE CASCADE,
    failures INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    waits_until BIGINT NULL,
    last_failure_at BIGINT NULL
);
CREATE INDEX throttle_of_user ON throttle (user_id);
CREATE INDEX throttle_waiting ON throttle (waits_until) WHERE waits_until IS NOT NULL;
CREATE TABLE source_failure (
    id {key} NOT NULL PRIMARY KEY,
    source {key} NOT NULL,
    account {key} NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX source_failure_source ON source_failure (source, at);
CREATE INDEX source_failure_at ON source_failure (at);
CREATE TABLE source_block (source {key} NOT NULL PRIMARY KEY, blocked_until BIGINT NOT NULL);
CREATE TABLE audit_event (
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
);
CREATE INDEX audit_event_at ON audit_event (at, id);
CREATE INDEX audit_event_actor ON audit_event (actor_id, at, id);
CREATE INDEX audit_event_target ON audit_event (target_user_id, at, id);
CREATE INDEX audit_event_request ON audit_event (request_id);
CREATE TABLE idempotency_key (
    principal {key} NOT NULL,
    method {key} NOT NULL,
    idempotency_key {key} NOT NULL,
    body_digest {bytes} NOT NULL,
    answer TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (principal, method, idempotency_key)
);
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);
CREATE TABLE sealed_key (
    id {key} NOT NULL PRIMARY KEY,
    purpose SMALLINT NOT NULL,
    sealed {bytes} NOT NULL,
    public {bytes} NULL,
    seal_fingerprint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NULL
);
CREATE TABLE administrator_guard (id SMALLINT NOT NULL PRIMARY KEY);
INSERT INTO administrator_guard (id) VALUES (1);
INSERT INTO "seaql_migrations" (version, applied_at) VALUES ('m0001_first', 1795912994);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('2rg547hk9p05a7fbr0qmtcv8x7', 1, 'ada', 'ada@example.com', 'ada@example.com', 'Ada Lovelace', NULL, NULL, '{"team":"engine"}', 'operator', '$argon2id$v=19$m=64,t=1,p=1$31h6/XPVS2DecuKoTh2WNg$jxnhCjWyAHagIQllqDvAXyoC40GfXdLR4YqEQHtJ9f8', 1, 1795913013036514, NULL, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013036514, 1795913013036514, 1795913013428028);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('3t17x4ka4f22rn6j9031dfds1a', 1, 'bob', NULL, NULL, NULL, NULL, NULL, '{}', '', '$argon2id$v=19$m=64,t=1,p=1$5Ac52pKWU9LBpx8hLktcKQ$tF6Gn5463owEGV029rt0CW4leVhd/L8smNPI0+9LBFA', 3, 1795913013060416, 1796172213060416, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013060416, 1795913013060416, NULL);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('0cb0rb1q7h370gn92ccbw3rd9y', 1, 'carl', NULL, NULL, NULL, 'en-GB', 'hr-4711', '{}', '', NULL, 1, NULL, NULL, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013083619, 1795913013083619, NULL);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('4h65y6qam7c6wwarfbs06czjsg', 2, 'mailer', NULL, NULL, NULL, NULL, NULL, '{}', 'verifier', NULL, 1, NULL, NULL, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013105931, 1795913013105931, NULL);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('33v4rvk9fqbcc412rrw5a3pdqa', 1, 'temp', NULL, NULL, NULL, NULL, NULL, '{}', '', '$argon2id$v=19$m=64,t=1,p=1$GVgL7BkRYObf82HPwhvZVw$XzOagLTUs441eAM5/vehnBZe9a3MFpMqgfdFMjH2/3M', 2, 1795913013136743, 1795999413136743, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013136743, 1795913013136743, NULL);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('3d2bvy4vdbbwg8t1f282v3tzzn', 1, 'dora', NULL, NULL, NULL, NULL, NULL, '{}', '', '$argon2id$v=19$m=64,t=1,p=1$T+o0Nic2Ph6Q3aWMdV8vFg$wCmkvZ/JfStulb4zHSlNucihCdZrJZAUpY/uAi/EyXw', 1, 1795913013170019, NULL, {false}, 3, 'laptop lost', 1795913013266076, NULL, 'local:uid=0', 'root (local)', 2, 1795913013170019, 1795913013266076, NULL);
INSERT INTO "user" (id, kind, username, email, email_key, display_name, locale, external_id, labels, roles, password_hash, password_kind, password_changed_at, password_expires_at, change_demanded, lock_cause, lock_note, locked_at, lock_expires_at, lock_actor_id, lock_actor_name, version, created_at, updated_at, last_sign_in_at) VALUES ('6f8zp56z113t1d2sh83n0wz222', 1, 'eve', NULL, NULL, NULL, NULL, NULL, '{}', '', '$argon2id$v=19$m=64,t=1,p=1$t0qnT+4zURi8usz++vLPqA$5wBzczLKEyqCKiXNmZhVOVgwdu1l3eBodbzmHPhcfiM', 1, 1795913013200050, NULL, {false}, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1795913013200050, 1795913013200050, NULL);
INSERT INTO "user_role" (role, user_id) VALUES ('operator', '2rg547hk9p05a7fbr0qmtcv8x7');
INSERT INTO "user_role" (role, user_id) VALUES ('verifier', '4h65y6qam7c6wwarfbs06czjsg');
INSERT INTO "user_term" (term, user_id, shared) VALUES ('ada', '2rg547hk9p05a7fbr0qmtcv8x7', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('ada lovelace', '2rg547hk9p05a7fbr0qmtcv8x7', 3);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('ada@example.com', '2rg547hk9p05a7fbr0qmtcv8x7', 3);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('lovelace', '2rg547hk9p05a7fbr0qmtcv8x7', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('bob', '3t17x4ka4f22rn6j9031dfds1a', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('carl', '0cb0rb1q7h370gn92ccbw3rd9y', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('mailer', '4h65y6qam7c6wwarfbs06czjsg', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('temp', '33v4rvk9fqbcc412rrw5a3pdqa', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('dora', '3d2bvy4vdbbwg8t1f282v3tzzn', 0);
INSERT INTO "user_term" (term, user_id, shared) VALUES ('eve', '6f8zp56z113t1d2sh83n0wz222', 0);
INSERT INTO "username_reservation" (username, available_at) VALUES ('gone', 1798505013301879);
INSERT INTO "session" (id, user_id, app, client_name, audiences, scopes, client_address, auth_at, created_at, last_used_at, idle_expires_at, expires_at, ended_at, generation, rotated_at) VALUES ('68e5bj9k9nm7dknnqpby8n0c87', '2rg547hk9p05a7fbr0qmtcv8x7', 'latchkey', NULL, '[]', NULL, '127.0.0.1', 1795913013428275, 1795913013428275, 1795913013428275, 1795916613428275, 1795956213428275, NULL, 0, NULL);
INSERT INTO "ticket" (user_id, purpose, digest, app, client_name, audiences, scopes, created_at, expires_at) VALUES ('3t17x4ka4f22rn6j9031dfds1a', 1, {hex cb83ed5c35521e377603beb47a2be0cc6b5b9f5b4805b009918705c8988d767d}, 'latchkey', NULL, '[]', NULL, 1795913013458258, 1795913613458258);
INSERT INTO "api_token" (id, user_id, digest, name, scopes, created_at, expires_at, last_used_at, revoked_at) VALUES ('0d6nv5b0efb1vjqceefxjg7bws', '4h65y6qam7c6wwarfbs06czjsg', {hex cd38372c693c136f92e293fe9431dbb2419bae318c1866604811b2b6fc8fab9a}, 'a test', 'tokens.introspect', 1795913013331536, 1803689013331536, NULL, NULL);
INSERT INTO "throttle" (id, user_id, failures, pending, lease_expires_at, waits_until, last_failure_at) VALUES ('u:2rg547hk9p05a7fbr0qmtcv8x7', '2rg547hk9p05a7fbr0qmtcv8x7', 0, 0, 1795913043426759, NULL, NULL);
INSERT INTO "throttle" (id, user_id, failures, pending, lease_expires_at, waits_until, last_failure_at) VALUES ('u:3t17x4ka4f22rn6j9031dfds1a', '3t17x4ka4f22rn6j9031dfds1a', 0, 0, 1795913043457280, NULL, NULL);
INSERT INTO "throttle" (id, user_id, failures, pending, lease_expires_at, waits_until, last_failure_at) VALUES ('u:6f8zp56z113t1d2sh83n0wz222', '6f8zp56z113t1d2sh83n0wz222', 5, 0, 1795913043654722, 1795913618655798, 1795913013655798);
INSERT INTO "source_failure" (id, source, account, at) VALUES ('58qbazbmx1scfxm34n3s2n94xh', '127.0.0.1', 'u:6f8zp56z113t1d2sh83n0wz222', 1795913013503078);
INSERT INTO "source_failure" (id, source, account, at) VALUES ('0362p3fkt7ns7f4ewwezjax20n', '127.0.0.1', 'u:6f8zp56z113t1d2sh83n0wz222', 1795913013542529);
INSERT INTO "source_failure" (id, source, account, at) VALUES ('4hcs0xtann26vsbtnrk85j0f3d', '127.0.0.1', 'u:6f8zp56z113t1d2sh83n0wz222', 1795913013578375);
INSERT INTO "source_failure" (id, source, account, at) VALUES ('1385yan1eb55f30j6rwjnw2sv2', '127.0.0.1', 'u:6f8zp56z113t1d2sh83n0wz222', 1795913013613617);
INSERT INTO "source_failure" (id, source, account, at) VALUES ('0qa80b4wapgg4ysf1dy4g04d7n', '127.0.0.1', 'u:6f8zp56z113t1d2sh83n0wz222', 1795913013655798);
INSERT INTO "source_block" (source, blocked_until) VALUES ('192.0.2.7', 1795913614000000);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('71fp9949yyynggh239c9f7x24h', 1795913013036894, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '2rg547hk9p05a7fbr0qmtcv8x7', 'ada', '', '', '', '{"roles":"operator"}', 'latchkey.v1.UserAdmin/CreateUser', 'aef4c930f2622ecf621015b6a4d32d4e', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('7n9fm536ax9r1ka9emnky17eeb', 1795913013060869, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '3t17x4ka4f22rn6j9031dfds1a', 'bob', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', '9e725eb02de645ab3aa1179c1dda2557', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('6ch5x2ymkz3eftdsctxe83jh4s', 1795913013083834, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '0cb0rb1q7h370gn92ccbw3rd9y', 'carl', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', '2a0e7ffa8a1460a2a59b6a7524dc5d68', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('4e7hcm6qvbqn2aspanys8c0e6s', 1795913013106460, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '4h65y6qam7c6wwarfbs06czjsg', 'mailer', '', '', '', '{"roles":"verifier"}', 'latchkey.v1.UserAdmin/CreateUser', 'b5ab1dcd490af1004ea9e856f9f10b2d', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('6a6aj4t6tf29e0cmx44x1y1bcq', 1795913013137219, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '33v4rvk9fqbcc412rrw5a3pdqa', 'temp', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', 'fddf056b26a9b70e6746e211f0622d04', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('2mej1km16qmhbe9j5yawpgpg49', 1795913013170513, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '3d2bvy4vdbbwg8t1f282v3tzzn', 'dora', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', '9ddfbc2c50b6f4a55d51ea62a0ce365d', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('30r2dap0zg6hd41kyxscbb1j1b', 1795913013200853, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', '9d355837409816e00a0ddc736f07ff83', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('4x71jdjpwy49ye4y4cacdqpzre', 1795913013232988, 1, 'USER_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '3warkah4v727esa0dd73xyyjgz', 'gone', '', '', '', '{}', 'latchkey.v1.UserAdmin/CreateUser', '258e6b2f4119be8e4f57f05d13eac5e0', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('1dh6pfva2qvjswg2emb2npv7b9', 1795913013266076, 1, 'USER_LOCKED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '3d2bvy4vdbbwg8t1f282v3tzzn', 'dora', '', '', 'laptop lost', '{"lockCause":"OPERATOR","sessionsRevoked":"0"}', 'latchkey.v1.UserAdmin/LockUser', 'fad1bcd0c6210c7af042aa27060e820d', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('0048ce4jexs63xtp9j0mbwv798', 1795913013301879, 1, 'USER_DELETED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '3warkah4v727esa0dd73xyyjgz', 'gone', '', '', '', '{"apiTokensRevoked":"0","sessionsRevoked":"0"}', 'latchkey.v1.UserAdmin/DeleteUser', '9066638c66afaeb3253f17da58d5d68f', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('72dj5ym3jzqstg5ay1jbrn9hfh', 1795913013331536, 1, 'API_TOKEN_CREATED', 1, NULL, 'local:uid=0', 'root (local)', '', '', '', '', 'latchkey-cli/0.1.0 tonic/0.14.9', '4h65y6qam7c6wwarfbs06czjsg', 'mailer', '0d6nv5b0efb1vjqceefxjg7bws', '', '', '{"expireTime":"2027-02-27T00:43:33Z","name":"a test","scopes":"tokens.introspect"}', 'latchkey.v1.UserAdmin/CreateApiToken', '5f101e3acef0e10a21fd8f7b0561a24a', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('0kay0c3448h6vs4yajdxch7167', 1795913013428275, 2, 'SIGN_IN_SUCCEEDED', 1, NULL, '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '2rg547hk9p05a7fbr0qmtcv8x7', 'ada', '68e5bj9k9nm7dknnqpby8n0c87', '', '', '{}', 'latchkey.v1.Auth/SignIn', 'eca30b80cd7bcb006dd12e764e92c7d0', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('1j3mrwy9yn94ng2c5qrngjfb03', 1795913013458258, 2, 'SIGN_IN_SUCCEEDED', 1, NULL, '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '3t17x4ka4f22rn6j9031dfds1a', 'bob', '', '', '', '{"step":"PASSWORD_CHANGE"}', 'latchkey.v1.Auth/SignIn', '6cf39f6e4bc5010ca9e557e81aeb5cab', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('29k6wr0sw1056wrkn4j80ajbc5', 1795913013503078, 2, 'SIGN_IN_FAILED', 2, 'PASSWORD_WRONG', '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.Auth/SignIn', '9e81eab5020f2478c047b2944854c220', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('2dcgkb6rwp56d2qyhsazk06k4b', 1795913013542529, 2, 'SIGN_IN_FAILED', 2, 'PASSWORD_WRONG', '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.Auth/SignIn', '4d1cdc2a250203e04659bd0d1b61b6bf', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('79qx1jr76zr4qtd3hdnt99k3x8', 1795913013578375, 2, 'SIGN_IN_FAILED', 2, 'PASSWORD_WRONG', '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.Auth/SignIn', 'f5887c419967971e974339bfa1e27045', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('79gn7mg5t8w2c75yy3x4jj5fke', 1795913013613617, 2, 'SIGN_IN_FAILED', 2, 'PASSWORD_WRONG', '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.Auth/SignIn', '34606404f54579aa626c0a59cc1f346f', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('1wty4xjd01nym2grrgyvqyw8ey', 1795913013655798, 2, 'SIGN_IN_FAILED', 2, 'PASSWORD_WRONG', '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{}', 'latchkey.v1.Auth/SignIn', '605adb226dd161731a716147a1395d2a', NULL, NULL);
INSERT INTO "audit_event" (id, at, class, kind, outcome, reason, actor_id, actor_name, actor_session_id, actor_api_token_id, app, client_address, user_agent, target_user_id, target_username, subject_id, changed_fields, note, details, method, request_id, sequence, digest) VALUES ('6f1e170431tfnyqd5z8wng6g8m', 1795913013655799, 2, 'THROTTLE_BEGAN', 1, NULL, '', '', '', '', '', '127.0.0.1', 'grpcurl/dev-build (no version set) grpc-go/1.83.2', '6f8zp56z113t1d2sh83n0wz222', 'eve', '', '', '', '{"failures":"5","untilTime":"2026-11-29T00:43:38Z"}', 'latchkey.v1.Auth/SignIn', '605adb226dd161731a716147a1395d2a', NULL, NULL);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '213da6d2-b602-474c-8ed7-bbca98f8c92b', {hex de8d23760d5bae55e2477efc2eb93816d274ceb8517598f0ab2f34a1cb6a7a21}, '{"user_id":"2rg547hk9p05a7fbr0qmtcv8x7","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413036894);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '2450ea3a-253b-4fe1-acd6-eb8f599be572', {hex 0923794a125aef9ef797841e9b29e04c711192f96d0a78e428deb562b5d421a0}, '{"user_id":"3t17x4ka4f22rn6j9031dfds1a","expires_at":1796172213060416,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413060869);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', 'd56b698f-054b-4979-80fe-c6745c3b6fa8', {hex 9fcdebd651f22600fd7872578520852647df05100935b94b10931bb412544b9a}, '{"user_id":"0cb0rb1q7h370gn92ccbw3rd9y","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413083834);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '6faf1d09-31eb-43a8-bcc8-6a5997abfdd3', {hex 5c6f26d06e49f706037214f588e81a2c1a1f4d6437a7490e3eb12a38f3e9d643}, '{"user_id":"4h65y6qam7c6wwarfbs06czjsg","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413106460);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '752f51e9-58f7-4a6c-a559-c9afdc344571', {hex 6efa6a5d95c8ef5210f0a70e115ec5d7600181efedbfcfb96c35dbb08672cfed}, '{"user_id":"33v4rvk9fqbcc412rrw5a3pdqa","expires_at":1795999413136743,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413137219);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '9d3d351a-6b21-445a-b0d4-65765cc7431e', {hex 25c8ae4cb9fe35dfb9aa703af941723fa8690dcf5377f5778dc35e30070e13e4}, '{"user_id":"3d2bvy4vdbbwg8t1f282v3tzzn","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413170513);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '32defc9f-8f62-480a-a8b6-df7b15f003eb', {hex 0d3dd180e6517754511ac115da2e03d2888e49cdcabd622b38ee974230c3077b}, '{"user_id":"6f8zp56z113t1d2sh83n0wz222","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413200853);
INSERT INTO "idempotency_key" (principal, method, idempotency_key, body_digest, answer, expires_at) VALUES ('local:uid=0', 'latchkey.v1.UserAdmin/CreateUser', '8618d413-460f-4dca-8ba8-5724a7750a90', {hex e7e19c1c8041e57819c162480c8f5c2598d40a4a9769691577ec99a9d12e14a3}, '{"user_id":"3warkah4v727esa0dd73xyyjgz","expires_at":null,"effects":{"sessions_revoked":0,"access_expires_at":null,"password_ended":false,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}', 1795999413232988);
INSERT INTO "sealed_key" (id, purpose, sealed, public, seal_fingerprint, created_at, not_before, not_after) VALUES ('0wr7jkr00hdh22knsq3atn5fwn', 2, {hex a49ab516cb668238d9fcf70580b8580cb42c2e84cd34fcf93f6de861c8c10233468689e5ec32397da45e54e71b452f5a3659d99e42f2458384a4fee3}, NULL, '8c147f4c1d9d80b8', 1795912994479271, 1795912994479198, NULL);
INSERT INTO "sealed_key" (id, purpose, sealed, public, seal_fingerprint, created_at, not_before, not_after) VALUES ('41s322zaamdj4thfsepmatap2b', 1, {hex 5bb054063cf7173a23586dabd3dfb7dab59b3ad8b99e4c4c817c4bf873a59ad8c567b4f2eb589fa5b7a4f7712aa0e1fd8639d07c81c889b632ea44c027239da8404638f579f0e9dcec64bbcb}, {hex 302a300506032b65700321008e50ad7189400b32cfbfd617b8867699eaf5db4aa16bd970353e802715ac30cc}, '8c147f4c1d9d80b8', 1795912994479330, 1795912994479198, NULL);
