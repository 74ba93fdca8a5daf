//! Passwords that are older than the rules: the policy says whether sign-ins judge them.

use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::proto::v1::{self, PasswordChangeCause};
use tonic::{Code, Status};

use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, is_full, refused};
use crate::password_policy::leaked_list;

const DAY: Duration = Duration::from_hours(24);

/// Longer than the others.
const LONG_PASSWORD: &str = "a third c4nary sings at noon, twice";

/// More than [`PASSWORD`] has.
const MIN_LENGTH: u32 = 30;

/// Passwords of that length, judged at sign-ins of the days to come.
fn judged_over(days: i64) -> v1::SignInPolicy {
    v1::SignInPolicy {
        judge_existing: Some(true),
        max_age_rollout: Some(prost_types::Duration { seconds: days * 86_400, nanos: 0 }),
        ..min_length(MIN_LENGTH)
    }
}

fn min_length(min_length: u32) -> v1::SignInPolicy {
    let rules = v1::PasswordRules { min_length: Some(min_length), ..Default::default() };
    v1::SignInPolicy { password_rules: Some(rules), ..Default::default() }
}

impl Client {
    /// Changes the policy, and returns how many passwords are to be judged.
    async fn to_judge(&self, policy: v1::SignInPolicy) -> i32 {
        let request =
            v1::UpdateSignInPolicyRequest { policy: Some(policy), include_impact: true, ..Default::default() };
        let answer = self.user_admin().update_sign_in_policy(request).await.expect("a policy").into_inner();
        answer.impact.expect("an impact").passwords_unjudged
    }

    async fn left_to_judge(&self) -> i32 {
        let request = v1::GetSignInPolicyRequest { include_impact: true };
        let answer = self.user_admin().get_sign_in_policy(request).await.expect("a policy").into_inner();
        answer.impact.expect("an impact").passwords_unjudged
    }

    async fn demanded_by_policy(&self) -> usize {
        let events = self.events().await;
        events.iter().filter(|event| event.details.get("cause").is_some_and(|cause| cause == "POLICY")).count()
    }
}

async fn judged_at(h: &Harness, username: &str) -> Vec<String> {
    h.query(&format!(
        r#"SELECT CAST(password_judged_at AS TEXT) FROM "user"
           WHERE username = '{username}' AND password_judged_at IS NOT NULL"#
    ))
    .await
}

