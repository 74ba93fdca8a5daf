//! The page on which users set up an authenticator, in Chromium, with and without scripts.

use std::process::Command;

use crate::harness::browser::{Browser, SCREENS};
use crate::harness::calls::Shown as _;
use crate::harness::factor::Authenticator;
use crate::harness::{Harness, PASSWORD};

const USER: &str = "grace";

impl Browser {
    async fn send(&self, fields: &[(&str, &str)]) {
        for (selector, text) in fields {
            self.write(selector, text).await;
        }
        self.click("button[type=submit]").await;
    }

    /// The authenticator that has got the key by hand.
    async fn typed_key(&self) -> Authenticator {
        Authenticator::with(&self.text(".secret").await.replace(' ', ""), Vec::new())
    }

    /// What an authenticator reads from the screen. `None` without `zbarimg`.
    async fn scanned(&self) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("screen.png");
        std::fs::write(&file, self.picture().await).expect("a file");
        let Ok(read) = Command::new("zbarimg").args(["--quiet", "--raw"]).arg(&file).output() else {
            assert!(std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: zbarimg is missing");
            eprintln!("skipped: zbarimg is missing");
            return None;
        };
        Some(String::from_utf8(read.stdout).expect("UTF-8").trim_end().to_owned())
    }
}

async fn set_up_and_replace(runs_scripts: bool) {
    let Some(browser) = Browser::start(runs_scripts).await else { return };
    let h = Harness::start().await;
    h.create(USER, &[], PASSWORD).await;
    let page = format!("http://{}/security", h.pages_address());

    browser.open(&page).await;
    browser.reaches("Set up your authenticator app").await;
    assert_eq!(browser.spoken("#login").await, "Username or e-mail address");
    assert_eq!(browser.spoken("#password").await, "Password");
    browser.send(&[("#login", USER), ("#password", "not the password")]).await;
    browser.reaches("Error: ").await;
    assert_eq!(browser.focus().await, "mistakes", "a screen reader reads the summary");
    assert_eq!(browser.property("#login", "value").await, USER);
    browser.send(&[("#password", PASSWORD)]).await;
    browser.reaches("Connect your app").await;
    assert_eq!(browser.spoken(".qr").await, "QR code with the key for the app");
    let factor = browser.typed_key().await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        if let Some(uri) = browser.scanned().await {
            let key = browser.text(".secret").await.replace(' ', "");
            assert!(uri.starts_with("otpauth://totp/") && uri.contains(&format!("?secret={key}&")), "{scheme}: {uri}");
        }
    }

    browser.send(&[("#code", &factor.shows(&h, 9))]).await;
    browser.reaches("Error: ").await;
    browser.click(".mistakes a[href='#code']").await;
    assert_eq!(browser.focus().await, "code");
    let code = factor.shows(&h, 0);
    browser.send(&[("#code", &format!("{} {}", &code[..3], &code[3..]))]).await;
    browser.reaches("Keep these codes").await;
    let codes = browser.text(".codes").await;
    let codes: Vec<&str> = codes.lines().collect();
    assert_eq!(codes.len(), 10, "{codes:?}");
    let is_hidden = browser.property("[data-print]", "hidden").await;
    assert_eq!(is_hidden, !runs_scripts, "what needs a script is there only with scripts");
    assert!(!browser.url().await.contains('?'), "nothing secret is in the address");
    browser.click("a.button").await;
    browser.reaches("Your authenticator app is set up").await;
    h.next_code();
    h.stranger().await.sign_in_with(USER, PASSWORD, factor.proof(&h)).await.expect("the authenticator");

    browser.open(&page).await;
    browser.send(&[("#login", USER), ("#password", PASSWORD)]).await;
    browser.reaches("Enter a code").await;
    assert_eq!(browser.spoken("#code").await, "Code of your authenticator app, or a recovery code");
    browser.send(&[("#code", &codes[0].to_uppercase())]).await;
    browser.reaches("Connect your app").await;
    let factor = browser.typed_key().await;
    browser.send(&[("#code", &factor.shows(&h, 0))]).await;
    browser.reaches("Keep these codes").await;
    h.next_code();
    h.stranger().await.sign_in_with(USER, PASSWORD, factor.proof(&h)).await.expect("the new authenticator");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_sets_up_an_authenticator_and_replaces_it_with_scripts() {
    set_up_and_replace(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_sets_up_an_authenticator_and_replaces_it_without_scripts() {
    set_up_and_replace(false).await;
}

impl Browser {
    /// Looks at a page on all screens.
    async fn looks_well(&self, page: &str) {
        for scheme in ["light", "dark"] {
            self.prefer(scheme).await;
            for screen in SCREENS {
                self.resize(screen).await;
                self.is_legible(&format!("{page}, {scheme}, {screen:?}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_setting_up_an_authenticator_is_legible_on_every_screen() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    let long = "grace.with-a-name-that-is-as-long-as-names-may-be-and-longer";
    let old = h.enroll(&h.user(long).await).await;
    let reset = h.operator().await.reset(long).await.expect("a reset");
    browser.open(&format!("http://{}/security?lang=de", h.pages_address())).await;
    browser.looks_well("sign-in").await;
    browser.send(&[("#login", long), ("#password", "wrong")]).await;
    browser.reaches("Fehler: ").await;
    browser.looks_well("sign-in-mistake").await;
    browser.send(&[("#password", reset.shown())]).await;
    browser.reaches("Code eingeben").await;
    browser.looks_well("code").await;
    browser.send(&[("#code", "nein")]).await;
    browser.reaches("Fehler: ").await;
    browser.looks_well("code-mistake").await;
    browser.send(&[("#code", &old.shows(&h, 0))]).await;
    browser.reaches("Neues Passwort wählen").await;
    browser.looks_well("password").await;
    let chosen = crate::harness::OTHER_PASSWORD;
    browser.send(&[("#password", chosen), ("#repeat", chosen)]).await;
    browser.reaches("App verbinden").await;
    browser.looks_well("app").await;
    let new = browser.typed_key().await;
    browser.send(&[("#code", &new.shows(&h, 9))]).await;
    browser.reaches("Fehler: ").await;
    browser.looks_well("app-mistake").await;
    browser.send(&[("#code", &new.shows(&h, 0))]).await;
    browser.reaches("Bewahren Sie diese Codes auf").await;
    browser.looks_well("codes").await;
    browser.click("a.button").await;
    browser.reaches("Ihre Authenticator-App ist eingerichtet").await;
    browser.looks_well("done").await;
}
