//! Escaping of text from the server.
//!
//! A display name may contain bytes that move the cursor, or marks that change the reading direction so that one name
//! looks like another ("Trojan Source", CVE-2021-42574). Both are printed as `\u{…}`.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces every character that acts on the terminal, or is invisible, by `\u{…}`.
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

/// Replaces such characters in JSON text, where they occur only inside strings, by `\uXXXX` (RFC 8259, section 7). A
/// parser still reads what the server sent.
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

/// Whether `symbol` is a control character, a line or paragraph separator, a direction mark, or has no width.
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
