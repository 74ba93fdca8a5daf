//! The picture that an authenticator scans (ISO/IEC 18004), as an SVG path.

use std::fmt::Write as _;

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the picture, without which readers do not find it (ISO/IEC 18004, 5.3.8).
const QUIET: usize = 4;

/// A picture of dark squares, one unit each.
pub(super) struct Picture {
    /// The `d` of an SVG path.
    pub(super) path: String,
    /// Width and height, with the light border.
    pub(super) side: usize,
}

/// Draws a text, with few and large modules, since nothing smudges a screen. Returns `None` if it is too long.
pub(super) fn draw(text: &str) -> Option<Picture> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let mut path = String::new();
    for (row, modules) in code.to_colors().chunks(code.width()).enumerate() {
        let mut column = 0;
        // One rectangle for neighbours of one colour.
        for run in modules.chunk_by(|one, next| one == next) {
            if run.first() == Some(&Color::Dark) {
                let (x, y, length) = (column + QUIET, row + QUIET, run.len());
                let _ = write!(path, "M{x} {y}h{length}v1h-{length}z");
            }
            column += run.len();
        }
    }
    Some(Picture { path, side: code.width() + 2 * QUIET })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_begins_with_the_finder_pattern_inside_a_light_border() {
        let picture = draw("otpauth://totp/ACME:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=ACME");
        let is_right = |picture: &Picture| {
            // Each version has four modules more than the one before, and the first has 21.
            picture.path.starts_with("M4 4h7v1h-7z") && (picture.side - 2 * QUIET - 21).is_multiple_of(4)
        };
        assert!(picture.is_some_and(|picture| is_right(&picture)));
        assert!(draw(&"a".repeat(4000)).is_none());
    }
}
