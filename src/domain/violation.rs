//! Validation errors of a request, field by field. All of them are collected, so that a caller can fix them at once.

use std::fmt;

use strum::IntoStaticStr;

/// What is wrong with a field, for programs. Sent as `google.rpc.BadRequest.FieldViolation.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Fault {
    /// The field is required but not set.
    Required,
    /// Too few bytes, or characters in a password.
    TooShort,
    /// Too many bytes, or characters in a password.
    TooLong,
    /// Too many elements.
    TooMany,
    /// Does not have the required form.
    Malformed,
    /// Contains a control character, or one that changes the direction of the text around it.
    ForbiddenCharacter,
    /// Names something that the server does not know.
    Unknown,
    /// A number or time out of range.
    OutOfRange,
    /// Conflicts with another field.
    Conflict,
    /// The new password is the old one.
    Reused,
    /// The password is in a list of leaked ones.
    Breached,
    /// The password consists of little but names of the user or of the organisation.
    ContainsUserInfo,
    /// The password lacks a letter or a digit.
    LetterAndDigit,
    /// The password is too easy to guess.
    TooWeak,
    /// The password has a control character or an unassigned code point.
    NotText,
}

impl Fault {
    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A parse error. Its `Display` is the description that clients see. It states what is allowed and never repeats the
/// input, which may be a password in the wrong field.
pub trait Describe: fmt::Display {
    /// What is wrong, for programs.
    fn fault(&self) -> Fault;

    /// The key of the invalid entry, if the field is a map and the key itself is valid.
    fn map_key(&self) -> Option<&str> {
        None
    }
}

/// One validation error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `user.username` or `labels[team]`.
    pub field: String,
    /// What is wrong, for programs.
    pub reason: Fault,
    /// What is allowed, for people.
    pub description: String,
}

/// Collects violations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Creates an empty collection.
    pub fn new() -> Violations {
        Violations::default()
    }

    /// Creates a collection of one violation.
    pub fn of(field: impl Into<String>, reason: Fault, description: impl Into<String>) -> Violations {
        let mut violations = Violations::new();
        violations.push(field, reason, description);
        violations
    }

    /// Adds a violation.
    pub fn push(&mut self, field: impl Into<String>, reason: Fault, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), reason, description: description.into() });
    }

    /// Adds a violation for a parse error.
    pub fn push_error(&mut self, field: impl Into<String>, error: &impl Describe) {
        let mut field = field.into();
        if let Some(key) = error.map_key() {
            field = format!("{field}[{key}]");
        }
        self.push(field, error.fault(), error.to_string());
    }

    /// Returns the value, or adds a violation and returns `None`.
    pub fn check<T, E: Describe>(&mut self, field: impl Into<String>, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.push_error(field, &error)).ok()
    }

    /// As [`Violations::check`], for a value that can be wrong in several ways at once.
    pub fn check_all<T, E: Describe>(&mut self, field: &str, parsed: Result<T, Vec<E>>) -> Option<T> {
        parsed.map_err(|errors| errors.iter().for_each(|error| self.push_error(field, error))).ok()
    }

    /// Returns the value, or adds a violation that it is required and returns `None`.
    pub fn require<T>(&mut self, field: impl Into<String>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.push(field, Fault::Required, "must be set");
        }
        value
    }

    /// Returns whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates in the order of detection.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }

    /// Returns an error if there is any violation.
    pub fn finish(self) -> Result<(), Violations> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Extend<Violation> for Violations {
    fn extend<I: IntoIterator<Item = Violation>>(&mut self, violations: I) {
        self.0.extend(violations);
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::TextFault;

    #[test]
    fn every_fault_is_told_at_once() {
        let mut violations = Violations::new();
        assert_eq!(violations.check("name", Ok::<_, TextFault>(7)), Some(7));
        assert!(violations.is_empty());
        assert_eq!(violations.check::<(), _>("name", Err(TextFault::TooLong { max_bytes: 3 })), None);
        assert_eq!(violations.require::<()>("user", None), None);
        violations.push("page_size", Fault::OutOfRange, "at most 500");

        let reasons: Vec<_> = violations.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(reasons, ["TOO_LONG", "REQUIRED", "OUT_OF_RANGE"]);
        let text = violations.finish().map_err(|error| error.to_string());
        assert_eq!(text, Err("name: has more than 3 bytes; user: must be set; page_size: at most 500".into()));
    }

    #[test]
    fn nothing_wrong_is_no_error() {
        assert_eq!(Violations::new().finish(), Ok(()));
    }

    #[test]
    fn a_fault_in_a_map_names_the_entry() {
        struct InTeam;
        impl fmt::Display for InTeam {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("wrong")
            }
        }
        impl Describe for InTeam {
            fn fault(&self) -> Fault {
                Fault::Malformed
            }
            fn map_key(&self) -> Option<&str> {
                Some("team")
            }
        }

        let mut violations = Violations::new();
        assert_eq!(violations.check_all::<(), _>("labels", Err(vec![InTeam, InTeam])), None);
        assert_eq!(violations.to_string(), "labels[team]: wrong; labels[team]: wrong");
    }
}
