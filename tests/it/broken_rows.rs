//! Corrupt rows, as after a disk error, an intrusion or manual SQL. Only the corrupt record fails; it fails closed, and
//! the error names it.

use latchkey::proto::v1;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::calls::Shown as _;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, refused};

/// Invalid times.
const NO_TIMES: [&str; 3] = ["-1", "-9223372036854775808", "9223372036854775807"];

/// Invalid values of the right type.
fn broken_users() -> Vec<String> {
    let mut broken: Vec<String> = [
        "kind = 0",
        "kind = 9",
        "username = 'no name'",
        "email = 'nobody'",
        "display_name = 'a\u{7}'",
        "locale = '!'",
        "external_id = 'a\u{202e}'",
        "labels = ''",
        "labels = '{'",
        "labels = '[]'",
        "labels = '{\"a\": 1}'",
        "labels = '{\"A\": \"b\"}'",
        "roles = 'emperor'",
        "roles = 'viewer,admin'",
        "password_kind = 0",
        "password_kind = 7",
        "password_changed_at = NULL",
        "lock_cause = 4",
        "lock_cause = 3, locked_at = NULL",
    ]
    .map(str::to_owned)
    .to_vec();
    for column in ["created_at", "updated_at", "last_sign_in_at", "password_changed_at", "password_expires_at"] {
        broken.extend(NO_TIMES.map(|time| format!("{column} = {time}")));
    }
    broken.extend(NO_TIMES.map(|time| format!("lock_cause = 3, locked_at = {time}")));
    broken.extend(NO_TIMES.map(|time| format!("lock_cause = 3, locked_at = 1, lock_expires_at = {time}")));
    broken
}

/// Values of a wrong type, which only SQLite accepts.
const OF_ANOTHER_TYPE: [&str; 6] = [
    "kind = 'person'",
    "kind = 70000",
    "created_at = 'yesterday'",
    "change_demanded = 'often'",
    "display_name = CAST(x'ff' AS TEXT)",
    "labels = x'ff00'",
];

fn is_corrupt<T: std::fmt::Debug>(answer: Result<T, Status>, resource: &str, id: &str, how: &str) -> Refusal {
    let refusal = Refusal::of(&answer.expect_err(how));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DataLoss, "RECORD_CORRUPT"), "{how}: {refusal:?}");
    assert_eq!((refusal.metadata("resource"), refusal.metadata("id")), (resource, id), "{how}");
    let info = refusal.details.resource_info().expect("a resource");
    assert_eq!((info.resource_type.as_str(), info.resource_name.as_str()), (resource, id), "{how}");
    refusal
}

async fn names(operator: &Client) -> Vec<String> {
    let listed = operator.list(v1::ListUsersRequest::default()).await.expect("a list").users;
    listed.into_iter().map(|user| user.username).collect()
}

