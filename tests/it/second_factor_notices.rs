//! The mails of second factors: what is announced, and to whom one is recommended.

use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::proto::v1;

use crate::harness::factor::{Authenticator, recovery, totp};
use crate::harness::mailbox::Eml;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, Person, eventually};

/// A signed-in user with an address.
async fn with_address(h: &Harness) -> Person {
    h.operator().await.create(crate::harness::relay::person("ada")).await.expect("ada");
    h.signed_in("ada", PASSWORD).await
}

/// The mail with this subject.
async fn mail(h: &Harness, subject: &str) -> Eml {
    eventually(subject, || async { h.mails().into_iter().find(|mail| mail.header("Subject").contains(subject)) }).await
}

/// The address of the page in a mail.
fn page(mail: &Eml) -> Option<&str> {
    mail.text.lines().find(|line| line.ends_with("/security"))
}

#[tokio::test]
async fn every_change_of_a_second_factor_is_announced_to_its_user() {
    let h = Harness::start().await;
    let ada = with_address(&h).await;
    let factor = h.enroll(&ada).await;
    assert_eq!(page(&mail(&h, "second factor for").await), None, "there is nothing to set up");
    let stranger = h.stranger().await;

    stranger.sign_in_with("ada", PASSWORD, recovery(&factor.recovery_codes[0])).await.expect("a step");
    mail(&h, "recovery code").await;

    let near: Vec<String> = (-25..=25).map(|steps| factor.shows(&h, steps)).collect();
    let wrong = (0..100).map(|number| format!("{number:06}")).find(|code| !near.contains(code)).expect("a code");
    for number in 1..=5 {
        assert_eq!(h.mails().len(), 2, "{number}");
        stranger.sign_in_with("ada", PASSWORD, totp(&wrong)).await.expect_err("a wrong code");
    }
    mail(&h, "Wrong codes").await;
    h.operator().await.unlock("ada").await.expect("an unlock");

    ada.client.disable(Some(factor.proof(&h))).await.expect("an end");
    assert!(page(&mail(&h, "was removed").await).is_some());
    h.next_code();
    let _: Authenticator = h.enroll(&ada).await;
    h.operator().await.reset_factor("ada").await.expect("a reset");
    assert!(page(&mail(&h, "was reset").await).is_some());
}

#[tokio::test]
async fn a_user_without_the_second_factor_that_is_asked_for_is_told_with_the_next_notice() {
    let h = Harness::start().await;
    let ada = with_address(&h).await.client;
    ada.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change");
    assert_eq!(page(&mail(&h, "was changed").await), None, "it is not asked for");
    let from = h.clock.now().saturating_add(Duration::from_hours(48)).as_unix_seconds();
    let policy = v1::SignInPolicy {
        second_factor_required: Some(true),
        second_factor_required_from_time: Some(prost_types::Timestamp { seconds: from, nanos: 0 }),
        ..Default::default()
    };
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    h.operator().await.user_admin().update_sign_in_policy(request).await.expect("a policy");

    ada.change_password(OTHER_PASSWORD, PASSWORD).await.expect("a change");
    let told = eventually("a second notice", || async { h.mails().into_iter().nth(1) }).await;
    let page = page(&told).expect("the page");
    assert_eq!(page, format!("http://{}/security", h.pages_address()));
    assert!(told.text.contains("you cannot sign in without one"), "{}", told.text);
}
