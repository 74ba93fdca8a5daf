//! The page on which users set up an authenticator.

use super::Harness;
use super::factor::Authenticator;
use super::http::HttpAnswer;

impl Harness {
    /// Sends a form of the page.
    pub async fn step(&self, step: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        self.form("/security", &[&[("step", step)], fields].concat()).await
    }

    /// Takes the first step.
    pub async fn begin(&self, login: &str, password: &str) -> HttpAnswer {
        self.step("sign_in", &[("login", login), ("password", password)]).await
    }

    /// Sends the first code of the authenticator that a page shows.
    pub async fn confirm(&self, shown: &HttpAnswer, code: &str) -> HttpAnswer {
        let (ticket, uri) = (field(shown, "ticket"), field(shown, "uri"));
        let fields = [("ticket", &*ticket), ("uri", &*uri), ("login", "grace"), ("code", code)];
        self.step("app", &fields).await
    }
}

/// The value of a hidden field.
pub fn field(page: &HttpAnswer, name: &str) -> String {
    let start = format!(r#"<input type="hidden" name="{name}" value=""#);
    let (_, rest) = page.body.split_once(&start).unwrap_or_else(|| panic!("no {name}: {}", page.body));
    let value = rest.split('"').next().expect("an end");
    value.replace("&#x2f;", "/").replace("&amp;", "&")
}

/// The texts between two marks.
pub fn all_between(page: &HttpAnswer, start: &str, end: &str) -> Vec<String> {
    page.body.split(start).skip(1).map(|rest| rest.split(end).next().expect("an end").to_owned()).collect()
}

/// The authenticator whose key a page shows.
pub fn shown(page: &HttpAnswer) -> Authenticator {
    let keys = all_between(page, r#"<code class="secret">"#, "</code>");
    let [key] = keys.as_slice() else { panic!("no key: {}", page.body) };
    Authenticator::with(&key.replace(' ', ""), Vec::new())
}
