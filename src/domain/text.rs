//! Validation of text input.
//!
//! SQLite stores NUL and PostgreSQL rejects it. Other control characters can forge log lines (OWASP Logging Cheat
//! Sheet). Characters that change the writing direction can make one name look like another (CVE-2021-42574).

use unicode_normalization::UnicodeNormalization;

use super::violation::{Describe, Fault};

/// Why a text is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TextFault {
    /// The text is required but empty.
    #[error("must be set")]
    Empty,
    /// The text is too long.
    #[error("has more than {max_bytes} bytes")]
    TooLong {
        /// The maximum in bytes.
        max_bytes: usize,
    },
    /// Contains a control character or one that changes the writing direction.
    #[error("may not contain control characters or ones that change the direction of text")]
    ForbiddenCharacter,
    /// Contains a space where none is allowed.
    #[error("may not contain spaces")]
    Space,
}

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

/// Checks a single-line text. An empty text is valid.
pub fn plain_text(text: &str, max_bytes: usize) -> Result<(), TextFault> {
    check(text, max_bytes, is_forbidden)
}

/// Checks a text that may have several lines: as [`plain_text`], but line feeds and tabs are allowed.
pub fn multiline(text: &str, max_bytes: usize) -> Result<(), TextFault> {
    check(text, max_bytes, |c| !matches!(c, '\n' | '\t') && is_forbidden(c))
}

/// Returns the text on one line, with a mark in place of each character that [`plain_text`] rejects.
pub fn to_plain_text(text: &str, mark: char) -> String {
    text.chars().map(|c| if is_forbidden(c) { mark } else { c }).collect()
}

/// The same for several lines: line feeds and tabs stay.
pub fn to_multiline(text: &str, mark: char) -> String {
    text.chars().map(|c| if !matches!(c, '\n' | '\t') && is_forbidden(c) { mark } else { c }).collect()
}

fn check(text: &str, max_bytes: usize, forbidden: impl Fn(char) -> bool) -> Result<(), TextFault> {
    // The length is checked first, because it bounds the work.
    if text.len() > max_bytes {
        return Err(TextFault::TooLong { max_bytes });
    }
    if text.chars().any(forbidden) { Err(TextFault::ForbiddenCharacter) } else { Ok(()) }
}

fn is_forbidden(c: char) -> bool {
    c.is_control() || is_line_break(c) || is_bidi_control(c) || is_noncharacter(c)
}

/// Returns whether `c` is a line or paragraph separator; these are not control characters.
fn is_line_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Returns whether `c` has the Unicode property `Bidi_Control` (UAX #9): marks, embeddings, overrides and isolates.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether `c` is one of the 66 noncharacters: U+FDD0 to U+FDEF and the last two code points of each plane.
fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// Normalises to NFC, so that an accent is the same however it was typed.
pub fn nfc(text: &str) -> String {
    text.nfc().collect()
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
        // NFC, not NFKC: compatibility forms are kept.
        assert_eq!(nfc("\u{fb01}"), "\u{fb01}");
    }
}
