//! Recovery codes: for a user who has lost the authenticator.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// How many codes a user gets.
pub const RECOVERY_CODES: usize = 10;

/// Length of a code in bytes: 80 bits, more than the 64 of NIST SP 800-63B-4, 3.1.2.2, and short enough to copy from paper. The
/// database holds a keyed digest of each, so that a reader of the database cannot guess them.
const BYTES: usize = 10;

/// Symbols in a group.
const GROUP: usize = 4;

/// Crockford's alphabet, without `i`, `l`, `o` and `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A recovery code: sixteen symbols in groups of four.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RecoveryCode([u8; BYTES]);

impl RecoveryCode {
    /// Creates a code from random bytes.
    pub const fn from_bytes(bytes: [u8; BYTES]) -> RecoveryCode {
        RecoveryCode(bytes)
    }

    /// Parses what a user typed from paper: case, hyphens and spaces do not count, and symbols that look alike are one.
    pub fn parse(text: &str) -> Option<RecoveryCode> {
        let mut symbols = text.bytes().filter(|byte| !matches!(byte, b'-' | b' '));
        let mut bytes = [0; BYTES];
        // Eight symbols of five bits are five bytes.
        for chunk in bytes.chunks_exact_mut(5) {
            let mut bits = 0_u64;
            for _ in 0..8 {
                bits = (bits << 5) | u64::from(value(symbols.next()?)?);
            }
            chunk.copy_from_slice(bits.to_be_bytes().get(3..)?);
        }
        symbols.next().is_none().then_some(RecoveryCode(bytes))
    }

    /// What the digest is computed of.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, given to the user once.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * BYTES));
        for (at, symbol) in self.0.chunks_exact(5).flat_map(symbols).enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(symbol));
        }
        text
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryCode([redacted])")
    }
}

/// The eight symbols of five bytes.
fn symbols(bytes: &[u8]) -> impl Iterator<Item = u8> + use<> {
    let bits = bytes.iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (0..8).rev().filter_map(move |at| ALPHABET.get(usize::try_from((bits >> (5 * at)) & 31).ok()?).copied())
}

fn value(symbol: u8) -> Option<u8> {
    let folded = match symbol.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    u8::try_from(ALPHABET.iter().position(|known| *known == folded)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_its_text() {
        let code = RecoveryCode::from_bytes([0x00, 0x44, 0x32, 0x14, 0xc7, 0xff, 0xfe, 0xfd, 0xfc, 0xfb]);
        assert_eq!(*code.expose(), "0123-4567-zzzf-vz7v");
        let parsed = RecoveryCode::parse("0123-4567-zzzf-vz7v");
        assert_eq!(parsed.map(|parsed| parsed.0), Some(code.0));
    }

    #[test]
    fn what_is_typed_from_paper_is_read_kindly() {
        for typed in [
            "0123-4567-zzzf-vz7v",
            "0123 4567 ZZZF VZ7V",
            "o1234567zzzfvz7v",
            "OI23-4567-zzzf-vz7v",
            "ol234567ZZZFVZ7V",
        ] {
            let text = RecoveryCode::parse(typed).map(|code| code.expose());
            assert_eq!(text.as_deref().map(String::as_str), Some("0123-4567-zzzf-vz7v"), "{typed}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for typed in
            ["", "0123-4567-zzzf-vz7", "0123-4567-zzzf-vz7v0", "u123-4567-zzzf-vz7v", "0123-4567-zzzf-vz7é", "123456"]
        {
            assert!(RecoveryCode::parse(typed).is_none(), "{typed}");
        }
    }
}
