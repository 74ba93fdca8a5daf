//! Strangers cannot keep an owner out: attempts from familiar places, or with a device token, have budgets of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use latchkey::config::Config;
use latchkey::proto::v1::sign_in_progress::Step;
use latchkey::proto::v1::{self, EventType, LockCause, SignInAbilityKind, SignInAbilityReason, UserState};
use tonic::Code;

use crate::harness::calls::Shown;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused};

/// Where the owner signs in from.
const HOME: &str = "127.0.0.2";

/// Signs the owner in from home, and returns the tokens.
async fn at_home(h: &Harness, login: &str) -> v1::TokenSet {
    h.stranger_at(HOME).await.tokens(login, PASSWORD).await.expect("tokens")
}

/// A client at another address each time.
async fn elsewhere(h: &Harness) -> Client {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    h.stranger_at(&format!("127.{}.{}.{}", 10 + number / 40_000, number / 200 % 200, 1 + number % 200)).await
}

/// Guesses from elsewhere, under both names. Returns the reasons of the answers.
async fn hammer(h: &Harness, times: usize) -> Vec<String> {
    let mut reasons = Vec::new();
    for number in 0..times {
        let login = if number % 3 == 2 { "bob@example.org" } else { "bob" };
        let answer = elsewhere(h).await.sign_in(login, OTHER_PASSWORD).await;
        reasons.push(Refusal::of(&answer.expect_err("a refusal")).reason);
    }
    reasons
}

