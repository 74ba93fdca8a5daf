//! API tokens: long-lived credentials of programs, never good for signing in.

use std::time::Duration;

use super::id::{ApiTokenId, UserId};
use super::profile::TokenName;
use super::role::ScopeSet;
use super::time::Timestamp;

/// How long a token works when its creator does not say.
pub const DEFAULT_TTL: Duration = Duration::from_hours(90 * 24);

/// The longest that a token works: a little over a year, so that yearly rotation has some slack.
pub const MAX_TTL: Duration = Duration::from_hours(400 * 24);

/// How exactly the last use is recorded. A write for each use would cost more than the use.
pub const LAST_USE_RESOLUTION: Duration = Duration::from_hours(1);

/// An API token without its secret.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// Part of the token, so that a token that is found leads here. Not a secret.
    pub id: ApiTokenId,
    /// Whose rights it carries.
    pub user_id: UserId,
    /// For people to read.
    pub name: TokenName,
    /// What it may do, as far as its user may at the moment of use.
    pub scopes: ScopeSet,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// Last use, to the hour.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiToken {
    /// Whether it works at `now`, its user apart.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }
}
