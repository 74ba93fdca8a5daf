//! Access tokens: their claims, and when they are good (RFC 9068, JWT profile for access tokens).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::session::OWN_AUDIENCE;
use super::time::Timestamp;

/// How far clocks of issuer and verifier may be apart.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The `typ` of an access token's header (RFC 9068, 2.1).
pub const TOKEN_TYPE: &str = "at+jwt";

/// The claims of an access token. All are required, and of these types: one that is missing or of another type makes
/// the token invalid, never lenient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// Whose: a user's id.
    pub sub: String,
    /// Who may read it.
    pub aud: Vec<String>,
    /// Seconds since the epoch when it stops working.
    pub exp: i64,
    /// Seconds since the epoch when it starts working.
    pub nbf: i64,
    /// Seconds since the epoch when it was issued.
    pub iat: i64,
    /// Unique.
    pub jti: String,
    /// The session.
    pub sid: String,
    /// Seconds since the epoch when the password was proved.
    pub auth_time: i64,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// What it may do at latchkey, separated by spaces.
    pub scope: String,
    /// The application the session was opened through.
    pub client_id: String,
    /// The sign-in name at issue.
    pub username: String,
    /// The roles at issue.
    pub roles: Vec<String>,
}

impl Claims {
    /// Judges issuer and times by our own clock.
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

    /// Whether latchkey itself may read it. Its own name stands alone.
    pub fn is_for_latchkey(&self) -> bool {
        matches!(self.aud.as_slice(), [audience] if audience == OWN_AUDIENCE)
    }
}
