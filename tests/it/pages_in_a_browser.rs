//! The pages in Chromium, with and without scripts.

use serde_json::{Value, json};

use crate::harness::browser::{Browser, SCREENS};
use crate::harness::mailbox::Eml;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, eventually};

/// A name that is as long as names may be.
const LONG: &str = "grace.with-a-name-that-is-as-long-as-names-may-be-and-longer";

impl Harness {
    /// Creates a user with an address and a password.
    async fn addressed(&self, user: &str) {
        self.create(user, &[], PASSWORD).await;
        let request = json!({ "user": { "username": user }, "email": "grace@example.com" });
        self.operator().await.call("UserAdmin/UpdateUser", request).await.expect("an address");
    }

    /// The mail that a call sends.
    async fn mailed(&self, method: &str, request: Value) -> Eml {
        let operator = self.operator().await;
        let answer = operator.call(method, request).await.expect("a message");
        let id = answer["delivery"]["id"].as_str().expect("an id");
        self.mail_of(&operator.delivery(id).await).await
    }

    async fn reset_mail(&self, user: &str) -> Eml {
        self.mailed("UserAdmin/ResetPassword", json!({ "user": { "username": user } })).await
    }

    async fn verification_mail(&self, user: &str) -> Eml {
        self.mailed("UserAdmin/SendEmailVerification", json!({ "user": { "username": user } })).await
    }

    /// Invites a user.
    async fn invitation(&self, user: &str, address: &str) -> Eml {
        let request = json!({ "username": user, "email": address, "invite": {} });
        self.mailed("UserAdmin/CreateUser", request).await
    }
}

async fn choose(browser: &Browser, password: &str, repeat: &str) {
    browser.write("#password", password).await;
    browser.write("#repeat", repeat).await;
    browser.click("button[type=submit]").await;
}

