//! Requests and messages about second factors.

use zeroize::Zeroizing;

use super::passwords::{MAX_TICKET_BYTES, required};
use super::{count, etag, finish, note, stamp, user_ref};
use crate::app::{
    ConfirmTotp, DisableTotp, EnrollTotp, RegenerateRecoveryCodes, ResetSecondFactor, TotpConfirmed, TotpEnrollment,
    VerifySecondFactor,
};
use crate::domain::second_factor::{
    AccountLabel, RecoveryCode, SecondFactor, SecondFactorCode, SecondFactorMethod, TotpCode,
};
use crate::domain::secret::TicketSecret;
use crate::domain::time::Timestamp;
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of a code in bytes. Twice that of a recovery code with hyphens: people type spaces too.
const MAX_CODE_BYTES: usize = 64;

pub(in crate::grpc) fn verify(message: v1::VerifySecondFactorRequest) -> Result<VerifySecondFactor> {
    let mut faults = Violations::new();
    let ticket = required(&mut faults, "ticket", message.ticket, MAX_TICKET_BYTES);
    let code = required_code(&mut faults, message.second_factor);
    finish(faults, || {
        Some(VerifySecondFactor { ticket: TicketSecret::parse(&Zeroizing::new(ticket?)).ok(), code: code? })
    })
}

pub(in crate::grpc) fn enroll(message: v1::EnrollTotpRequest) -> Result<EnrollTotp> {
    let mut faults = Violations::new();
    let code = optional_code(&mut faults, message.second_factor);
    let label = match message.account_label.as_str() {
        "" => Some(None),
        text => faults.check("account_label", AccountLabel::parse(text)).map(Some),
    };
    finish(faults, || Some(EnrollTotp { code: code?, label: label? }))
}

pub(in crate::grpc) fn confirm(message: v1::ConfirmTotpRequest) -> Result<ConfirmTotp> {
    let mut faults = Violations::new();
    let ticket = required(&mut faults, "ticket", message.ticket, MAX_TICKET_BYTES);
    let code = required(&mut faults, "code", message.code, MAX_CODE_BYTES);
    finish(faults, || {
        let ticket = TicketSecret::parse(&Zeroizing::new(ticket?)).ok();
        Some(ConfirmTotp { ticket, code: TotpCode::parse(&Zeroizing::new(code?)) })
    })
}

pub(in crate::grpc) fn disable(message: v1::DisableTotpRequest) -> Result<DisableTotp> {
    let mut faults = Violations::new();
    let code = required_code(&mut faults, message.second_factor);
    finish(faults, || Some(DisableTotp { code: code? }))
}

pub(in crate::grpc) fn regenerate(message: v1::RegenerateRecoveryCodesRequest) -> Result<RegenerateRecoveryCodes> {
    let mut faults = Violations::new();
    let code = required_code(&mut faults, message.second_factor);
    finish(faults, || Some(RegenerateRecoveryCodes { code: code? }))
}

pub(in crate::grpc) fn reset(message: v1::ResetSecondFactorRequest) -> Result<ResetSecondFactor> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    finish(faults, || Some(ResetSecondFactor { user: user?, note: note?, etag: etag? }))
}

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
fn required_code(faults: &mut Violations, message: Option<v1::SecondFactorProof>) -> Option<SecondFactorCode> {
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
pub(super) fn status(factor: Option<&SecondFactor>, now: Timestamp) -> v1::SecondFactorStatus {
    v1::SecondFactorStatus {
        totp_enrolled: factor.is_some(),
        totp_enroll_time: factor.map(|factor| stamp(factor.enrolled_at)),
        recovery_codes_left: factor.map_or(0, |factor| count(factor.recovery_codes_left)),
        codes_refused_until_time: factor.and_then(|factor| factor.refused_until(now)).map(stamp),
    }
}

pub(in crate::grpc) fn enrolled(enrollment: &TotpEnrollment) -> v1::EnrollTotpResponse {
    v1::EnrollTotpResponse {
        ticket: enrollment.ticket.expose().to_string(),
        secret: enrollment.secret.to_string(),
        otpauth_uri: enrollment.uri.to_string(),
        expire_time: Some(stamp(enrollment.expires_at)),
    }
}

pub(in crate::grpc) fn confirmed(confirmed: &TotpConfirmed, now: Timestamp) -> v1::ConfirmTotpResponse {
    v1::ConfirmTotpResponse {
        recovery_codes: texts(&confirmed.recovery_codes),
        second_factor_status: Some(status(confirmed.user.second_factor.as_ref(), now)),
        sessions_revoked: count(confirmed.sessions_revoked),
    }
}

pub(in crate::grpc) fn texts(codes: &[RecoveryCode]) -> Vec<String> {
    codes.iter().map(|code| code.expose().to_string()).collect()
}
