//! Plaintext passwords, and the rules for new ones.
//!
//! Every password is prepared in the same way when it is set and when it is verified: other spaces become the ASCII space,
//! the text is normalised to NFC, control characters and unassigned code points are rejected. Case and width are kept. NIST
//! SP 800-63B-4, 3.1.1.2 recommends such a normalisation, because keyboards differ in how they compose accents.
//!
//! What was accepted once must be prepared alike for ever, or its hashes are lost: see ADR 0007.

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use zeroize::Zeroizing;

use super::violation::{Describe, Fault};

mod rules;
mod strength;
mod words;

pub use self::rules::{Evidence, LengthBounds, PasswordRules, RuleBroken};
pub use self::strength::{Advice, Hint, Strength, Weakness, strength_of};
pub use self::words::ContextWords;

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
    /// Contains a control character or an unassigned code point.
    #[error("may not contain control characters or code points that Unicode does not assign")]
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
        prepared(&text).map(PlainPassword).ok_or(PasswordFault::NotText)
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

/// Maps spaces and normalises. Returns `None` if a character is not allowed.
fn prepared(text: &str) -> Option<Zeroizing<String>> {
    if !text.chars().all(is_allowed) {
        return None;
    }
    // Allocated with the largest size, so that growing leaves no copy behind.
    let mut prepared = Zeroizing::new(String::with_capacity(text.len() * NFC_GROWTH));
    prepared.extend(text.chars().map(mapped).nfc());
    Some(prepared)
}

/// The factor by which NFC can lengthen a text in UTF-8 (UAX #15, 14.1).
const NFC_GROWTH: usize = 3;

fn is_allowed(c: char) -> bool {
    !matches!(c.general_category(), GeneralCategory::Control | GeneralCategory::Unassigned)
}

/// Maps every space to the one on all keyboards.
fn mapped(c: char) -> char {
    if c.general_category() == GeneralCategory::SpaceSeparator { ' ' } else { c }
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
    /// A password that breaks no rule.
    fn judged(password: PlainPassword) -> AcceptedPassword {
        AcceptedPassword(password)
    }

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
        for wrong in ["a\0b", "a\nb", "\u{7f}", "\u{85}", "\u{378}", "\u{fdd0}", "\u{fffe}", "\u{10ffff}"] {
            assert_eq!(prepared(wrong), Err(PasswordFault::NotText), "{wrong:?}");
            assert!(PlainPassword::parse(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_password_may_contain_emoji_newer_than_2013() {
        for typed in ["\u{1f408}", "\u{1f916}", "\u{1fae9}", "\u{1f1fa}\u{1f1e6}"] {
            assert_eq!(prepared(typed), Ok(typed.into()), "{typed}");
        }
    }

    #[test]
    fn a_password_may_contain_joiners_and_variation_selectors() {
        let family = "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}";
        let written = ["\u{915}\u{94d}\u{200c}\u{937}", "\u{2764}\u{fe0f}", "\u{845b}\u{e0100}", "a\u{200b}b"];
        for typed in written.into_iter().chain([family]) {
            assert_eq!(prepared(typed), Ok(typed.into()), "{typed:?}");
        }
        assert_ne!(prepared("\u{2764}\u{fe0f}"), prepared("\u{2764}"), "what is typed counts");
    }

    #[test]
    fn a_password_may_contain_every_assigned_character_but_controls() {
        for typed in ["\u{20bf}", "\u{1e9e}", "\u{10d4a}", "\u{1100}\u{1161}", "\u{e000}", "\u{202e}", "\u{2028}"] {
            assert!(prepared(typed).is_ok(), "{typed:?}");
        }
    }

    #[test]
    fn the_normalisation_knows_every_character_that_is_accepted() {
        let (major, minor, update) = unicode_normalization::UNICODE_VERSION;
        let normalisation = (u64::from(major), u64::from(minor), u64::from(update));
        assert!(unicode_properties::UNICODE_VERSION <= normalisation, "a later table could change accepted passwords");
    }

    /// The characters that earlier versions accepted anywhere in a password: those of `OpaqueString` in `precis-profiles`.
    const ACCEPTED_BEFORE: &str = include_str!("password/accepted_before.txt");

    /// The digest of what `precis-profiles` made of the samples.
    const PREPARED_BEFORE: u64 = 0xb3f1_e26b_2864_beef;

    #[test]
    fn a_password_that_was_accepted_before_is_prepared_to_the_same_bytes() {
        let accepted = ACCEPTED_BEFORE.split_whitespace().flat_map(range).collect::<Vec<char>>();
        assert_eq!(accepted.len(), 109_319);
        let prepared = samples(&accepted).into_iter().filter_map(|text| prepared(&text).ok());
        assert_eq!(digest(prepared), PREPARED_BEFORE, "old hashes would no longer verify");
        // What was accepted only between certain neighbours.
        let between =
            ["l\u{b7}l", "\u{915}\u{94d}\u{200d}\u{937}", "\u{375}\u{3b1}", "\u{5d0}\u{5f3}", "\u{661}\u{662}"];
        for typed in between {
            assert_eq!(super::prepared(typed).map(|text| text.to_string()), Some(typed.to_owned()), "{typed}");
        }
    }

    /// The characters of `41-5a`, or of `41`.
    fn range(text: &str) -> impl Iterator<Item = char> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let code = |text| u32::from_str_radix(text, 16).unwrap_or_default();
        (code(first)..=code(last)).filter_map(char::from_u32)
    }

    /// Each of the characters, its decomposition, and random strings of both.
    fn samples(accepted: &[char]) -> Vec<String> {
        let is_accepted = |text: &String| text.chars().all(|c| accepted.binary_search(&c).is_ok());
        let decompositions = accepted.iter().map(|c| c.to_string().nfd().collect::<String>()).filter(is_accepted);
        let decompositions = decompositions.collect::<Vec<_>>();
        let composed = decompositions.iter().filter(|text| text.chars().count() > 1);
        let parts = composed.flat_map(|text| text.chars()).collect::<Vec<_>>();
        let mut state: u64 = 1;
        let mut below = |bound: usize| {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % bound as u64).unwrap_or_default()
        };
        let mut random = Vec::new();
        for _ in 0..50_000 {
            let length = 1 + below(8);
            let mut text = String::new();
            for _ in 0..length {
                let from = if below(4) > 0 { parts.as_slice() } else { accepted };
                text.extend(from.get(below(from.len())));
            }
            random.push(text);
        }
        accepted.iter().map(ToString::to_string).chain(decompositions).chain(random).collect()
    }

    /// FNV-1a, with a NUL after each text.
    fn digest(texts: impl Iterator<Item = String>) -> u64 {
        let bytes = texts.flat_map(|text| text.into_bytes().into_iter().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn bytes_are_bounded_before_anything_else() {
        assert!(prepared(&"a".repeat(4096)).is_ok());
        assert_eq!(prepared(&"a".repeat(4097)), Err(PasswordFault::TooLong));
        assert_eq!(prepared(&"\0".repeat(4097)), Err(PasswordFault::TooLong));
    }

    #[test]
    fn debug_shows_nothing() {
        let password = PlainPassword::parse("correct horse".to_owned());
        assert_eq!(format!("{password:?}"), "Ok(PlainPassword([redacted]))");
    }
}
