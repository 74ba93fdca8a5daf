//! Second factors: the authenticator of a user, and recovery codes for when it is lost.

mod recovery_code;
mod totp;

use std::time::Duration;

pub use self::recovery_code::{RECOVERY_CODES, RecoveryCode};
pub use self::totp::{AccountLabel, STEP, TotpCode, TotpKey, TotpStep};
use super::lockout::ThrottleRules;
use super::time::Timestamp;

/// When wrong codes make a user wait. Not configurable: six digits can be guessed, and whoever guesses them knows the password.
/// With the longest wait, a guesser gets 24 tries a day at 3 of 1 000 000 codes. NIST SP 800-63B-4, 3.2.2 asks for a limit.
pub const CODE_RULES: ThrottleRules = ThrottleRules {
    threshold: 5,
    initial: Duration::from_secs(30),
    max: Duration::from_hours(1),
    lockout_threshold: 0,
    lockout_duration: Duration::ZERO,
    failure_memory: Duration::from_hours(24),
};

/// What a second factor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum SecondFactorMethod {
    /// A code of the authenticator.
    Totp,
    /// A recovery code.
    RecoveryCode,
}

impl SecondFactorMethod {
    /// The name in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            SecondFactorMethod::Totp => "TOTP",
            SecondFactorMethod::RecoveryCode => "RECOVERY_CODE",
        }
    }
}

/// A code that a user sent. What cannot be a code is a wrong one.
#[derive(Debug)]
pub enum SecondFactorCode {
    /// Of the authenticator.
    Totp(Option<TotpCode>),
    /// Of the list of recovery codes.
    Recovery(Option<RecoveryCode>),
}

/// The second factor of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecondFactor {
    /// When the authenticator was confirmed.
    pub enrolled_at: Timestamp,
    /// Recovery codes that were not used.
    pub recovery_codes_left: u32,
    /// Consecutive wrong codes.
    pub failures: u32,
    /// Until when codes are refused after wrong ones. It may have passed.
    pub waits_until: Option<Timestamp>,
}

impl SecondFactor {
    /// Until when codes are refused after wrong ones. `None` if they are not.
    pub fn refused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.waits_until.filter(|until| *until > now)
    }

    /// The same without wrong codes.
    #[must_use]
    pub fn without_wrong_codes(self) -> SecondFactor {
        SecondFactor { failures: 0, waits_until: None, ..self }
    }

    /// What is accepted.
    pub fn methods(&self) -> Vec<SecondFactorMethod> {
        let recovery = (self.recovery_codes_left > 0).then_some(SecondFactorMethod::RecoveryCode);
        [SecondFactorMethod::Totp].into_iter().chain(recovery).collect()
    }
}

/// What a user has proved in a sign-in: the password, and perhaps a second factor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proofs {
    /// The second factor.
    pub second_factor: Option<SecondFactorMethod>,
}

impl Proofs {
    /// The password alone.
    pub const PASSWORD: Proofs = Proofs { second_factor: None };

    /// The values of the `amr` claim (RFC 8176). It has none for a recovery code.
    pub fn auth_methods(self) -> Vec<String> {
        let methods: &[&str] = match self.second_factor {
            None => &["pwd"],
            Some(SecondFactorMethod::Totp) => &["pwd", "otp", "mfa"],
            Some(SecondFactorMethod::RecoveryCode) => &["pwd", "mfa"],
        };
        methods.iter().map(|method| (*method).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_a_session_are_those_of_rfc_8176() {
        let of = |second_factor| Proofs { second_factor }.auth_methods().join(" ");
        assert_eq!(of(None), "pwd");
        assert_eq!(of(Some(SecondFactorMethod::Totp)), "pwd otp mfa");
        assert_eq!(of(Some(SecondFactorMethod::RecoveryCode)), "pwd mfa");
    }

    #[test]
    fn five_wrong_codes_make_the_user_wait_and_the_wait_grows_to_an_hour() {
        let waits = [4, 5, 6, 7, 11, 12, 40].map(|failures| CODE_RULES.wait_after(failures).map(|wait| wait.as_secs()));
        assert_eq!(waits, [None, Some(30), Some(60), Some(120), Some(1920), Some(3600), Some(3600)]);
    }
}