#[tokio::test]
async fn a_broken_account_fails_closed_and_alone() {
    let h = Harness::with(|config| config.throttle.threshold = 0).await;
    let operator = h.operator().await;
    let stranger = h.stranger().await;
    let eve = h.user("eve").await;
    let bob = h.user("bob").await;
    let id = operator.user("bob").await.id;
    h.sql(&format!("CREATE TABLE kept AS SELECT * FROM \"user\" WHERE id = '{id}'")).await;
    let columns = h.query(if h.is_postgres() {
        "SELECT CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_name = 'kept' AND table_schema = current_schema()"
    } else {
        "SELECT name FROM pragma_table_info('kept')"
    });
    let columns = columns.await.join(", ");
    let restore = format!("UPDATE \"user\" SET ({columns}) = (SELECT {columns} FROM kept) WHERE id = '{id}'");

    let of_another_type = OF_ANOTHER_TYPE.map(str::to_owned).into_iter().filter(|_| !h.is_postgres());
    for how in broken_users().into_iter().chain(of_another_type.clone()) {
        h.sql(&format!("UPDATE \"user\" SET {how} WHERE id = '{id}'")).await;
        let by_id = json!({"user": {"id": id}});
        let shown = operator.call("UserAdmin/GetUser", by_id.clone()).await;
        let etag = is_corrupt(shown, "latchkey.v1.User", &id, &how).metadata("etag").to_owned();
        is_corrupt(operator.call("UserAdmin/LockUser", by_id.clone()).await, "latchkey.v1.User", &id, &how);
        let reset = json!({"user": {"id": id}, "temporaryPassword": {}});
        is_corrupt(operator.call("UserAdmin/ResetPassword", reset).await, "latchkey.v1.User", &id, &how);
        let deletion = json!({"user": {"id": id}, "etag": etag, "validateOnly": true});
        operator.call("UserAdmin/DeleteUser", deletion).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));

        let signed_in = stranger.sign_in("bob", PASSWORD).await;
        refused(signed_in, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        is_corrupt(bob.client.who_am_i().await, "latchkey.v1.User", &id, &how);
        is_corrupt(stranger.refresh(&bob.tokens.refresh_token).await, "latchkey.v1.User", &id, &how);
        let introspected = v1::IntrospectTokenRequest { token: bob.tokens.access_token.clone(), ..Default::default() };
        // Not `active: false`: a verifier would conclude that the user has signed out.
        let introspected = operator.auth().introspect_token(introspected).await;
        is_corrupt(introspected, "latchkey.v1.User", &id, &how);

        eve.client.who_am_i().await.expect("others are well");
        if of_another_type.clone().any(|other| other == how) {
            is_corrupt(operator.list(v1::ListUsersRequest::default()).await, "latchkey.v1.User", &id, &how);
        } else {
            assert_eq!(names(&operator).await, ["eve"], "{how}");
        }
        h.sql(&restore).await;
        assert_eq!(names(&operator).await, ["bob", "eve"], "{how}: restored");
    }
    bob.client.who_am_i().await.expect("a restored account is as it was");
    let events = operator.events().await;
    let refusals = events.iter().filter(|event| event.reason() == v1::ErrorReason::RecordCorrupt);
    assert!(refusals.count() > 20, "the audit log knows the cause of what was only a failed sign-in");
}

#[tokio::test]
async fn an_account_with_a_broken_id_is_not_found() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("eve", &[], PASSWORD).await;
    for id in ["short", "", "zzzzzzzzzzzzzzzzzzzzzzzzzz"] {
        h.create("bob", &[], PASSWORD).await;
        h.sql("DELETE FROM user_term; DELETE FROM user_role; DELETE FROM throttle").await;
        h.sql(&format!("UPDATE \"user\" SET id = '{id}' WHERE username = 'bob'")).await;
        is_corrupt(operator.get("bob").await, "latchkey.v1.User", id, id);
        refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        assert_eq!(names(&operator).await, ["eve"]);
        h.sql(&format!("DELETE FROM \"user\" WHERE id = '{id}'")).await;
    }
}

/// Hashes that are malformed, of another kind, or too expensive.
const NO_HASHES: [&str; 12] = [
    "",
    "nonsense",
    "$",
    "$argon2id$",
    "$argon2id$v=19$m=64,t=1,p=1$",
    "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA",
    "$argon2id$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
    "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
    "$argon2id$v=19$m=64,t=4294967295,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
    "$argon2id$v=19$m=1,t=0,p=0$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
    "$argon2d$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
    "$2b$12$abcdefghijklmnopqrstuv",
];

#[tokio::test]
async fn a_malformed_hash_fails_every_sign_in_and_can_be_replaced() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    for hash in NO_HASHES {
        h.sql(&format!("UPDATE \"user\" SET password_hash = '{hash}' WHERE username = 'bob'")).await;
        for password in [PASSWORD, "", hash].into_iter().filter(|password| !password.is_empty()) {
            let answer = h.stranger().await.sign_in("bob", password).await;
            refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        }
        let bob = operator.user("bob").await;
        assert!(bob.password_status.expect("a status").password_set, "{hash}");
        operator.unlock("bob").await.expect("the wait is over");
    }
}

/// Corrupts and restores rows, and checks the calls about them in between.
async fn each_way(h: &Harness, table: &str, id: &str, ways: &[&str], mut check: impl AsyncFnMut(String)) {
    for how in ways {
        let column = how.split(' ').next().expect("a column");
        h.sql(&format!("CREATE TABLE kept AS SELECT {column} FROM {table} WHERE id = '{id}'")).await;
        h.sql(&format!("UPDATE {table} SET {how} WHERE id = '{id}'")).await;
        check(format!("{table} {how}")).await;
        h.sql(&format!("UPDATE {table} SET {column} = (SELECT {column} FROM kept) WHERE id = '{id}'")).await;
        h.sql("DROP TABLE kept").await;
    }
}

