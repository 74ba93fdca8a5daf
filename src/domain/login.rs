//! What a person types to name an account.

use super::email::EmailAddress;
use super::username::Username;
use super::violation::{Describe, Fault};

/// A username or an e-mail address.
#[derive(Debug, Clone)]
pub enum Login {
    /// A username.
    Username(Username),
    /// An email address.
    Email(EmailAddress),
}

/// Why a text is not a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a username or an e-mail address")]
pub struct LoginFault;

impl Describe for LoginFault {
    fn fault(&self) -> Fault {
        Fault::Malformed
    }
}

impl Login {
    /// Parses a username or an address.
    pub fn parse(text: &str) -> Result<Login, LoginFault> {
        match Username::parse(text) {
            Ok(username) => Ok(Login::Username(username)),
            Err(_) => EmailAddress::parse(text).map(Login::Email).map_err(|_| LoginFault),
        }
    }

    /// Returns the folded name, which is the same for every spelling.
    pub fn key(&self) -> &str {
        match self {
            Login::Username(username) => username.as_str(),
            Login::Email(email) => email.key(),
        }
    }
}
