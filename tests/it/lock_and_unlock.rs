//! Locking and unlocking accounts.

use std::time::Duration;

use latchkey::proto::v1::{self, LockCause, UserState, lock_user_request::End};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::{Harness, PASSWORD, refused};

#[tokio::test]
async fn a_locked_user_cannot_sign_in_with_the_right_password() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.user("bob").await;

    let locked = admin.client.lock("bob").await.expect("a lock");
    let user = locked.user.expect("a user");
    assert_eq!(user.state(), UserState::Locked);
    assert_eq!(user.lock.as_ref().map(v1::UserLock::cause), Some(LockCause::Operator));
    assert_eq!(locked.effects.map(|effects| effects.sessions_revoked), Some(1));

    let stranger = h.stranger().await;
    let right = refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let unknown = refused(stranger.sign_in("nobody", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(right.message, unknown.message);

    let unlocked = admin.client.unlock("bob").await.expect("an unlock");
    assert_eq!(unlocked.effects.map(|effects| effects.lock_lifted), Some(true));
    stranger.tokens("bob", PASSWORD).await.expect("the old password works again");
}

#[tokio::test]
async fn a_lock_ends_sessions_and_refresh_tokens() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    let bob = h.user("bob").await;
    bob.client.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("a live session");

    admin.client.lock("bob").await.expect("a lock");

    let who = bob.client.auth().who_am_i(v1::WhoAmIRequest {}).await;
    refused(who, Code::Unauthenticated, "SESSION_REVOKED");
    refused(bob.client.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test]
async fn a_lock_with_an_end_is_over_when_its_time_is() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.user("bob").await;
    let hour = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = v1::LockUserRequest {
        user: Some(named("bob")),
        note: "left her laptop on a train".to_owned(),
        end: Some(End::Duration(hour)),
        ..Default::default()
    };
    admin.client.user_admin().lock_user(request).await.expect("a lock");
    assert_eq!(admin.client.user("bob").await.state(), UserState::Locked);

    h.clock.advance(Duration::from_secs(3601));

    let operator = h.operator().await;
    assert_eq!(operator.user("bob").await.state(), UserState::Active);
    h.stranger().await.tokens("bob", PASSWORD).await.expect("the lock is over");
}

#[tokio::test]
async fn a_later_lock_does_not_shorten_an_earlier_one() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.user("bob").await;
    operator.lock("bob").await.expect("a lock for ever");
    let request = v1::LockUserRequest {
        user: Some(named("bob")),
        end: Some(End::Duration(prost_types::Duration { seconds: 60, nanos: 0 })),
        ..Default::default()
    };
    let locked = operator.user_admin().lock_user(request).await.expect("a second lock").into_inner();
    let lock = locked.user.and_then(|user| user.lock).expect("a lock");
    assert_eq!(lock.expire_time, None);
}

#[tokio::test]
async fn an_unlock_without_a_lock_succeeds_and_says_so() {
    let h = Harness::start().await;
    h.user("bob").await;
    let unlocked = h.operator().await.unlock("bob").await.expect("an answer");
    assert_eq!(unlocked.effects.map(|effects| effects.lock_lifted), Some(false));
}

fn lock_of_bob() -> v1::LockUserRequest {
    v1::LockUserRequest { user: Some(named("bob")), ..Default::default() }
}

