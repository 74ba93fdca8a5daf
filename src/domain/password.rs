//! Plaintext passwords, and the rules for new ones.
//!
//! Every password is prepared with the `OpaqueString` profile of RFC 8265, 4.2, both when it is set and when it is
//! verified: non-ASCII spaces become the ASCII space, the text is normalised to NFC, control characters and unassigned
//! code points are rejected. Case and width are kept. NIST SP 800-63B-4, 3.1.1.2 recommends such a normalisation,
//! because keyboards differ in how they compose accents.
//!
//! The code point tables are those of Unicode 6.3, as in the IANA registry for PRECIS; newer characters are rejected.
//! This must not change: an upgrade must not prepare an existing password differently.

use std::borrow::Cow;
use std::fmt;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::{Profile, Rules};
use zeroize::Zeroizing;

use super::violation::{Describe, Fault};

/// Maximum length in bytes. Checked before any other work, because preparing and hashing megabytes would exhaust the
/// server (OWASP Password Storage Cheat Sheet). Far above [`PasswordRules::max_length`] in any script.
const MAX_BYTES: usize = 4096;

/// A prepared plaintext password. Never stored or logged; wiped when dropped.
pub struct PlainPassword(Zeroizing<String>);

/// Why a text is not usable as a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    /// The text is empty.
    #[error("must be set")]
    Empty,
    /// The text is longer than the maximum in bytes.
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The text does not conform to RFC 8265.
    #[error("may not contain control characters, characters newer than Unicode 6.3, or others that RFC 8265 excludes")]
    NotText,
}

impl PlainPassword {
    /// Prepares a password. The input is wiped.
    pub fn parse(text: String) -> Result<PlainPassword, PasswordFault> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            return Err(PasswordFault::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(PasswordFault::TooLong);
        }
        prepared(text).map(PlainPassword).ok_or(PasswordFault::NotText)
    }

    /// Wraps printable ASCII, which needs no preparation.
    pub(super) fn from_printable_ascii(text: Zeroizing<String>) -> PlainPassword {
        PlainPassword(text)
    }

    /// A fixed password that belongs to no account, hashed when the input is not usable as a password.
    pub fn decoy() -> PlainPassword {
        PlainPassword(Zeroizing::new(String::from("a decoy, not a password")))
    }

    /// The plaintext. Only for the hasher.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Copies the password; each copy is wiped separately. `Clone` is not implemented, so that copies of a secret are
    /// visible in the code.
    #[must_use]
    pub fn copy(&self) -> PlainPassword {
        PlainPassword(self.0.clone())
    }

    /// Length in code points, which is the length that users perceive.
    pub fn code_points(&self) -> usize {
        self.0.chars().count()
    }
}

/// Applies the steps of the profile one by one, so that intermediate texts are wiped too. Buffers that the library
/// reallocates internally are not wiped; this affects only passwords that are not in NFC.
fn prepared(text: Zeroizing<String>) -> Option<Zeroizing<String>> {
    let profile = OpaqueString::new();
    profile.prepare(text.as_str()).ok()?;
    let changed = |step: Cow<'_, str>| match step {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(Zeroizing::new(text)),
    };
    let mapped = changed(profile.additional_mapping_rule(text.as_str()).ok()?).unwrap_or(text);
    let normalised = changed(profile.normalization_rule(mapped.as_str()).ok()?).unwrap_or(mapped);
    Some(normalised)
}

impl fmt::Debug for PlainPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainPassword([redacted])")
    }
}

/// A new password that the rules accept, and the only kind that is hashed to be stored.
#[derive(Debug)]
pub struct AcceptedPassword(PlainPassword);

impl AcceptedPassword {
    /// A password that the server generated, which needs no judging.
    pub(super) fn generated(text: Zeroizing<String>) -> AcceptedPassword {
        AcceptedPassword(PlainPassword::from_printable_ascii(text))
    }

    /// The password, to compare it with the old one.
    pub fn as_plain(&self) -> &PlainPassword {
        &self.0
    }

    /// The password, to hash it.
    pub fn into_plain(self) -> PlainPassword {
        self.0
    }
}

/// Rules for new passwords. There are no composition rules and no expiry: NIST SP 800-63B-4, 3.1.1.2 forbids both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordRules {
    /// Minimum number of code points. NIST SP 800-63B-4, 3.1.1.2: 15 if the password is the only factor.
    pub min_length: u32,
    /// Maximum number of code points. NIST SP 800-63B-4, 3.1.1.2: at least 64.
    pub max_length: u32,
}

impl Default for PasswordRules {
    fn default() -> PasswordRules {
        PasswordRules { min_length: 15, max_length: 256 }
    }
}

impl PasswordRules {
    /// Accepts a password, or returns every rule that it breaks, except reuse, which only hashing can detect.
    pub fn accept(&self, password: PlainPassword) -> Result<AcceptedPassword, Vec<RuleBroken>> {
        let length = u32::try_from(password.code_points()).unwrap_or(u32::MAX);
        let mut broken = Vec::new();
        if length < self.min_length {
            broken.push(RuleBroken::TooShort { min: self.min_length });
        }
        if length > self.max_length {
            broken.push(RuleBroken::TooLong { max: self.max_length });
        }
        if broken.is_empty() { Ok(AcceptedPassword(password)) } else { Err(broken) }
    }
}

