//! Says how strong a password is while it is typed. The page does without it if there are no scripts.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::Pages;
use super::form::Form;
use super::mistakes::hint_text;
use super::problem::status_of;
use super::visit::Visit;
use crate::app::{CheckPasswordStrength, Judged};
use crate::domain::caller::Demand;
use crate::domain::language::Language;
use crate::domain::password::{PlainPassword, RuleBroken};
use crate::error::Result;

/// How strong a password is.
#[derive(Serialize)]
struct Answer {
    /// 0 to 4. At most [`REFUSED`] if the password is refused however hard it is to guess.
    score: u8,
    /// What is weak about it, and what would help. Empty if nothing is.
    hint: String,
}

/// The highest score that is shown of a password that is refused however hard it is to guess, such as a leaked one: `Weak`.
const REFUSED: u8 = 1;

/// Judges the password of a form that is not sent yet.
pub(super) async fn judge(
    State(pages): State<Arc<Pages>>,
    Extension(visit): Extension<Visit>,
    Form(form): Form,
) -> Response {
    let language = visit.language(form.get("lang").parse().ok(), None);
    let Ok(password) = PlainPassword::parse(form.get("password").to_owned()) else {
        // What cannot be a password is told when the form is sent.
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    };
    let command = CheckPasswordStrength {
        password: Some(password),
        user_inputs: vec![form.get("username").chars().take(256).collect()],
    };
    match judged(&pages, &visit, command).await {
        Ok(judged) => {
            let answer = serde_json::to_string(&answer(&judged, language)).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json")], answer).into_response()
        }
        // The page then shows no strength.
        Err(error) => status_of(&error).into_response(),
    }
}

async fn judged(pages: &Pages, visit: &Visit, command: CheckPasswordStrength) -> Result<Judged> {
    let caller = visit.caller(pages, "CheckPasswordStrength", Demand::Anyone).await?;
    let app = Arc::clone(&pages.app);
    visit.run(pages, async move { app.check_password_strength(&caller, command).await }).await
}

fn answer(judged: &Judged, language: Language) -> Answer {
    // The page itself counts the characters.
    let is_told = |rule: &&RuleBroken| !matches!(rule, RuleBroken::TooShort { .. } | RuleBroken::TooLong { .. });
    let broken = judged.broken.iter().find(is_told);
    let score = judged.strength.score;
    match broken {
        Some(RuleBroken::TooWeak { hint }) => Answer { score, hint: hint_text(*hint, language) },
        Some(rule) => Answer { score: score.min(REFUSED), hint: capitalised(&rule.text(language)) },
        None => Answer { score, hint: String::new() },
    }
}

/// A sentence of a phrase.
fn capitalised(phrase: &str) -> String {
    let mut rest = phrase.chars();
    let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", rest.as_str())
}
