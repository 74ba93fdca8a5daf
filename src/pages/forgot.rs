//! The page on which a user asks for a link. It says the same for every name.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::LOCATION;
use minijinja::context;

use super::Pages;
use super::done::done;
use super::fields::Fields;
use super::form::Form;
use super::problem::Cause;
use super::view::{Mistake, Page};
use super::visit::Visit;
use crate::app::RequestPasswordReset;
use crate::domain::caller::Demand;
use crate::domain::profile::Locale;
use crate::error::Error;

/// Leads to the page.
pub(super) async fn front() -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, "forgot")]).into_response()
}

/// Shows the form.
pub(super) async fn show(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    pages.show_forgot(&visit, visit.query(), StatusCode::OK, &[])
}

/// Requests a link.
pub(super) async fn act(
    State(pages): State<Arc<Pages>>,
    Extension(visit): Extension<Visit>,
    Form(form): Form,
) -> Response {
    let login = form.get("login").trim();
    let mistake = |kind| {
        let mistakes = [Mistake::of("login", kind)];
        let mut response = pages.show_forgot(&visit, &form, StatusCode::UNPROCESSABLE_ENTITY, &mistakes);
        response.extensions_mut().insert(Cause::of_mistakes(&mistakes));
        response
    };
    if login.is_empty() {
        return mistake("required");
    }
    let language = visit.language(form.get("lang").parse().ok(), None);
    let command =
        RequestPasswordReset { login: login.to_owned(), locale: Locale::parse(language.code()).ok().flatten() };
    let app = Arc::clone(&pages.app);
    let requested = async {
        let caller = visit.caller(&pages, "RequestPasswordReset", Demand::Anyone).await?;
        visit.run(&pages, async move { app.request_password_reset(&caller, command).await }).await
    };
    match requested.await {
        Ok(_) => done("forgot", form.get("lang")),
        Err(Error::InvalidInput(_)) => mistake("malformed"),
        Err(error) => pages.problem(Some(&visit), &error.into()),
    }
}

impl Pages {
    fn show_forgot(&self, visit: &Visit, fields: &Fields, status: StatusCode, mistakes: &[Mistake]) -> Response {
        let lang = fields.get("lang");
        // A query must not fill in the name: a link of a stranger could then ask in the name of a user.
        let login = if status == StatusCode::OK { "" } else { fields.get("login") };
        self.views.respond(&Page {
            status,
            template: "forgot.html",
            language: visit.language(lang.parse().ok(), None),
            here: "forgot?".to_owned(),
            values: context! { mistakes => mistakes.to_vec(), login, lang },
        })
    }
}
