//! The account: its state, its flags, and what each is computed from.
//!
//! ```text
//!             password set                    lock
//!   PENDING ───────────────▶ ACTIVE ─────────────────────▶ LOCKED
//!                              ▲    unlock, or its end comes  │
//!                              └──────────────────────────────┘
//! ```
//!
//! State and flags are computed by one function each, so that a list, a single read and a sign-in never disagree.
//! The store has the same rules as SQL predicates; a test compares the two.

use super::email::EmailAddress;
use super::id::UserId;
use super::lockout::{Lock, Throttle};
use super::password_hash::HashMethod;
use super::profile::{DisplayName, ExternalId, Labels, Locale};
use super::role::{Role, ScopeSet, scopes_of};
use super::time::Timestamp;
use super::username::Username;

/// Points at one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// The server-assigned id.
    Id(UserId),
    /// The sign-in name.
    Username(Username),
    /// The e-mail address.
    Email(EmailAddress),
    /// The id that another system gave.
    ExternalId(ExternalId),
}

impl UserRef {
    /// The member of the contract's `UserRef` that was used.
    pub fn field(&self) -> &'static str {
        match self {
            UserRef::Id(_) => "user.id",
            UserRef::Username(_) => "user.username",
            UserRef::Email(_) => "user.email",
            UserRef::ExternalId(_) => "user.external_id",
        }
    }
}

/// A person or a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum UserKind {
    /// Signs in with a password.
    Person,
    /// Has no password; acts with API tokens.
    Service,
}

/// What an account can do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum UserState {
    /// Created, but no credential has ever been set.
    Pending,
    /// Can sign in.
    Active,
    /// Cannot.
    Locked,
}

/// Something true of an account now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum UserFlag {
    /// The next sign-in must change the password.
    MustChange,
    /// The password is a temporary one, expired or not.
    TemporaryPassword,
    /// Sign-ins wait after wrong passwords.
    Throttled,
    /// The user has never signed in.
    NeverSignedIn,
}

/// Who knows a password besides its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordKind {
    /// Nobody: the user chose it, or an operator vouched for it.
    Lasting,
    /// Whoever it was shown to: the server generated it. Hyphens and case do not count.
    Generated,
    /// The operator who chose it.
    Chosen,
}

/// Why a password must be changed, the strongest cause first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeCause {
    /// Somebody else knows it.
    Temporary,
    /// An operator asked for it.
    Operator,
}

/// What is known of a password, apart from its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// How it is hashed.
    pub method: HashMethod,
    /// Who knows it.
    pub kind: PasswordKind,
    /// When it was set.
    pub changed_at: Timestamp,
    /// When a password that somebody else knows stops working.
    pub expires_at: Option<Timestamp>,
}

impl Password {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// An account, as the store reads it.
#[derive(Debug, Clone)]
pub struct User {
    /// Server-assigned, never used again.
    pub id: UserId,
    /// A person or a program.
    pub kind: UserKind,
    /// The sign-in name.
    pub username: Username,
    /// The address.
    pub email: Option<EmailAddress>,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// BCP 47.
    pub locale: Option<Locale>,
    /// The id that another system gave.
    pub external_id: Option<ExternalId>,
    /// Free annotations.
    pub labels: Labels,
    /// By name.
    pub roles: Vec<Role>,
    /// None for a service and before the first is set.
    pub password: Option<Password>,
    /// An operator demands a change at the next sign-in.
    pub change_demanded: bool,
    /// The lock as it was set; it may be over: see [`User::lock`].
    pub stored_lock: Option<Lock>,
    /// Wrong passwords in a row, as they were counted; see [`User::throttle`].
    pub stored_throttle: Option<Throttle>,
    /// Moves with profile, roles, lock, password and demands; not with sign-ins and rehashes.
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When `version` last moved.
    pub updated_at: Timestamp,
    /// Last successful sign-in.
    pub last_sign_in_at: Option<Timestamp>,
}

impl User {
    /// The lock that stands now.
    pub fn lock(&self, now: Timestamp) -> Option<&Lock> {
        self.stored_lock.as_ref().filter(|lock| lock.stands(now))
    }

    /// The wait that stands now.
    pub fn throttle(&self, now: Timestamp) -> Option<&Throttle> {
        self.stored_throttle.as_ref().filter(|throttle| throttle.until > now)
    }

