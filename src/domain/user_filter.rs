//! Which users a list shows, and in which order.

use super::id::UserId;
use super::lockout::LockCause;
use super::profile::SearchText;
use super::role::Role;
use super::sign_in_ability::AbilityKind;
use super::user::{UserFlag, UserKind, UserState};

/// Selects users. All set fields must match; within a list, any element may match unless documented otherwise.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct UserFilter {
    /// Prefix of the username, the e-mail address or a word of the display name.
    pub text: Option<SearchText>,
    /// Matches any of these states.
    pub states: Vec<UserState>,
    /// Matches any of these kinds.
    pub kinds: Vec<UserKind>,
    /// Matches accounts locked for any of these causes.
    pub lock_causes: Vec<LockCause>,
    /// Matches accounts that have all of these flags.
    pub flags: Vec<UserFlag>,
    /// Matches accounts that have none of these flags.
    pub without_flags: Vec<UserFlag>,
    /// Matches accounts that have any of these roles.
    pub roles: Vec<Role>,
    /// Matches exactly these ids.
    pub user_ids: Vec<UserId>,
    /// Matches accounts with a second factor, or those without one. Left out of a page token's selection if unset, so that tokens
    /// of the version before stay valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_second_factor: Option<bool>,
    /// Matches accounts with any concern: those whose answer to "can they sign in?" is not a plain yes.
    pub needs_attention: bool,
    /// Matches any of these answers to "can they sign in?". Left out of a page token's selection if empty, so that tokens of
    /// the version before stay valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub abilities: Vec<AbilityKind>,
}

/// Order of a list of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub enum UserOrder {
    /// By username; with a text filter, by the matching term; of accounts that need attention, the worst concern first.
    #[default]
    Natural,
    /// By username, ascending.
    Username,
    /// Newest account first.
    CreatedAtDescending,
}
