//! Requests and messages about second factors.

use zeroize::Zeroizing;

use super::auth::progress;
use super::code::{MAX_CODE_BYTES, optional_code, required_code, status};
use super::{MAX_TICKET_BYTES, bounded, count, etag, finish, note, required, stamp, user_ref};
use crate::app::{
    ConfirmTotp, DisableTotp, EnrollBy, EnrollTotp, RegenerateRecoveryCodes, ResetSecondFactor, TotpConfirmed,
    TotpEnrollment, VerifySecondFactor,
};
use crate::domain::caller::{Caller, Principal};
use crate::domain::second_factor::{AccountLabel, RecoveryCode, TotpCode};
use crate::domain::secret::TicketSecret;
use crate::domain::time::Timestamp;
use crate::domain::violation::{Fault, Violations};
use crate::error::{Result, Unauthenticated};
use crate::proto::v1;

pub(in crate::grpc) fn verify(message: v1::VerifySecondFactorRequest) -> Result<VerifySecondFactor> {
    let mut faults = Violations::new();
    let ticket = required(&mut faults, "ticket", message.ticket, MAX_TICKET_BYTES);
    let code = required_code(&mut faults, message.second_factor);
    finish(faults, || {
        Some(VerifySecondFactor { ticket: TicketSecret::parse(&Zeroizing::new(ticket?)).ok(), code: code? })
    })
}

pub(in crate::grpc) fn enroll(message: v1::EnrollTotpRequest, caller: &Caller) -> Result<EnrollTotp> {
    let mut faults = Violations::new();
    let is_anonymous = caller.principal == Principal::Anonymous;
    let has_code = message.second_factor.is_some();
    let code = optional_code(&mut faults, message.second_factor);
    let label = match message.account_label.as_str() {
        "" => Some(None),
        text => faults.check("account_label", AccountLabel::parse(text)).map(Some),
    };
    let ticket = bounded(&mut faults, "ticket", message.ticket, MAX_TICKET_BYTES).map(Zeroizing::new);
    let has_ticket = ticket.as_ref().is_some_and(|ticket| !ticket.is_empty());
    if has_ticket && !is_anonymous {
        faults.push("ticket", Fault::Conflict, "goes without a bearer token");
    }
    if has_ticket && has_code {
        faults.push("second_factor", Fault::Conflict, "goes without a ticket, which has proved it");
    }
    if !has_ticket && is_anonymous && faults.is_empty() {
        return Err(Unauthenticated::Missing.into());
    }
    finish(faults, || {
        let by = match ticket? {
            ticket if ticket.is_empty() => EnrollBy::Session(code?),
            ticket => EnrollBy::Ticket(TicketSecret::parse(&ticket).ok()),
        };
        Some(EnrollTotp { by, label: label? })
    })
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
        progress: confirmed.progress.as_ref().map(progress),
        second_factor_status: Some(status(&confirmed.user, now)),
        sessions_revoked: count(confirmed.sessions_revoked),
    }
}

pub(in crate::grpc) fn texts(codes: &[RecoveryCode]) -> Vec<String> {
    codes.iter().map(|code| code.expose().to_string()).collect()
}
