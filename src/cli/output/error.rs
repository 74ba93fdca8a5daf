//! Errors for people: the message, each violation, and a hint.

use std::borrow::Cow;

use super::hint;
use super::text::{Text, Tone};
use crate::cli::error::{Error, Refusal, Violation};

/// The lines to print. Empty if everything is printed already.
pub(crate) fn lines(error: &Error) -> Vec<Text> {
    let (message, violations, hint): (Cow<'_, str>, &[Violation], Option<String>) = match error {
        Error::Stopped(complaint) => (error.message().into(), &[], complaint.hint.clone()),
        Error::Refused(refusal) => {
            (message(refusal), &refusal.violations, refusal.hint.clone().or_else(|| hint::of(refusal)))
        }
        Error::Silent(_) | Error::Shown(_) => return Vec::new(),
    };
    let mut lines = vec![Text::toned(Tone::Bad, "error: ").and(Tone::Plain, message)];
    for Violation { field, description, .. } in violations {
        lines.push(Text::from("  ").and(Tone::Strong, field).and(Tone::Plain, format!(": {description}")));
    }
    if let Some(hint) = hint {
        lines.push(Text::new());
        lines.push(Text::toned(Tone::Good, "hint: ").and(Tone::Plain, hint));
    }
    lines
}

/// The message. The server's own names the field; a person who typed a name looks for that name.
fn message(refusal: &Refusal) -> Cow<'_, str> {
    match &refusal.subject {
        Some(user) if refusal.reason == "USER_NOT_FOUND" => format!("there is no user {user}").into(),
        _ => refusal.message.as_str().into(),
    }
}
