//! At least one administrator must remain, because without one, users cannot be administered over the network.

use std::time::Duration;

use latchkey::domain::role::Scope;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::harness::{Client, Harness, PASSWORD, Refusal, at_once, refused, rounds};

/// A program with every scope. Its user has the role admin but is a service, so it cannot sign in.
async fn program(h: &Harness) -> Client {
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    h.token(&all).await
}

/// All ways to disable an administrator.
async fn removals(client: &Client, username: &str) -> Vec<(&'static str, Result<Value, Status>)> {
    let user = json!({"username": username});
    let shown = client.call("UserAdmin/GetUser", json!({"user": user})).await.expect("a user");
    let etag = &shown["user"]["etag"];
    let mut answers = Vec::new();
    for (method, request) in [
        ("UserAdmin/LockUser", json!({"user": user})),
        ("UserAdmin/LockUser", json!({"user": user, "duration": "60s"})),
        ("UserAdmin/UpdateUser", json!({"user": user, "removeRoles": ["admin"]})),
        ("UserAdmin/UpdateUser", json!({"user": user, "removeRoles": ["admin"], "addRoles": ["operator"]})),
        ("UserAdmin/UpdateUser", json!({"user": user, "removeRoles": ["admin"], "validateOnly": true})),
        ("UserAdmin/DeleteUser", json!({"user": user, "etag": etag, "validateOnly": true})),
        ("UserAdmin/DeleteUser", json!({"user": user, "etag": etag})),
    ] {
        answers.push((method, client.call(method, request).await));
    }
    answers
}

async fn cannot_be_removed(client: &Client, username: &str) {
    let before = client.user(username).await;
    for (method, answer) in removals(client, username).await {
        let refusal = refused(answer, Code::FailedPrecondition, "LAST_ADMINISTRATOR");
        assert!(!refusal.message.is_empty(), "{method}");
    }
    assert_eq!(client.user(username).await, before);
}

#[tokio::test]
async fn the_last_administrator_is_not_locked_demoted_or_deleted() {
    let h = Harness::start().await;
    h.admin().await;
    cannot_be_removed(&program(&h).await, "root").await;
}

#[tokio::test]
async fn an_account_that_cannot_sign_in_does_not_count_as_an_administrator() {
    let h = Harness::start().await;
    h.admin().await;
    let client = program(&h).await;
    let operator = h.operator().await;
    let create = |name: &str, credential: Value| {
        let mut request = json!({"username": name, "roles": ["admin"]});
        for (key, value) in credential.as_object().expect("members") {
            request[key] = value.clone();
        }
        request
    };
    for request in [
        create("pending", json!({})),
        create("a-service", json!({"kind": "USER_KIND_SERVICE"})),
        create("expired", json!({"temporaryPassword": {"ttl": "60s"}})),
        create("locked", json!({"password": PASSWORD, "passwordChangeRequired": false})),
    ] {
        operator.call("UserAdmin/CreateUser", request).await.expect("a user");
    }
    operator.lock("locked").await.expect("a lock");
    h.clock.advance(Duration::from_secs(61));
    cannot_be_removed(&client, "root").await;

    operator.unlock("locked").await.expect("an unlock");
    client.lock("root").await.expect("there is another one");
    cannot_be_removed(&client, "locked").await;
}

#[tokio::test]
async fn a_lock_that_is_over_makes_an_administrator_again() {
    let h = Harness::start().await;
    h.admin().await;
    h.create("other", &["admin"], PASSWORD).await;
    let client = program(&h).await;
    let lock = json!({"user": {"username": "other"}, "duration": "60s"});
    h.operator().await.call("UserAdmin/LockUser", lock).await.expect("a lock");
    refused(client.lock("root").await, Code::FailedPrecondition, "LAST_ADMINISTRATOR");
    h.clock.advance(Duration::from_secs(61));
    client.lock("root").await.expect("a lock");
}

#[tokio::test]
async fn the_local_operator_may_remove_the_last_administrator() {
    let h = Harness::start().await;
    h.admin().await;
    let operator = h.operator().await;
    operator.lock("root").await.expect("the compromised one must be lockable");
    operator.unlock("root").await.expect("an unlock");
    let demotion = json!({"user": {"username": "root"}, "removeRoles": ["admin"]});
    operator.call("UserAdmin/UpdateUser", demotion).await.expect("a demotion");
}

/// One round: two administrators disable each other at the same time.
async fn one_round(h: &Harness, method: &str, request: impl Fn(&str) -> Value) -> usize {
    let one = h.signed_in("one", PASSWORD).await.client;
    let two = h.signed_in("two", PASSWORD).await.client;
    let answers = at_once([one.call(method, request("two")), two.call(method, request("one"))]).await;
    answers
        .into_iter()
        .filter(|answer| match answer {
            Ok(_) => true,
            Err(status) => {
                let reason = Refusal::of(status).reason;
                // Too late: demoted, locked, or the only one left.
                assert!(
                    ["SCOPE_MISSING", "SESSION_REVOKED", "LAST_ADMINISTRATOR"].contains(&reason.as_str()),
                    "{status:?}"
                );
                false
            }
        })
        .count()
}

#[tokio::test]
async fn two_administrators_who_remove_each_other_at_once_leave_one() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("one", &["admin"], PASSWORD).await;
    h.create("two", &["admin"], PASSWORD).await;
    for round in 0..rounds(50) {
        let removed = if round % 2 == 0 {
            let demote = |whom: &str| json!({"user": {"username": whom}, "removeRoles": ["admin"]});
            one_round(&h, "UserAdmin/UpdateUser", demote).await
        } else {
            let lock = |whom: &str| json!({"user": {"username": whom}});
            one_round(&h, "UserAdmin/LockUser", lock).await
        };
        assert_eq!(removed, 1, "round {round}");
        for name in ["one", "two"] {
            let again = json!({"user": {"username": name}, "addRoles": ["admin"]});
            operator.call("UserAdmin/UpdateUser", again).await.expect("a promotion");
            operator.unlock(name).await.expect("an unlock");
        }
    }
}

/// Only the guard orders these two changes: they touch different accounts, and their common caller is only read.
#[tokio::test]
async fn a_third_who_removes_both_administrators_at_once_removes_one() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("one", &["admin"], PASSWORD).await;
    h.create("two", &["admin"], PASSWORD).await;
    let client = program(&h).await;
    let again = program(&h).await;
    for round in 0..rounds(25) {
        let remove = |whom: &str| json!({"user": {"username": whom}, "removeRoles": ["admin"]});
        let answers = at_once([
            client.call("UserAdmin/UpdateUser", remove("one")),
            again.call("UserAdmin/UpdateUser", remove("two")),
        ])
        .await;
        let (done, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((done.len(), failed.len()), (1, 1), "round {round}");
        for answer in failed {
            refused(answer, Code::FailedPrecondition, "LAST_ADMINISTRATOR");
        }
        for name in ["one", "two"] {
            let back = json!({"user": {"username": name}, "addRoles": ["admin"]});
            operator.call("UserAdmin/UpdateUser", back).await.expect("a promotion");
        }
    }
}
