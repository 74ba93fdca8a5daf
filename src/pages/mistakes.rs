//! What users can correct: mistakes in a form, and refusals after which another try helps.

use http::StatusCode;

use super::Pages;
use super::fields::Fields;
use super::problem::{retry_after, status_of};
use super::view::{Mistake, Span};
use crate::domain::password::{PasswordFault, PlainPassword, RuleBroken};
use crate::domain::violation::{Describe, Fault};
use crate::error::{Error, Limit, Unauthenticated};

impl Pages {
    /// Returns the password of the form, or every mistake that shows without a look at the old one.
    pub(super) fn chosen_password(&self, form: &Fields) -> Result<PlainPassword, Vec<Mistake>> {
        let rules = self.app.password_rules();
        let password = PlainPassword::parse(form.get("password").to_owned());
        let mut mistakes = match &password {
            Err(PasswordFault::TooLong) => vec![mistake(&RuleBroken::TooLong { max: rules.max_length })],
            Err(fault) => vec![mistake(fault)],
            Ok(password) => match rules.accept(password.copy()) {
                Ok(_) => Vec::new(),
                Err(broken) => broken.iter().map(mistake).collect(),
            },
        };
        for found in &mut mistakes {
            found.number = match found.kind {
                "too_short" => Some(rules.min_length),
                _ => Some(rules.max_length),
            };
        }
        if password.is_ok() && form.get("password") != form.get("repeat") {
            mistakes.push(Mistake::of("repeat", "differs"));
        }
        password.ok().filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }
}

/// The mistakes behind an error of a use case. `None` if another try does not help.
pub(super) fn mistakes_of(error: &Error) -> Option<Vec<Mistake>> {
    let waiting = |wait| Some(Span::until_retry(wait));
    let mistake = match error {
        Error::InvalidInput(violations) | Error::PasswordRejected(violations) => {
            let of_password = violations.iter().map(|violation| Mistake::of("password", kind(violation.reason)));
            return Some(of_password.collect());
        }
        Error::Unauthenticated(Unauthenticated::Rejected) => Mistake::of("", "rejected"),
        Error::Unauthenticated(Unauthenticated::SecondFactorRequired) => Mistake::of("code", "required"),
        Error::Unauthenticated(Unauthenticated::SecondFactorRejected) => Mistake::of("code", "wrong"),
        Error::Exhausted { limit: Limit::Codes, retry_after } => {
            Mistake { span: waiting(*retry_after), ..Mistake::of("code", "too_often") }
        }
        error => {
            let is_limit = status_of(error) == StatusCode::TOO_MANY_REQUESTS;
            let kind = if is_limit { "too_often" } else { "unavailable" };
            Mistake { span: waiting(retry_after(error)?), ..Mistake::of("", kind) }
        }
    };
    Some(vec![mistake])
}

fn mistake(fault: &impl Describe) -> Mistake {
    Mistake::of("password", kind(fault.fault()))
}

/// The name of the text for a fault of a password.
fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Required => "required",
        Fault::TooShort => "too_short",
        Fault::TooLong => "too_long",
        Fault::Reused => "reused",
        Fault::NotText => "not_text",
        _ => "malformed",
    }
}
