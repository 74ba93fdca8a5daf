//! The maximum inactivity: whose account is locked when, who is told before, and whom a policy would hit.

use std::time::Duration;

use latchkey::app::{App, MailTransport};
use latchkey::clock::Clock as _;
use latchkey::domain::delivery::LetterKind;
use latchkey::proto::v1::{
    self, LockCause, SignInVerdict, UserState, create_user_request::Credential, reset_password_response::Secret,
    sign_in_finding::Code as Finding,
};
use tonic::{Code, Status};

use crate::access_in_the_transaction::{app_with, settings_of};
use crate::harness::actors::named;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, refused};

const DAY: Duration = Duration::from_hours(24);

fn days(days: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(days * 86_400).expect("seconds"), nanos: 0 }
}

/// A policy with a maximum inactivity and warnings, in days.
fn max_inactivity(max: u64, warnings: &[u64]) -> v1::SignInPolicy {
    let before = warnings.iter().map(|before| days(*before)).collect();
    v1::SignInPolicy {
        max_inactivity: Some(days(max)),
        inactivity_warnings: Some(v1::ExpiryWarnings { before }),
        ..Default::default()
    }
}

impl Client {
    async fn limit_inactivity(&self, policy: v1::SignInPolicy, dry: bool) -> Result<v1::PolicyImpact, Status> {
        let request = v1::UpdateSignInPolicyRequest {
            policy: Some(policy),
            include_impact: true,
            validate_only: dry,
            ..Default::default()
        };
        let changed = self.user_admin().update_sign_in_policy(request).await?.into_inner();
        Ok(changed.impact.expect("an impact"))
    }

    async fn lock_after(&self, max: u64, warnings: &[u64]) {
        self.limit_inactivity(max_inactivity(max, warnings), false).await.expect("a policy");
    }

    async fn cause(&self, username: &str) -> Option<LockCause> {
        self.user(username).await.lock.map(|lock| lock.cause())
    }

    async fn temporary(&self, username: &str) -> String {
        match self.reset(username).await.expect("a reset").secret {
            Some(Secret::TemporaryPassword(password)) => password,
            other => panic!("no password: {other:?}"),
        }
    }

    async fn diagnosed(&self, username: &str) -> (SignInVerdict, Vec<Finding>, String) {
        let request = v1::DiagnoseSignInRequest { user: Some(named(username)), ..Default::default() };
        let answer = self.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner();
        let codes = answer.findings.iter().map(v1::SignInFinding::code).collect();
        let method = answer.findings.first().map(|finding| finding.remedy_method.clone()).unwrap_or_default();
        (answer.verdict(), codes, method)
    }
}

