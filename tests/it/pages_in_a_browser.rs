//! The pages in Chromium, with and without scripts.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

/// Where a user opens a link of a mail.
async fn link(h: &Harness, user: &str) -> String {
    let request = json!({ "user": { "username": user }, "returnLink": {} });
    let answer = h.operator().await.call("UserAdmin/ResetPassword", request).await.expect("a link");
    answer["resetLink"].as_str().expect("a link").to_owned()
}

async fn choose(browser: &Browser, password: &str, repeat: &str) {
    browser.write("#password", password).await;
    browser.write("#repeat", repeat).await;
    browser.click("button[type=submit]").await;
}

async fn follow_a_link(runs_scripts: bool) {
    let Some(browser) = Browser::start(runs_scripts).await else { return };
    let h = Harness::start().await;
    h.create("grace", &[], PASSWORD).await;
    let url = link(&h, "grace").await;

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

/// The ratio of the luminances of two colours (WCAG 2.2, 1.4.3), for each text that is shown; the least one.
const LEAST_CONTRAST: &str = "
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = parts(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    let least = 21;
    for (const element of document.body.querySelectorAll('*')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.offsetParent) continue;
        const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
        least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return least;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_has_contrast_and_nothing_is_cut_off_from_320_pixels_to_a_wide_screen_at_200_percent() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    h.create("grace.with-a-name-that-is-as-long-as-names-may-be-and-longer", &[], PASSWORD).await;
    let reset = link(&h, "grace.with-a-name-that-is-as-long-as-names-may-be-and-longer").await;
    let pages = format!("http://{}", h.pages_address());
    for scheme in ["light", "dark"] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", features).await;
        for (width, zoom) in [(320, 1), (360, 1), (320, 2), (1280, 1), (640, 2)] {
            let metrics = json!({ "width": width, "height": 700, "deviceScaleFactor": zoom, "mobile": false });
            browser.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
            for url in [format!("{reset}&lang=de"), format!("{pages}/forgot?lang=de"), format!("{pages}/reset?token=x")]
            {
                browser.open(&url).await;
                let overhang = browser.script("return document.documentElement.scrollWidth - innerWidth").await;
                assert!(overhang.as_i64().is_some_and(|pixels| pixels <= 0), "{url} at {width}: {overhang}");
                let contrast = browser.script(LEAST_CONTRAST).await;
                assert!(contrast.as_f64().is_some_and(|ratio| ratio >= 4.5), "{url}, {scheme}: {contrast}");
            }
            browser.open(&reset).await;
            choose(&browser, "short", "other").await;
            browser.reaches("Error: ").await;
            let contrast = browser.script(LEAST_CONTRAST).await;
            assert!(contrast.as_f64().is_some_and(|ratio| ratio >= 4.5), "mistakes, {scheme}: {contrast}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_reached_with_the_keyboard_in_the_order_of_reading() {
    let Some(browser) = Browser::start(true).await else { return };
    let h = Harness::start().await;
    h.create("grace", &[], PASSWORD).await;
    browser.open(&link(&h, "grace").await).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        browser.press('\u{e004}').await;
        order.push(browser.focus().await);
    }
    assert_eq!(order, ["password", "repeat", "plain", "", ""], "two fields, show, submit, and the other language");
    let outline = browser.script("return getComputedStyle(document.activeElement).outlineWidth").await;
    assert_eq!(outline, "3px", "the focus is seen");
}
