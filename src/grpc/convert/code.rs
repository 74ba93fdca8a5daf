//! Codes of second factors, and what a message says of a second factor.

use zeroize::Zeroizing;

use super::{count, required, stamp};
use crate::domain::second_factor::{RecoveryCode, SecondFactorCode, SecondFactorMethod, TotpCode};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::domain::violation::{Fault, Violations};
use crate::proto::v1;

/// The maximum length of a code in bytes. Twice that of a recovery code with hyphens: people type spaces too.
pub(super) const MAX_CODE_BYTES: usize = 64;

/// Reads a code that need not be sent.
pub(super) fn optional_code(
    faults: &mut Violations,
    message: Option<v1::SecondFactorProof>,
) -> Option<Option<SecondFactorCode>> {
    match message {
        None => Some(None),
        sent => required_code(faults, sent).map(Some),
    }
}

/// Reads a code. What cannot be one is a wrong one, so that it counts.
pub(super) fn required_code(
    faults: &mut Violations,
    message: Option<v1::SecondFactorProof>,
) -> Option<SecondFactorCode> {
    use v1::second_factor_proof::Code;
    match message.and_then(|message| message.code) {
        Some(Code::Totp(text)) => {
            let text = Zeroizing::new(required(faults, "second_factor.totp", text, MAX_CODE_BYTES)?);
            Some(SecondFactorCode::Totp(TotpCode::parse(&text)))
        }
        Some(Code::RecoveryCode(text)) => {
            let text = Zeroizing::new(required(faults, "second_factor.recovery_code", text, MAX_CODE_BYTES)?);
            Some(SecondFactorCode::Recovery(RecoveryCode::parse(&text)))
        }
        None => {
            faults.push("second_factor", Fault::Required, "send a code as totp or recovery_code");
            None
        }
    }
}

pub(in crate::grpc) fn methods(methods: &[SecondFactorMethod]) -> Vec<i32> {
    let number = |method: &SecondFactorMethod| match method {
        SecondFactorMethod::Totp => v1::SecondFactorMethod::Totp.into(),
        SecondFactorMethod::RecoveryCode => v1::SecondFactorMethod::RecoveryCode.into(),
    };
    methods.iter().map(number).collect()
}

/// Converts the second factor of a user to a message.
pub(super) fn status(user: &User, now: Timestamp) -> v1::SecondFactorStatus {
    let factor = user.second_factor.as_ref();
    let later = user.second_factor_from().filter(|from| *from > now);
    v1::SecondFactorStatus {
        required: user.needs_second_factor(now),
        required_from_time: later.map(stamp),
        totp_enrolled: factor.is_some(),
        totp_enroll_time: factor.map(|factor| stamp(factor.enrolled_at)),
        recovery_codes_left: factor.map_or(0, |factor| count(factor.recovery_codes_left)),
        codes_refused_until_time: factor.and_then(|factor| factor.refused_until(now)).map(stamp),
    }
}
