//! What users can correct: mistakes in a form, and refusals after which another try helps.

use http::StatusCode;

use super::Pages;
use super::fields::Fields;
use super::problem::{retry_after, status_of};
use super::view::{Mistake, ShownRules, Span};
use crate::app::Judged;
use crate::domain::language::Language;
use crate::domain::password::{Hint, PasswordFault, PlainPassword, RuleBroken};
use crate::domain::sign_in_policy::PasswordRulesSet;
use crate::domain::violation::{Describe, Fault};
use crate::error::{Error, Limit, Result, Unauthenticated};

impl Pages {
    /// Returns the password of the form, or every mistake that shows without a look at the old one. `judge` asks the use case.
    pub(super) async fn chosen_password(
        &self,
        form: &Fields,
        language: Language,
        judge: impl AsyncFnOnce(PlainPassword) -> Result<Judged>,
    ) -> Result<std::result::Result<PlainPassword, Vec<Mistake>>> {
        let password = PlainPassword::parse(form.get("password").to_owned());
        let mut mistakes: Vec<Mistake> = match &password {
            Err(PasswordFault::TooLong) => {
                let max = self.app.password_rules().await?.max_length;
                vec![broken(RuleBroken::TooLong { max }, language)]
            }
            Err(fault) => vec![Mistake::of("password", kind(fault.fault()))],
            Ok(password) => {
                let judged = judge(password.copy()).await?;
                judged.broken.iter().map(|rule| broken(*rule, language)).collect()
            }
        };
        if password.is_ok() && form.get("password") != form.get("repeat") {
            mistakes.push(Mistake::of("repeat", "differs"));
        }
        Ok(password.ok().filter(|_| mistakes.is_empty()).ok_or(mistakes))
    }

    /// The rules for a new password, to be shown. What is typed is judged by the rules of that time.
    pub(super) async fn shown_rules(&self) -> ShownRules {
        let rules = self.app.password_rules().await;
        let rules = rules.unwrap_or_else(|_| self.app.in_force(PasswordRulesSet::default()));
        ShownRules { min_length: rules.min_length, letter_and_digit: rules.require_letter_and_digit }
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

/// The mistake of a password that breaks a rule.
fn broken(rule: RuleBroken, language: Language) -> Mistake {
    let mistake = Mistake::of("password", kind(rule.fault()));
    match rule {
        RuleBroken::TooShort { min: number } | RuleBroken::TooLong { max: number } => {
            Mistake { number: Some(number), ..mistake }
        }
        RuleBroken::TooWeak { hint } => Mistake { hint: hint_text(hint, language), ..mistake },
        _ => mistake,
    }
}

/// What is weak about a password, and what would help.
pub(super) fn hint_text(hint: Hint, language: Language) -> String {
    let weakness = hint.weakness.map(|weakness| format!("{} ", weakness.text(language))).unwrap_or_default();
    format!("{weakness}{}", hint.advice.text(language))
}

/// The name of the text for a fault of a password.
fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Required => "required",
        Fault::TooShort => "too_short",
        Fault::TooLong => "too_long",
        Fault::TooWeak => "too_weak",
        Fault::ContainsUserInfo => "user_info",
        Fault::Breached => "breached",
        Fault::LetterAndDigit => "letter_and_digit",
        Fault::Reused => "reused",
        Fault::NotText => "not_text",
        _ => "malformed",
    }
}
