//! Races at known critical moments: a failpoint holds one call, another call runs in between, and the first continues.
//! `races.rs` hits such moments by chance.

use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, EventOutcome, EventType, UserState, create_user_request::Credential};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::child::{Site, Victim};
use crate::harness::{Client, OTHER_PASSWORD, PASSWORD, eventually, refused};

/// Accounts with a password.
async fn create(operator: &Client, name: &str, roles: &[&str]) {
    let request = v1::CreateUserRequest {
        username: name.to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("a user");
}

async fn live_sessions(operator: &Client, name: &str) -> usize {
    operator.sessions_of(name).await.iter().filter(|session| session.end_time.is_none()).count()
}

/// The server that holds a call, and the one that receives the other call: another replica if possible.
async fn servers(site: &Site, failpoints: &str) -> (Victim, Option<Victim>) {
    let first = site.start(failpoints).await;
    let second = if site.database.is_shared() { Some(site.start_as("replica", "").await) } else { None };
    (first, second)
}

#[tokio::test]
async fn a_lock_between_verifying_and_issuing_leaves_nothing_to_issue() {
    let site = Site::new().await;
    let barrier = site.barrier("issue");
    // The preceding sign-ins and the refresh are not held.
    let faults = format!(
        "SignIn.begin=2*off->1*{hold};RefreshTokens.begin=1*{hold};CompletePasswordChange.begin=1*{hold}",
        hold = barrier.action()
    );
    let (server, replica) = servers(&site, &faults).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    let elsewhere = replica.as_ref().unwrap_or(&server).operator().await;
    create(&operator, "bob", &[]).await;
    let tokens = stranger.tokens("bob", PASSWORD).await.expect("tokens");
    operator.require_change("bob").await.expect("a demand");
    let ticket = stranger.change_step("bob", PASSWORD).await.expect("a step").ticket;
    operator.waive_change("bob").await.expect("no demand");

    let [one, two, three] = [stranger.clone(), stranger.clone(), stranger.clone()];
    let (refresh_token, old_ticket) = (tokens.refresh_token.clone(), ticket.clone());
    let sign_in = tokio::spawn(async move { one.sign_in("bob", PASSWORD).await });
    let first = barrier.reached().await;
    let refresh = tokio::spawn(async move { two.refresh(&refresh_token).await });
    let second = barrier.reached().await;
    let complete = tokio::spawn(async move { three.complete(&old_ticket, OTHER_PASSWORD).await });
    let third = barrier.reached().await;

    elsewhere.lock("bob").await.expect("a lock");
    drop((first, second, third));
    refused(sign_in.await.expect("an end"), Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(refresh.await.expect("an end"), Code::Unauthenticated, "SESSION_REVOKED");
    refused(complete.await.expect("an end"), Code::Unauthenticated, "TICKET_INVALID");
    assert_eq!(live_sessions(&operator, "bob").await, 0);

    let events = operator.events().await;
    let lock = events.iter().position(|event| event.r#type() == EventType::UserLocked).expect("a lock");
    let after = events[lock..].iter().filter(|event| event.outcome() == EventOutcome::Succeeded);
    assert_eq!(after.count(), 1, "after the lock, only the lock itself has succeeded");
    operator.unlock("bob").await.expect("an unlock");
    refused(stranger.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(stranger.complete(&ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    stranger.tokens("bob", PASSWORD).await.expect("the password is as it was");
}

#[tokio::test]
async fn what_was_about_to_be_issued_when_an_account_was_contained_is_not_issued_after_an_unlock_either() {
    let site = Site::new().await;
    let barrier = site.barrier("issue");
    let hold = barrier.action();
    let faults = format!("SignIn.begin=1*off->1*{hold};RefreshTokens.begin=1*{hold};CreateApiToken.begin=1*{hold}");
    let (server, replica) = servers(&site, &faults).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    let elsewhere = replica.as_ref().unwrap_or(&server).operator().await;
    create(&operator, "bob", &["admin"]).await;
    let tokens = stranger.tokens("bob", PASSWORD).await.expect("tokens");

    let [one, two] = [stranger.clone(), stranger.clone()];
    let (bob, refresh_token) = (stranger.bearing(&tokens.access_token), tokens.refresh_token.clone());
    let sign_in = tokio::spawn(async move { one.sign_in("bob", PASSWORD).await });
    let first = barrier.reached().await;
    let refresh = tokio::spawn(async move { two.refresh(&refresh_token).await });
    let second = barrier.reached().await;
    let request = v1::CreateApiTokenRequest {
        user: Some(named("bob")),
        name: "a way back in".to_owned(),
        scopes: vec!["users.read".to_owned()],
        ttl: None,
    };
    let token = tokio::spawn(async move { bob.user_admin().create_api_token(request).await });
    let third = barrier.reached().await;

    elsewhere.contain("bob").await.expect("a containment");
    elsewhere.unlock("bob").await.expect("an unlock");
    drop((first, second, third));
    refused(sign_in.await.expect("an end"), Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(refresh.await.expect("an end"), Code::Unauthenticated, "SESSION_REVOKED");
    refused(token.await.expect("an end"), Code::Unauthenticated, "SESSION_REVOKED");
    assert_eq!(live_sessions(&operator, "bob").await, 0);
    let request = v1::ListApiTokensRequest { user: Some(named("bob")), ..Default::default() };
    let listed = operator.user_admin().list_api_tokens(request).await.expect("a list").into_inner();
    assert_eq!(listed.api_tokens, []);
}

#[tokio::test]
async fn sec_051_a_reset_before_a_weak_hash_is_renewed_stands() {
    let mut site = Site::new().await;
    let weak = site.start("").await;
    create(&weak.operator().await, "bob", &[]).await;
    drop(weak);
    site.config.argon2.memory_kib = 128;
    let barrier = site.barrier("rehash");
    // The first transaction of the sign-in issues tokens, the second renews the hash.
    let (server, replica) = servers(&site, &format!("SignIn.begin=1*off->1*{}", barrier.action())).await;
    let stranger = server.stranger().await;
    let client = stranger.clone();
    let sign_in = tokio::spawn(async move { client.sign_in("bob", PASSWORD).await });
    let held = barrier.reached().await;
    let reset = replica.as_ref().unwrap_or(&server).operator().await.reset("bob").await.expect("a reset");
    drop(held);
    sign_in.await.expect("an end").expect("it was issued before the reset");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    stranger.change_step("bob", reset.shown()).await.expect("the new password stands");
    assert_eq!(live_sessions(&server.operator().await, "bob").await, 0);
}

#[tokio::test]
async fn a_caller_that_loses_a_role_after_the_access_check_is_refused_and_changes_nothing() {
    let site = Site::new().await;
    let barrier = site.barrier("judged");
    let (server, replica) = servers(&site, &format!("LockUser.begin=1*{}", barrier.action())).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    create(&operator, "bob", &[]).await;
    create(&operator, "ann", &["helpdesk"]).await;
    let before = operator.user("bob").await;
    let program = stranger.bearing(&operator.api_token("ann", &["users.lock"]).await);
    let lock = tokio::spawn(async move { program.lock("bob").await });
    let held = barrier.reached().await;
    let demotion = v1::UpdateUserRequest {
        user: Some(named("ann")),
        remove_roles: vec!["helpdesk".to_owned()],
        ..Default::default()
    };
    replica.as_ref().unwrap_or(&server).operator().await.update(demotion).await.expect("a demotion");
    drop(held);
    refused(lock.await.expect("an end"), Code::PermissionDenied, "SCOPE_MISSING");
    let after = operator.user("bob").await;
    assert_eq!((after.state(), after.etag), (UserState::Active, before.etag));
}

#[tokio::test]
async fn two_administrators_of_whom_each_was_let_in_to_demote_the_other_leave_one() {
    let site = Site::new().await;
    let barrier = site.barrier("both");
    let faults = format!("UpdateUser.begin=2*{}", barrier.action());
    let server = site.start(&faults).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    create(&operator, "ann", &["admin"]).await;
    create(&operator, "bob", &["admin"]).await;
    let mut calls = Vec::new();
    let mut held = Vec::new();
    for (who, whom) in [("ann", "bob"), ("bob", "ann")] {
        let tokens = stranger.tokens(who, PASSWORD).await.expect("tokens");
        let client = stranger.bearing(&tokens.access_token);
        let request = v1::UpdateUserRequest {
            user: Some(named(whom)),
            remove_roles: vec!["admin".to_owned()],
            ..Default::default()
        };
        calls.push(tokio::spawn(async move { client.update(request).await }));
        held.push(barrier.reached().await);
    }
    drop(held);
    let mut demoted = 0;
    for call in calls {
        match call.await.expect("an end") {
            Ok(_) => demoted += 1,
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status:?}"),
        }
    }
    assert_eq!(demoted, 1);
    let admins = [operator.user("ann").await, operator.user("bob").await];
    assert_eq!(admins.iter().filter(|user| user.roles == ["admin"]).count(), 1);
}

/// Waits until this many calls wait for an account's lock.
async fn waiting(site: &Site, how_many: i64) {
    // Other tests use the same database, but different tables.
    let sql = "SELECT COUNT(*) FROM pg_locks waiting WHERE locktype = 'advisory' AND NOT granted AND EXISTS ( \
        SELECT 1 FROM pg_locks WHERE pid = waiting.pid AND relation = '\"user\"'::regclass)";
    eventually("the call that is to wait", || async {
        let found: i64 = site.database.query(sql).await[0].parse().expect("a number");
        (found == how_many).then_some(())
    })
    .await;
}

#[tokio::test]
async fn calls_of_one_token_do_not_wait_for_each_other_and_a_lock_of_its_owner_waits_for_no_more_of_them() {
    let site = Site::new().await;
    if !site.database.is_shared() {
        return;
    }
    let barrier = site.barrier("first");
    let server = site.start(&format!("LockUser.audit=1*{}", barrier.action())).await;
    let operator = server.operator().await;
    create(&operator, "ann", &["helpdesk"]).await;
    for name in ["bob", "cat", "dan"] {
        create(&operator, name, &[]).await;
    }
    let token = operator.api_token("ann", &["users.lock"]).await;
    let program = server.stranger().await.bearing(&token);
    let lock = |client: &Client, name: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.lock(name).await })
    };

    // This call ends soon. Until then ann's row must not change.
    let first = lock(&program, "bob");
    let held = barrier.reached().await;
    program.lock("cat").await.expect("what another call of the token does not hold up");
    let of_owner = lock(&operator, "ann");
    waiting(&site, 1).await;
    // Without fairness, a program that calls constantly could delay the lock indefinitely.
    let after = lock(&program, "dan");
    waiting(&site, 2).await;
    drop(held);
    first.await.expect("an end").expect("it came before the lock of its owner");
    of_owner.await.expect("an end").expect("a lock");
    refused(after.await.expect("an end"), Code::Unauthenticated, "SESSION_REVOKED");
    assert_eq!(operator.user("dan").await.state(), UserState::Active);
}

#[tokio::test]
async fn a_commit_that_waits_for_the_disk_is_answered_last_and_blocks_no_other_call() {
    let site = Site::new().await;
    // Calls are held only once the barrier listens.
    let server = site.start(&format!("store.flush=return(wait {})", site.path("disk.barrier").display())).await;
    let operator = server.operator().await;
    for name in ["ann", "bob", "cat"] {
        create(&operator, name, &[]).await;
    }
    let disk = site.barrier("disk");
    let lock = |name: &'static str| {
        let operator = operator.clone();
        tokio::spawn(async move { operator.lock(name).await })
    };
    let reset = || {
        let request = v1::ResetPasswordRequest {
            user: Some(named("cat")),
            method: Some(Method::TemporaryPassword(v1::TemporaryPassword::default())),
            idempotency_key: "5b0f2d0c-7a5e-4b0e-9d36-0c5f6e0a1b2c".to_owned(),
            ..Default::default()
        };
        let operator = operator.clone();
        tokio::spawn(async move { operator.reset_with(request).await })
    };

    let locked = (lock("ann"), disk.reached().await);
    assert_eq!(operator.user("ann").await.state(), UserState::Locked, "committed");
    let other = (lock("bob"), disk.reached().await);
    let again = (lock("ann"), disk.reached().await);
    let needless = {
        let operator = operator.clone();
        (tokio::spawn(async move { operator.unlock("cat").await }), disk.reached().await)
    };
    let taken = {
        let operator = operator.clone();
        let request = v1::CreateUserRequest { username: "cat".to_owned(), ..Default::default() };
        (tokio::spawn(async move { operator.create(request).await }), disk.reached().await)
    };
    let first = (reset(), disk.reached().await);
    let repeated = (reset(), disk.reached().await);
    for call in [&locked.0, &other.0, &again.0] {
        assert!(!call.is_finished(), "told of a lock that a power cut would undo");
    }
    assert!(!needless.0.is_finished() && !taken.0.is_finished(), "told of what a power cut would undo");
    assert!(!first.0.is_finished() && !repeated.0.is_finished(), "told of a reset that a power cut would undo");

    for (call, held) in [other, again, locked] {
        drop(held);
        call.await.expect("an end").expect("a lock");
    }
    drop((needless.1, taken.1));
    needless.0.await.expect("an end").expect("nothing to do");
    refused(taken.0.await.expect("an end"), Code::AlreadyExists, "USERNAME_TAKEN");
    drop(repeated.1);
    assert!(repeated.0.await.expect("an end").expect("a reset").replayed);
    drop(first.1);
    assert!(!first.0.await.expect("an end").expect("a reset").replayed);
}
