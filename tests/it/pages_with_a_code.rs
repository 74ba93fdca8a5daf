//! A link for a new password on the pages, for users with a second factor.

use crate::harness::factor::Authenticator;
use crate::harness::http::HttpAnswer;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

const USER: &str = "grace";

/// A server with a user who has an authenticator, and the token of a link.
async fn with_a_factor() -> (Harness, Authenticator, String) {
    let h = Harness::start().await;
    let factor = h.enroll(&h.user(USER).await).await;
    let token = h.link(USER).await;
    (h, factor, token)
}

impl Harness {
    /// Sends a new password and a code.
    async fn reset_with(&self, token: &str, code: &str) -> HttpAnswer {
        let fields = [("token", token), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD), ("code", code)];
        self.form("/reset", &fields).await
    }
}

#[tokio::test]
async fn a_link_asks_for_a_code_only_if_the_user_has_a_second_factor() {
    let (h, _, token) = with_a_factor().await;
    let page = h.page(&format!("/reset?token={token}")).await;
    assert!(page.body.contains(r#"<label for="code">Code of your authenticator app, or a recovery code"#), "{page:?}");
    assert!(page.body.contains(r#"name="code" autocomplete="one-time-code" inputmode="text""#), "{page:?}");
    assert!(page.body.contains(r#"aria-describedby="code-hint""#), "{page:?}");
    h.create("ada", &[], PASSWORD).await;
    let without = h.page(&format!("/reset?token={}", h.link("ada").await)).await;
    assert!(!without.body.contains("code"), "{without:?}");
}

#[tokio::test]
async fn a_missing_and_a_wrong_code_are_told_at_the_field_and_leave_link_and_password() {
    let (h, factor, token) = with_a_factor().await;
    let old = factor.shows(&h, -3);
    for (code, told) in [
        ("", "Enter a code of your authenticator app, or a recovery code."),
        (" - ", "Enter a code of your authenticator app, or a recovery code."),
        (&old, "This code is wrong, or was used before. Wait for the next one."),
        ("not-a-code", "This code is wrong, or was used before. Wait for the next one."),
    ] {
        let answer = h.reset_with(&token, code).await;
        assert_eq!(answer.status, 422, "{code}: {}", answer.body);
        assert!(answer.body.contains(&format!("<a href=\"#code\">{told}")), "{code}: {}", answer.body);
        assert!(answer.body.contains(&format!(r#"id="code-fault">{told}"#)), "{code}: {}", answer.body);
        assert!(answer.body.contains(r#"aria-describedby="code-fault code-hint""#), "{}", answer.body);
        assert!(!answer.body.contains(OTHER_PASSWORD) && !answer.body.contains(&old), "nothing typed is sent back");
        assert_eq!(answer.body.contains("Have the clock of your phone set automatically"), told.starts_with("This"));
    }
    h.stranger().await.factor_step(USER, PASSWORD).await.expect("the old password");
    assert_eq!(h.reset_with(&token, &factor.shows(&h, 0)).await.status, 303, "the link still works");
}

#[tokio::test]
async fn every_mistake_of_a_form_with_a_code_is_told_at_once() {
    let (h, _, token) = with_a_factor().await;
    let answer = h.form("/reset", &[("token", &token), ("password", "short"), ("repeat", "other")]).await;
    for field in ["password", "repeat", "code"] {
        assert!(answer.body.contains(&format!("<a href=\"#{field}\">")), "{field}: {}", answer.body);
    }
    let german = h.form("/reset", &[("token", &token), ("lang", "de")]).await;
    assert!(german.body.contains("Code Ihrer Authenticator-App oder ein Wiederherstellungscode"), "{}", german.body);
}

#[tokio::test]
async fn a_code_typed_in_two_groups_sets_the_password() {
    let (h, factor, token) = with_a_factor().await;
    let code = factor.shows(&h, 0);
    let done = h.reset_with(&token, &format!(" {} {}", &code[..3], &code[3..])).await;
    assert_eq!((done.status, done.header("location")), (303, Some("done?of=reset")), "{}", done.body);
    h.next_code();
    h.stranger().await.sign_in_with(USER, OTHER_PASSWORD, factor.proof(&h)).await.expect("the new password");
}

#[tokio::test]
async fn a_recovery_code_in_capitals_sets_the_password_and_is_used_up() {
    let (h, factor, token) = with_a_factor().await;
    let code = factor.recovery_codes[0].to_uppercase().replace('-', " ");
    assert_eq!(h.reset_with(&token, &code).await.status, 303);
    assert_eq!(h.reset_with(&h.link(USER).await, &code).await.status, 422);
}

#[tokio::test]
async fn after_five_wrong_codes_the_page_says_how_long_to_wait() {
    let (h, factor, token) = with_a_factor().await;
    for _ in 0..5 {
        assert_eq!(h.reset_with(&token, "no").await.status, 422);
    }
    let waiting = h.reset_with(&token, &factor.shows(&h, 0)).await;
    assert_eq!((waiting.status, waiting.header("retry-after")), (429, Some("30")), "{}", waiting.body);
    let told = r##"<a href="#code">There were too many wrong codes. Try again in 30 seconds."##;
    assert!(waiting.body.contains(told), "{}", waiting.body);
    h.next_code();
    assert_eq!(h.reset_with(&token, &factor.shows(&h, 0)).await.status, 303, "the link still works");
}
