//! The page after a form was sent. Reloading it sends nothing again.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::LOCATION;
use minijinja::context;

use super::Pages;
use super::problem::Problem;
use super::view::Page;
use super::visit::Visit;
use crate::domain::language::Language;

/// What can be done.
const KINDS: [&str; 7] = ["reset", "invite", "verify", "cancel", TOO_LATE, "forgot", "security"];

/// The link was cancelled after it was used.
pub(super) const TOO_LATE: &str = "too-late";

/// Leads to the page, in the language that the user chose.
pub(super) fn done(of: &'static str, lang: &str) -> Response {
    let lang = lang.parse().map_or_else(|_| String::new(), |lang: Language| format!("&lang={}", lang.code()));
    (StatusCode::SEE_OTHER, [(LOCATION, format!("done?of={of}{lang}"))]).into_response()
}

/// Shows the page.
pub(super) async fn show(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    let asked = visit.query().get("of");
    let Some(of) = KINDS.into_iter().find(|kind| *kind == asked) else {
        return pages.problem(Some(&visit), &Problem::NotFound);
    };
    pages.views.respond(&Page {
        status: StatusCode::OK,
        template: "done.html",
        language: visit.language(visit.chosen(), None),
        here: format!("done?of={of}&"),
        values: context! { of },
    })
}
