//! What single fields need in addition to what their method needs: the options `needs` and `needs_recent_sign_in` of the
//! contract.
//!
//! build.rs writes an implementation for the request of every method, so no marked field is missed. The caller carries both
//! to the use case, which checks them together with what the method needs.

use crate::domain::caller::RecentSignIn;
use crate::domain::role::Scope;
use crate::error::{Error, Result};
use crate::proto::v1;

/// What a request needs besides what its method needs.
pub(super) trait Needs {
    /// Returns each set field that needs a scope, with that scope, in the order of the fields.
    fn needs(&self) -> Vec<(&'static str, &'static str)>;

    /// Returns when the set fields need a recent sign-in: the strictest of them.
    fn needs_recent_sign_in(&self) -> Option<RecentSignIn>;
}

include!(concat!(env!("OUT_DIR"), "/latchkey.v1.needs.rs"));

/// Returns the scopes that the set fields of a request need.
pub(super) fn scopes(request: &impl Needs) -> Result<Vec<Scope>> {
    let known = |(field, scope): (&str, &str)| {
        // Unreachable in a running server: the names are checked at the start.
        Scope::parse(scope).ok_or_else(|| Error::internal(format!("{field} needs an unknown scope")))
    };
    request.needs().into_iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_field_that_is_not_set_needs_nothing() {
        assert_eq!(v1::UpdateUserRequest::default().needs(), []);
        assert_eq!(v1::UpdateUserRequest::default().needs_recent_sign_in(), None);
        assert_eq!(v1::ResetPasswordRequest::default().needs(), []);
    }

    #[test]
    fn every_kind_of_field_is_seen() {
        let update = v1::UpdateUserRequest {
            // An empty address clears the field, which needs the scope too.
            email: Some(String::new()),
            remove_roles: vec!["admin".to_owned()],
            ..v1::UpdateUserRequest::default()
        };
        assert_eq!(update.needs(), [("email", "users.email"), ("remove_roles", "roles.write")]);
        assert_eq!(update.needs_recent_sign_in(), Some(RecentSignIn::IfTargetHasScopes));
        let update = v1::UpdateUserRequest { add_roles: vec!["admin".to_owned()], ..update };
        assert_eq!(update.needs_recent_sign_in(), Some(RecentSignIn::Always));

        let method = v1::reset_password_request::Method::SetPassword(v1::SetPassword::default());
        let reset = v1::ResetPasswordRequest { method: Some(method), unlock: true, ..Default::default() };
        assert_eq!(reset.needs(), [("set_password", "users.reset.secrets"), ("unlock", "users.lock")]);
        assert!(matches!(scopes(&reset).as_deref(), Ok([Scope::UsersResetSecrets, Scope::UsersLock])));
    }
}