const BROKEN_SESSIONS: [&str; 15] = [
    "client_name = 'a\u{7}'",
    "audiences = '{'",
    "audiences = ''",
    "audiences = '[1]'",
    "audiences = '[\"\"]'",
    "generation = -1",
    "auth_at = -1",
    "created_at = -1",
    "last_used_at = -1",
    "idle_expires_at = 9223372036854775807",
    "expires_at = 9223372036854775807",
    "rotated_at = -1",
    "ended_at = -1",
    "last_used_at = 9223372036854775807",
    "auth_at = -9223372036854775808",
];

#[tokio::test]
async fn a_broken_session_is_left_out_of_lists_and_can_be_ended() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let (bob, other) = (h.user("bob").await, h.signed_in_again("bob").await);
    let id = bob.tokens.session_id.clone();
    each_way(&h, "session", &id, &BROKEN_SESSIONS, async |how| {
        is_corrupt(bob.client.who_am_i().await, "latchkey.v1.Session", &id, &how);
        let refreshed = stranger.refresh(&bob.tokens.refresh_token).await;
        is_corrupt(refreshed, "latchkey.v1.Session", &id, &how);
        let listed = operator.sessions_of("bob").await;
        assert_eq!(listed.len(), 1, "{how}");
        other.who_am_i().await.expect("the other session is well");
    })
    .await;
    h.sql(&format!("UPDATE session SET audiences = '{{' WHERE id = '{id}'")).await;
    let lock = operator.lock("bob").await.expect("a lock");
    assert_eq!(lock.effects.expect("effects").sessions_revoked, 2, "a broken session ends like all others");
}

#[tokio::test]
async fn a_broken_ticket_is_good_for_nothing_and_the_next_one_is_well() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    h.create("bob", &[], PASSWORD).await;
    let id = operator.user("bob").await.id;
    for how in ["audiences = '{'", "client_name = 'a\u{7}'", "created_at = -1"] {
        operator.require_change("bob").await.expect("a demand");
        let step = stranger.change_step("bob", PASSWORD).await.expect("a step");
        h.sql(&format!("UPDATE sign_in_ticket SET {how}")).await;
        let answer = stranger.complete(&step.ticket, "another c4nary to change to").await;
        is_corrupt(answer, "latchkey.v1.User", &id, how);
        stranger.change_step("bob", PASSWORD).await.expect("the old password is what it was");
    }
}

#[tokio::test]
async fn a_broken_authenticator_lets_nothing_in_and_can_be_removed() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let bob = h.user("bob").await;
    let factor = h.enroll(&bob).await;
    let id = operator.user("bob").await.id;
    for how in ["sealed_key = ''", "enrolled_at = -1", "failures = -1", "waits_until = -1", "last_failure_at = -1"] {
        let column = how.split(' ').next().expect("a column");
        h.sql(&format!("CREATE TABLE kept AS SELECT {column} FROM totp")).await;
        h.sql(&format!("UPDATE totp SET {how}")).await;
        let code = stranger.sign_in_with("bob", PASSWORD, factor.proof(&h)).await;
        let reason = Refusal::of(&code.expect_err(how)).reason;
        assert!(["CREDENTIALS_REJECTED", "RECORD_CORRUPT"].contains(&reason.as_str()), "{how}: {reason}");
        is_corrupt(bob.client.disable(Some(factor.proof(&h))).await, "latchkey.v1.User", &id, how);
        h.sql(&format!("UPDATE totp SET {column} = (SELECT {column} FROM kept)")).await;
        h.sql("DROP TABLE kept").await;
    }
    h.sql("UPDATE totp SET last_failure_at = -1").await;
    operator.reset_factor("bob").await.expect("a reset");
    stranger.change_step("bob", PASSWORD).await.expect("the password alone, which must be changed");
}

#[tokio::test]
async fn a_broken_policy_refuses_every_sign_in_until_it_is_mended() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    h.create("bob", &[], PASSWORD).await;
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
    for how in [
        "second_factor_roles = 'emperor'",
        "password_history = -1",
        "password_min_age = -1",
        "password_max_age = -1",
        "password_warnings = 'soon'",
        "max_inactivity = -1",
        "inactivity_warnings = 'soon'",
    ] {
        h.sql(&format!("UPDATE sign_in_policy SET {how}")).await;
        assert!(stranger.sign_in("bob", PASSWORD).await.is_err(), "{how}");
        let read = operator.user_admin().get_sign_in_policy(v1::GetSignInPolicyRequest::default()).await;
        assert_eq!(read.expect_err(how).code(), Code::DataLoss, "{how}");
        h.sql(
            "UPDATE sign_in_policy SET second_factor_required = 0, second_factor_roles = '', second_factor_from = NULL,
            password_history = 0, password_min_age = 0, password_max_age = 0, password_warnings = '',
            max_inactivity = 0, inactivity_warnings = ''",
        )
        .await;
    }
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
}

