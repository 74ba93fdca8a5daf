//! The maximum age of passwords: who must change when, who is told before, and whom a policy would hit.

use std::time::Duration;

use latchkey::app::{App, MailTransport};
use latchkey::clock::Clock as _;
use latchkey::domain::delivery::LetterKind;
use latchkey::proto::v1::{self, PasswordChangeCause, UserFlag, create_user_request::Credential};
use tonic::{Code, Status};

use crate::access_in_the_transaction::{app_with, settings_of};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, refused};

const DAY: Duration = Duration::from_hours(24);

fn days(days: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(days * 86_400).expect("seconds"), nanos: 0 }
}

/// A policy with a maximum age, a roll-out and warnings, in days.
fn max_age(age: u64, rollout: u64, warnings: &[u64]) -> v1::SignInPolicy {
    let before = warnings.iter().map(|before| days(*before)).collect();
    v1::SignInPolicy {
        max_age: Some(days(age)),
        max_age_rollout: Some(days(rollout)),
        expiry_warnings: Some(v1::ExpiryWarnings { before }),
        ..Default::default()
    }
}

impl Client {
    async fn update_policy(
        &self,
        policy: v1::SignInPolicy,
        dry: bool,
    ) -> Result<v1::UpdateSignInPolicyResponse, Status> {
        let request = v1::UpdateSignInPolicyRequest {
            policy: Some(policy),
            include_impact: true,
            validate_only: dry,
            ..Default::default()
        };
        self.user_admin().update_sign_in_policy(request).await.map(tonic::Response::into_inner)
    }

    /// Lets passwords expire after some days; those of today within a roll-out, and with warnings, in days.
    pub async fn expire_after(&self, age: u64, rollout: u64, warnings: &[u64]) -> v1::PolicyImpact {
        let changed = self.update_policy(max_age(age, rollout, warnings), false).await;
        changed.expect("a policy").impact.expect("an impact")
    }