/// Lets an account be unused for some days.
async fn rest(h: &Harness, username: &str, days: u32) {
    let at = h.clock.now().saturating_sub(DAY * days).as_micros();
    let set = format!("created_at = {at}, last_sign_in_at = {at}, active_from = NULL");
    h.sql(&format!(r#"UPDATE "user" SET {set} WHERE username = '{username}'"#)).await;
}

async fn server(h: &Harness) -> App {
    app_with(h, settings_of(h)).await
}

/// A second server of the database that warns.
async fn warner(h: &Harness) -> App {
    let mut settings = settings_of(h);
    settings.mail.transport = MailTransport::File;
    settings.mail.notices = vec![LetterKind::AccountInactive];
    app_with(h, settings).await
}

async fn lock_inactive(app: &App) {
    app.lock_inactive_accounts().await.expect("a job");
}

async fn locked(h: &Harness) -> Vec<String> {
    h.query(r#"SELECT username FROM "user" WHERE lock_cause = 4 ORDER BY username"#).await
}

#[tokio::test]
async fn a_diagnosis_tells_of_inactivity_beside_a_lock_that_ends() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.lock_after(180, &[]).await;
    for name in ["ada", "bob"] {
        h.user(name).await;
        rest(&h, name, 181).await;
    }
    let request = v1::LockUserRequest {
        user: Some(named("ada")),
        end: Some(v1::lock_user_request::End::Duration(days(1))),
        ..Default::default()
    };
    operator.user_admin().lock_user(request).await.expect("a lock");
    let expected = (SignInVerdict::Cannot, vec![Finding::LockedByOperator, Finding::LockedForInactivity]);
    let (verdict, codes, _) = operator.diagnosed("ada").await;
    assert_eq!((verdict, codes), expected);
    operator.lock("bob").await.expect("a lock without an end");
    let (_, codes, _) = operator.diagnosed("bob").await;
    assert_eq!(codes, [Finding::LockedByOperator], "to unlock begins the time anew");
}

#[tokio::test]
async fn an_account_that_was_not_used_for_180_days_is_locked_at_the_sign_in() {
    let h = Harness::start().await;
    h.operator().await.lock_after(180, &[]).await;
    let ada = h.user("ada").await;
    let stranger = h.stranger().await;
    rest(&h, "ada", 179).await;
    stranger.tokens("ada", PASSWORD).await.expect("a sign-in on the day before");
    stranger.tokens("ada", PASSWORD).await.expect("that sign-in began the time anew");
    rest(&h, "ada", 180).await;
    let operator = h.operator().await;
    let (verdict, codes, method) = operator.diagnosed("ada").await;
    assert_eq!((verdict, codes), (SignInVerdict::Cannot, vec![Finding::LockedForInactivity]));
    assert!(method.ends_with("/UnlockUser"), "{method}");
    refused(stranger.tokens("ada", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(operator.cause("ada").await, None, "a wrong password locks nothing");
    let first = refused(stranger.tokens("ada", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(operator.cause("ada").await, Some(LockCause::Inactivity));
    assert_eq!(operator.diagnosed("ada").await.0, SignInVerdict::Cannot);
    let second = refused(stranger.tokens("ada", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!((first.message, first.reason), (second.message, second.reason), "like a locked account");
    let events = operator.events().await;
    let locks: Vec<_> = events.iter().filter(|event| event.r#type() == v1::EventType::UserLocked).collect();
    let [lock] = locks[..] else { panic!("one lock: {}", locks.len()) };
    assert_eq!(lock.details.get("lockCause").map(String::as_str), Some("INACTIVITY"));
    refused(ada.client.refresh(&ada.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");

    operator.unlock("ada").await.expect("an unlock");
    stranger.tokens("ada", PASSWORD).await.expect("an unlock begins the time anew");
}

#[tokio::test]
async fn unlocking_or_resetting_an_account_that_is_not_locked_yet_begins_its_time_anew() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["ada", "bob", "carl"] {
        h.create(name, &[], PASSWORD).await;
        rest(&h, name, 200).await;
    }
    operator.lock_after(180, &[]).await;
    let stranger = h.stranger().await;
    operator.unlock("ada").await.expect("an unlock");
    stranger.tokens("ada", PASSWORD).await.expect("the time began anew");
    let temporary = operator.temporary("bob").await;
    stranger.change_step("bob", &temporary).await.expect("the time began anew");
    refused(stranger.tokens("carl", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(operator.reset("carl").await, Code::FailedPrecondition, "USER_LOCKED");
    h.create("helper", &["helpdesk"], PASSWORD).await;
    let helper = h.signed_in("helper", PASSWORD).await.client;
    helper.unlock("carl").await.expect("an unlock needs users.lock only");
    stranger.tokens("carl", PASSWORD).await.expect("the time began anew");
}

#[tokio::test]
async fn only_the_server_locks_for_inactivity_and_a_stronger_lock_stays() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("ada", &[], PASSWORD).await;
    rest(&h, "ada", 200).await;
    refused(operator.lock_for("ada", LockCause::Inactivity).await, Code::InvalidArgument, "FIELD_INVALID");
    operator.lock("ada").await.expect("a lock");
    operator.lock_after(180, &[]).await;
    lock_inactive(&server(&h).await).await;
    assert_eq!(operator.cause("ada").await, Some(LockCause::Operator));
}

#[tokio::test]
async fn three_servers_lock_ten_accounts_an_hour_and_the_longest_unused_first() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for number in 10..35 {
        let name = format!("user{number}");
        h.create(&name, &[], PASSWORD).await;
        rest(&h, &name, 300 - number).await;
    }
    operator.lock_after(180, &[]).await;
    let servers = [server(&h).await, server(&h).await, server(&h).await];
    for expected in [10, 10] {
        at_once(servers.iter().map(lock_inactive)).await;
        assert_eq!(locked(&h).await.len(), expected);
    }
    assert_eq!(locked(&h).await[9], "user19");
    let before = h.clock.now().saturating_sub(Duration::from_hours(1)).as_micros();
    h.sql(&format!(r#"UPDATE "user" SET locked_at = {before} WHERE lock_cause = 4"#)).await;
    at_once(servers.iter().map(lock_inactive)).await;
    assert_eq!(locked(&h).await.len(), 20, "an hour later");
    let events = operator.events().await;
    assert_eq!(events.iter().filter(|event| event.r#type() == v1::EventType::UserLocked).count(), 20);
}

#[tokio::test]
async fn no_account_is_locked_before_the_first_warning_had_its_time() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("ada", &[], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    rest(&h, "ada", 300).await;
    rest(&h, "bob", 300).await;
    operator.lock_after(180, &[30]).await;
    let server = server(&h).await;
    lock_inactive(&server).await;
    h.stranger().await.tokens("bob", PASSWORD).await.expect("in time");
    assert_eq!(locked(&h).await, [""; 0]);
    let before = h.clock.now().saturating_sub(DAY * 30).as_micros();
    h.sql(&format!("UPDATE sign_in_policy SET max_inactivity_set_at = {before}")).await;
    lock_inactive(&server).await;
    assert_eq!(locked(&h).await, ["ada"]);
}

#[tokio::test]
async fn nothing_is_locked_while_the_clocks_disagree() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    rest(&h, "ada", 300).await;
    h.operator().await.lock_after(180, &[]).await;
    let server = server(&h).await;
    h.clock.advance(Duration::from_mins(1));
    lock_inactive(&server).await;
    // The embedded database has no clock of its own.
    let expected: &[&str] = if h.is_postgres() { &[] } else { &["ada"] };
    assert_eq!(locked(&h).await, expected);
}

#[tokio::test]
async fn services_pending_users_and_the_last_administrator_are_never_locked() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["root", "second"] {
        h.create(name, &["admin"], PASSWORD).await;
    }
    operator.create(v1::CreateUserRequest { username: "fay".to_owned(), ..Default::default() }).await.expect("pending");
    let service = h.token(&["users.read"]).await;
    for name in ["root", "second", "fay", "service"] {
        rest(&h, name, 300).await;
    }
    operator.lock_after(180, &[]).await;
    let server = server(&h).await;
    lock_inactive(&server).await;
    assert_eq!(locked(&h).await, [""; 0], "of two administrators who are both away, the first to come is let in");
    assert_eq!(operator.diagnosed("root").await.0, SignInVerdict::Can);
    h.stranger().await.tokens("root", PASSWORD).await.expect("there is no other administrator who could sign in");
    lock_inactive(&server).await;
    assert_eq!(locked(&h).await, ["second"]);
    service.user("fay").await;
    assert_eq!(operator.user("fay").await.state(), UserState::Pending);
    // A first password begins the time.
    let temporary = operator.temporary("fay").await;
    h.stranger().await.change_step("fay", &temporary).await.expect("a step");
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_or_locks_its_author_is_refused_with_each_contradiction() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let both = v1::SignInPolicy {
        max_age: Some(days(7)),
        expiry_warnings: Some(v1::ExpiryWarnings { before: vec![days(7)] }),
        ..max_inactivity(7, &[7, 3])
    };
    let refusal = refused(operator.limit_inactivity(both, false).await, Code::InvalidArgument, "FIELD_INVALID");
    let fields = ["policy.expiry_warnings.before", "policy.inactivity_warnings.before"];
    assert_eq!(refusal.violations(), fields.map(|field| format!("{field}: CONFLICT")));
    let beyond = v1::SignInPolicy {
        max_inactivity: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        inactivity_warnings: Some(v1::ExpiryWarnings { before: vec![days(0), days(3)] }),
        ..Default::default()
    };
    let refusal = refused(operator.limit_inactivity(beyond, false).await, Code::InvalidArgument, "FIELD_INVALID");
    let fields = ["policy.max_inactivity", "policy.inactivity_warnings.before[0]"];
    assert_eq!(refusal.violations(), fields.map(|field| format!("{field}: OUT_OF_RANGE")));

    let root = h.person("root", &["admin"]).await.client;
    rest(&h, "root", 5).await;
    let refusal =
        refused(root.limit_inactivity(max_inactivity(5, &[]), true).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["policy.max_inactivity: CONFLICT"]);
    root.limit_inactivity(max_inactivity(6, &[]), false).await.expect("a policy that spares its author");
}

#[tokio::test]
async fn a_dry_run_counts_the_accounts_that_would_be_locked_which_the_job_then_locks() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (name, unused) in [("ada", 200), ("bob", 181), ("carl", 179), ("dora", 151), ("eve", 149), ("fay", 300)] {
        let request = v1::CreateUserRequest {
            username: name.to_owned(),
            credential: Some(Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        operator.create(request).await.expect("a user");
        rest(&h, name, unused).await;
    }
    operator.lock("fay").await.expect("a lock");
    let dry = async |policy| operator.limit_inactivity(policy, true).await.expect("a dry run").inactive_locked;
    assert_eq!(dry(max_inactivity(180, &[])).await, 2);
    assert_eq!(dry(max_inactivity(180, &[30])).await, 4, "with those of the days of the first warning");
    assert_eq!(dry(max_inactivity(0, &[])).await, 0);
    let request = v1::GetUserRequest { user: Some(named("ada")) };
    let before = operator.user_admin().get_user(request).await.expect("a user").into_inner();
    assert!(before.user.expect("a user").lock.is_none(), "nothing was changed");
    operator.lock_after(180, &[]).await;
    lock_inactive(&server(&h).await).await;
    assert_eq!(locked(&h).await, ["ada", "bob"]);
    assert_eq!(dry(max_inactivity(180, &[])).await, 0, "who is locked is not counted");
}

#[tokio::test]
async fn three_servers_warn_once_and_after_an_interruption_of_the_nearest_end() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["ada", "bob", "carl", "dora", "eve"] {
        let email = if name == "carl" { String::new() } else { format!("{name}@example.com") };
        let request = v1::CreateUserRequest {
            username: name.to_owned(),
            email,
            credential: Some(Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        operator.create(request).await.expect("a user");
    }
    operator.lock_after(180, &[30, 7]).await;
    rest(&h, "bob", 10).await;
    operator.lock("dora").await.expect("a lock");
    let warners = [warner(&h).await, warner(&h).await, warner(&h).await];
    let told = async |day: u64, expected: [usize; 5]| {
        at_once(warners.iter().map(App::warn_of_inactivity)).await.into_iter().for_each(|done| done.expect("a job"));
        let operator = h.operator().await;
        let mut told = Vec::new();
        for name in ["ada", "bob", "carl", "dora", "eve"] {
            told.push(operator.deliveries(name).await.len());
        }
        assert_eq!(told, expected, "day {day}");
    };
    h.clock.advance(Duration::from_mins(140 * 24 * 60 - 1));
    told(140, [0, 0, 0, 0, 0]).await;
    h.clock.advance(Duration::from_mins(2));
    told(140, [0, 1, 0, 0, 0]).await;
    let [warning] = &h.operator().await.deliveries("bob").await[..] else { panic!("one warning") };
    let mail = h.mail_of(warning).await;
    assert_eq!(mail.header("Subject"), "Your account at latchkey will be locked soon");
    assert_eq!(warning.kind(), v1::DeliveryKind::Notice);
    h.stranger().await.tokens("eve", PASSWORD).await.expect("tokens");
    // No server ran for a month. The lock of ada's account is ten days away then, bob's is due.
    h.clock.advance(DAY * 30);
    told(170, [1, 1, 0, 0, 0]).await;
    h.clock.advance(DAY * 4);
    told(174, [2, 1, 0, 0, 0]).await;
    // A clock that goes back by a day tells no user twice.
    h.clock.turn_back(DAY);
    told(173, [2, 1, 0, 0, 0]).await;
    h.clock.advance(DAY * 6);
    h.operator().await.unlock("dora").await.expect("an unlock");
    told(179, [2, 1, 0, 0, 0]).await;
    h.stranger().await.tokens("ada", PASSWORD).await.expect("tokens");
    h.clock.advance(DAY * 155);
    // Those of bob and eve are due: it is too late to tell them.
    told(334, [3, 1, 0, 1, 0]).await;
}

/// The predicate of the store and the function of the domain agree to the microsecond.
#[tokio::test]
async fn the_job_finds_an_account_at_the_microsecond_at_which_a_sign_in_is_refused() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.lock_after(180, &[]).await;
    let limit = DAY * 180;
    for (created, signed_in, from, is_locked) in [
        (-1, None, None, true),
        (1, None, None, false),
        (-1, Some(-1), None, true),
        (-1, Some(1), None, false),
        (1, Some(-1), None, false),
        (-1, Some(-1), Some(-1), true),
        (-1, Some(-1), Some(1), false),
        (-1, None, Some(1), false),
    ] {
        h.create("ada", &[], PASSWORD).await;
        // A minute is more than the test takes, and less than the limit differs.
        let at = |minutes: i64| {
            let since = h.clock.now().saturating_sub(limit).as_micros();
            since + minutes * 60_000_000
        };
        let or_null = |minutes: Option<i64>| minutes.map_or("NULL".to_owned(), |minutes| at(minutes).to_string());
        let set = format!(
            "created_at = {}, last_sign_in_at = {}, active_from = {}",
            at(created),
            or_null(signed_in),
            or_null(from)
        );
        h.sql(&format!(r#"UPDATE "user" SET {set} WHERE username = 'ada'"#)).await;
        let case = format!("{created} {signed_in:?} {from:?}");
        let counted = operator.limit_inactivity(max_inactivity(180, &[]), true).await.expect("a dry run");
        assert_eq!(counted.inactive_locked, i32::from(is_locked), "{case}");
        let verdict = operator.diagnosed("ada").await.0;
        assert_eq!(verdict == SignInVerdict::Cannot, is_locked, "{case}");
        h.sql(r#"DELETE FROM "user" WHERE username = 'ada'"#).await;
    }
}
