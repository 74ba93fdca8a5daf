//! Requests about passwords.
//!
//! Each password moves at once into a type that is wiped on drop and never printed.

use super::code::optional_code;
use super::users::{MAX_TEMPORARY_TTL, handover, idempotency};
use super::{MAX_TICKET_BYTES, duration, etag, finish, note, required, user_ref};
use crate::app::{
    ChangePassword, CompletePasswordChange, Handover, NewPassword, Reauthenticate, RequirePasswordChange, ResetMethod,
    ResetPassword, WaivePasswordChange,
};
use crate::domain::link::{LinkWay, LinkWish, MAX_INVITE_TTL};
use crate::domain::password::{PasswordFault, PlainPassword};
use crate::domain::secret::TicketSecret;
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

pub(in crate::grpc) fn reset_password(mut message: v1::ResetPasswordRequest) -> Result<ResetPassword> {
    let mut faults = Violations::new();
    let key = std::mem::take(&mut message.idempotency_key);
    let idempotency = idempotency(&mut faults, &key, &message);
    let user = user_ref(&mut faults, message.user);
    let method = reset_method(&mut faults, message.method);
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    let (unlock, end_access_now, validate_only) = (message.unlock, message.end_access_now, message.validate_only);
    if end_access_now && matches!(method, Some(ResetMethod::Password(..))) {
        faults.push(
            "end_access_now",
            Fault::Conflict,
            "goes with a link only: a new password ends the old one at once",
        );
    }
    finish(faults, || {
        Some(ResetPassword {
            user: user?,
            method: method?,
            end_access_now,
            unlock,
            note: note?,
            etag: etag?,
            idempotency: idempotency?,
            validate_only,
        })
    })
}

fn reset_method(faults: &mut Violations, message: Option<v1::reset_password_request::Method>) -> Option<ResetMethod> {
    use v1::reset_password_request::Method;
    match message {
        None => Some(ResetMethod::Link(LinkWish { way: LinkWay::Mailed, ttl: None })),
        Some(Method::SendLink(wish)) => {
            let ttl = duration(faults, "send_link.ttl", wish.ttl, MAX_INVITE_TTL)?;
            Some(ResetMethod::Link(LinkWish { way: LinkWay::Mailed, ttl }))
        }
        Some(Method::ReturnLink(wish)) => {
            let ttl = duration(faults, "return_link.ttl", wish.ttl, MAX_INVITE_TTL)?;
            Some(ResetMethod::Link(LinkWish { way: LinkWay::Returned, ttl }))
        }
        Some(Method::TemporaryPassword(wish)) => {
            let handover = handover(faults, wish.handover);
            let ttl = duration(faults, "temporary_password.ttl", wish.ttl, MAX_TEMPORARY_TTL)?;
            Some(ResetMethod::Password(NewPassword::Temporary { ttl }, handover?))
        }
        Some(Method::SetPassword(set)) => {
            let password = faults.check("set_password.password", PlainPassword::parse(set.password))?;
            let chosen = NewPassword::Chosen { password, change_required: true };
            Some(ResetMethod::Password(chosen, Handover::Return))
        }
    }
}

pub(in crate::grpc) fn require_change(message: v1::RequirePasswordChangeRequest) -> Result<RequirePasswordChange> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    let revoke_sessions = message.revoke_sessions;
    finish(faults, || Some(RequirePasswordChange { user: user?, revoke_sessions, note: note?, etag: etag? }))
}

pub(in crate::grpc) fn waive_change(message: v1::WaivePasswordChangeRequest) -> Result<WaivePasswordChange> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    finish(faults, || Some(WaivePasswordChange { user: user?, note: note?, etag: etag? }))
}

pub(in crate::grpc) fn complete_change(message: v1::CompletePasswordChangeRequest) -> Result<CompletePasswordChange> {
    let mut faults = Violations::new();
    let ticket = required(&mut faults, "ticket", message.ticket, MAX_TICKET_BYTES);
    let new_password = new_password(&mut faults, message.new_password);
    let validate_only = message.validate_only;
    finish(faults, || {
        // A malformed ticket gets the same error as a used one.
        let ticket = TicketSecret::parse(&zeroize::Zeroizing::new(ticket?)).ok();
        Some(CompletePasswordChange { ticket, new_password: new_password?, validate_only })
    })
}

pub(in crate::grpc) fn change_password(message: v1::ChangePasswordRequest) -> Result<ChangePassword> {
    let mut faults = Violations::new();
    let current = proof(&mut faults, "current_password", message.current_password);
    let new_password = new_password(&mut faults, message.new_password);
    let code = optional_code(&mut faults, message.second_factor);
    let validate_only = message.validate_only;
    finish(faults, || {
        Some(ChangePassword { current: current?, new_password: new_password?, code: code?, validate_only })
    })
}

pub(in crate::grpc) fn reauthenticate(message: v1::ReauthenticateRequest) -> Result<Reauthenticate> {
    let mut faults = Violations::new();
    let password = proof(&mut faults, "password", message.password);
    let code = optional_code(&mut faults, message.second_factor);
    finish(faults, || Some(Reauthenticate { password: password?, code: code? }))
}

/// Reads a password that proves identity. One that is not text counts as a wrong password.
pub(super) fn proof(faults: &mut Violations, field: &str, text: String) -> Option<Option<PlainPassword>> {
    match PlainPassword::parse(text) {
        Ok(password) => Some(Some(password)),
        Err(PasswordFault::NotText) => Some(None),
        Err(fault @ (PasswordFault::Empty | PasswordFault::TooLong)) => {
            faults.push_error(field, &fault);
            None
        }
    }
}

/// Reads a new password. Whether it is text is checked with the other password rules, after authentication.
pub(super) fn new_password(
    faults: &mut Violations,
    text: String,
) -> Option<std::result::Result<PlainPassword, PasswordFault>> {
    let parsed = PlainPassword::parse(text);
    if let Err(fault @ (PasswordFault::Empty | PasswordFault::TooLong)) = &parsed {
        faults.push_error("new_password", fault);
        return None;
    }
    Some(parsed)
}
