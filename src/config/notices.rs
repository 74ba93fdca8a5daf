//! Which notices users get.

use super::key::{Allowed, Value};
use crate::domain::delivery::LetterKind;

/// The notices, each with its name.
const ALL: [(&str, LetterKind); 11] = [
    ("password_changed", LetterKind::PasswordChanged),
    ("password_reset", LetterKind::PasswordResetDone),
    ("compromised", LetterKind::Compromised),
    ("address_changed", LetterKind::AddressChanged),
    ("totp_enrolled", LetterKind::TotpEnrolled),
    ("totp_disabled", LetterKind::TotpDisabled),
    ("second_factor_reset", LetterKind::SecondFactorReset),
    ("recovery_code_used", LetterKind::RecoveryCodeUsed),
    ("wrong_codes", LetterKind::WrongCodes),
    ("password_expiring", LetterKind::PasswordExpiring),
    ("inactive", LetterKind::AccountInactive),
];

/// The notices that users get.
#[derive(Debug, Clone)]
pub(super) struct Notices(pub(super) Vec<LetterKind>);

/// The names of notices.
pub(super) const NOTICES: Allowed =
    Allowed::Text("names of notices, separated by commas, or `off`", |text| Notices::read(text).is_some());

impl Default for Notices {
    fn default() -> Notices {
        Notices(ALL.map(|(_, kind)| kind).to_vec())
    }
}

impl Value for Notices {
    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Notices(Vec::new()));
        }
        let kind = |name: &str| ALL.into_iter().find(|(known, _)| *known == name.trim()).map(|(_, kind)| kind);
        text.split(',').map(kind).collect::<Option<_>>().map(Notices)
    }

    fn write(&self) -> String {
        let name = |kind: &LetterKind| ALL.into_iter().find(|(_, known)| known == kind).map(|(name, _)| name);
        let names: Vec<&str> = self.0.iter().filter_map(name).collect();
        if names.is_empty() { "off".to_owned() } else { names.join(",") }
    }
}
