//! Links: what a user gets by mail, or through an operator, to choose a password or to confirm an address.
//!
//! A link has 256 random bits, of which the database stores a digest. It is bound to a user, a purpose and the address that it
//! was sent to. Looking at a link uses nothing up; the first use ends all links of the user.

use std::time::Duration;

use super::id::{DeliveryId, LinkId, UserId};
use super::time::Timestamp;

/// The most links of one purpose that a user can have at a time. A further one ends the oldest.
pub const MAX_LIVE: usize = 3;

/// Passwords that may be hashed for one link in a minute.
pub const HASHES_PER_MINUTE: f64 = 10.0;

/// The longest life of a link to reset a password. It is longer than a night and shorter than most mailboxes stay open.
pub const MAX_RESET_TTL: Duration = Duration::from_hours(24);

/// The longest life of an invitation: a weekend.
pub const MAX_INVITE_TTL: Duration = Duration::from_hours(72);

/// Purpose of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkPurpose {
    /// Choose the first password.
    Invite,
    /// Choose another password.
    PasswordReset,
    /// Confirm the address.
    EmailVerification,
}

impl LinkPurpose {
    /// Returns whether the link sets a password.
    pub fn sets_password(self) -> bool {
        self != LinkPurpose::EmailVerification
    }

    /// The page that opens the link, and the value of `{purpose}` in the setting `links.url`.
    pub fn page(self) -> &'static str {
        match self {
            LinkPurpose::Invite => "invite",
            LinkPurpose::PasswordReset => "reset",
            LinkPurpose::EmailVerification => "verify",
        }
    }

    /// The name in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkPurpose::Invite => "INVITE",
            LinkPurpose::PasswordReset => "PASSWORD_RESET",
            LinkPurpose::EmailVerification => "EMAIL_VERIFICATION",
        }
    }
}

/// A link, as read from the database.
#[derive(Debug, Clone)]
pub struct Link {
    /// Assigned by the server.
    pub id: LinkId,
    /// The user.
    pub user_id: UserId,
    /// The purpose.
    pub purpose: LinkPurpose,
    /// The key of the address that the link was sent to. `None` if it was handed to an operator.
    pub address: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was used or ended.
    pub ended_at: Option<Timestamp>,
}

impl Link {
    /// Returns whether the link has neither ended nor expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && now < self.expires_at
    }
}

/// A link that its user has not used, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingLink {
    /// The purpose.
    pub purpose: LinkPurpose,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The message that carries it. `None` if it was handed to an operator.
    pub delivery_id: Option<DeliveryId>,
}

/// How a link reaches its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkWay {
    /// By mail.
    Mailed,
    /// By the operator.
    Returned,
}

/// A link to be made.
#[derive(Debug, Clone, Copy)]
pub struct LinkWish {
    /// How it reaches the user.
    pub way: LinkWay,
    /// How long it works. `None` takes the configured time.
    pub ttl: Option<Duration>,
}

/// How long links work, unless an operator says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct LinkLifetimes {
    /// A link that a user asked for.
    pub self_service: Duration,
    /// A link that an operator sent.
    pub operator: Duration,
    /// An invitation.
    pub invite: Duration,
    /// A link that confirms an address.
    pub verification: Duration,
}

/// Where links lead to: a URL with the places `{token}` and `{purpose}`. It comes from the configuration only; a URL that a
/// request could influence would send tokens to strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkUrls {
    pattern: String,
}

/// The page that cancels what a user did not ask for.
const CANCEL_PAGE: &str = "cancel";

impl LinkUrls {
    /// Creates the URLs from a pattern. Returns `None` unless it has both places once.
    pub fn parse(pattern: &str) -> Option<LinkUrls> {
        let once = |place: &str| pattern.matches(place).count() == 1;
        (once("{token}") && once("{purpose}")).then(|| LinkUrls { pattern: pattern.to_owned() })
    }

    /// The URL of a link.
    pub fn link(&self, purpose: LinkPurpose, token: &str) -> String {
        self.page(purpose.page(), token)
    }

    /// The URL that cancels the links of a mail.
    pub fn cancel(&self, token: &str) -> String {
        self.page(CANCEL_PAGE, token)
    }

    fn page(&self, page: &str, token: &str) -> String {
        self.pattern.replace("{purpose}", page).replace("{token}", token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_both_places_once() {
        for wrong in
            ["", "https://id.example/", "https://id.example/{purpose}", "https://id.example/{purpose}{token}{token}"]
        {
            assert_eq!(LinkUrls::parse(wrong), None, "{wrong}");
        }
        let urls = LinkUrls::parse("https://id.example/{purpose}?token={token}");
        let link = |purpose| urls.as_ref().map(|urls| urls.link(purpose, "lkl_x"));
        assert_eq!(link(LinkPurpose::Invite).as_deref(), Some("https://id.example/invite?token=lkl_x"));
        assert_eq!(link(LinkPurpose::PasswordReset).as_deref(), Some("https://id.example/reset?token=lkl_x"));
        assert_eq!(link(LinkPurpose::EmailVerification).as_deref(), Some("https://id.example/verify?token=lkl_x"));
        let cancel = urls.map(|urls| urls.cancel("lkl_x"));
        assert_eq!(cancel.as_deref(), Some("https://id.example/cancel?token=lkl_x"));
    }
}
