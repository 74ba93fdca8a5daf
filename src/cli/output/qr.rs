//! QR codes for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Black on white, as a scanner expects, whatever the terminal's own colours are: entries of the 256-colour cube (16 and 231),
/// which themes do not change.
const BLACK_ON_WHITE: &str = "\x1b[38;5;16;48;5;231m";
const RESET: &str = "\x1b[0m";

/// Light modules on each side, which a scanner needs (ISO/IEC 18004, 6.3.8).
const QUIET: usize = 4;

/// The lines of a QR code, two modules high and one wide in each symbol. `None` if the text is too long, or the terminal is too
/// narrow.
pub(crate) fn lines(text: &str, width: usize) -> Option<Vec<String>> {
    // A screen has no dirt and no folds: the lowest level of correction makes the smallest code.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    if code.width() + 2 * QUIET > width {
        return None;
    }
    let drawn = code.render::<Dense1x2>().quiet_zone(true).build();
    Some(drawn.lines().map(|line| format!("{BLACK_ON_WHITE}{line}{RESET}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_four_light_modules_around_it_and_both_colours() {
        let lines = lines("otpauth://totp/latchkey:ada?secret=AAAA", 80).unwrap_or_default();
        let of = |line: &String| {
            line.strip_prefix(BLACK_ON_WHITE).and_then(|line| line.strip_suffix(RESET)).map(str::to_owned)
        };
        let symbols: Vec<String> = lines.iter().filter_map(of).collect();
        assert!(symbols.len() == lines.len() && symbols.len() > 10, "{lines:?}");
        let columns = symbols.first().map_or(0, |line| line.chars().count());
        assert_eq!(symbols.len(), columns.div_ceil(2), "square");
        for line in &symbols {
            assert!(line.chars().count() == columns && line.starts_with("    ") && line.ends_with("    "), "{line}");
        }
        let blank = |line: &String| line.trim().is_empty();
        assert!(symbols.iter().take(2).all(blank) && symbols.iter().rev().take(2).all(blank), "{symbols:#?}");
        assert!(symbols.get(2).is_some_and(|line| !blank(line)), "{symbols:#?}");
    }

    #[test]
    fn a_narrow_terminal_gets_none() {
        assert!(lines("otpauth://totp/latchkey:ada?secret=AAAA", 30).is_none());
    }
}
