//! What comes from elsewhere is shown, never obeyed.
//!
//! A display name may hold bytes that move the cursor, and marks that turn the reading direction round, so that one
//! name looks like another ("Trojan Source", CVE-2021-42574). Both are printed as `\u{…}`.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with every character that would act on the terminal, or hide, written as `\u{…}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for symbol in text.chars() {
        if acts(symbol) {
            shown.extend(symbol.escape_unicode());
        } else {
            shown.push(symbol);
        }
    }
    Cow::Owned(shown)
}

/// The same for JSON text, where such characters stand only inside strings: as `\uXXXX` (RFC 8259, section 7), so
/// that a parser reads what the server sent.
pub(crate) fn escape_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for symbol in text.chars() {
        if symbol != '\n' && acts(symbol) {
            let mut units = [0; 2];
            for unit in symbol.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}"); // Writing to a string does not fail.
            }
        } else {
            shown.push(symbol);
        }
    }
    shown
}

/// Control characters, line and paragraph separators, marks of direction, and characters without a width.
fn acts(symbol: char) -> bool {
    symbol.is_control()
        || matches!(symbol,
            '\u{00ad}'
            | '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays_as_it_is() {
        assert!(matches!(escape("Åsa Öberg 张伟 – ok"), Cow::Borrowed(_)));
    }

    #[test]
    fn controls_and_marks_of_direction_are_shown() {
        assert_eq!(escape("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(escape("ad\u{202e}nim\r\n"), "ad\\u{202e}nim\\u{d}\\u{a}");
        assert_eq!(escape("ad\u{200b}a"), "ad\\u{200b}a");
    }

    #[test]
    fn json_stays_the_same_json() -> Result<(), serde_json::Error> {
        let value = serde_json::json!({"name": "x\u{202e}y\u{9b}\u{e0041}"});
        let text = escape_json(&value.to_string());
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text)?, value);
        Ok(())
    }
}
