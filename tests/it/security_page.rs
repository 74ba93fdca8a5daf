//! The page on which users set up or replace their authenticator, without a browser.

use std::time::Duration;

use tonic::Code;

use crate::harness::calls::Shown as _;
use crate::harness::http::HttpAnswer;
use crate::harness::security::{all_between, field, shown};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

const USER: &str = "grace";

/// A server with a user.
async fn with_grace() -> Harness {
    let h = Harness::start().await;
    h.create(USER, &[], PASSWORD).await;
    h
}

fn codes(page: &HttpAnswer) -> Vec<String> {
    all_between(page, "<li>", "</li>")
}

/// Asserts that a page has this heading, and that it is neither kept nor comes with a cookie or a token.
fn is(page: &HttpAnswer, status: u16, heading: &str) {
    assert_eq!(page.status, status, "{heading}: {}", page.body);
    assert!(page.body.contains(&format!("<h1>{heading}</h1>")), "{heading}: {}", page.body);
    assert_eq!((page.header("cache-control"), page.header("set-cookie")), (Some("no-store"), None), "{}", page.head);
    assert!(!page.body.contains("eyJ") && !page.body.contains("lkr_"), "no token: {}", page.body);
}

#[tokio::test]
async fn a_user_sets_up_an_authenticator_on_the_page_and_signs_in_with_it() {
    let h = with_grace().await;
    is(&h.page("/security").await, 200, "Set up your authenticator app");
    let app = h.begin(USER, PASSWORD).await;
    is(&app, 200, "Connect your app");
    assert!(app.body.contains(r#"<svg class="qr" width=""#) && app.body.contains("<path d=\"M4 4h7v1h-7z"));
    let (factor, uri) = (shown(&app), field(&app, "uri"));
    let key = all_between(&app, r#"<code class="secret">"#, "</code>").concat();
    assert!(key.split(' ').all(|group| group.len() == 4), "{key}");
    assert!(uri.starts_with("otpauth://totp/") && uri.contains(&key.replace(' ', "")), "{uri}");
    h.stranger().await.tokens(USER, PASSWORD).await.expect("nothing has changed yet");

    let done = h.confirm(&app, &factor.shows(&h, 0)).await;
    is(&done, 200, "Keep these codes");
    assert_eq!(codes(&done).len(), 10, "{}", done.body);
    assert!(!done.body.contains("hreflang"), "a link to another language would lose the codes: {}", done.body);
    assert!(done.body.contains(r#"href="done?of=security""#), "{}", done.body);
    assert!(h.page("/done?of=security").await.body.contains("Your authenticator app is set up"));

    let operator = h.operator().await;
    let sessions = operator.sessions_of(USER).await;
    assert!(
        sessions.iter().all(|session| session.end_time.is_some()),
        "the page opens none and ends all: {sessions:?}"
    );
    h.next_code();
    let stranger = h.stranger().await;
    stranger.factor_step(USER, PASSWORD).await.expect("the password alone is not enough");
    stranger.sign_in_with(USER, PASSWORD, factor.proof(&h)).await.expect("the new authenticator");
    is(&h.confirm(&app, &factor.shows(&h, 1)).await, 410, "Please start again");
}

#[tokio::test]
async fn a_wrong_first_code_shows_the_same_key_again_and_says_what_to_do() {
    let h = with_grace().await;
    let app = h.begin(USER, PASSWORD).await;
    let factor = shown(&app);
    for (code, told) in [
        ("", "Enter the six digits that the app shows for this account."),
        ("12345", "Enter the six digits that the app shows for this account."),
        (&factor.shows(&h, 9), "This code is not right. Wait for the next one."),
    ] {
        let again = h.confirm(&app, code).await;
        is(&again, 422, "Connect your app");
        assert!(again.body.contains(&format!("<a href=\"#code\">{told}")), "{code}: {}", again.body);
        assert_eq!(again.body.contains("Have the clock of your phone set automatically"), told.starts_with("This"));
        for name in ["ticket", "uri"] {
            assert_eq!(field(&again, name), field(&app, name), "{code}");
        }
        assert_eq!(shown(&again).shows(&h, 0), factor.shows(&h, 0), "{code}");
    }
    is(&h.confirm(&app, &factor.shows(&h, 0)).await, 200, "Keep these codes");
}

#[tokio::test]
async fn replacing_an_authenticator_demands_a_code_of_it_or_a_recovery_code() {
    let h = Harness::start().await;
    let old = h.enroll(&h.user(USER).await).await;
    let asked = h.begin(USER, PASSWORD).await;
    is(&asked, 200, "Enter a code");
    assert!(asked.body.contains(r#"autocomplete="one-time-code""#), "{}", asked.body);
    let ticket = field(&asked, "ticket");
    for (code, told) in [
        ("", "Enter a code of your authenticator app, or a recovery code."),
        (&old.shows(&h, -3), "This code is wrong, or was used before."),
        ("zzzz", "This code is wrong, or was used before."),
    ] {
        let again = h.step("code", &[("ticket", &ticket), ("login", USER), ("code", code)]).await;
        is(&again, 422, "Enter a code");
        assert!(again.body.contains(&format!("<a href=\"#code\">{told}")), "{}", again.body);
        assert_eq!(field(&again, "ticket"), ticket);
    }
    let app = h.step("code", &[("ticket", &ticket), ("code", &old.recovery_codes[0])]).await;
    is(&app, 200, "Connect your app");
    let new = shown(&app);
    let stranger = h.stranger().await;
    stranger.sign_in_with(USER, PASSWORD, old.proof(&h)).await.expect("the old one works until then");
    is(&h.confirm(&app, &new.shows(&h, 0)).await, 200, "Keep these codes");
    h.next_code();
    let refusal = stranger.sign_in_with(USER, PASSWORD, old.proof(&h)).await;
    refused(refusal, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
    stranger.sign_in_with(USER, PASSWORD, new.proof(&h)).await.expect("the new one");
}

#[tokio::test]
async fn a_temporary_password_is_changed_before_an_authenticator_is_set_up() {
    let h = with_grace().await;
    let reset = h.operator().await.reset(USER).await.expect("a reset");
    let asked = h.begin(USER, reset.shown()).await;
    is(&asked, 200, "Choose a new password");
    let ticket = field(&asked, "ticket");
    let choose = async |password: &str, repeat: &str| {
        h.step("password", &[("ticket", &ticket), ("login", USER), ("password", password), ("repeat", repeat)]).await
    };
    let again = choose("short c4nary", "c4nary").await;
    is(&again, 422, "Choose a new password");
    for field in ["password", "repeat"] {
        assert!(again.body.contains(&format!("<a href=\"#{field}\">")), "{}", again.body);
    }
    assert!(!again.body.contains("c4nary") && field(&again, "ticket") == ticket, "{}", again.body);
    let app = choose(OTHER_PASSWORD, OTHER_PASSWORD).await;
    is(&app, 200, "Connect your app");
    let factor = shown(&app);
    is(&h.confirm(&app, &factor.shows(&h, 0)).await, 200, "Keep these codes");
    h.next_code();
    h.stranger().await.sign_in_with(USER, OTHER_PASSWORD, factor.proof(&h)).await.expect("both new");
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_password_get_the_same_answer_and_no_password_comes_back() {
    let h = with_grace().await;
    let wrong = [(USER, OTHER_PASSWORD), ("nobody", PASSWORD), ("nobody@example.org", PASSWORD)];
    for (login, password) in wrong {
        let answer = h.begin(login, password).await;
        is(&answer, 422, "Set up your authenticator app");
        assert!(answer.body.contains("<li>Name or password is wrong, or this account"), "{}", answer.body);
        assert!(answer.body.contains(&format!(r#"name="login" value="{login}""#)), "the name stays: {}", answer.body);
        assert!(!answer.body.contains(password), "{}", answer.body);
    }
    for (login, password, told) in [
        ("", "", &["#login\">Enter your username", "#password\">Enter a password."][..]),
        (" ", PASSWORD, &["#login\">Enter your username"]),
        (USER, "", &["#password\">Enter a password."]),
        ("\"><b>", PASSWORD, &["#login\">This can be neither a username nor", "&quot;&gt;&lt;b&gt;"]),
        (&"a".repeat(5000), PASSWORD, &["#login\">This can be neither a username nor"]),
    ] {
        let answer = h.begin(login, password).await;
        assert_eq!(answer.status, 422, "{login}");
        assert!(told.iter().all(|told| answer.body.contains(told)), "{login}: {}", answer.body);
    }
    is(&h.begin(" GRACE ", PASSWORD).await, 200, "Connect your app");
}

#[tokio::test]
async fn a_dead_ticket_starts_again_on_every_step() {
    let h = with_grace().await;
    let old = h.begin(USER, PASSWORD).await;
    let app = h.begin(USER, PASSWORD).await;
    is(&h.confirm(&old, &shown(&old).shows(&h, 0)).await, 410, "Please start again");
    let (ticket, uri) = (&*field(&app, "ticket"), &*field(&app, "uri"));
    for (step, ticket) in [("code", ticket), ("password", ticket), ("code", ""), ("password", "x"), ("app", "x")] {
        let fields = [("ticket", ticket), ("uri", uri), ("code", "123456")];
        let chosen = [("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
        let answer = h.step(step, &[&fields[..], &chosen].concat()).await;
        is(&answer, 410, "Please start again");
        assert!(answer.body.contains(r#"<a class="button" href="security">"#), "{}", answer.body);
    }
    h.clock.advance(Duration::from_mins(11));
    is(&h.confirm(&app, &shown(&app).shows(&h, 0)).await, 410, "Please start again");
    h.stranger().await.tokens(USER, PASSWORD).await.expect("nothing has changed");
}

#[tokio::test]
async fn after_too_many_wrong_codes_the_page_says_how_long_to_wait_and_then_starts_again() {
    let h = Harness::start().await;
    let old = h.enroll(&h.user(USER).await).await;
    let ticket = field(&h.begin(USER, PASSWORD).await, "ticket");
    let prove = async |ticket: &str, code: &str| h.step("code", &[("ticket", ticket), ("code", code)]).await;
    for _ in 0..4 {
        is(&prove(&ticket, "no").await, 422, "Enter a code");
    }
    is(&prove(&ticket, "no").await, 422, "Enter a code");
    is(&prove(&ticket, &old.shows(&h, 0)).await, 410, "Please start again");
    let ticket = field(&h.begin(USER, PASSWORD).await, "ticket");
    let waiting = prove(&ticket, &old.shows(&h, 0)).await;
    is(&waiting, 429, "Enter a code");
    assert!(waiting.body.contains("There were too many wrong codes. Try again in 30 seconds."), "{}", waiting.body);
    assert_eq!(waiting.header("retry-after"), Some("30"));
    h.next_code();
    is(&prove(&ticket, &old.shows(&h, 0)).await, 200, "Connect your app");
}

#[tokio::test]
async fn a_form_that_the_page_did_not_make_is_not_read() {
    let h = with_grace().await;
    for fields in [&[][..], &[("step", "codes")], &[("step", "SignIn")]] {
        assert_eq!(h.form("/security", fields).await.status, 400, "{fields:?}");
    }
    let ticket = &*field(&h.begin(USER, PASSWORD).await, "ticket");
    for uri in ["", "javascript:alert(1)", "https://evil.example/?secret=AAAA", "otpauth://totp/x"] {
        let answer = h.step("app", &[("ticket", ticket), ("uri", uri), ("code", "12345")]).await;
        assert!(answer.status == 400 && !answer.body.contains("evil"), "{uri}: {}", answer.body);
    }
}

#[tokio::test]
async fn all_steps_are_in_the_language_that_was_chosen_first() {
    let h = with_grace().await;
    let first = h.page("/security?lang=de").await;
    assert_eq!(field(&first, "lang"), "de");
    let app = h.step("sign_in", &[("lang", "de"), ("login", USER), ("password", PASSWORD)]).await;
    is(&app, 200, "App verbinden");
    let fields = [("ticket", &*field(&app, "ticket")), ("uri", &*field(&app, "uri")), ("lang", "de")];
    is(&h.step("app", &fields).await, 422, "App verbinden");
    let code = shown(&app).shows(&h, 0);
    let done = h.step("app", &[&fields[..], &[("code", &code)]].concat()).await;
    is(&done, 200, "Bewahren Sie diese Codes auf");
    assert!(done.body.contains("done?of=security&amp;lang=de"), "{}", done.body);
}