/// A rule that a new password breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleBroken {
    /// Too few code points.
    #[error("shorter than {min} characters")]
    TooShort {
        /// The minimum.
        min: u32,
    },
    /// Too many code points.
    #[error("longer than {max} characters")]
    TooLong {
        /// The maximum.
        max: u32,
    },
    /// Same as the old password.
    #[error("the same as the old password")]
    Reused,
    /// Does not conform to RFC 8265.
    #[error("{}", PasswordFault::NotText)]
    NotText,
}

impl Describe for RuleBroken {
    fn fault(&self) -> Fault {
        match self {
            RuleBroken::TooShort { .. } => Fault::TooShort,
            RuleBroken::TooLong { .. } => Fault::TooLong,
            RuleBroken::Reused => Fault::Reused,
            RuleBroken::NotText => Fault::NotText,
        }
    }
}

impl Describe for PasswordFault {
    fn fault(&self) -> Fault {
        match self {
            PasswordFault::Empty => Fault::Required,
            PasswordFault::TooLong => Fault::TooLong,
            PasswordFault::NotText => Fault::NotText,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> Result<String, PasswordFault> {
        PlainPassword::parse(text.to_owned()).map(|password| password.expose().to_owned())
    }

    fn broken(text: &str) -> Result<Vec<String>, PasswordFault> {
        let password = PlainPassword::parse(text.to_owned())?;
        let broken = PasswordRules::default().accept(password).err().unwrap_or_default();
        Ok(broken.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_examples_of_rfc_8265() {
        // RFC 8265, 4.3: the table of examples.
        for same in ["correct horse battery staple", "Correct Horse Battery Staple", "πßå", "Jack of ♦s"] {
            assert_eq!(prepared(same), Ok(same.to_owned()), "{same}");
        }
        assert_eq!(prepared("foo\u{1680}bar"), Ok("foo bar".into()));
        assert_eq!(prepared(""), Err(PasswordFault::Empty));
        assert_eq!(prepared("my cat is a \u{9}by"), Err(PasswordFault::NotText));
    }

    #[test]
    fn accents_and_spaces_are_the_same_however_they_were_typed() {
        assert_eq!(prepared("cafe\u{301}"), prepared("caf\u{e9}"));
        assert_eq!(prepared("a\u{a0}b\u{3000}c\u{2003}d"), Ok("a b c d".into()));
        assert_eq!(prepared("\u{a0}e\u{301}"), Ok(" \u{e9}".into()));
    }

    #[test]
    fn nothing_else_is_folded() {
        assert_ne!(prepared("Secret"), prepared("secret"));
        for kept in ["ｆｕｌｌ ｗｉｄｔｈ", "\u{fb01}ve", "  two  spaces  ", "x²"] {
            assert_eq!(prepared(kept), Ok(kept.to_owned()), "{kept}");
        }
    }

    #[test]
    fn preparing_twice_is_preparing_once() {
        for text in ["a\u{a0}e\u{301}", "\u{212b}\u{2126}\u{1e0b}\u{323}", "plain"] {
            let once = prepared(text);
            assert_eq!(once.clone().and_then(|text| prepared(&text)), once, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_text_is_refused_and_simply_wrong_at_sign_in() {
        for wrong in ["a\0b", "a\nb", "\u{7f}", "a\u{200b}b", "a\u{202e}b", "\u{378}", "\u{fffe}", "\u{e000}"] {
            assert_eq!(prepared(wrong), Err(PasswordFault::NotText), "{wrong:?}");
            assert!(PlainPassword::parse(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn characters_newer_than_unicode_6_3_are_refused() {
        assert_eq!(prepared("\u{1f408}"), Ok("\u{1f408}".into()), "a cat, of Unicode 6.0");
        assert_eq!(prepared("\u{1f916}"), Err(PasswordFault::NotText), "a robot, of Unicode 8.0");
    }

    #[test]
    fn bytes_are_bounded_before_anything_else() {
        assert!(prepared(&"a".repeat(4096)).is_ok());
        assert_eq!(prepared(&"a".repeat(4097)), Err(PasswordFault::TooLong));
        assert_eq!(prepared(&"\0".repeat(4097)), Err(PasswordFault::TooLong));
    }

    #[test]
    fn length_counts_code_points() {
        assert_eq!(broken("fourteen chars"), Ok(vec!["shorter than 15 characters".into()]));
        assert_eq!(broken("fifteen chars.."), Ok(vec![]));
        assert_eq!(broken(&"é".repeat(15)), Ok(vec![]));
        assert_eq!(broken(&"e\u{301}".repeat(14)), Ok(vec!["shorter than 15 characters".into()]));
        assert_eq!(broken(&"é".repeat(256)), Ok(vec![]));
        assert_eq!(broken(&"é".repeat(257)), Ok(vec!["longer than 256 characters".into()]));
    }

    #[test]
    fn debug_shows_nothing() {
        let password = PlainPassword::parse("correct horse".to_owned());
        assert_eq!(format!("{password:?}"), "Ok(PlainPassword([redacted]))");
    }
}
