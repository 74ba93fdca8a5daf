//! What text from outside may be made of.
//!
//! One of the databases keeps NUL and the other refuses it. Other control characters forge log lines (OWASP Logging
//! Cheat Sheet). Characters that turn the direction of writing make a name read as another one (CVE-2021-42574).

use std::fmt;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::Rules;

use super::violation::{Describe, Fault};

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextFault {
    /// There is none, and there must be.
    Empty,
    /// Too many bytes.
    TooLong {
        /// The most that is allowed.
        max_bytes: usize,
    },
    /// A control character, or one that turns the direction of writing.
    ForbiddenCharacter,
    /// A space, in a text that may have none.
    Space,
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextFault::Empty => f.write_str("must be set"),
            TextFault::TooLong { max_bytes } => write!(f, "has more than {max_bytes} bytes"),
            TextFault::ForbiddenCharacter => {
                f.write_str("may not contain control characters or ones that change the direction of text")
            }
            TextFault::Space => f.write_str("may not contain spaces"),
        }
    }
}

impl std::error::Error for TextFault {}

impl Describe for TextFault {
    fn fault(&self) -> Fault {
        match self {
            TextFault::Empty => Fault::Required,
            TextFault::TooLong { .. } => Fault::TooLong,
            TextFault::ForbiddenCharacter => Fault::ForbiddenCharacter,
            TextFault::Space => Fault::Malformed,
        }
    }
}

/// Checks a text of one line. An empty one is fine.
pub fn plain_text(text: &str, max_bytes: usize) -> Result<(), TextFault> {
    check(text, max_bytes, is_forbidden)
}

/// Checks a text that may have several lines: as [`plain_text`], but line feeds and tabs are fine.
pub fn multiline(text: &str, max_bytes: usize) -> Result<(), TextFault> {
    check(text, max_bytes, |c| !matches!(c, '\n' | '\t') && is_forbidden(c))
}

fn check(text: &str, max_bytes: usize, forbidden: impl Fn(char) -> bool) -> Result<(), TextFault> {
    // The length first: it bounds the work.
    if text.len() > max_bytes {
        return Err(TextFault::TooLong { max_bytes });
    }
    if text.chars().any(forbidden) { Err(TextFault::ForbiddenCharacter) } else { Ok(()) }
}

fn is_forbidden(c: char) -> bool {
    c.is_control() || is_line_break(c) || is_bidi_control(c) || is_noncharacter(c)
}

/// The line and paragraph separators, which are no control characters.
fn is_line_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// The property `Bidi_Control` of Unicode (UAX #9): marks, embeddings, overrides and isolates.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The 66 code points that will never be characters: U+FDD0 to U+FDEF and the last two of each plane.
fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// In Unicode's normal form C, so that an accent is the same however it was typed.
pub fn nfc(text: &str) -> String {
    // The normalisation step of the password profile, which is NFC and nothing else (RFC 8265, 4.2.2). It cannot fail.
    OpaqueString::new().normalization_rule(text).map_or_else(|_| text.to_owned(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_scripts_are_text() {
        for text in ["", "Zoë O'Hara-Núñez", "李小龍", "שָׁלוֹם", "हिन्दी", "👩\u{200d}🚀", "a\u{301}"]
        {
            assert_eq!(plain_text(text, 64), Ok(()), "{text}");
        }
    }

    #[test]
    fn controls_directions_and_noncharacters_are_not() {
        let forbidden = [
            '\0',
            '\r',
            '\n',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9f}',
            '\u{61c}',
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2066}',
            '\u{2069}',
            '\u{fdd0}',
            '\u{fdef}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{10ffff}',
        ];
        for c in forbidden {
            assert_eq!(plain_text(&format!("a{c}b"), 64), Err(TextFault::ForbiddenCharacter), "{c:?}");
        }
    }

    #[test]
    fn a_note_may_have_lines_but_no_carriage_returns() {
        assert_eq!(multiline("first\n\tsecond", 64), Ok(()));
        assert_eq!(multiline("first\r\nsecond", 64), Err(TextFault::ForbiddenCharacter));
        assert_eq!(multiline("\0", 64), Err(TextFault::ForbiddenCharacter));
    }

    #[test]
    fn the_limit_counts_bytes() {
        assert_eq!(plain_text("éé", 4), Ok(()));
        assert_eq!(plain_text("ééa", 4), Err(TextFault::TooLong { max_bytes: 4 }));
    }

    #[test]
    fn an_accent_is_the_same_however_it_was_typed() {
        assert_eq!(nfc("e\u{301}"), "\u{e9}");
        assert_eq!(nfc("\u{e9}"), "\u{e9}");
        // Compatibility forms stay: NFC, not NFKC.
        assert_eq!(nfc("\u{fb01}"), "\u{fb01}");
    }
}
