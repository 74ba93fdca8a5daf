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
