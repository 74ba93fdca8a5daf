//! Search terms of users.
//!
//! The store indexes the terms of each user and searches by prefix ranges. No pattern is built from input, and the cost
//! of a search depends on the number of matches.

use std::collections::BTreeSet;

use super::DisplayName;
use crate::domain::email::EmailAddress;
use crate::domain::text::{TextFault, nfc, plain_text};
use crate::domain::username::Username;

/// Maximum length of a term in characters; the rest of a longer one is not searchable.
const MAX_TERM_CHARS: usize = 64;

/// The beginning of a term, as entered by an operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SearchText(String);

impl SearchText {
    /// Maximum length in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Parses a filter. Returns `None` if it is empty.
    pub fn parse(text: &str) -> Result<Option<SearchText>, TextFault> {
        plain_text(text, Self::MAX_BYTES)?;
        let folded = fold(text);
        Ok((!folded.is_empty()).then_some(SearchText(folded)))
    }

    /// The folded text, which is the smallest text with this prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The smallest text, bytewise, that is greater than all texts with this prefix. Returns `None` if there is none.
    pub fn prefix_end(&self) -> Option<String> {
        // UTF-8 sorts like code points, so the last character that has a successor is replaced by it.
        let mut kept = self.0.clone();
        while let Some(last) = kept.pop() {
            if let Some(next) = successor(last) {
                kept.push(next);
                return Some(kept);
            }
        }
        None
    }
}

/// The next character, skipping surrogates.
fn successor(c: char) -> Option<char> {
    (c..=char::MAX).nth(1)
}

/// Returns the terms by which a user is found: the username, the key of the e-mail address, and the display name from
/// the start of each word, so that a filter can span several words. `Ada O'Brien-Smith` is found by `ada o`, by
/// `o'brien` and by `smith`.
pub fn search_terms(username: &Username, email: Option<&EmailAddress>, name: Option<&DisplayName>) -> BTreeSet<String> {
    let name = name.map(|name| nfc(name.as_str())).unwrap_or_default();
    [username.as_str()]
        .into_iter()
        .chain(email.map(EmailAddress::key))
        .chain(from_each_word(&name))
        .map(fold)
        .filter(|term| !term.is_empty())
        .collect()
}

/// Yields the text from the start of each word.
fn from_each_word(text: &str) -> impl Iterator<Item = &str> {
    let mut before = ' ';
    text.char_indices().filter_map(move |(at, c)| {
        let begins = c.is_alphanumeric() && !before.is_alphanumeric();
        before = c;
        if begins { text.get(at..) } else { None }
    })
}

/// Folds to lower case, single spaces and NFC, and truncates. The final sigma becomes a plain sigma, because lower case
/// distinguishes the two.
fn fold(text: &str) -> String {
    let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lower: String = spaced.chars().flat_map(char::to_lowercase).map(|c| if c == 'ς' { 'σ' } else { c }).collect();
    nfc(&lower).chars().take(MAX_TERM_CHARS).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn terms(username: &str, email: &str, name: &str) -> Vec<String> {
        let username = Username::parse(username).unwrap();
        let email = EmailAddress::parse_optional(email).unwrap();
        let name = DisplayName::parse(name).unwrap();
        search_terms(&username, email.as_ref(), name.as_ref()).into_iter().collect()
    }

    fn search(text: &str) -> SearchText {
        SearchText::parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_user_is_found_by_name_address_and_words() {
        assert_eq!(
            terms("Ada", "Ada@Example.com", "Augusta Ada KING"),
            ["ada", "ada king", "ada@example.com", "augusta ada king", "king"]
        );
        assert_eq!(terms("bob", "", ""), ["bob"]);
        assert_eq!(
            terms("x", "", "(Zoë) O'Brien-Smith"),
            ["brien-smith", "o'brien-smith", "smith", "x", "zoë) o'brien-smith"]
        );
    }

    #[test]
    fn a_filter_is_folded_as_the_terms_are() {
        assert_eq!(terms("x", "", "E\u{301}MILE"), ["x", search("E\u{301}mile").as_str()]);
        assert_eq!(terms("x", "", "ΣΊΣΥΦΟΣ"), ["x", search("σίσυφος").as_str()]);
        assert_eq!(terms("x", "", "Σίσυφος"), ["x", search("ΣΊΣΥΦΟΣ").as_str()]);
        let long = "A".repeat(100);
        assert_eq!(terms("x", "", &long), [search(&long).as_str(), "x"]);
        assert_eq!(search(&long).as_str().len(), 64);
    }

    #[test]
    fn a_filter_is_short_and_plain() {
        assert_eq!(SearchText::parse("  "), Ok(None));
        assert_eq!(SearchText::parse(&"a".repeat(129)), Err(TextFault::TooLong { max_bytes: 128 }));
        assert_eq!(SearchText::parse("a\0"), Err(TextFault::ForbiddenCharacter));
        // No pattern syntax: these characters are literal.
        assert_eq!(search("100%_\\").as_str(), "100%_\\");
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_text_without_it() {
        let end = |text: &str| search(text).prefix_end();
        assert_eq!(end("ada"), Some("adb".into()));
        assert_eq!(end("z"), Some("{".into()));
        assert_eq!(end("zoë"), Some("zoì".into()));
    }

    #[test]
    fn the_end_of_a_prefix_skips_what_is_no_character() {
        let end = |text: &str| SearchText(text.to_owned()).prefix_end();
        assert_eq!(end("a\u{d7ff}"), Some("a\u{e000}".into()));
        assert_eq!(end("a\u{10ffff}"), Some("b".into()));
        assert_eq!(end("\u{10ffff}\u{10ffff}"), None);
        for text in ["a", "ab\u{7ff}", "é", "\u{ffff}", "\u{d7ff}"] {
            let end = end(text).unwrap();
            assert!(end.as_str() > text && end > format!("{text}\u{10ffff}"));
        }
    }
}