    /// What the account can do.
    pub fn state(&self, now: Timestamp) -> UserState {
        if self.lock(now).is_some() {
            UserState::Locked
        } else if self.kind == UserKind::Person && self.password.is_none() {
            UserState::Pending
        } else {
            UserState::Active
        }
    }

    /// Why the next sign-in must change the password, the strongest cause.
    pub fn change_cause(&self) -> Option<ChangeCause> {
        let password = self.password.as_ref()?;
        if password.kind != PasswordKind::Lasting {
            Some(ChangeCause::Temporary)
        } else if self.change_demanded {
            Some(ChangeCause::Operator)
        } else {
            None
        }
    }

    /// What is true of it now.
    pub fn flags(&self, now: Timestamp) -> Vec<UserFlag> {
        let temporary = self.change_cause() == Some(ChangeCause::Temporary);
        let never = self.kind == UserKind::Person && self.last_sign_in_at.is_none();
        [
            (self.change_cause().is_some(), UserFlag::MustChange),
            (temporary, UserFlag::TemporaryPassword),
            (self.throttle(now).is_some(), UserFlag::Throttled),
            (never, UserFlag::NeverSignedIn),
        ]
        .into_iter()
        .filter_map(|(holds, flag)| holds.then_some(flag))
        .collect()
    }

    /// What its roles permit.
    pub fn scopes(&self) -> ScopeSet {
        scopes_of(&self.roles)
    }

    /// Whether it could administer users today: the role, no lock, and a way in.
    pub fn is_able_administrator(&self, now: Timestamp) -> bool {
        self.roles.contains(&Role::Admin)
            && self.kind == UserKind::Person
            && self.lock(now).is_none()
            && self.password.as_ref().is_some_and(|password| !password.is_expired(now))
    }

    /// The current etag.
    pub fn etag(&self) -> Etag {
        Etag(self.version)
    }
}

/// A version of a user, quoted as RFC 9110, 8.8.3 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Etag(pub i64);

impl Etag {
    /// Reads `"7"`, quotes included.
    pub fn parse(text: &str) -> Option<Etag> {
        let digits = text.strip_prefix('"')?.strip_suffix('"')?;
        let etag = Etag(digits.parse().ok()?);
        (etag.to_string() == text).then_some(etag)
    }
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// What an operator's call did to an account besides its main purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Effects {
    /// Sessions that were ended.
    pub sessions_revoked: u32,
    /// When the last access token already issued stops working for those who check offline, in microseconds.
    pub access_expires_at: Option<i64>,
    /// A password stopped working.
    pub password_ended: bool,
    /// API tokens that were ended.
    pub api_tokens_revoked: u32,
    /// A wait after wrong passwords was lifted.
    pub throttle_cleared: bool,
    /// A lock was lifted.
    pub lock_lifted: bool,
}

/// Selects users: set members must all hold, the elements of one list are alternatives unless it says otherwise.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct UserFilter {
    /// Prefix of username, address or a word of the display name.
    pub text: Option<super::profile::SearchText>,
    /// Any of these states.
    pub states: Vec<UserState>,
    /// Any of these kinds.
    pub kinds: Vec<UserKind>,
    /// Locked for any of these causes.
    pub lock_causes: Vec<super::lockout::LockCause>,
    /// All of these.
    pub flags: Vec<UserFlag>,
    /// None of these.
    pub without_flags: Vec<UserFlag>,
    /// Any of these.
    pub roles: Vec<Role>,
    /// Exactly these ids.
    pub user_ids: Vec<UserId>,
    /// Locked, made to wait, or made to change the password.
    pub needs_attention: bool,
}

/// Order of a list of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub enum UserOrder {
    /// By username; with a text filter, by the word that matched.
    #[default]
    Natural,
    /// From a to z.
    Username,
    /// Newest account first.
    CreatedAtDescending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_quoted_and_canonical() {
        assert_eq!(Etag::parse("\"7\""), Some(Etag(7)));
        for wrong in ["7", "\"07\"", "\"\"", "\"+7\"", "W/\"7\"", "\"7\" "] {
            assert_eq!(Etag::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_strongest_cause_of_a_change_is_the_smallest() {
        assert!(ChangeCause::Temporary < ChangeCause::Operator);
    }
}
