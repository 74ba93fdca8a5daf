//! Requests and messages of sessions.

use super::{each, finish, note, page, stamp, user_ref};
use crate::app::{RevokeTarget, RevokeUserSessions};
use crate::domain::caller::{Caller, Principal};
use crate::domain::id::SessionId;
use crate::domain::page::PageRequest;
use crate::domain::session::Session;
use crate::domain::user::UserRef;
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum number of sessions in a request.
const MAX_SESSIONS: usize = 100;

/// Returns the user, whether to include ended sessions, and the page.
pub(in crate::grpc) fn list_user_sessions(
    message: v1::ListUserSessionsRequest,
) -> Result<(UserRef, bool, PageRequest)> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let page = page(&mut faults, message.page_size, message.page_token);
    finish(faults, || Some((user?, message.include_ended, page?)))
}

pub(in crate::grpc) fn revoke_user_sessions(message: v1::RevokeUserSessionsRequest) -> Result<RevokeUserSessions> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let session_ids =
        each(&mut faults, "session_ids", &message.session_ids, MAX_SESSIONS, |text| text.parse::<SessionId>());
    let note = note(&mut faults, &message.note);
    finish(faults, || Some(RevokeUserSessions { user: user?, session_ids: session_ids?, note: note? }))
}

pub(in crate::grpc) fn list_sessions(message: v1::ListSessionsRequest) -> Result<PageRequest> {
    let mut faults = Violations::new();
    let page = page(&mut faults, message.page_size, message.page_token);
    finish(faults, || page)
}

pub(in crate::grpc) fn revoke_session(message: v1::RevokeSessionRequest) -> Result<RevokeTarget> {
    use v1::revoke_session_request::Target;
    let mut faults = Violations::new();
    let target = match message.target {
        None => Some(RevokeTarget::Current),
        Some(Target::SessionId(text)) => faults.check("session_id", text.parse()).map(RevokeTarget::One),
        Some(Target::AllOthers(true)) => Some(RevokeTarget::AllOthers),
        Some(Target::AllOthers(false)) => {
            faults.push("all_others", Fault::OutOfRange, "must be true, or unset");
            None
        }
    };
    finish(faults, || target)
}

/// Converts a session to a message for its user or an operator.
pub(in crate::grpc) fn session(session: &Session, caller: &Caller) -> v1::Session {
    let current = matches!(&caller.principal, Principal::User { session_id, .. } if *session_id == session.id);
    v1::Session {
        id: session.id.to_string(),
        user_id: session.user_id.to_string(),
        app: session.wish.app.clone(),
        client_name: session.wish.client_name.as_ref().map(ToString::to_string).unwrap_or_default(),
        client_address: session.client_address.clone(),
        auth_methods: session.proofs.auth_methods(),
        auth_time: Some(stamp(session.auth_at)),
        create_time: Some(stamp(session.created_at)),
        last_used_time: Some(stamp(session.last_used_at)),
        expire_time: Some(stamp(session.expires_at)),
        end_time: session.ended_at.map(stamp),
        current,
    }
}