    async fn person_at(&self, username: &str, email: &str) {
        let request = v1::CreateUserRequest {
            username: username.to_owned(),
            email: email.to_owned(),
            credential: Some(Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        self.create(request).await.expect("a user");
    }

    async fn expired(&self) -> Vec<String> {
        let filter = v1::UserFilter { flags: vec![UserFlag::PasswordExpired.into()], ..Default::default() };
        let listed = self.list(v1::ListUsersRequest { filter: Some(filter), ..Default::default() }).await;
        listed.expect("a list").users.into_iter().map(|user| user.username).collect()
    }

    async fn warnings(&self, username: &str) -> usize {
        self.deliveries(username).await.len()
    }
}

/// A second server of the database that warns.
async fn warner(h: &Harness) -> App {
    let mut settings = settings_of(h);
    settings.mail.transport = MailTransport::File;
    settings.mail.notices = vec![LetterKind::PasswordExpiring];
    app_with(h, settings).await
}

/// Lets the password of a user be as many days old.
async fn age(h: &Harness, username: &str, days: u32) {
    let changed_at = h.clock.now().saturating_sub(DAY * days).as_micros();
    h.sql(&format!(r#"UPDATE "user" SET password_changed_at = {changed_at} WHERE username = '{username}'"#)).await;
}

#[tokio::test]
async fn sec_058_a_password_of_91_days_is_changed_at_the_sign_in_and_a_warning_comes_on_day_76() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let impact = operator.expire_after(90, 0, &[14]).await;
    operator.person_at("ada", "ada@example.com").await;
    assert_eq!(impact.passwords_expired.expect("passwords").users, 0);
    let warner = warner(&h).await;
    let due = operator.user("ada").await.password_status.expect("a status").expire_time.expect("an end").seconds;
    assert!(due.abs_diff(h.clock.now().as_unix_seconds() + 90 * 86_400) < 60);

    h.clock.advance(Duration::from_mins(76 * 24 * 60 - 1));
    warner.warn_of_expiry().await.expect("a job");
    let operator = h.operator().await;
    assert_eq!(operator.warnings("ada").await, 0, "not before day 76");
    h.clock.advance(Duration::from_mins(2));
    warner.warn_of_expiry().await.expect("a job");
    warner.warn_of_expiry().await.expect("a job");
    let [warning] = &operator.deliveries("ada").await[..] else { panic!("one warning") };
    let mail = h.mail_of(warning).await;
    assert_eq!(mail.header("Subject"), "Your password for latchkey expires soon");
    assert_eq!(warning.kind(), v1::DeliveryKind::Notice);

    h.clock.advance(Duration::from_mins(14 * 24 * 60 - 5));
    let stranger = h.stranger().await;
    stranger.tokens("ada", PASSWORD).await.expect("it is not too old yet");
    h.clock.advance(Duration::from_mins(10));
    let operator = h.operator().await;
    assert_eq!(operator.expired().await, ["ada"]);
    let status = operator.user("ada").await.password_status.expect("a status");
    assert_eq!((status.change_required, status.change_cause()), (true, PasswordChangeCause::Expired));
    let step = stranger.change_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(step.cause(), PasswordChangeCause::Expired);
    stranger.complete(&step.ticket, OTHER_PASSWORD).await.expect("tokens");
    stranger.tokens("ada", OTHER_PASSWORD).await.expect("the new one is young");
    assert_eq!(operator.expired().await, [""; 0]);
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_and_back_leaves_no_trace() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    operator.expire_after(90, 0, &[]).await;
    operator.person_at("ada", "ada@example.com").await;
    h.clock.advance(Duration::from_mins(90 * 24 * 60 - 30));
    stranger.tokens("ada", PASSWORD).await.expect("it expires in half an hour");
    h.clock.advance(Duration::from_hours(1));
    let step = stranger.change_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(step.cause(), PasswordChangeCause::Expired);
    h.clock.turn_back(Duration::from_hours(1));
    stranger.tokens("ada", PASSWORD).await.expect("it has half an hour left");
    assert_eq!(h.operator().await.expired().await, [""; 0]);
}

#[tokio::test]
async fn a_new_password_cancels_a_warning_that_waits_for_the_relay() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.person_at("ada", "ada@example.com").await;
    operator.expire_after(90, 0, &[14]).await;
    age(&h, "ada", 85).await;
    warner(&h).await.warn_of_expiry().await.expect("a job");
    let [warning] = &operator.deliveries("ada").await[..] else { panic!("one warning") };
    assert_eq!(warning.state(), v1::DeliveryState::Queued);
    let tokens = h.stranger().await.tokens("ada", PASSWORD).await.expect("tokens");
    let ada = h.stranger().await.bearing(&tokens.access_token);
    ada.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a new password");
    assert_eq!(operator.delivery(&warning.id).await.state(), v1::DeliveryState::Cancelled);
}

/// The users whose password has expired, by the end that their record shows.
async fn due(h: &Harness, operator: &Client, names: &[String]) -> Vec<String> {
    let now = h.clock.now().as_unix_seconds();
    let mut due = Vec::new();
    for name in names {
        let status = operator.user(name).await.password_status.expect("a status");
        if status.expire_time.expect("an end").seconds <= now {
            assert!(status.change_required, "{name}");
            due.push(name.clone());
        }
    }
    due
}

#[tokio::test]
async fn sec_058_passwords_that_were_old_when_the_age_was_set_expire_in_waves() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let names: Vec<String> = (10..40).map(|number| format!("user{number}")).collect();
    for name in &names {
        operator.person_at(name, "").await;
        age(&h, name, 200).await;
    }
    operator.expire_after(90, 30, &[14]).await;
    let mut before = 0;
    for (day, least, most) in [(0, 0, 0), (13, 0, 0), (29, 5, 25), (44, 30, 30)] {
        let operator = h.operator().await;
        let expired = operator.expired().await;
        assert_eq!(expired, due(&h, &operator, &names).await, "day {day}");
        assert!((least..=most).contains(&expired.len()) && expired.len() >= before, "day {day}: {expired:?}");
        before = expired.len();
        let next = [13, 29, 44, 44].into_iter().find(|next| *next > day).unwrap_or(day);
        h.clock.advance(DAY * (next - day) + Duration::from_secs(1));
    }
    let operator = h.operator().await;
    operator.expire_after(180, 30, &[14]).await;
    assert_eq!(operator.expired().await.len(), 30, "a higher age does not begin anew");
    operator.expire_after(120, 30, &[14]).await;
    assert_eq!(operator.expired().await.len(), 0, "a lower one does");
    operator.expire_after(0, 30, &[]).await;
    h.clock.advance(DAY * 400);
    assert_eq!(h.operator().await.expired().await.len(), 0, "no age");
}

#[tokio::test]
async fn three_servers_warn_once_and_after_an_interruption_of_the_nearest_end() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["ada", "bob", "carl", "dora", "eve"] {
        let email = if name == "carl" { String::new() } else { format!("{name}@example.com") };
        operator.person_at(name, &email).await;
    }
    operator.create(v1::CreateUserRequest { username: "fay".to_owned(), ..Default::default() }).await.expect("pending");
    age(&h, "bob", 10).await;
    operator.lock("dora").await.expect("a lock");
    operator.reset("eve").await.expect("a temporary password");
    let others = operator.deliveries("eve").await.len();
    operator.expire_after(90, 0, &[14, 3]).await;
    let warners = [warner(&h).await, warner(&h).await, warner(&h).await];
    let told = async |day: u64, expected: [usize; 6]| {
        at_once(warners.iter().map(App::warn_of_expiry)).await.into_iter().for_each(|done| done.expect("a job"));
        let operator = h.operator().await;
        let mut told = Vec::new();
        for name in ["ada", "bob", "carl", "dora", "eve", "fay"] {
            let more = if name == "eve" { others } else { 0 };
            told.push(operator.warnings(name).await - more);
        }
        assert_eq!(told, expected, "day {day}");
    };
    h.clock.advance(DAY * 67);
    told(67, [0, 1, 0, 0, 0, 0]).await;
    // No server ran for a week. The end of ada's is 13 days away then, that of bob's three.
    h.clock.advance(DAY * 10 + Duration::from_mins(1));
    told(77, [1, 2, 0, 0, 0, 0]).await;
    // A clock that goes back by an hour tells no user twice.
    h.clock.turn_back(Duration::from_hours(1));
    told(77, [1, 2, 0, 0, 0, 0]).await;
    h.clock.advance(DAY * 11);
    h.operator().await.unlock("dora").await.expect("unlocked");
    told(88, [2, 2, 0, 1, 0, 0]).await;
    // Another age is another end, of which all are told anew.
    h.operator().await.expire_after(100, 0, &[14]).await;
    told(88, [3, 3, 0, 2, 0, 0]).await;
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused_with_each_contradiction() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let both = v1::SignInPolicy { min_age: Some(days(7)), ..max_age(7, 30, &[7, 3]) };
    let refusal = refused(operator.update_policy(both, false).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["policy.min_age: CONFLICT", "policy.expiry_warnings.before: CONFLICT"]);
    let beyond = v1::SignInPolicy {
        max_age: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        max_age_rollout: Some(days(366)),
        expiry_warnings: Some(v1::ExpiryWarnings { before: vec![days(0), days(3)] }),
        ..Default::default()
    };
    let refusal = refused(operator.update_policy(beyond, false).await, Code::InvalidArgument, "FIELD_INVALID");
    let fields = ["policy.max_age", "policy.max_age_rollout", "policy.expiry_warnings.before[0]"];
    assert_eq!(refusal.violations(), fields.map(|field| format!("{field}: OUT_OF_RANGE")));
    let many = max_age(90, 30, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    refused(operator.update_policy(many, false).await, Code::InvalidArgument, "FIELD_INVALID");
    // What is set by and by must not contradict either.
    operator.expire_after(30, 30, &[14]).await;
    let lower = v1::SignInPolicy { max_age: Some(days(14)), ..Default::default() };
    refused(operator.update_policy(lower, false).await, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn the_audit_log_tells_what_is_kept_for_an_age_that_is_off() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let warned = |times: &[u64]| v1::ExpiryWarnings { before: times.iter().copied().map(days).collect() };
    let rollout = v1::SignInPolicy { max_age_rollout: Some(days(10)), ..Default::default() };
    let expiry = v1::SignInPolicy { expiry_warnings: Some(warned(&[14, 3])), ..Default::default() };
    let inactivity = v1::SignInPolicy { inactivity_warnings: Some(warned(&[3])), ..Default::default() };
    for policy in [rollout, expiry, inactivity] {
        operator.update_policy(policy, false).await.expect("a policy");
    }
    let events = operator.events().await;
    let told: Vec<&str> = events
        .iter()
        .filter(|event| event.r#type() == v1::EventType::PolicyUpdated)
        .map(|event| event.details["after"].as_str())
        .collect();
    let rollout = "second factor: none; max age: none, rolled out in 10 days";
    let expiry = format!("{rollout}, warned 14 days and 3 days before");
    let inactivity = format!("{expiry}; max inactivity: none, warned 3 days before");
    assert_eq!(told, [rollout, &expiry, &inactivity]);
}

#[tokio::test]
async fn a_dry_run_tells_whose_password_would_expire_when() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (name, old) in [("ada", 200), ("bob", 100), ("carl", 88), ("dora", 80), ("eve", 1)] {
        let email = if name == "dora" { String::new() } else { format!("{name}@example.com") };
        operator.person_at(name, &email).await;
        age(&h, name, old).await;
    }
    operator.person_at("temp", "").await;
    operator.reset("temp").await.expect("a temporary password");
    let dry = operator.update_policy(max_age(90, 0, &[]), true).await.expect("a dry run").impact.expect("an impact");
    let expired = dry.passwords_expired.expect("passwords");
    assert_eq!((expired.users, expired.usernames), (2, vec!["ada".to_owned(), "bob".to_owned()]));
    let weeks: Vec<(i32, &str)> =
        dry.passwords_expiring.iter().map(|week| (week.users, week.usernames[0].as_str())).collect();
    assert_eq!(weeks, [(1, "carl"), (1, "dora"), (1, "eve")]);
    let begin = |week: usize| dry.passwords_expiring[week].begin_time.expect("a week").seconds;
    assert_eq!([begin(1) - begin(0), begin(2) - begin(0)], [7 * 86_400, 12 * 7 * 86_400]);
    assert_eq!((dry.users, dry.users_untold, dry.passwords_incomplete), (5, 1, false));
    assert_eq!(operator.expired().await, [""; 0], "nothing was changed");
    // Warned and in waves, none expires today; a year is later than a quarter.
    let dry =
        operator.update_policy(max_age(365, 30, &[14]), true).await.expect("a dry run").impact.expect("an impact");
    assert_eq!((dry.passwords_expired.expect("passwords").users, dry.passwords_expiring_later), (0, 5));
    let none = operator.update_policy(max_age(0, 30, &[]), true).await.expect("a dry run").impact.expect("an impact");
    assert_eq!((none.users, none.passwords_expired), (0, None));
}
