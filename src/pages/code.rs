//! The code of a second factor, as people type it.

use zeroize::Zeroizing;

use crate::domain::second_factor::{RecoveryCode, SecondFactorCode, TotpCode};

/// Reads the field of a code: six digits are of the authenticator, anything else is a recovery code. Authenticators show the digits
/// in two groups, so spaces and hyphens do not count. Returns `None` if nothing was typed.
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

    #[test]
    fn six_digits_are_of_the_authenticator_however_they_are_grouped() {
        for text in ["123456", "123 456", " 123456\t", "123-456", "12 34 56", "123\u{a0}456"] {
            let code = typed(text);
            let Some(SecondFactorCode::Totp(Some(code))) = code else { panic!("{text}: {code:?}") };
            assert_eq!(code.to_string(), "123456");
        }
    }

    #[test]
    fn anything_else_is_a_recovery_code_and_nothing_is_none() {
        for (text, expected) in [
            ("0123-4567-zzzf-vz7v", Some("0123-4567-zzzf-vz7v")),
            (" O123 4567 ZZZF VZ7V ", Some("0123-4567-zzzf-vz7v")),
            ("1234567890123456", Some("1234-5678-9012-3456")),
            ("12345", None),
            ("1234567", None),
            ("12345a", None),
            ("hello", None),
        ] {
            let code = typed(text);
            let Some(SecondFactorCode::Recovery(code)) = code else { panic!("{text}: {code:?}") };
            assert_eq!(code.map(|code| code.expose().to_string()).as_deref(), expected, "{text}");
        }
        assert!(["", " ", " - "].iter().all(|text| typed(text).is_none()));
    }
}