#[tokio::test]
async fn a_broken_api_token_is_left_out_of_lists() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let program = h.token(&["users.read"]).await;
    let good = h.token(&["users.read"]).await;
    let id = program.who_am_i().await.expect("a token").api_token_id;
    let ways = [
        "name = ''",
        "name = 'a\u{7}'",
        "digest = ''",
        "created_at = -1",
        "expires_at = 9223372036854775807",
        "last_used_at = -1",
        "revoked_at = -1",
    ];
    each_way(&h, "api_token", &id, &ways, async |how| {
        is_corrupt(program.who_am_i().await, "latchkey.v1.ApiToken", &id, &how);
        let listed = operator.call("UserAdmin/ListApiTokens", json!({})).await.expect("a list");
        // Lists do not show the digest.
        let expected = if how.contains("digest") { 2 } else { 1 };
        assert_eq!(listed["apiTokens"].as_array().map(Vec::len), Some(expected), "{how}");
        good.who_am_i().await.expect("the other token is well");
    })
    .await;
    // Scopes are resolved at use: an unknown one grants nothing.
    h.sql(&format!("UPDATE api_token SET scopes = 'everything users.read' WHERE id = '{id}'")).await;
    assert_eq!(program.who_am_i().await.expect("a token").scopes, ["users.read"]);
}

#[tokio::test]
async fn a_broken_event_is_left_out_of_lists() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    h.create("eve", &[], PASSWORD).await;
    let all = operator.events().await;
    let id = &all[0].id;
    let ways = ["kind = 'NONSENSE'", "outcome = 9", "reason = 'BECAUSE'", "details = '{'", "details = '[]'", "at = -1"];
    each_way(&h, "audit_event", id, &ways, async |how| {
        let shown = operator.call("Audit/GetEvent", json!({"eventId": id})).await;
        is_corrupt(shown, "latchkey.v1.Event", id, &how);
        assert_eq!(operator.events().await.len(), all.len() - 1, "{how}");
    })
    .await;
    assert_eq!(operator.events().await, all);
}

#[tokio::test]
async fn a_broken_answer_of_an_idempotency_key_is_no_leave_to_do_it_again() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let key = "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7";
    let request = json!({"username": "bob", "temporaryPassword": {}, "idempotencyKey": key});
    operator.call("UserAdmin/CreateUser", request.clone()).await.expect("a user");
    let no_id = "{\"user_id\": \"x\", \"expires_at\": null, \"effects\": {}}";
    for answer in ["", "{", "[]", "{\"user_id\": 1}", no_id] {
        h.sql(&format!("UPDATE idempotency_key SET answer = '{answer}'")).await;
        let repeated = operator.call("UserAdmin/CreateUser", request.clone()).await;
        is_corrupt(repeated, "latchkey.v1.IdempotencyKey", key, answer);
    }
    assert_eq!(names(&operator).await, ["bob"]);
}

#[tokio::test]
async fn broken_counts_of_wrong_passwords_neither_lock_nor_unlock_an_account() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    h.create("bob", &[], PASSWORD).await;
    stranger.sign_in("bob", "wrong c4nary").await.expect_err("a wrong password");
    for how in [
        "failures = -7",
        "pending = -7",
        "pending = 2147483647, lease_expires_at = 1",
        "lease_expires_at = -1",
        "last_failure_at = 9223372036854775807",
    ] {
        h.sql(&format!("UPDATE throttle SET {how}")).await;
        stranger.sign_in("bob", PASSWORD).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
        operator.user("bob").await;
    }
    // A count that is too high throttles like many wrong passwords; it does not overflow.
    h.sql("UPDATE throttle SET failures = 2147483647, last_failure_at = 9000000000000000").await;
    refused(stranger.sign_in("bob", "wrong c4nary").await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    operator.unlock("bob").await.expect("an unlock");
    stranger.sign_in("bob", PASSWORD).await.expect("a sign-in");
}

