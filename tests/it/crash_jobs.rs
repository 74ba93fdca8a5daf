//! Kills while a job tells users of an end, or locks accounts that are not used: the next start does the rest, once.

use std::os::unix::process::ExitStatusExt as _;

use latchkey::clock::{Clock as _, SystemClock};
use latchkey::proto::v1::{self, EventType, LockCause};

use crate::harness::child::{Site, Victim};
use crate::harness::{Client, PASSWORD, eventually};

const DAY: i64 = 24 * 60 * 60;

fn days(days: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: days * DAY, nanos: 0 }
}

fn warned(before: i64) -> v1::ExpiryWarnings {
    v1::ExpiryWarnings { before: vec![days(before)] }
}

/// A site with ada, under a policy that was set a year ago. `aged` is what makes her account old.
async fn site_of_ada(policy: v1::SignInPolicy, aged: impl Fn(i64) -> String) -> Site {
    let site = Site::new().await;
    let server = site.start("").await;
    let operator = server.operator().await;
    let ada = v1::CreateUserRequest {
        username: "ada".to_owned(),
        email: "ada@example.org".to_owned(),
        credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(ada).await.expect("ada");
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    operator.user_admin().update_sign_in_policy(request).await.expect("a policy");
    drop(server);
    let ago = |days: i64| SystemClock.now().as_micros() - days * DAY * 1_000_000;
    let set_at = ago(365);
    let set = format!("UPDATE sign_in_policy SET password_max_age_set_at = {set_at}, max_inactivity_set_at = {set_at}");
    site.database.execute(&set).await;
    site.database.execute(&aged(ago(85))).await;
    site
}

/// Starts the server, which a failpoint kills, and then without one.
async fn killed_at(site: &Site, place: &str) -> Victim {
    let ended = site.fail_to_start(&format!("{place}=return(kill)"));
    assert_eq!(ended.signal(), Some(9), "{place}");
    site.start("").await
}

async fn messages(operator: &Client) -> usize {
    operator.deliveries("ada").await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_users_are_told_of_an_end_loses_no_warning_and_sends_one() {
    let expiring =
        v1::SignInPolicy { max_age: Some(days(90)), expiry_warnings: Some(warned(14)), ..Default::default() };
    let inactive = v1::SignInPolicy {
        max_inactivity: Some(days(90)),
        inactivity_warnings: Some(warned(14)),
        ..Default::default()
    };
    let old_password = |at| format!(r#"UPDATE "user" SET password_changed_at = {at}"#);
    let not_used = |at| format!(r#"UPDATE "user" SET created_at = {at}, active_from = NULL WHERE username = 'ada'"#);
    for (policy, aged, table, job) in [
        (expiring, &old_password as &dyn Fn(i64) -> String, "password_warning", "warn-of-expiry"),
        (inactive, &not_used, "inactivity_warning", "warn-of-inactivity"),
    ] {
        let at_statement = [format!("store.{table}_save"), "store.delivery_insert".to_owned()];
        let at_step = ["begin", "commit", "committed"].map(|step| format!("{job}.{step}"));
        for place in at_statement.iter().chain(&at_step) {
            let site = site_of_ada(policy.clone(), aged).await;
            let server = killed_at(&site, place).await;
            let operator = server.operator().await;
            eventually(place, || async { (messages(&operator).await == 1).then_some(()) }).await;
            assert_eq!(site.database.query(&format!("SELECT COUNT(*) FROM {table}")).await, ["1"], "{place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_an_account_is_locked_for_inactivity_leaves_it_to_the_next_start() {
    let policy = v1::SignInPolicy { max_inactivity: Some(days(30)), ..Default::default() };
    let not_used = |at| format!(r#"UPDATE "user" SET created_at = {at}, active_from = NULL WHERE username = 'ada'"#);
    for place in ["store.user_save", "store.event_insert", "lock-inactive.commit", "lock-inactive.committed"] {
        let site = site_of_ada(policy.clone(), not_used).await;
        let server = killed_at(&site, place).await;
        let operator = server.operator().await;
        let lock = eventually(place, || async { operator.user("ada").await.lock }).await;
        assert_eq!(lock.cause(), LockCause::Inactivity, "{place}");
        let events = operator.events().await;
        let locks = events.iter().filter(|event| event.r#type() == EventType::UserLocked).count();
        assert_eq!(locks, 1, "{place}");
    }
}
