//! The code of a second factor, as people type it.

use zeroize::Zeroizing;

use crate::domain::second_factor::{RecoveryCode, SecondFactorCode, TotpCode};

/// Reads the field of a code: six digits are of the authenticator, anything else is a recovery code. Authenticators show the
/// digits in two groups, so spaces and hyphens do not count. Returns `None` if nothing was typed.
pub(super) fn typed(text: &str) -> Option<SecondFactorCode> {
    let text = compact(text);
    if text.is_empty() {
        return None;
    }
    Some(match TotpCode::parse(&text) {
        Some(code) => SecondFactorCode::Totp(Some(code)),
        None => SecondFactorCode::Recovery(RecoveryCode::parse(&text)),
    })
}

fn compact(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.chars().filter(|symbol| *symbol != '-' && !symbol.is_whitespace()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totp(text: &str) -> Option<String> {
        match typed(text)? {
            SecondFactorCode::Totp(code) => code.map(|code| code.to_string()),
            SecondFactorCode::Recovery(_) => None,
        }
    }

    /// The recovery code, or an empty text for one that cannot be one.
    fn recovery(text: &str) -> Option<String> {
        match typed(text)? {
            SecondFactorCode::Totp(_) => None,
            SecondFactorCode::Recovery(code) => Some(code.map_or_else(String::new, |code| code.expose().to_string())),
        }
    }

    #[test]
    fn six_digits_are_of_the_authenticator_however_they_are_grouped() {
        for text in ["123456", "123 456", " 123456\t", "123-456", "12 34 56", "123\u{a0}456"] {
            assert_eq!(totp(text).as_deref(), Some("123456"), "{text}");
        }
    }

    #[test]
    fn anything_else_is_a_recovery_code_and_nothing_is_none() {
        for (text, expected) in [
            ("0123-4567-zzzf-vz7v", "0123-4567-zzzf-vz7v"),
            (" O123 4567 ZZZF VZ7V ", "0123-4567-zzzf-vz7v"),
            ("1234567890123456", "1234-5678-9012-3456"),
            ("12345", ""),
            ("1234567", ""),
            ("12345a", ""),
            ("hello", ""),
        ] {
            assert_eq!(recovery(text).as_deref(), Some(expected), "{text}");
        }
        assert!(["", " ", " - "].iter().all(|text| typed(text).is_none()));
    }
}
