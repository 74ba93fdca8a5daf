//! The sign-in name. ASCII only, so that names in different scripts cannot look alike. Allowing more characters later
//! is compatible; allowing fewer would not be.

use std::fmt;

use super::violation::{Describe, Fault};

/// Maximum length in bytes, which equal characters here.
const MAX_BYTES: usize = 64;

/// A username: `[a-z0-9][a-z0-9._+-]{0,63}`, with A to Z folded to lower case. Unique among users.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(String);

/// Why a text is not a username.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsernameFault {
    /// The text is empty.
    #[error("must be set")]
    Empty,
    /// The text is too long.
    #[error("has more than {MAX_BYTES} characters")]
    TooLong,
    /// Contains '@'. A username that looks like someone's address could be found instead of that person.
    #[error("a username may not contain '@'; did you mean email?")]
    At,
    /// Contains another character that is not allowed, or not allowed at the start.
    #[error("a username starts with a letter or digit and has only letters (a to z), digits and . _ + -")]
    Malformed,
}

impl Username {
    /// Parses a username in either case.
    pub fn parse(text: &str) -> Result<Username, UsernameFault> {
        if text.is_empty() {
            return Err(UsernameFault::Empty);
        }
        if text.contains('@') {
            return Err(UsernameFault::At);
        }
        if text.len() > MAX_BYTES {
            return Err(UsernameFault::TooLong);
        }
        // Folds only A to Z: Unicode would fold the Kelvin sign to k and give one user another's name (CVE-2019-19844).
        let folded = text.to_ascii_lowercase();
        let is_letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins_well = folded.bytes().next().is_some_and(is_letter_or_digit);
        let goes_on_well = folded.bytes().all(|byte| is_letter_or_digit(byte) || b"._+-".contains(&byte));
        if begins_well && goes_on_well { Ok(Username(folded)) } else { Err(UsernameFault::Malformed) }
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Describe for UsernameFault {
    fn fault(&self) -> Fault {
        match self {
            UsernameFault::Empty => Fault::Required,
            UsernameFault::TooLong => Fault::TooLong,
            UsernameFault::At | UsernameFault::Malformed => Fault::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, UsernameFault> {
        Username::parse(text).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn upper_and_lower_case_are_the_same() {
        assert_eq!(parsed("Ada.Lovelace+test_1-x"), Ok("ada.lovelace+test_1-x".into()));
        assert_eq!(Username::parse("ADA"), Username::parse("ada"));
        assert_eq!(parsed("7"), Ok("7".into()));
    }

    #[test]
    fn a_username_never_looks_like_an_address() {
        assert_eq!(parsed("victim@example.com"), Err(UsernameFault::At));
    }

    #[test]
    fn only_ascii_folds() {
        for wrong in ["\u{212a}elvin", "m\u{131}ke", "\u{fb01}n", "ＡＤＡ", "ada\u{200d}", "e\u{301}"] {
            assert_eq!(parsed(wrong), Err(UsernameFault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn the_first_character_is_a_letter_or_digit() {
        for wrong in [".ada", "_ada", "+ada", "-ada", "ada b", " ada", "ada\n", "ada\0", "a/b", "a%b", "id:x"] {
            assert_eq!(parsed(wrong), Err(UsernameFault::Malformed), "{wrong:?}");
        }
        assert_eq!(parsed(""), Err(UsernameFault::Empty));
    }

    #[test]
    fn it_has_at_most_64_characters() {
        assert_eq!(parsed(&"a".repeat(64)), Ok("a".repeat(64)));
        assert_eq!(parsed(&"a".repeat(65)), Err(UsernameFault::TooLong));
    }
}
