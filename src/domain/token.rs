//! Access tokens: their claims and validity (RFC 9068, JWT profile for access tokens).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::session::OWN_AUDIENCE;
use super::time::Timestamp;

/// Tolerated difference between the clocks of issuer and verifier.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The `typ` header of an access token (RFC 9068, 2.1).
pub const TOKEN_TYPE: &str = "at+jwt";

/// The claims of an access token. A token with a missing claim, or one of another type, is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Subject: the user's id.
    pub sub: String,
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, in seconds since the epoch.
    pub exp: i64,
    /// Start of validity, in seconds since the epoch.
    pub nbf: i64,
    /// Time of issue, in seconds since the epoch.
    pub iat: i64,
    /// Unique id of the token.
    pub jti: String,
    /// Id of the session.
    pub sid: String,
    /// When the password was verified, in seconds since the epoch.
    pub auth_time: i64,
    /// Authentication methods (RFC 8176).
    pub amr: Vec<String>,
    /// Scopes at latchkey, separated by spaces.
    pub scope: String,
    /// The application through which the session was opened.
    pub client_id: String,
    /// The username at issue.
    pub username: String,
    /// The roles at issue.
    pub roles: Vec<String>,
}

impl Claims {
    /// Checks issuer and times against our own clock.
    pub fn check(&self, issuer: &str, now: Timestamp) -> Result<(), Reason> {
        let now = now.as_unix_seconds();
        let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or(0);
        if self.iss != issuer || self.nbf > now + leeway || self.iat > now + leeway {
            return Err(Reason::TokenInvalid);
        }
        if self.exp <= now {
            return Err(Reason::TokenExpired);
        }
        Ok(())
    }

    /// Returns whether latchkey itself accepts the token: `latchkey` must be the only audience.
    pub fn is_for_latchkey(&self) -> bool {
        matches!(self.aud.as_slice(), [audience] if audience == OWN_AUDIENCE)
    }
}
