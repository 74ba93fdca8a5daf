//! Credentials: what proves who a user is. They are a type apart from the user, so that lists, caches and logs never hold
//! a hash.

use super::password_hash::PasswordHash;
use super::user::{Password, User};

/// Everything that can prove who a user is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `None` for a service, before the first password is set, and after the password was ended.
    pub password: Option<PasswordHash>,
}

/// A password as it is stored: what is known of it, and its hash.
#[derive(Debug, Clone)]
pub struct StoredPassword {
    /// Kind, dates and method.
    pub password: Password,
    /// The hash.
    pub hash: PasswordHash,
}

/// An account with what proves it, for the use cases that prove or issue something.
#[derive(Debug, Clone)]
pub struct UserWithCredentials {
    /// The account.
    pub user: User,
    /// Its credentials.
    pub credentials: Credentials,
    /// The hash of the password that was ended last. It proves nothing; it only keeps the password from being chosen again.
    pub ended_password: Option<PasswordHash>,
}