/// Spends what strangers may guess under bob's username.
async fn spend(h: &Harness) {
    for _ in 0..5 {
        elsewhere(h).await.sign_in("bob", OTHER_PASSWORD).await.expect_err("a refusal");
    }
    refused(elsewhere(h).await.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
}

/// How many guesses were verified against bob's hash: only those have this reason.
async fn verified(operator: &Client) -> usize {
    let events = operator.events().await;
    let wrong = |event: &&v1::Event| event.reason() == v1::ErrorReason::PasswordWrong && event.target_username == "bob";
    events.iter().filter(wrong).count()
}

async fn bob(h: &Harness) {
    let request = v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: "bob@example.org".to_owned(),
        credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    h.operator().await.create(request).await.expect("bob");
}

/// A server with bob, who has signed in from home, under these rules.
async fn with(change: impl FnOnce(&mut Config)) -> Harness {
    let h = Harness::with(|config| {
        config.throttle.initial = Duration::from_mins(2);
        config.session.max_per_user = 1000;
        change(config);
    })
    .await;
    bob(&h).await;
    h
}

/// Few guesses lead to the end, one a second.
fn short(config: &mut Config) {
    config.throttle.initial = Duration::from_secs(1);
    config.throttle.max = Duration::from_secs(1);
    config.throttle.lockout_threshold = 8;
}

/// Guesses once a second until the rules refuse unfamiliar places.
async fn until_refused(h: &Harness) {
    for _ in 0..8 {
        let answer = elsewhere(h).await.sign_in("bob", OTHER_PASSWORD).await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        h.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn an_owner_who_is_hammered_from_elsewhere_gets_in_from_a_familiar_place_every_time() {
    let h = with(|_| {}).await;
    at_home(&h, "bob").await;
    let other = h.replica().await;
    let servers = [&h, other.as_ref().unwrap_or(&h)];
    let attack = async {
        let mut got_in = 0;
        for round in 0..100 {
            hammer(servers[round % 2], 3).await;
            let login = if round % 2 == 0 { "bob" } else { "BOB@example.org" };
            let home = servers[(round + 1) % 2].stranger_at(HOME).await;
            got_in += usize::from(home.tokens(login, PASSWORD).await.is_ok());
            h.clock.advance(Duration::from_secs(75 / 3));
        }
        got_in
    };
    assert_eq!(h.serves_others_during(attack).await.0, 100);
    let operator = h.operator().await;
    // In 42 minutes: five at once, and one after 2, 4, 8 and 16 minutes. The owner's sign-ins grant no more.
    assert!(verified(&operator).await <= 10, "{}", verified(&operator).await);
    let user = operator.user("bob").await;
    assert_eq!(user.state(), UserState::Active);
    let throttle = user.throttle.expect("strangers are throttled");
    assert!(!throttle.includes_familiar_places);
}

#[tokio::test]
async fn an_owner_who_is_hammered_from_elsewhere_gets_in_from_a_new_place_with_a_device_token() {
    let h = with(|config| config.throttle.initial = Duration::from_hours(1)).await;
    let mut device = at_home(&h, "bob").await.device_token;
    spend(&h).await;
    for _ in 0..100 {
        hammer(&h, 1).await;
        let tokens = elsewhere(&h).await.with_device("bob", PASSWORD, &device).await.expect("tokens");
        assert!(tokens.device_token.starts_with("lkd_") && tokens.device_token != device, "renewed");
        device = tokens.device_token;
    }
    let refresh = elsewhere(&h).await.with_device("bob", PASSWORD, &device).await.expect("tokens").refresh_token;
    assert_eq!(
        h.stranger().await.refresh(&refresh).await.expect("tokens").device_token,
        "",
        "only a sign-in gives one"
    );
}

#[tokio::test]
async fn guesses_from_everywhere_stay_bounded_past_the_hundredth_and_never_lock() {
    let h = with(|config| {
        config.throttle.initial = Duration::from_secs(1);
        config.throttle.max = Duration::from_secs(1);
    })
    .await;
    at_home(&h, "bob").await;
    let other = h.replica().await;
    let servers = [&h, other.as_ref().unwrap_or(&h)];
    for round in 0..130 {
        hammer(servers[round % 2], 2).await;
        h.clock.advance(Duration::from_secs(1));
    }
    let operator = h.operator().await;
    assert_eq!(verified(&operator).await, 100);
    assert_eq!(operator.user("bob").await.state(), UserState::Active, "strangers do not lock");
    h.clock.advance(Duration::from_hours(48));
    hammer(servers[1], 20).await;
    assert_eq!(verified(&operator).await, 100, "and time gives strangers no more");
    at_home(&h, "bob").await;
}

#[tokio::test]
async fn many_guesses_at_once_from_everywhere_are_verified_no_more_often_than_each_budget_allows() {
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    let other = h.replica().await;
    let servers = [&h, other.as_ref().unwrap_or(&h)];
    let mut clients = Vec::new();
    for number in 0..60 {
        clients.push(elsewhere(servers[number % 2]).await);
    }
    let guess = |number: usize| {
        let (client, device) = (&clients[number % clients.len()], &device);
        async move {
            let login = if number.is_multiple_of(5) { "bob@example.org" } else { "bob" };
            match number % 2 {
                0 => client.sign_in(login, OTHER_PASSWORD).await.map(|_| ()),
                _ => client.with_device(login, OTHER_PASSWORD, device).await.map(|_| ()),
            }
        }
    };
    for answer in at_once((0..300).map(guess)).await {
        answer.expect_err("a refusal");
    }
    let operator = h.operator().await;
    assert!(verified(&operator).await <= 10, "five from strangers, and five with the device token");
}

#[tokio::test]
async fn unfamiliar_places_are_refused_until_the_owner_signs_in_from_a_familiar_one() {
    let h = with(short).await;
    at_home(&h, "bob").await;
    until_refused(&h).await;
    h.clock.advance(Duration::from_hours(30));
    let operator = h.operator().await;
    let user = operator.user("bob").await;
    let throttle = user.throttle.expect("a throttle");
    assert_eq!((throttle.failures, throttle.until_time, throttle.includes_familiar_places), (8, None, false));
    let ability = user.sign_in_ability.expect("an answer");
    let expected = (SignInAbilityKind::No, SignInAbilityReason::Throttled, "latchkey.v1.UserAdmin/UnlockUser");
    assert_eq!((ability.kind(), ability.reason(), ability.next_method.as_str()), expected);
    let away = elsewhere(&h).await;
    refused(away.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(away.sign_in("bob@example.org", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");

    at_home(&h, "bob").await;
    assert_eq!(operator.user("bob").await.throttle, None);
    elsewhere(&h).await.tokens("bob", PASSWORD).await.expect("accepted again");
    let events = operator.events().await;
    let of = |kind: EventType| events.iter().filter(|event| event.r#type() == kind).collect::<Vec<_>>();
    let began = of(EventType::ThrottleBegan);
    let last = began.last().expect("an event");
    assert_eq!((last.details["places"].as_str(), last.details.get("untilTime")), ("UNFAMILIAR", None));
    assert_eq!(of(EventType::ThrottleEnded).len(), began.len());
}

#[tokio::test]
async fn known_and_unknown_names_get_the_same_answers_until_strangers_are_refused_and_after() {
    let h = with(|config| {
        config.throttle.max = config.throttle.initial;
        config.throttle.lockout_threshold = 8;
    })
    .await;
    let other = h.replica().await;
    let servers = [&h, other.as_ref().unwrap_or(&h)];
    let logins = ["bob", "nobody", "bob@example.org", "nobody@example.org"];
    let mut answers = vec![Vec::new(); logins.len()];
    for round in 0..20 {
        for (login, seen) in logins.iter().zip(&mut answers) {
            for password in [OTHER_PASSWORD, PASSWORD] {
                // Bob gets in with the right password while he has guesses left; this round tries it later.
                let password = if round < 8 { OTHER_PASSWORD } else { password };
                let answer = elsewhere(servers[round % 2]).await.sign_in(login, password).await;
                seen.push(Refusal::of(&answer.expect_err("a refusal")).reason);
            }
        }
        match round {
            14 => h.clock.turn_back(Duration::from_mins(10)),
            17 => h.clock.advance(Duration::from_hours(30)),
            _ => h.clock.advance(Duration::from_mins(2)),
        }
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2], answers[3]);
    let ability = h.operator().await.user("bob").await.sign_in_ability.expect("an answer");
    assert_eq!((ability.kind(), ability.reason()), (SignInAbilityKind::No, SignInAbilityReason::Throttled));
}

#[tokio::test]
async fn an_unlock_or_a_reset_ends_the_refusal_of_unfamiliar_places() {
    let h = with(short).await;
    let operator = h.operator().await;
    until_refused(&h).await;
    assert!(operator.unlock("bob").await.expect("an unlock").effects.expect("effects").throttle_cleared);
    elsewhere(&h).await.tokens("bob", PASSWORD).await.expect("tokens");
    until_refused(&h).await;
    let reset = operator.reset("bob").await.expect("a reset");
    assert!(reset.effects.as_ref().expect("effects").throttle_cleared);
    elsewhere(&h).await.change_step("bob", reset.shown()).await.expect("a step");
}

#[tokio::test]
async fn a_refusal_of_unfamiliar_places_can_have_an_end() {
    let h = with(|config| {
        short(config);
        config.throttle.lockout_duration = Duration::from_mins(30);
    })
    .await;
    until_refused(&h).await;
    let user = h.operator().await.user("bob").await;
    assert_eq!(user.sign_in_ability.expect("an answer").kind(), SignInAbilityKind::NotUntil);
    refused(elsewhere(&h).await.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    h.clock.advance(Duration::from_mins(30));
    elsewhere(&h).await.tokens("bob", PASSWORD).await.expect("tokens");
}

#[tokio::test]
async fn a_refusal_outlives_a_higher_threshold_and_the_owner_ends_it() {
    let h = with(short).await;
    at_home(&h, "bob").await;
    until_refused(&h).await;
    let higher = v1::SignInPolicy { lockout_threshold: Some(100), ..Default::default() };
    h.operator().await.change_policy(higher).await.expect("a policy");
    refused(elsewhere(&h).await.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    at_home(&h, "bob").await;
    h.clock.advance(Duration::from_secs(1));
    elsewhere(&h).await.tokens("bob", PASSWORD).await.expect("accepted again");
}

#[tokio::test]
async fn a_refusal_without_an_end_is_over_once_refusals_have_one() {
    let h = with(short).await;
    until_refused(&h).await;
    let half_an_hour = Some(prost_types::Duration { seconds: 1800, nanos: 0 });
    let policy = v1::SignInPolicy { lockout_duration: half_an_hour, ..Default::default() };
    let operator = h.operator().await;
    operator.change_policy(policy).await.expect("a policy");
    eventually("the end of the refusal, from a job", || async {
        operator.user("bob").await.throttle.is_none().then_some(())
    })
    .await;
    elsewhere(&h).await.tokens("bob", PASSWORD).await.expect("tokens");
}

#[tokio::test]
async fn without_a_lockout_the_owner_does_not_end_the_throttle_of_strangers() {
    let h = with(|_| {}).await;
    at_home(&h, "bob").await;
    let off = v1::SignInPolicy { lockout_threshold: Some(0), ..Default::default() };
    h.operator().await.change_policy(off).await.expect("a policy");
    spend(&h).await;
    at_home(&h, "bob").await;
    // Under another name the budget of the account shows, not that of the name.
    let answer = elsewhere(&h).await.sign_in("bob@example.org", PASSWORD).await;
    refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn only_failures_from_familiar_places_lock() {
    let h = with(short).await;
    at_home(&h, "bob").await;
    let home = h.stranger_at(HOME).await;
    for _ in 0..8 {
        refused(home.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        h.clock.advance(Duration::from_secs(1));
    }
    let user = h.operator().await.user("bob").await;
    assert_eq!((user.state(), user.lock.expect("a lock").cause()), (UserState::Locked, LockCause::FailedSignIns));
    refused(home.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(elsewhere(&h).await.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn five_places_are_familiar_and_the_least_recently_used_one_is_forgotten_first() {
    let h = with(|_| {}).await;
    let place = |number: usize| format!("127.0.3.{number}");
    for number in [1, 2, 3, 4, 5, 1, 6] {
        h.stranger_at(&place(number)).await.tokens("bob", PASSWORD).await.expect("tokens");
        h.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(h.query("SELECT COUNT(*) FROM familiar_place").await, ["5"]);
    let stored = h.query("SELECT place FROM familiar_place").await;
    assert!(stored.iter().all(|place| place.len() == 32 && !place.contains("127.0")), "digests: {stored:?}");
    spend(&h).await;
    for number in [1, 3, 4, 5, 6] {
        h.stranger_at(&place(number)).await.tokens("bob", PASSWORD).await.expect("familiar");
    }
    let forgotten = h.stranger_at(&place(2)).await;
    refused(forgotten.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
}

#[tokio::test]
async fn a_place_and_a_device_token_are_forgotten_after_ninety_days() {
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    h.clock.advance(Duration::from_hours(24 * 90 - 1));
    spend(&h).await;
    elsewhere(&h).await.with_device("bob", PASSWORD, &device).await.expect("within ninety days");
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    h.clock.advance(Duration::from_hours(24 * 90));
    spend(&h).await;
    let home = h.stranger_at(HOME).await;
    refused(home.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    let answer = elsewhere(&h).await.with_device("bob", PASSWORD, &device).await;
    refused(answer, Code::ResourceExhausted, "THROTTLED");
    // The job runs at every start.
    let h = h.restart().await;
    crate::harness::eventually("a job forgets the place", || async {
        (h.query("SELECT COUNT(*) FROM familiar_place").await == ["0"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_turned_back_makes_no_owner_a_stranger() {
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    h.clock.turn_back(Duration::from_hours(2));
    spend(&h).await;
    at_home(&h, "bob").await;
    elsewhere(&h).await.with_device("bob", PASSWORD, &device).await.expect("tokens");
}

#[tokio::test]
async fn an_invalid_device_token_has_no_effect() {
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    h.create("eve", &[], PASSWORD).await;
    let of_eve = at_home(&h, "eve").await.device_token;
    let flipped = {
        let mut bytes = BASE64URL_NOPAD.decode(&device.as_bytes()[4..]).expect("base64url");
        bytes[20] ^= 1;
        format!("lkd_{}", BASE64URL_NOPAD.encode(&bytes))
    };
    let invalid = [
        of_eve.as_str(),
        flipped.as_str(),
        &device[..device.len() - 1],
        &device[..10],
        &device[4..],
        "lkd_",
        "garbage",
        &"lkd_A".repeat(204),
    ];
    for token in invalid {
        elsewhere(&h).await.with_device("bob", PASSWORD, token).await.expect("the password counts");
    }
    spend(&h).await;
    for token in invalid {
        let answer = elsewhere(&h).await.with_device("bob", PASSWORD, token).await;
        refused(answer, Code::ResourceExhausted, "THROTTLED");
    }
    elsewhere(&h).await.with_device("bob", PASSWORD, &device).await.expect("the valid one");
    let answer = elsewhere(&h).await.with_device("nobody", PASSWORD, &device).await;
    refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_reset_ends_device_tokens_and_a_password_change_keeps_them() {
    let h = with(|_| {}).await;
    let (operator, tokens) = (h.operator().await, at_home(&h, "bob").await);
    let signed_in = h.stranger().await.bearing(&tokens.access_token);
    signed_in.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a new password");
    let guess = "a third c4nary of theirs";
    let guesses = async || {
        for _ in 0..6 {
            elsewhere(&h).await.sign_in("bob", guess).await.expect_err("a guess");
        }
    };
    guesses().await;
    elsewhere(&h).await.with_device("bob", OTHER_PASSWORD, &tokens.device_token).await.expect("kept");

    // Even if the clock has been turned back meanwhile.
    h.clock.turn_back(Duration::from_mins(1));
    let reset = operator.reset("bob").await.expect("a reset");
    let step = h.stranger_at(HOME).await.change_step("bob", reset.shown()).await.expect("a step");
    let completed = h.stranger_at(HOME).await.complete(&step.ticket, PASSWORD).await.expect("a step");
    let Some(Step::Tokens(completed)) = completed.progress.and_then(|progress| progress.step) else { panic!("tokens") };
    guesses().await;
    let answer = elsewhere(&h).await.with_device("bob", PASSWORD, &tokens.device_token).await;
    refused(answer, Code::ResourceExhausted, "THROTTLED");
    elsewhere(&h).await.with_device("bob", PASSWORD, &completed.device_token).await.expect("the new one");
}

#[tokio::test]
async fn a_password_chosen_with_a_link_ends_device_tokens_and_forgets_all_places_but_its_own() {
    const CHOSEN: &str = "a third c4nary of theirs";
    let h = with(|_| {}).await;
    let device = at_home(&h, "bob").await.device_token;
    let link = h.operator().await.link().await;
    // Even if the clock has been turned back meanwhile.
    h.clock.turn_back(Duration::from_mins(1));
    let there = elsewhere(&h).await;
    there.choose(&link, CHOSEN).await.expect("a choice");
    assert_eq!(h.query("SELECT COUNT(*) FROM familiar_place").await, ["1"]);
    spend(&h).await;
    let home = h.stranger_at(HOME).await;
    refused(home.sign_in("bob", CHOSEN).await, Code::ResourceExhausted, "THROTTLED");
    let answer = elsewhere(&h).await.with_device("bob", CHOSEN, &device).await;
    refused(answer, Code::ResourceExhausted, "THROTTLED");
    there.tokens("bob", CHOSEN).await.expect("the place of the link is familiar");
}

#[tokio::test]
async fn a_password_chosen_with_a_link_ends_the_refusal_of_unfamiliar_places() {
    let h = with(short).await;
    let link = h.operator().await.link().await;
    until_refused(&h).await;
    elsewhere(&h).await.choose(&link, OTHER_PASSWORD).await.expect("a choice");
    assert_eq!(h.operator().await.user("bob").await.throttle, None);
    elsewhere(&h).await.tokens("bob", OTHER_PASSWORD).await.expect("tokens");
    let events = h.operator().await.events().await;
    assert!(events.iter().any(|event| event.r#type() == EventType::ThrottleEnded));
}

#[tokio::test]
async fn strangers_do_not_keep_a_user_from_changing_the_password() {
    let h = with(|_| {}).await;
    let tokens = at_home(&h, "bob").await;
    spend(&h).await;
    let travelling = elsewhere(&h).await.bearing(&tokens.access_token);
    travelling.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a session is familiar");
}

#[tokio::test]
async fn a_session_is_told_of_a_throttle_whichever_name_was_guessed_at_a_familiar_place() {
    let h = with(|_| {}).await;
    let tokens = at_home(&h, "bob").await;
    let home = h.stranger_at(HOME).await;
    for _ in 0..5 {
        let answer = home.sign_in("bob@example.org", OTHER_PASSWORD).await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let session = home.bearing(&tokens.access_token);
    refused(session.reauthenticate(PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    let answer = session.change_password(PASSWORD, OTHER_PASSWORD).await;
    refused(answer, Code::ResourceExhausted, "THROTTLED");
}

#[tokio::test]
async fn the_people_behind_an_application_are_not_at_one_place() {
    let h = with(|_| {}).await;
    let operator = h.operator().await;
    let create = serde_json::json!({"username": "portal", "kind": "USER_KIND_SERVICE", "roles": ["app"]});
    operator.call("UserAdmin/CreateUser", create).await.expect("an application");
    let app = operator.api_token("portal", &["auth.proxy"]).await;
    let app = h.stranger().await.with("latchkey-app", &app);
    let person = |number: usize| app.with("latchkey-client-address", &format!("2001:db8:0:{number}::7"));
    person(1).tokens("bob", PASSWORD).await.expect("tokens");
    for number in 2..9 {
        person(number).sign_in("bob", OTHER_PASSWORD).await.expect_err("a guess");
    }
    refused(person(9).sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    let same_network = app.with("latchkey-client-address", "2001:db8:0:1:ffff::8");
    same_network.tokens("bob", PASSWORD).await.expect("the same /64");

    // Without the person's address, the application's own is no person's place.
    operator.unlock("bob").await.expect("an unlock");
    app.tokens("bob", PASSWORD).await.expect("tokens");
    for _ in 0..5 {
        refused(app.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    refused(app.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    person(1).tokens("bob", PASSWORD).await.expect("the familiar place");
}

#[tokio::test]
async fn attempts_that_are_given_up_count_and_keep_no_owner_out() {
    let h = with(|_| {}).await;
    at_home(&h, "bob").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(elsewhere(&h).await);
    }
    let calls = clients.iter().map(|client| async move {
        let request =
            v1::SignInRequest { login: "bob".to_owned(), password: OTHER_PASSWORD.to_owned(), ..Default::default() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_millis(1));
        client.auth().sign_in(request).await.map(|_| ()).expect_err("a refusal");
    });
    at_once(calls).await;
    at_home(&h, "bob").await;
    // Those that the server began have ended, and hold no reservation.
    crate::harness::eventually("the end of all attempts", || async {
        (h.query("SELECT CAST(SUM(pending) AS TEXT) FROM throttle").await == ["0"]).then_some(())
    })
    .await;
    assert!(verified(&h.operator().await).await <= 5);
}