async fn follow_a_link(runs_scripts: bool) {
    let Some(browser) = Browser::start(runs_scripts).await else { return };
    let h = Harness::start().await;
    h.addressed("grace").await;
    let url = h.reset_mail("grace").await.link("reset");

    browser.open(&url).await;
    browser.reaches("Choose a new password").await;
    assert_eq!(browser.spoken("#password").await, "New password");
    assert_eq!(browser.spoken("#repeat").await, "New password again");
    let is_shown = browser.property("[data-show]", "hidden").await == Value::Bool(false);
    assert_eq!(is_shown, runs_scripts, "what needs a script is there only with scripts");

    choose(&browser, "too short", "another").await;
    browser.reaches("Error: ").await;
    assert!(!browser.url().await.contains("token"), "a form leaves no token in the address");
    assert_eq!(browser.focus().await, "mistakes", "the summary has the focus, so a screen reader reads it");
    browser.click(".mistakes a[href='#repeat']").await;
    assert_eq!(browser.focus().await, "repeat", "a mistake leads to its field");
    assert!(browser.text("#password-fault").await.contains("at least 15 characters"));
    assert_eq!(browser.property("#password", "value").await, "", "no password is sent back");
    if runs_scripts {
        browser.write("#password", "twelve signs").await;
        assert_eq!(browser.text(".count").await, "12 of 15 characters");
        browser.click("[data-show]").await;
        assert_eq!(browser.property("#password", "type").await, "text");
        browser.click("[data-show]").await;
        assert_eq!(browser.property("#password", "type").await, "password");
        browser.open(&url).await;
    }

    choose(&browser, OTHER_PASSWORD, OTHER_PASSWORD).await;
    browser.reaches("Your password is changed").await;
    h.stranger().await.tokens("grace", OTHER_PASSWORD).await.expect("the new password");

    browser.open(&url).await;
    browser.reaches("This link does not work any more").await;
    browser.click(".button").await;
    browser.reaches("Get a link for a new password").await;
    browser.click("a[lang=de]").await;
    browser.reaches("Link für ein neues Passwort anfordern").await;
    assert_eq!(browser.spoken("#login").await, "Benutzername oder E-Mail-Adresse");
    browser.write("#login", "grace").await;
    browser.click("button[type=submit]").await;
    browser.reaches("Sehen Sie in Ihr Postfach").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_follows_a_link_and_chooses_a_password_with_scripts() {
    follow_a_link(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_follows_a_link_and_chooses_a_password_without_scripts() {
    follow_a_link(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_says_how_strong_a_password_is_while_it_is_typed() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    h.addressed("grace").await;
    let url = h.reset_mail("grace").await.link("reset");
    browser.open(&url).await;
    browser.reaches("Choose a new password").await;
    assert_eq!(browser.property(".strength", "hidden").await, Value::Bool(true), "nothing was typed");
    let shows = async |selector: &str, wanted: &str| {
        eventually(wanted, || async { (browser.text(selector).await.trim() == wanted).then_some(()) }).await;
    };
    browser.write("#password", "aaaaaaaaaaaaaaaaaaaa").await;
    shows(".strength span", "Very weak").await;
    shows(".advice", "Repetition is easy to guess. Use different words instead of the same again.").await;
    assert_eq!(browser.property(".strength meter", "value").await, json!(1));
    browser.open(&format!("{url}&lang=de")).await;
    browser.write("#password", "grace2026grace2026").await;
    shows(".strength span", "Schwach").await;
    shows(".advice", "Besteht fast nur aus den Namen des Kontos oder der Organisation.").await;
    browser.write("#password", " und vieles mehr, was niemand ahnt").await;
    shows(".strength span", "Stark").await;
    assert_eq!(browser.property(".advice", "hidden").await, Value::Bool(true));
}

async fn follow_a_link_with_a_code(runs_scripts: bool) {
    let Some(browser) = Browser::start(runs_scripts).await else { return };
    let h = Harness::start().await;
    let factor = h.enroll(&h.user("grace").await).await;
    browser.open(&format!("http://{}/reset?token={}", h.pages_address(), h.link("grace").await)).await;
    assert_eq!(browser.spoken("#code").await, "Code of your authenticator app, or a recovery code");

    // An older code than the last: that of the last would be accepted if the next step began meanwhile.
    browser.write("#code", &factor.shows(&h, -3)).await;
    choose(&browser, OTHER_PASSWORD, OTHER_PASSWORD).await;
    browser.reaches("Error: ").await;
    assert_eq!(browser.focus().await, "mistakes");
    browser.click(".mistakes a[href='#code']").await;
    assert_eq!(browser.focus().await, "code", "the mistake leads to its field");
    for field in ["#password", "#repeat", "#code"] {
        assert_eq!(browser.property(field, "value").await, "", "{field} is not sent back");
    }

    let code = factor.shows(&h, 0);
    browser.write("#code", &format!("{} {}", &code[..3], &code[3..])).await;
    choose(&browser, OTHER_PASSWORD, OTHER_PASSWORD).await;
    browser.reaches("Your password is changed").await;
    h.next_code();
    h.stranger().await.sign_in_with("grace", OTHER_PASSWORD, factor.proof(&h)).await.expect("the new password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_an_authenticator_follows_a_link_and_proves_a_code_with_scripts() {
    follow_a_link_with_a_code(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_an_authenticator_follows_a_link_and_proves_a_code_without_scripts() {
    follow_a_link_with_a_code(false).await;
}

async fn follow_the_other_links(runs_scripts: bool) {
    let Some(browser) = Browser::start(runs_scripts).await else { return };
    let h = Harness::start().await;
    h.addressed("grace").await;
    let stranger = h.stranger().await;

    let invite = h.invitation("ada", "ada@example.com").await.link("invite");
    browser.open(&invite).await;
    browser.reaches("Welcome! Choose your password").await;
    assert_eq!(browser.text(".username").await, "ada");
    choose(&browser, "too short", "too short").await;
    browser.reaches("Error: ").await;
    choose(&browser, PASSWORD, PASSWORD).await;
    browser.reaches("Your account is ready").await;
    stranger.tokens("ada", PASSWORD).await.expect("the first password");

    let verify = h.verification_mail("grace").await.link("verify");
    browser.open(&verify).await;
    browser.reaches("Confirm your address").await;
    let confirmed = async || h.query(r#"SELECT username FROM "user" WHERE email_verified_at IS NOT NULL"#).await;
    assert_eq!(confirmed().await, ["ada"], "opening the page confirms nothing");
    browser.click("button[type=submit]").await;
    browser.reaches("Your address is confirmed").await;
    assert_eq!(confirmed().await.len(), 2);

    let mail = h.reset_mail("grace").await;
    browser.open(&mail.link("cancel")).await;
    browser.reaches("Stop what you did not ask for").await;
    browser.open(&mail.link("reset")).await;
    browser.reaches("Choose a new password").await;
    browser.open(&mail.link("cancel")).await;
    browser.click("button[type=submit]").await;
    browser.reaches("The link is cancelled").await;
    stranger.tokens("grace", PASSWORD).await.expect("the password is as it was");

    for dead in [invite, verify, mail.link("reset")] {
        browser.open(&dead).await;
        browser.reaches("This link does not work any more").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_links_of_every_mail_lead_to_success_with_scripts() {
    follow_the_other_links(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_links_of_every_mail_lead_to_success_without_scripts() {
    follow_the_other_links(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_has_contrast_and_nothing_is_cut_off_from_320_pixels_to_a_wide_screen_at_200_percent() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    h.addressed(LONG).await;
    let mail = h.reset_mail(LONG).await;
    let (reset, cancel) = (mail.link("reset"), mail.link("cancel"));
    let verify = h.verification_mail(LONG).await.link("verify");
    let invite = h.invitation("ada", "ada@example.com").await.link("invite");
    let pages = format!("http://{}", h.pages_address());
    let mut shown: Vec<String> = [&reset, &invite, &verify, &cancel].map(|link| format!("{link}&lang=de")).into();
    shown.extend(["forgot?lang=de", "reset?token=x"].map(|page| format!("{pages}/{page}")));
    shown.extend(["reset", "invite", "verify", "cancel", "forgot"].map(|of| format!("{pages}/done?of={of}&lang=de")));
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for screen in SCREENS {
            browser.resize(screen).await;
            for url in &shown {
                browser.open(url).await;
                browser.is_legible(&format!("{url}, {scheme}, {screen:?}")).await;
            }
            browser.open(&reset).await;
            choose(&browser, "short", "other").await;
            browser.reaches("Error: ").await;
            browser.is_legible(&format!("mistakes, {scheme}, {screen:?}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_reached_with_the_keyboard_in_the_order_of_reading() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    h.addressed("grace").await;
    browser.open(&h.reset_mail("grace").await.link("reset")).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        browser.press('\u{e004}').await;
        order.push(browser.focus().await);
    }
    assert_eq!(order, ["password", "repeat", "plain", "", ""], "two fields, show, submit, and the other language");
    let outline = browser.script("return getComputedStyle(document.activeElement).outlineWidth").await;
    assert_eq!(outline, "3px", "the focus is seen");
}