#[tokio::test]
async fn an_account_whose_version_cannot_go_on_is_broken_for_every_change() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let bob = operator.user("bob").await;
    h.sql("UPDATE \"user\" SET version = 9223372036854775807").await;
    is_corrupt(operator.lock("bob").await, "latchkey.v1.User", &bob.id, "a lock");
    is_corrupt(operator.reset("bob").await, "latchkey.v1.User", &bob.id, "a reset");
    assert_eq!(operator.user("bob").await.state(), v1::UserState::Active);
    h.sql("UPDATE \"user\" SET version = 7").await;
    operator.lock("bob").await.expect("a lock");
}

#[tokio::test]
async fn a_column_of_another_type_is_a_broken_row_wherever_it_is() {
    let h = Harness::with(|config| {
        config.throttle.unknown_names = 1;
        config.throttle.source_failures = 100;
    })
    .await;
    if h.is_postgres() {
        return;
    }
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let is_broken = |refusal: Refusal, how: &str| {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DataLoss, "RECORD_CORRUPT"), "{how}: {refusal:?}");
    };
    let of = |status: &Status| Refusal::of(status);
    h.create("bob", &[], PASSWORD).await;

    h.sql("INSERT INTO source_block (source, blocked_until) VALUES ('127.0.0.1', 'tomorrow')").await;
    is_broken(of(&stranger.sign_in("bob", PASSWORD).await.expect_err("a refusal")), "a source");
    h.sql("DELETE FROM source_block").await;

    h.sql("INSERT INTO username_reservation (username, available_at) VALUES ('old', 'tomorrow')").await;
    let create = json!({"username": "old"});
    is_broken(of(&operator.call("UserAdmin/CreateUser", create).await.expect_err("a refusal")), "a reservation");

    let keyed = json!({"username": "eve", "idempotencyKey": "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7"});
    operator.call("UserAdmin/CreateUser", keyed.clone()).await.expect("a user");
    h.sql("UPDATE idempotency_key SET expires_at = 'tomorrow'").await;
    is_broken(of(&operator.call("UserAdmin/CreateUser", keyed).await.expect_err("a refusal")), "a key");

    let reset = operator.reset("bob").await.expect("a reset");
    let step = stranger.change_step("bob", reset.shown()).await.expect("a step");
    h.sql("UPDATE sign_in_ticket SET created_at = 'now'").await;
    is_broken(of(&stranger.complete(&step.ticket, OTHER_PASSWORD).await.expect_err("a refusal")), "a ticket");

    stranger.sign_in("unknown", PASSWORD).await.expect_err("an unknown user");
    h.sql("UPDATE throttle SET waits_until = 'tomorrow' WHERE user_id IS NULL").await;
    is_broken(of(&stranger.sign_in("unknown", PASSWORD).await.expect_err("a refusal")), "a wait");
}

#[tokio::test]
async fn a_server_with_a_broken_key_does_not_start_and_says_so() {
    let mut h = Harness::start().await;
    h.halt().await;
    let none = if h.is_postgres() { "'\\x'" } else { "x''" };
    let short = if h.is_postgres() { "'\\x00ff'" } else { "x'00ff'" };
    let ids = h.query("SELECT id FROM sealed_key ORDER BY purpose").await;
    for id in &ids {
        for how in [
            format!("sealed = {none}"),
            format!("sealed = {short}"),
            "purpose = 9".to_owned(),
            "not_before = -1".to_owned(),
            // The seal is bound to its row: what was sealed for another key cannot be opened here.
            format!("sealed = (SELECT sealed FROM sealed_key WHERE id <> '{id}')"),
        ] {
            h.sql("CREATE TABLE kept AS SELECT * FROM sealed_key").await;
            h.sql(&format!("UPDATE sealed_key SET {how} WHERE id = '{id}'")).await;
            let error = Harness::start_error(&h.config).await;
            assert!(error.contains(id), "{how}: {error}");
            assert!(error.contains("cannot be read"), "{how}: {error}");
            h.sql("DELETE FROM sealed_key; INSERT INTO sealed_key SELECT * FROM kept; DROP TABLE kept").await;
        }
    }
    h.resume().await.operator().await.who_am_i().await.expect("well again");
}

impl Harness {
    /// Another session of a user.
    async fn signed_in_again(&self, username: &str) -> Client {
        self.signed_in(username, PASSWORD).await.client
    }
}
