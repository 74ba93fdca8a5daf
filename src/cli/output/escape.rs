//! Escaping of text from the server.
//!
//! A display name may contain bytes that move the cursor, or marks that change the reading direction so that one name
//! looks like another ("Trojan Source", CVE-2021-42574). Both are printed as `\u{…}`. Joiners (U+200C, U+200D) are printed
//! where a script or an emoji needs them.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces every character that acts on the terminal, or is invisible, by `\u{…}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut before = None;
    let mut symbols = text.chars().peekable();
    while let Some(symbol) = symbols.next() {
        if acts(symbol) && !joins(before, symbol, symbols.peek().copied()) {
            shown.extend(symbol.escape_unicode());
        } else {
            shown.push(symbol);
        }
        before = Some(symbol);
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

/// Returns whether `symbol` is a control character, a line or paragraph separator, a direction mark, or has no width.
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

/// Returns whether `symbol` is a joiner that changes how its neighbours are drawn: between two letters of a script that joins
/// its letters, or, in an emoji, after a picture and before one.
fn joins(before: Option<char>, symbol: char, after: Option<char>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    match symbol {
        '\u{200c}' | '\u{200d}' if is_joining_script(before) && is_joining_script(after) => true,
        '\u{200d}' => (is_picture(before) || is_picture_modifier(before)) && is_picture(after),
        _ => false,
    }
}

/// A letter or mark of a script whose letters join or form conjuncts: Arabic to Mandaic, the scripts of India and Sri Lanka,
/// Tibetan, Myanmar, Khmer, Mongolian, and their extensions.
fn is_joining_script(symbol: char) -> bool {
    !acts(symbol)
        && matches!(symbol,
            '\u{0620}'..='\u{08ff}'
            | '\u{0900}'..='\u{0dff}'
            | '\u{0f00}'..='\u{109f}'
            | '\u{1780}'..='\u{18af}'
            | '\u{1b00}'..='\u{1bff}'
            | '\u{a840}'..='\u{aaff}'
            | '\u{fb50}'..='\u{fdff}'
            | '\u{fe70}'..='\u{fefc}'
            | '\u{11000}'..='\u{11fff}')
}

/// A symbol that can be drawn as a picture: an emoji without digits and signs of ASCII, by the blocks that have them.
fn is_picture(symbol: char) -> bool {
    matches!(symbol, '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1f3fa}' | '\u{1f400}'..='\u{1faff}')
}

/// The selector of the emoji presentation, or a skin tone.
fn is_picture_modifier(symbol: char) -> bool {
    matches!(symbol, '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
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
    fn names_with_joiners_are_printed_as_they_are() {
        let persian = "علی\u{200c}رضا";
        let sinhala = "ශ්\u{200d}රී";
        let family = "👩\u{200d}👩\u{200d}👧 👩🏽\u{200d}💻 ❤\u{fe0f}\u{200d}🔥";
        for name in [persian, sinhala, family] {
            assert_eq!(escape(name), name);
        }
    }

    #[test]
    fn a_joiner_that_joins_nothing_is_shown() {
        assert_eq!(escape("ad\u{200d}a"), "ad\\u{200d}a");
        assert_eq!(escape("علی\u{200c}"), "علی\\u{200c}");
        assert_eq!(escape("ع\u{200c}\u{200c}ر"), "ع\\u{200c}\\u{200c}ر");
        assert_eq!(escape("ع\u{202e}ر"), "ع\\u{202e}ر");
        assert_eq!(escape("👩\u{200d}a"), "👩\\u{200d}a");
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
