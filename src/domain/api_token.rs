//! API tokens: long-lived credentials for programs. They cannot be used to sign in.

use std::time::Duration;

use super::id::{ApiTokenId, UserId};
use super::profile::TokenName;
use super::role::ScopeSet;
use super::time::Timestamp;

/// Lifetime of a token if its creator does not set one.
pub const DEFAULT_TTL: Duration = Duration::from_hours(90 * 24);

/// Maximum lifetime of a token: a little over a year, which leaves slack for yearly rotation.
pub const MAX_TTL: Duration = Duration::from_hours(400 * 24);

/// Resolution of the recorded last use. A write for each use would cost more than the use itself.
pub const LAST_USE_RESOLUTION: Duration = Duration::from_hours(1);

/// An API token without its secret.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// Part of the token, so that a leaked token can be traced to its row. Not a secret.
    pub id: ApiTokenId,
    /// The user whose rights it carries.
    pub user_id: UserId,
    /// Name shown to people.
    pub name: TokenName,
    /// Scopes granted to the token. At each use they are limited to the user's current scopes.
    pub scopes: ScopeSet,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Time of the last use, to the hour.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiToken {
    /// Returns whether the token is live at `now`. Does not check its user.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }
}
