//! The pages over HTTP, without a browser.

use serde_json::json;

use super::Harness;
use super::http::{HttpAnswer, send};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

impl Harness {
    /// Sends a GET request to the pages.
    pub async fn page(&self, path: &str) -> HttpAnswer {
        send(&self.pages_address(), "GET", path, &[], "").await
    }

    /// Sends a form to the pages, as a browser over plain HTTP does.
    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        self.form_with(path, fields, &[("origin", "null")]).await
    }

    pub async fn form_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> HttpAnswer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        send(&self.pages_address(), "POST", path, &[&[FORM], headers].concat(), &body).await
    }

    /// The token of a new link for a new password.
    pub async fn link(&self, user: &str) -> String {
        let request = json!({ "user": { "username": user }, "returnLink": {} });
        let answer = self.operator().await.call("UserAdmin/ResetPassword", request).await.expect("a link");
        let url = answer["resetLink"].as_str().expect("a link").to_owned();
        let expected = format!("http://{}/reset?token=", self.pages_address());
        url.strip_prefix(&expected).unwrap_or_else(|| panic!("{url} does not begin with {expected}")).to_owned()
    }
}
