//! The policy of passwords: the rules that every way to set one asks, old passwords, and the time between two changes.

use std::time::Duration;

use latchkey::proto::v1::{self, PasswordRule, create_user_request::Credential, reset_password_request::Method};
use prost_reflect::Kind;
use tonic::{Code, Status};

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::calls::Shown as _;
use crate::harness::child::{Site, Victim};
use crate::harness::raw::{methods, short_name};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused};

const THIRD_PASSWORD: &str = "a third c4nary sings at noon";

impl Client {
    async fn set_policy(&self, policy: v1::SignInPolicy) -> Result<v1::SignInPolicy, Status> {
        let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
        let answer = self.user_admin().update_sign_in_policy(request).await?.into_inner();
        Ok(answer.policy.expect("a policy"))
    }

    async fn strength(&self, password: &str, words: &[&str]) -> Result<v1::CheckPasswordStrengthResponse, Status> {
        let request = v1::CheckPasswordStrengthRequest {
            password: password.to_owned(),
            user_inputs: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Default::default()
        };
        self.auth().check_password_strength(request).await.map(tonic::Response::into_inner)
    }
}

fn rules(rules: v1::PasswordRules) -> v1::SignInPolicy {
    v1::SignInPolicy { password_rules: Some(rules), ..Default::default() }
}

/// The ways to set a password, by the method and field that take it.
const WAYS: [&str; 5] = [
    "Auth/ChangePassword.new_password",
    "Auth/CompletePasswordChange.new_password",
    "Auth/CompletePasswordReset.new_password",
    "UserAdmin/CreateUser.password",
    "UserAdmin/ResetPassword.set_password.password",
];

/// The token of a link that an operator made for a user.
async fn link_of(h: &Harness, username: &str) -> String {
    let method = Some(Method::ReturnLink(v1::ReturnLink::default()));
    let request = v1::ResetPasswordRequest { user: Some(named(username)), method, ..Default::default() };
    match h.operator().await.reset_with(request).await.expect("a link").secret {
        Some(v1::reset_password_response::Secret::ResetLink(url)) => {
            url.split_once("token=").expect("a token").1.to_owned()
        }
        other => panic!("no link: {other:?}"),
    }
}