fn seconds(seconds: i64) -> End {
    End::Duration(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn a_lock_says_who_when_and_why() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.create("bob", &[], PASSWORD).await;
    let request = v1::LockUserRequest { note: "left her laptop on a train".to_owned(), ..lock_of_bob() };
    let locked = admin.client.user_admin().lock_user(request).await.expect("a lock").into_inner();
    let user = locked.user.expect("a user");
    assert_eq!(user, admin.client.user("bob").await);
    let lock = user.lock.expect("a lock");
    let root = admin.client.user("root").await.id;
    assert_eq!([lock.actor_id, lock.actor_name, lock.note], [&root, "root", "left her laptop on a train"]);
    assert!(lock.lock_time.is_some() && lock.lock_time == user.update_time);
    let event = admin.client.events().await.pop().expect("an event");
    assert_eq!((event.r#type(), event.details["lockCause"].as_str()), (v1::EventType::UserLocked, "OPERATOR"));

    assert_eq!(admin.client.unlock("bob").await.expect("an unlock").user.expect("a user").lock, None);
    let event = admin.client.events().await.pop().expect("an event");
    assert_eq!((event.r#type(), event.details["lockLifted"].as_str()), (v1::EventType::UserUnlocked, "true"));
}

#[tokio::test]
async fn a_lock_can_end_at_a_moment_which_must_come() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let at = |seconds| End::UntilTime(prost_types::Timestamp { seconds, nanos: 0 });
    let created = operator.user("bob").await.create_time.expect("a time").seconds;
    let request = v1::LockUserRequest { end: Some(at(created + 7200)), ..lock_of_bob() };
    let locked = operator.user_admin().lock_user(request).await.expect("a lock").into_inner();
    let end = locked.user.and_then(|user| user.lock).and_then(|lock| lock.expire_time);
    assert_eq!(end.map(|end| end.seconds), Some(created + 7200));
    h.clock.advance(Duration::from_hours(2));
    assert_eq!(operator.user("bob").await.state(), UserState::Active);

    for (end, violation) in [
        (at(created), "until_time: OUT_OF_RANGE"),
        (at(i64::MAX), "until_time: OUT_OF_RANGE"),
        (seconds(0), "duration: OUT_OF_RANGE"),
        (seconds(-5), "duration: OUT_OF_RANGE"),
        (seconds(i64::MAX), "duration: OUT_OF_RANGE"),
    ] {
        let answer = operator.user_admin().lock_user(v1::LockUserRequest { end: Some(end), ..lock_of_bob() }).await;
        assert_eq!(refused(answer, Code::InvalidArgument, "FIELD_INVALID").violations(), [violation], "{end:?}");
    }
}

#[tokio::test]
async fn only_the_server_locks_for_failed_sign_ins() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    for (cause, violation) in [(i32::from(LockCause::FailedSignIns), "cause: CONFLICT"), (99, "cause: UNKNOWN")] {
        let answer = operator.user_admin().lock_user(v1::LockUserRequest { cause, ..lock_of_bob() }).await;
        assert_eq!(refused(answer, Code::InvalidArgument, "FIELD_INVALID").violations(), [violation]);
    }
    let request = v1::LockUserRequest { cause: LockCause::Operator.into(), ..lock_of_bob() };
    operator.user_admin().lock_user(request).await.expect("said or left unsaid");
}

#[tokio::test]
async fn a_second_lock_prolongs_the_first_and_an_operators_stands_over_an_automatic_one() {
    let h = Harness::with(|config| {
        config.throttle.threshold = 2;
        config.throttle.lockout_threshold = 2;
        config.throttle.lockout_duration = Duration::from_hours(5);
    })
    .await;
    let operator = h.operator().await;
    // Only failures from a familiar place lock.
    h.user("bob").await;
    for _ in 0..2 {
        let answer = h.stranger().await.sign_in("bob", "no c4nary of bob's").await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let automatic = operator.user("bob").await.lock.expect("a lock");
    assert_eq!(automatic.cause(), LockCause::FailedSignIns);
    let request = v1::LockUserRequest { end: Some(seconds(60)), ..lock_of_bob() };
    operator.user_admin().lock_user(request).await.expect("a shorter lock");
    let lock = operator.user("bob").await.lock.expect("a lock");
    assert_eq!(
        (lock.cause(), lock.expire_time),
        (LockCause::Operator, automatic.expire_time),
        "no lock weakens another"
    );
    let request = v1::LockUserRequest { end: Some(seconds(86_400)), ..lock_of_bob() };
    operator.user_admin().lock_user(request).await.expect("a longer lock");
    let lock = operator.user("bob").await.lock.expect("a lock");
    assert!(lock.expire_time.expect("an end").seconds > automatic.expire_time.expect("an end").seconds);
}

#[tokio::test]
async fn a_lock_is_bound_to_the_etag_that_was_read() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let etag = operator.user("bob").await.etag;
    let request = v1::LockUserRequest { etag: etag.clone(), ..lock_of_bob() };
    operator.user_admin().lock_user(request.clone()).await.expect("the current one");
    let refusal = refused(operator.user_admin().lock_user(request).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(refusal.metadata("currentEtag"), operator.user("bob").await.etag);
    let unlock = v1::UnlockUserRequest { user: Some(named("bob")), etag, ..Default::default() };
    refused(operator.user_admin().unlock_user(unlock).await, Code::Aborted, "ETAG_MISMATCH");
    refused(operator.lock("nobody").await, Code::NotFound, "USER_NOT_FOUND");
    refused(operator.unlock("nobody").await, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn api_tokens_of_a_locked_user_rest_and_work_again_afterwards() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let program = h.token(&["users.read"]).await;
    program.user("service").await;
    operator.lock("service").await.expect("a lock");
    let answer = program.get("service").await;
    refused(answer, Code::Unauthenticated, "SESSION_REVOKED");
    operator.unlock("service").await.expect("an unlock");
    program.user("service").await;
}

#[tokio::test]
async fn a_pending_user_is_pending_again_after_a_lock() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.create(v1::CreateUserRequest { username: "bob".to_owned(), ..Default::default() }).await.expect("bob");
    assert_eq!(operator.lock("bob").await.expect("a lock").user.expect("a user").state(), UserState::Locked);
    assert_eq!(operator.unlock("bob").await.expect("an unlock").user.expect("a user").state(), UserState::Pending);
}

#[tokio::test]
async fn a_lock_that_is_repeated_without_a_note_keeps_the_note() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.user("bob").await;
    let locked = async |cause: LockCause, note: &str| {
        let request = v1::LockUserRequest {
            user: Some(named("bob")),
            cause: cause.into(),
            note: note.to_owned(),
            ..Default::default()
        };
        let answer = admin.client.user_admin().lock_user(request).await.expect("a lock").into_inner();
        answer.user.and_then(|user| user.lock).expect("a lock").note
    };
    for (cause, note, standing) in [
        (LockCause::Operator, "laptop lost", "laptop lost"),
        (LockCause::Operator, "", "laptop lost"),
        (LockCause::Operator, "laptop stolen", "laptop stolen"),
        // Another cause has another reason, which was not told.
        (LockCause::Compromise, "", ""),
        (LockCause::Compromise, "a false page", "a false page"),
        (LockCause::Compromise, "", "a false page"),
    ] {
        assert_eq!(locked(cause, note).await, standing, "{cause:?} {note:?}");
    }
}

#[tokio::test]
async fn the_answer_has_the_lock_that_was_in_force_before() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.user("bob").await;
    let hours = |hours: i64, note: &str| v1::LockUserRequest {
        user: Some(named("bob")),
        note: note.to_owned(),
        end: Some(End::Duration(prost_types::Duration { seconds: hours * 3600, nanos: 0 })),
        ..Default::default()
    };
    let mut client = admin.client.user_admin();
    let first = client.lock_user(hours(2, "laptop lost")).await.expect("a lock").into_inner();
    assert_eq!(first.earlier_lock, None);
    let second = client.lock_user(hours(1, "phone lost")).await.expect("a lock").into_inner();
    let earlier = second.earlier_lock.expect("the first lock");
    let first_lock = first.user.and_then(|user| user.lock).expect("a lock");
    assert_eq!((earlier.note.as_str(), earlier.expire_time), ("laptop lost", first_lock.expire_time));
    assert_eq!(earlier.actor_name, first_lock.actor_name);
    let standing = second.user.and_then(|user| user.lock).expect("a lock");
    assert_eq!(standing.expire_time, first_lock.expire_time, "the longer lock stays");

    let unlocked = admin.client.unlock("bob").await.expect("an unlock");
    assert_eq!(unlocked.lifted_lock, Some(standing));
    assert_eq!(admin.client.unlock("bob").await.expect("an unlock").lifted_lock, None);

    client.lock_user(hours(1, "phone lost")).await.expect("a lock");
    let method = v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default());
    let reset =
        v1::ResetPasswordRequest { user: Some(named("bob")), method: Some(method), unlock: true, ..Default::default() };
    let reset = client.reset_password(reset).await.expect("a reset").into_inner();
    assert_eq!(reset.lifted_lock.map(|lock| lock.note), Some("phone lost".to_owned()));
}
