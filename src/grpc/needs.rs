//! Scopes that single fields need, on top of their method's: the option `needs` of the contract.
//!
//! The build writes an implementation for the request of every method, so a field that is marked in the contract
//! cannot be forgotten here. The caller carries the scopes to the use case, which judges them with the method's own.

use crate::domain::role::Scope;
use crate::error::{Error, Result};
use crate::proto::v1;

/// What a request needs besides the scope of its method.
pub(super) trait Needs {
    /// Each field that is set and needs a scope, with that scope, in the order of the fields.
    fn needs(&self) -> Vec<(&'static str, &'static str)>;
}

include!(concat!(env!("OUT_DIR"), "/latchkey.v1.needs.rs"));

/// The scopes that a request needs.
pub(super) fn scopes(request: &impl Needs) -> Result<Vec<Scope>> {
    let known = |(field, scope): (&str, &str)| {
        // The start checks the names, so this cannot happen to a server that runs.
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
        assert_eq!(v1::ResetPasswordRequest::default().needs(), []);
    }

    #[test]
    fn every_kind_of_field_is_seen() {
        let update = v1::UpdateUserRequest {
            // Set to clear the address: that needs the scope too.
            email: Some(String::new()),
            remove_roles: vec!["admin".to_owned()],
            ..v1::UpdateUserRequest::default()
        };
        assert_eq!(update.needs(), [("email", "users.email"), ("remove_roles", "roles.write")]);

        let method = v1::reset_password_request::Method::SetPassword(v1::SetPassword::default());
        let reset = v1::ResetPasswordRequest { method: Some(method), unlock: true, ..Default::default() };
        assert_eq!(reset.needs(), [("set_password", "users.reset.secrets"), ("unlock", "users.lock")]);
        assert!(matches!(scopes(&reset).as_deref(), Ok([Scope::UsersResetSecrets, Scope::UsersLock])));
    }
}