/// Tries to set this password for `grace` in one of the ways, and returns the rules that it breaks.
async fn broken(h: &Harness, way: &str, password: &str) -> Vec<String> {
    let operator = h.operator().await;
    let new_password = password.to_owned();
    let outcome = match way {
        "Auth/ChangePassword.new_password" => {
            let client = h.signed_in("grace", PASSWORD).await.client;
            client.change_password(PASSWORD, password).await.map(drop)
        }
        "Auth/CompletePasswordChange.new_password" => {
            operator.require_change("grace").await.expect("a demand");
            let stranger = h.stranger().await;
            let ticket = stranger.change_step("grace", PASSWORD).await.expect("a step").ticket;
            let outcome = stranger.complete(&ticket, password).await.map(drop);
            let waive = v1::WaivePasswordChangeRequest { user: Some(named("grace")), ..Default::default() };
            operator.user_admin().waive_password_change(waive).await.expect("a waiver");
            outcome
        }
        "Auth/CompletePasswordReset.new_password" => {
            let link_token = link_of(h, "grace").await;
            let request = v1::CompletePasswordResetRequest { link_token, new_password, ..Default::default() };
            h.stranger().await.auth().complete_password_reset(request).await.map(drop)
        }
        "UserAdmin/CreateUser.password" => {
            let request = v1::CreateUserRequest {
                username: "grace2".to_owned(),
                email: "grace.hopper@corp.example".to_owned(),
                display_name: "Grace Hopper".to_owned(),
                credential: Some(Credential::Password(new_password)),
                ..Default::default()
            };
            operator.create(request).await.map(drop)
        }
        "UserAdmin/ResetPassword.set_password.password" => {
            let set = v1::SetPassword { password: new_password };
            let method = Some(Method::SetPassword(set));
            let request = v1::ResetPasswordRequest { user: Some(named("grace")), method, ..Default::default() };
            operator.reset_with(request).await.map(drop)
        }
        other => panic!("no such way: {other}"),
    };
    let refusal = Refusal::of(&outcome.expect_err(way));
    assert!(["PASSWORD_REJECTED", "FIELD_INVALID"].contains(&refusal.reason.as_str()), "{way}: {refusal:?}");
    let field = way.split_once('.').expect("a field").1;
    refusal.violations().iter().map(|broken| broken.replace(&format!("{field}: "), "")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_056_every_way_to_set_a_password_meets_the_same_rules() {
    let mut ways: Vec<String> = Vec::new();
    for method in methods() {
        for field in method.input().fields() {
            let path = format!("{}.{}", short_name(&method), field.name());
            let is_new = field.name() == "new_password" || path == "UserAdmin/CreateUser.password";
            if is_new {
                ways.push(path);
            } else if matches!(field.kind(), Kind::Message(within) if within.name() == "SetPassword") {
                ways.push(format!("{path}.password"));
            }
        }
    }
    ways.sort();
    assert_eq!(ways, WAYS, "every way to set a password is tried here");

    let h = Harness::with(|config| config.throttle.threshold = 0).await;
    let grace = v1::CreateUserRequest {
        username: "grace".to_owned(),
        email: "grace.hopper@corp.example".to_owned(),
        display_name: "Grace Hopper".to_owned(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    h.operator().await.create(grace).await.expect("grace");
    let letter = v1::PasswordRules { require_letter_and_digit: Some(true), ..Default::default() };
    h.operator().await.set_policy(rules(letter)).await.expect("a policy");
    let long = format!("{}1", "a long c4nary song of many verses ".repeat(8));
    let corpus: [(&str, &[&str]); 8] = [
        ("", &["REQUIRED"]),
        ("c4nary 1", &["TOO_SHORT", "TOO_WEAK"]),
        (&long, &["TOO_LONG"]),
        ("many letters and no number c4nary".trim_end_matches("c4nary"), &["LETTER_AND_DIGIT"]),
        ("hopper.grace.1906.hopper", &["CONTAINS_USER_INFO"]),
        ("c4narypassword2026!!!".trim_start_matches("c4nary"), &["TOO_WEAK"]),
        ("1 c4nary with a\u{7}bell in it", &["NOT_TEXT"]),
        (&"c4nary".repeat(700), &["TOO_LONG"]),
    ];
    for (password, expected) in corpus {
        for way in WAYS {
            assert_eq!(broken(&h, way, password).await, expected, "{way} {password:?}");
        }
    }
    h.stranger().await.tokens("grace", PASSWORD).await.expect("the password is what it was");
}

#[tokio::test]
async fn a_policy_of_passwords_is_in_force_at_once_and_told_to_everybody() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let told = async || {
        let answer = stranger.auth().get_password_rules(v1::GetPasswordRulesRequest::default()).await;
        answer.expect("rules").into_inner().rules.expect("rules")
    };
    let before = told().await;
    assert!(!before.reject_breached(), "there is no list");
    assert_eq!((before.min_length(), before.max_length(), before.min_score()), (15, 256, 3));
    assert_eq!((before.reject_user_info(), before.require_letter_and_digit()), (true, false));
    let bob = |password: &str| v1::CreateUserRequest {
        username: "bob".to_owned(),
        credential: Some(Credential::Password(password.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    refused(operator.create(bob("c4nary tweets")).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    let change = v1::PasswordRules { min_length: Some(12), ..Default::default() };
    let policy = operator.set_policy(rules(change)).await.expect("a policy");
    assert_eq!(
        policy.password_rules.expect("rules"),
        v1::PasswordRules { min_length: Some(12), reject_breached: Some(true), ..before }
    );
    assert_eq!(told().await.min_length(), 12);
    operator.create(bob("c4nary tweets")).await.expect("bob");
    stranger.tokens("bob", "c4nary tweets").await.expect("tokens");

    // A new rule makes no user change a password.
    let change = v1::PasswordRules { min_length: Some(64), min_score: Some(4), ..Default::default() };
    operator.set_policy(rules(change)).await.expect("a policy");
    stranger.tokens("bob", "c4nary tweets").await.expect("tokens");
    operator.require_change("bob").await.expect("a demand");
    let step = stranger.change_step("bob", "c4nary tweets").await.expect("a step");
    assert_eq!(step.rules.expect("rules").min_length(), 64);
    let events = operator.events().await;
    let is_last = |event: &&v1::Event| event.details.get("after").is_some_and(|after| after.contains("64"));
    let event = events.iter().find(is_last).expect("an event");
    assert_eq!(event.r#type(), v1::EventType::PolicyUpdated);
    assert_eq!(event.details["before"], "second factor: none; min length: 12");
    assert_eq!(event.details["after"], "second factor: none; min length: 64; min score: 4");
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused_by_name() {
    let h = Harness::with(|config| config.password.max_length = 64).await;
    let operator = h.operator().await;
    for (change, expected) in [
        (
            v1::PasswordRules { min_length: Some(7), ..Default::default() },
            "policy.password_rules.min_length: OUT_OF_RANGE",
        ),
        (
            v1::PasswordRules { min_length: Some(65), ..Default::default() },
            "policy.password_rules.min_length: OUT_OF_RANGE",
        ),
        (
            v1::PasswordRules { max_length: Some(63), ..Default::default() },
            "policy.password_rules.max_length: OUT_OF_RANGE",
        ),
        (
            v1::PasswordRules { max_length: Some(257), ..Default::default() },
            "policy.password_rules.max_length: OUT_OF_RANGE",
        ),
        (
            v1::PasswordRules { min_score: Some(5), ..Default::default() },
            "policy.password_rules.min_score: OUT_OF_RANGE",
        ),
    ] {
        let refusal = refused(operator.set_policy(rules(change)).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations(), [expected]);
    }
    let both = v1::SignInPolicy {
        history_size: Some(11),
        min_age: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    let refusal = refused(operator.set_policy(both).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["policy.history_size: OUT_OF_RANGE", "policy.min_age: OUT_OF_RANGE"]);
}

#[tokio::test]
async fn leaked_passwords_are_changed_at_the_sign_in_only_if_new_ones_must_not_be_leaked() {
    let accepting = || rules(v1::PasswordRules { reject_breached: Some(false), ..Default::default() });
    let looking = || v1::SignInPolicy { check_breached_at_sign_in: Some(true), ..Default::default() };
    let conflict = ["policy.check_breached_at_sign_in: CONFLICT"];
    let h = Harness::start().await;
    let operator = h.operator().await;
    let both = v1::SignInPolicy { check_breached_at_sign_in: Some(true), ..accepting() };
    let refusal = refused(operator.set_policy(both).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), conflict);
    operator.set_policy(looking()).await.expect("new ones must not be leaked");
    let refusal = refused(operator.set_policy(accepting()).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), conflict);

    // Earlier versions accepted both, which must not prevent other changes.
    h.sql("UPDATE sign_in_policy SET password_reject_breached = 0").await;
    operator.set_policy(v1::SignInPolicy { history_size: Some(1), ..Default::default() }).await.expect("a change");
    let off = v1::SignInPolicy { check_breached_at_sign_in: Some(false), ..Default::default() };
    operator.set_policy(off).await.expect("the end of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_059_old_passwords_are_refused_as_many_as_the_policy_says() {
    let h = Harness::with(|config| config.session.sign_ins_per_minute = 0).await;
    let operator = h.operator().await;
    operator.set_policy(v1::SignInPolicy { history_size: Some(2), ..Default::default() }).await.expect("a policy");
    let bob = h.user("bob").await.client;
    let reused = async |current: &str, new: &str| {
        let refusal = refused(bob.change_password(current, new).await, Code::InvalidArgument, "PASSWORD_REJECTED");
        assert_eq!(refusal.violations(), ["new_password: REUSED"], "{new}");
    };
    bob.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change");
    reused(OTHER_PASSWORD, PASSWORD).await;
    bob.change_password(OTHER_PASSWORD, THIRD_PASSWORD).await.expect("a change");
    for old in [PASSWORD, OTHER_PASSWORD, THIRD_PASSWORD] {
        reused(THIRD_PASSWORD, old).await;
    }
    let fourth = "a fourth c4nary sings at dusk";
    bob.change_password(THIRD_PASSWORD, fourth).await.expect("a change");
    reused(fourth, OTHER_PASSWORD).await;
    assert_eq!(h.query("SELECT COUNT(*) FROM old_password").await, ["2"], "no more than the policy asks for");
    bob.change_password(fourth, PASSWORD).await.expect("the oldest is forgotten");

    // An operator's reset ends a password that is remembered; the generated one is not.
    let temporary = operator.reset("bob").await.expect("a reset").shown().to_owned();
    let stranger = h.stranger().await;
    let ticket = stranger.change_step("bob", &temporary).await.expect("a step").ticket;
    refused(stranger.complete(&ticket, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    stranger.complete(&ticket, OTHER_PASSWORD).await.expect("one that is forgotten by now");
    let link = link_of(&h, "bob").await;
    let choose = |new: &str| v1::CompletePasswordResetRequest {
        link_token: link.clone(),
        new_password: new.to_owned(),
        ..Default::default()
    };
    let old = stranger.auth().complete_password_reset(choose(PASSWORD)).await;
    refused(old, Code::InvalidArgument, "PASSWORD_REJECTED");
    stranger.auth().complete_password_reset(choose(THIRD_PASSWORD)).await.expect("a new one");
    // What was ended because of a takeover is remembered, too.
    let newest = async || h.query("SELECT CAST(MAX(ended_at) AS TEXT) FROM old_password").await;
    let before = newest().await;
    operator.contain("bob").await.expect("a lock");
    assert_ne!(newest().await, before);
    assert_eq!(h.query("SELECT COUNT(*) FROM old_password").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_may_be_changed_again_after_the_time_of_the_policy_or_when_that_is_required() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let day = prost_types::Duration { seconds: 86_400, nanos: 0 };
    operator.set_policy(v1::SignInPolicy { min_age: Some(day), ..Default::default() }).await.expect("a policy");
    let bob = h.user("bob").await.client;
    let young = bob.change_password(PASSWORD, OTHER_PASSWORD).await;
    let refusal = refused(young, Code::FailedPrecondition, "PASSWORD_TOO_YOUNG");
    assert!(refusal.metadata("availableTime").ends_with('Z'), "{refusal:?}");
    let shell = terminal_of(&h, "bob");
    let passwords = format!("{PASSWORD}\n{OTHER_PASSWORD}\n");
    let young = shell.feed("latchkey", &["passwd", "--password-stdin"], &passwords);
    young.fails(
        1,
        "error: the password was changed a short time ago; change it again after …\n\n\
         hint: an operator can give you a new password or a link: `latchkey users reset …`",
    );
    assert!(!young.stderr.contains('Z'), "{}", young.stderr);
    operator.require_change("bob").await.expect("a demand");
    bob.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a change that is required");
    h.clock.advance(Duration::from_hours(24));
    let bob = h.signed_in("bob", OTHER_PASSWORD).await.client;
    bob.change_password(OTHER_PASSWORD, PASSWORD).await.expect("a day has passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_may_ask_how_strong_a_password_is_thirty_times_a_minute() {
    let h = Harness::start().await;
    let stranger = h.stranger_at("127.0.0.7").await;
    let weak = stranger.strength("grace1906", &["Grace Hopper"]).await.expect("an answer");
    assert_eq!((weak.acceptable, weak.score < 3), (false, true), "{weak:?}");
    let expected = [PasswordRule::TooShort, PasswordRule::ContainsUserInfo, PasswordRule::TooWeak];
    assert_eq!(weak.violations().collect::<Vec<_>>(), expected);
    assert!(weak.suggestions.iter().any(|text| text.ends_with('.')), "{weak:?}");
    let strong = stranger.strength("five quiet lanterns", &[]).await.expect("an answer");
    assert!(strong.acceptable && strong.violations.is_empty() && strong.guesses_log10 > 8.0, "{strong:?}");
    let german = v1::CheckPasswordStrengthRequest {
        password: "aaaaaaaaaaaaaaaa".to_owned(),
        language: "de-AT".to_owned(),
        ..Default::default()
    };
    let german = stranger.auth().check_password_strength(german).await.expect("an answer").into_inner();
    assert!(german.warning.starts_with("Wiederholungen"), "{german:?}");

    // A flood is limited.
    let hostile = "\"4@8({[<3690!1|$5+7%2z\"".repeat(40);
    let answers = at_once((0..40).map(|_| stranger.strength(&hostile, &[]))).await;
    let refusals: Vec<Refusal> =
        answers.into_iter().filter_map(Result::err).map(|status| Refusal::of(&status)).collect();
    assert!(refusals.len() >= 10, "{}", refusals.len());
    for refusal in &refusals {
        assert!(["RATE_LIMITED", "HASHING_SATURATED"].contains(&refusal.reason.as_str()), "{refusal:?}");
    }
    // A flood can fill the queue for hashing before it reaches the limit.
    let mut limited = None;
    for _ in 0..200 {
        let refusal = stranger.strength(PASSWORD, &[]).await.err().map(|status| Refusal::of(&status));
        limited = refusal.filter(|refusal| refusal.reason == "RATE_LIMITED");
        if limited.is_some() {
            break;
        }
    }
    let limited = limited.expect("one over the limit");
    let words = "this address has had too many passwords judged; try again in ";
    assert!(limited.message.starts_with(words), "{limited:?}");
    assert_eq!(limited.metadata("limit"), "checks");
    h.stranger_at("127.0.0.8").await.strength(PASSWORD, &[]).await.expect("another source");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_057_a_leaked_password_is_refused_and_a_list_that_cannot_be_read_refuses_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let leaked = "five quiet c4nary lanterns";
    let path = leaked_list(dir.path(), &[leaked]);
    let h = Harness::with(|config| config.password.breach_list = Some(path.clone())).await;
    let bob = h.user("bob").await.client;
    let refusal = refused(bob.change_password(PASSWORD, leaked).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(refusal.violations(), ["new_password: BREACHED"]);
    let judged = bob.strength(leaked, &[]).await.expect("an answer");
    assert_eq!(judged.violations, [PasswordRule::Breached as i32]);
    let off = v1::PasswordRules { reject_breached: Some(false), ..Default::default() };
    let operator = h.operator().await;
    operator.set_policy(rules(off)).await.expect("a policy");
    bob.change_password(PASSWORD, leaked).await.expect("the policy permits it");

    let on = v1::PasswordRules { reject_breached: Some(true), ..Default::default() };
    operator.set_policy(rules(on)).await.expect("a policy");
    let length = std::fs::metadata(&path).expect("a file").len();
    std::fs::write(&path, vec![7; usize::try_from(length).expect("a length")]).expect("a damaged file");
    let unread = bob.change_password(leaked, OTHER_PASSWORD).await;
    let refusal = refused(unread, Code::Unavailable, "STORAGE_UNAVAILABLE");
    assert_eq!(refusal.metadata("storage"), "breach_list");
    let check = ["password", "check", "--password-stdin", "--server", &h.url()];
    terminal(&h).feed("latchkey", &check, OTHER_PASSWORD).fails(
        3,
        "error: the list of leaked passwords cannot be read, so …\n\n\
         hint: on the host of latchkeyd, `latchkeyd breach-list verify FILE` …",
    );
    h.stranger().await.tokens("bob", leaked).await.expect("sign-ins need no list");
}

#[tokio::test]
async fn a_leaked_password_is_changed_at_the_sign_in_if_the_policy_looks_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = leaked_list(dir.path(), &[PASSWORD, THIRD_PASSWORD]);
    let h = Harness::with(|config| config.password.breach_list = Some(path.clone())).await;
    let operator = h.operator().await;
    operator
        .set_policy(rules(v1::PasswordRules { reject_breached: Some(false), ..Default::default() }))
        .await
        .expect("a policy");
    for name in ["bob", "eve"] {
        h.create(name, &[], PASSWORD).await;
    }
    h.create("ann", &[], THIRD_PASSWORD).await;
    let factor = h.enroll(&h.signed_in("ann", THIRD_PASSWORD).await).await;
    let stranger = h.stranger().await;
    let tokens = stranger.tokens("bob", PASSWORD).await.expect("tokens: the policy does not look");
    let policy = v1::SignInPolicy {
        check_breached_at_sign_in: Some(true),
        ..rules(v1::PasswordRules { reject_breached: Some(true), ..Default::default() })
    };
    operator.set_policy(policy).await.expect("a policy");
    let step = stranger.change_step("bob", PASSWORD).await.expect("a step");
    assert_eq!(step.cause(), v1::PasswordChangeCause::Breached);
    let status = operator.user("bob").await.password_status.expect("a status");
    assert!(status.change_required && status.change_cause() == v1::PasswordChangeCause::Breached, "{status:?}");
    stranger.refresh(&tokens.refresh_token).await.expect("sessions go on");
    let events = operator.events().await;
    let demanded = events.iter().filter(|event| event.details.get("cause").is_some_and(|cause| cause == "BREACHED"));
    assert_eq!(demanded.count(), 1, "told once");
    stranger.change_step("bob", PASSWORD).await.expect("a step");
    let again = stranger.change_step("bob", PASSWORD).await.expect("a step");
    refused(stranger.complete(&again.ticket, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    stranger.complete(&again.ticket, OTHER_PASSWORD).await.expect("a new one");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("tokens");

    // With a second factor, the code comes first, and a wrong one demands nothing.
    let demanded = async || {
        let events = operator.events().await;
        events.iter().filter(|event| event.details.get("cause").is_some_and(|cause| cause == "BREACHED")).count()
    };
    let wrong = stranger.sign_in_with("ann", THIRD_PASSWORD, crate::harness::factor::totp("no code")).await;
    refused(wrong, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
    assert_eq!(demanded().await, 1);
    let step = stranger.sign_in_with("ann", THIRD_PASSWORD, factor.proof(&h)).await.expect("a step");
    assert!(matches!(step, v1::sign_in_progress::Step::PasswordChange(_)), "{step:?}");
    assert_eq!(demanded().await, 2);

    // A list that cannot be read refuses no sign-in.
    let length = std::fs::metadata(&path).expect("a file").len();
    std::fs::write(&path, vec![7; usize::try_from(length).expect("a length")]).expect("a damaged file");
    stranger.tokens("eve", PASSWORD).await.expect("tokens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_which_list_of_leaked_passwords_is_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = leaked_list(dir.path(), &[PASSWORD, THIRD_PASSWORD]);
    let digest = latchkey::breach_list::BreachList::open(&path).expect("a list").header().digest_text();
    let h = Harness::with(|config| config.password.breach_list = Some(path.clone())).await;
    h.create("vera", &["viewer"], OTHER_PASSWORD).await;
    let viewer = h.signed_in("vera", OTHER_PASSWORD).await.client;
    let in_use = async |client: &Client| {
        let answer = client.user_admin().get_sign_in_policy(v1::GetSignInPolicyRequest::default()).await;
        answer.expect("a policy").into_inner().breach_list
    };
    let list = v1::BreachList {
        size: 2,
        digest: digest.clone(),
        build_time: Some(prost_types::Timestamp::default()),
        problem: String::new(),
    };
    assert_eq!(in_use(&viewer).await, Some(list));
    let shell = terminal(&h);
    let line = format!("  leak list  ● 2 passwords, digest {}, built ", &digest[..12]);
    let status = shell.latchkey(&["status"]).good();
    assert!(status.contains(&line) && !status.contains(&digest), "{status}");
    let json = shell.latchkey(&["status", "--output", "json"]).json();
    assert_eq!(json["breachList"]["digest"], digest.as_str());

    let whole = std::fs::read(&path).expect("a list");
    let problem = async |is_there: bool| {
        h.server().reload_breach_list();
        let seen = eventually("a look at the file", async || {
            in_use(&viewer).await.map(|list| list.problem).filter(|problem| problem.is_empty() != is_there)
        });
        seen.await
    };
    std::fs::write(&path, vec![7; whole.len()]).expect("a file that was overwritten");
    let problem_found = problem(true).await;
    assert!(problem_found.contains("is not a list of leaked passwords"), "{problem_found}");
    let status = shell.latchkey(&["status"]).good();
    assert!(status.contains("  leak list  ✖ 2 passwords") && status.contains("not a list of leaked"), "{status}");
    std::fs::write(&path, whole).expect("the list again");
    problem(false).await;
    assert!(shell.latchkey(&["status"]).good().contains(&line));

    let h = Harness::start().await;
    assert_eq!(in_use(&h.operator().await).await, None);
    assert!(terminal(&h).latchkey(&["status"]).good().contains("  leak list  – none\n"));
    assert!(terminal(&h).latchkey(&["status", "--output", "json"]).json()["breachList"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_058_a_start_warns_of_rules_that_only_another_standard_asks_for() {
    let site = Site::new().await;
    let warnings = |server: &Victim| server.log().iter().filter(|line| line.contains("NIST SP 800-63B-4")).count();
    let server = site.start("").await;
    let request = v1::UpdateSignInPolicyRequest { preset: v1::SignInPolicyPreset::Pci.into(), ..Default::default() };
    server.operator().await.user_admin().update_sign_in_policy(request).await.expect("a policy");
    assert_eq!(warnings(&server), 0, "by default no rule does");
    drop(server);
    let server = site.start("").await;
    let asked = "a letter and a digit in each password, and for a new password after a time";
    let line = &format!("the policy asks for {asked}, which NIST SP 800-63B-4 forbids");
    let log = server.log();
    assert!(log.iter().any(|logged| logged.contains(line)), "{log:#?}");
}

/// A list with these passwords alone.
pub fn leaked_list(folder: &std::path::Path, leaked: &[&str]) -> std::path::PathBuf {
    let (input, path) = (folder.join("hashes.txt"), folder.join("leaked.list"));
    let lines: Vec<String> = leaked.iter().map(|leaked| crate::breach_list::hex_of(leaked)).collect();
    std::fs::write(&input, lines.join("\n")).expect("a file");
    let build = latchkey::breach_list::Build { inputs: &[input], out: &path, min_count: 1, now: 0 };
    latchkey::breach_list::build(&build, &mut |_| ()).expect("a list");
    path
}