#[tokio::test]
async fn sec_054_a_new_rule_asks_no_user_for_a_change_unless_the_policy_says_so() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for name in ["ada", "bob"] {
        h.create(name, &[], PASSWORD).await;
    }
    h.create("liz", &[], LONG_PASSWORD).await;
    assert_eq!(operator.to_judge(min_length(MIN_LENGTH)).await, 0);
    let tokens = stranger.tokens("ada", PASSWORD).await.expect("the rules are for new passwords");

    assert_eq!(operator.to_judge(judged_over(0)).await, 3);
    let step = stranger.change_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(step.cause(), PasswordChangeCause::Policy);
    assert_eq!(step.rules.expect("rules").min_length, Some(MIN_LENGTH));
    let status = operator.user("ada").await.password_status.expect("a status");
    assert!(status.change_required && status.change_cause() == PasswordChangeCause::Policy, "{status:?}");
    stranger.refresh(&tokens.refresh_token).await.expect("sessions go on");
    let waived = operator.waive_change("ada").await.expect("an answer");
    assert!(!waived.changed && waived.user.expect("ada").password_status.expect("a status").change_required);
    let again = stranger.change_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(operator.demanded_by_policy().await, 1, "told once");
    refused(stranger.complete(&again.ticket, OTHER_PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    stranger.complete(&again.ticket, LONG_PASSWORD).await.expect("a new one");
    stranger.tokens("ada", LONG_PASSWORD).await.expect("tokens");

    stranger.tokens("liz", LONG_PASSWORD).await.expect("it keeps the rules");
    assert_eq!(operator.left_to_judge().await, 1, "bob's");
    h.clock.advance(DAY);
    stranger.tokens("liz", LONG_PASSWORD).await.expect("judged again, once the change of the policy is a minute ago");
    let once = judged_at(&h, "liz").await;
    h.clock.advance(DAY);
    stranger.tokens("liz", LONG_PASSWORD).await.expect("tokens");
    assert_eq!(judged_at(&h, "liz").await, once, "not judged any more");

    // Other rules: all are judged anew.
    let operator = h.operator().await;
    assert_eq!(operator.to_judge(min_length(MIN_LENGTH + 1)).await, 3);
    stranger.tokens("liz", LONG_PASSWORD).await.expect("it keeps these, too");
    let off = v1::SignInPolicy { judge_existing: Some(false), ..Default::default() };
    assert_eq!(operator.to_judge(off).await, 0);
    stranger.tokens("bob", PASSWORD).await.expect("the rules are for new passwords again");
}

#[tokio::test]
async fn passwords_are_judged_in_waves_over_the_roll_out() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let names: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    for name in &names {
        h.create(name, &[], PASSWORD).await;
    }
    // Each id begins with one more eighth of all ids, so that the waves are 3.75 days apart.
    for (eighth, name) in names.iter().enumerate() {
        let changed = format!("'{eighth}000000' || SUBSTR(id, 8)");
        h.sql(&format!(r#"DELETE FROM user_term WHERE user_id = (SELECT id FROM "user" WHERE username = '{name}')"#))
            .await;
        h.sql(&format!(r#"UPDATE "user" SET id = {changed} WHERE username = '{name}'"#)).await;
    }
    operator.to_judge(judged_over(30)).await;
    let mut asked = 0;
    for (day, most) in [(0, 1), (14, 4), (16, 5), (31, 8)] {
        h.clock.advance(DAY * (day - asked));
        asked = day;
        let mut policy = Vec::new();
        for name in &names {
            let step = stranger.sign_in(name, PASSWORD).await.expect("a step");
            if matches!(step, v1::sign_in_progress::Step::PasswordChange(_)) {
                policy.push(name.as_str());
            }
        }
        assert_eq!(policy, &names[..most], "on day {day}");
    }
}

#[tokio::test]
async fn a_password_that_was_accepted_by_the_rules_of_before_while_they_changed_is_judged() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for (name, later) in [("ada", 30), ("bob", 90)] {
        h.create(name, &[], PASSWORD).await;
        let set_at = h.clock.now().as_micros() + later * 1_000_000;
        h.sql(&format!(r#"UPDATE "user" SET password_changed_at = {set_at} WHERE username = '{name}'"#)).await;
    }
    operator.to_judge(judged_over(0)).await;
    h.clock.advance(DAY);
    let step = stranger.change_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(step.cause(), PasswordChangeCause::Policy);
    stranger.tokens("bob", PASSWORD).await.expect("set when the rules were in force, so it keeps them");
}

#[tokio::test]
async fn a_list_that_cannot_be_read_leaves_the_judgement_to_the_next_sign_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = leaked_list(dir.path(), &["another leaked one"]);
    let h = Harness::with(|config| config.password.breach_list = Some(path.clone())).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    h.create("ada", &[], PASSWORD).await;
    operator.to_judge(judged_over(0)).await;
    let list = std::fs::read(&path).expect("a list");
    std::fs::write(&path, vec![7; list.len()]).expect("a damaged file");
    stranger.tokens("ada", PASSWORD).await.expect("tokens");
    assert_eq!(operator.demanded_by_policy().await, 0);
    std::fs::write(&path, list).expect("the list of before");
    stranger.change_step("ada", PASSWORD).await.expect("a step");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_that_are_chosen_while_the_rules_change_keep_them_or_are_judged() {
    let h = Harness::with(|config| config.throttle.threshold = 0).await;
    let replica = h.replica().await;
    let servers = [&h, replica.as_ref().unwrap_or(&h)];
    let operator = h.operator().await;
    let users: Vec<String> = (0..if is_full() { 1000 } else { 24 }).map(|number| format!("user{number}")).collect();
    let strangers = [servers[0].stranger().await, servers[1].stranger().await];
    let mut clients = Vec::new();
    for (number, name) in users.iter().enumerate() {
        h.create(name, &[], PASSWORD).await;
        let stranger = &strangers[number % 2];
        let tokens = stranger.tokens(name, PASSWORD).await.expect("tokens");
        clients.push(stranger.bearing(&tokens.access_token));
    }
    // It breaks the new rules, too.
    let chosen = "a c4nary chosen at noon";
    let (before, after) = clients.split_at(users.len() / 2);
    let choose = |client: &Client| {
        let client = client.clone();
        async move { client.change_password(PASSWORD, chosen).await }
    };
    let (early, _, late) = tokio::join!(
        at_once(before.iter().map(choose)),
        operator.to_judge(judged_over(0)),
        at_once(after.iter().map(choose))
    );
    let is_accepted = |outcome: Result<_, Status>| {
        outcome.inspect_err(|status| {
            let reason = Refusal::of(status).reason;
            assert!(["PASSWORD_REJECTED", "HASHING_SATURATED"].contains(&reason.as_str()), "{status:?}");
        })
    };
    let accepted: Vec<bool> = early.into_iter().chain(late).map(|outcome| is_accepted(outcome).is_ok()).collect();
    for client in &clients[..2] {
        let again = client.change_password(PASSWORD, "another c4nary of noon").await;
        assert!(again.is_err(), "each server has the new rules");
    }
    h.clock.advance(DAY);
    for (name, accepted) in users.iter().zip(accepted) {
        let password = if accepted { chosen } else { PASSWORD };
        let step = strangers[0].change_step(name, password).await.expect("a step");
        assert_eq!(step.cause(), PasswordChangeCause::Policy, "{name}");
    }
}

#[tokio::test]
async fn a_change_that_only_a_withdrawn_rule_asks_for_is_waived_by_the_next_sign_in() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for name in ["ada", "bob", "cid"] {
        h.create(name, &[], PASSWORD).await;
    }
    operator.require_change("bob").await.expect("a demand");
    operator.to_judge(judged_over(0)).await;
    for (name, cause) in [("ada", PasswordChangeCause::Policy), ("bob", PasswordChangeCause::Operator)] {
        assert_eq!(stranger.change_step(name, PASSWORD).await.expect("a step").cause(), cause);
    }
    stranger.change_step("cid", PASSWORD).await.expect("a step");
    operator.require_change("cid").await.expect("a demand besides that of the policy");

    operator.to_judge(min_length(MIN_LENGTH - 1)).await;
    let step = stranger.change_step("ada", PASSWORD).await.expect("it breaks the milder rule, too");
    assert_eq!(step.cause(), PasswordChangeCause::Policy);
    let off = v1::SignInPolicy { judge_existing: Some(false), ..min_length(15) };
    operator.to_judge(off).await;
    stranger.tokens("ada", PASSWORD).await.expect("it keeps the rules of now");
    let status = operator.user("ada").await.password_status.expect("a status");
    assert!(!status.change_required && status.change_cause() == PasswordChangeCause::Unspecified, "{status:?}");
    stranger.tokens("ada", PASSWORD).await.expect("tokens");
    for name in ["bob", "cid"] {
        let step = stranger.change_step(name, PASSWORD).await.expect("what an operator asks for stays");
        assert_eq!(step.cause(), PasswordChangeCause::Operator, "{name}");
    }
    let events = operator.events().await;
    let waived: Vec<_> = events.iter().filter(|event| event.r#type() == v1::EventType::PasswordChangeWaived).collect();
    let [waived] = waived.as_slice() else { panic!("{waived:?}") };
    assert_eq!(waived.details["cause"], "POLICY");
    assert_eq!(waived.target_username, "ada");
}
