//! Whether a user can sign in now. There is one answer: lists, single reads, filters, the order of the accounts that need
//! attention, and sign-ins themselves are computed from it or share its parts. The store has the same rules as SQL
//! predicates; a test compares the two, and another the answer with what a sign-in does.

use strum::VariantArray;

use super::time::Timestamp;
use super::user::{ChangeCause, User, UserKind};

/// What an account needs attention for, the worst first. Of several, the worst counts, and is to be mended first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, VariantArray)]
pub enum Concern {
    /// Locked until somebody unlocks it.
    LockedWithoutEnd,
    /// The temporary password has expired.
    TemporaryPasswordExpired,
    /// The password was ended, and none has been set since.
    PasswordEnded,
    /// A password has never been set.
    Pending,
    /// Locked until a certain time.
    LockedWithEnd,
    /// Throttled after wrong passwords, in some places or under some names at least.
    Throttled,
    /// The password is a temporary one, to be changed at the next sign-in.
    TemporaryPassword,
    /// The next sign-in must change the password: an operator requires it, it was leaked, or it breaks the
    /// policy.
    ChangeRequired,
    /// The password is older than the policy allows.
    PasswordExpired,
}

impl Concern {
    /// All concerns, the worst first.
    pub const ALL: &[Concern] = Concern::VARIANTS;

    /// The answers that this concern can lead to.
    pub fn kinds(self) -> &'static [AbilityKind] {
        match self {
            Concern::LockedWithoutEnd
            | Concern::TemporaryPasswordExpired
            | Concern::PasswordEnded
            | Concern::Pending => &[AbilityKind::No],
            // By then a temporary password may have expired.
            Concern::LockedWithEnd | Concern::Throttled => &[AbilityKind::NotUntil, AbilityKind::No],
            Concern::TemporaryPassword | Concern::ChangeRequired | Concern::PasswordExpired => &[AbilityKind::YesThen],
        }
    }

    /// What an operator can do about it. `None` if the user helps themselves, at the next sign-in.
    pub fn remedy(self) -> Option<Remedy> {
        match self {
            Concern::LockedWithoutEnd | Concern::LockedWithEnd | Concern::Throttled => Some(Remedy::Unlock),
            Concern::TemporaryPasswordExpired | Concern::PasswordEnded | Concern::Pending => {
                Some(Remedy::ResetPassword)
            }
            Concern::TemporaryPassword | Concern::ChangeRequired | Concern::PasswordExpired => None,
        }
    }
}

/// What can be done for a user who cannot sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Remove the lock and the throttle.
    Unlock,
    /// Lock the account, as compromised.
    Lock,
    /// Set a new password.
    ResetPassword,
    /// Sign in, and choose a new password. The user does that.
    CompletePasswordChange,
    /// Give a service an API token.
    CreateApiToken,
    /// Create the account again.
    CreateUser,
    /// Delete an account whose record is corrupt.
    DeleteUser,
    /// Send a message again.
    ResendDelivery,
    /// Remove the second factor of a user who has lost it.
    ResetSecondFactor,
}

/// Whether a user can sign in, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum AbilityKind {
    /// Can sign in.
    Yes,
    /// Can sign in, and must then choose a new password.
    YesThen,
    /// Cannot sign in yet. Can at a certain time, without help.
    NotUntil,
    /// Cannot sign in without help, however long they wait.
    No,
}

/// Whether a user with the right credentials can sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInAbility {
    /// The answer.
    pub kind: AbilityKind,
    /// What stands in the way. `None` if the answer is yes.
    pub concern: Option<Concern>,
    /// When the answer changes by itself: the user can sign in from then on ([`AbilityKind::NotUntil`]), or no longer, because
    /// a temporary password expires ([`AbilityKind::YesThen`]).
    pub until: Option<Timestamp>,
}

/// Why the right credentials of an account are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The account is locked.
    Locked,
    /// The password was ended, and none has been set since.
    PasswordEnded,
    /// A password has never been set.
    Pending,
    /// The temporary password has expired.
    TemporaryPasswordExpired,
}

impl User {
    /// Returns the answer at `now` for the right credentials: of a person a password, of a service an API token. It is yes if
    /// they are accepted from every place and under every name of the account, familiar or not.
    pub fn sign_in_ability(&self, now: Timestamp) -> SignInAbility {
        let concern = self.concern(now);
        let (kind, until) = match concern {
            None => (AbilityKind::Yes, None),
            Some(
                Concern::LockedWithoutEnd
                | Concern::TemporaryPasswordExpired
                | Concern::PasswordEnded
                | Concern::Pending,
            ) => (AbilityKind::No, None),
            Some(Concern::LockedWithEnd | Concern::Throttled) => {
                let lock_ends = self.lock(now).and_then(|lock| lock.expires_at);
                // A service's API tokens are not throttled.
                let throttle = self.throttle(now).filter(|_| self.kind == UserKind::Person);
                let is_refused = throttle.is_some_and(|throttle| throttle.until.is_none());
                match lock_ends.max(throttle.and_then(|throttle| throttle.until)) {
                    Some(end) if !is_refused && !self.has_expired_password(end) => (AbilityKind::NotUntil, Some(end)),
                    _ => (AbilityKind::No, None),
                }
            }
            Some(Concern::TemporaryPassword | Concern::ChangeRequired | Concern::PasswordExpired) => {
                (AbilityKind::YesThen, self.password.as_ref().and_then(|password| password.expires_at))
            }
        };
        SignInAbility { kind, concern, until }
    }

    /// The worst that the account needs attention for at `now`.
    pub fn concern(&self, now: Timestamp) -> Option<Concern> {
        let lock = self.lock(now);
        if lock.is_some_and(|lock| lock.expires_at.is_none()) {
            Some(Concern::LockedWithoutEnd)
        } else if self.has_expired_password(now) {
            Some(Concern::TemporaryPasswordExpired)
        } else if self.has_ended_password() {
            Some(Concern::PasswordEnded)
        } else if self.is_pending() {
            Some(Concern::Pending)
        } else if lock.is_some() {
            Some(Concern::LockedWithEnd)
        } else if self.throttle(now).is_some() && self.kind == UserKind::Person {
            Some(Concern::Throttled)
        } else {
            self.change_cause(now).map(|cause| match cause {
                ChangeCause::Temporary => Concern::TemporaryPassword,
                ChangeCause::Breached | ChangeCause::Policy | ChangeCause::Operator => Concern::ChangeRequired,
                ChangeCause::Expired => Concern::PasswordExpired,
            })
        }
    }

    /// Returns why the right credentials are refused at `now`; of several reasons, the one that a sign-in gives. A throttle is
    /// not among them: it refuses the attempt before the credentials are looked at.
    pub fn refusal(&self, now: Timestamp) -> Option<Refusal> {
        if self.lock(now).is_some() {
            Some(Refusal::Locked)
        } else if self.has_ended_password() {
            Some(Refusal::PasswordEnded)
        } else if self.is_pending() {
            Some(Refusal::Pending)
        } else if self.has_expired_password(now) {
            Some(Refusal::TemporaryPasswordExpired)
        } else {
            None
        }
    }

    /// Returns whether the user is a person who has never had a password.
    pub fn is_pending(&self) -> bool {
        self.kind == UserKind::Person && self.password.is_none() && self.password_ended_at.is_none()
    }

    /// Returns whether the password was ended, and none has been set since.
    pub fn has_ended_password(&self) -> bool {
        self.password.is_none() && self.password_ended_at.is_some()
    }

    fn has_expired_password(&self, now: Timestamp) -> bool {
        self.password.as_ref().is_some_and(|password| password.is_expired(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::UserId;
    use crate::domain::lockout::{Lock, LockCause, Throttle};
    use crate::domain::password_hash::PasswordHash;
    use crate::domain::profile::Labels;
    use crate::domain::user::{Password, PasswordKind};
    use crate::domain::username::Username;

    /// Stands for a throttle without an end.
    const FOR_GOOD: i64 = i64::MAX;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn user(lock_ends: Option<i64>, throttle_ends: Option<i64>, expires: Option<i64>) -> Option<User> {
        let kind = if expires.is_some() { PasswordKind::Chosen } else { PasswordKind::Lasting };
        let method = PasswordHash::new("$argon2id$".to_owned()).method();
        Some(User {
            id: UserId::from_bytes([1; 16]),
            kind: UserKind::Person,
            username: Username::parse("ada").ok()?,
            email: None,
            display_name: None,
            locale: None,
            external_id: None,
            labels: Labels::default(),
            roles: Vec::new(),
            password: Some(Password::new(method, kind, at(0), expires.map(at))),
            password_ended_at: None,
            change_required: false,
            password_flaw: None,
            stored_lock: lock_ends.map(|end| Lock {
                cause: LockCause::Operator,
                note: String::new(),
                locked_at: at(0),
                expires_at: Some(at(end)),
                actor_id: String::new(),
                actor_name: String::new(),
            }),
            stored_throttle: throttle_ends.map(|end| Throttle {
                failures: 5,
                until: (end != FOR_GOOD).then(|| at(end)),
                familiar_until: None,
            }),
            version: 1,
            created_at: at(0),
            updated_at: at(0),
            last_sign_in_at: None,
            devices_valid_after: None,
            email_verified_at: None,
            active_from: None,
            stored_link: None,
            mail_failed_at: None,
            second_factor: None,
            policy: crate::domain::user_policy::UserPolicy::default(),
        })
    }

    #[test]
    fn the_end_is_the_first_instant_at_which_the_user_can_sign_in_or_no_longer_can() {
        for lock_ends in [None, Some(3), Some(6)] {
            for throttle_ends in [None, Some(4), Some(7), Some(FOR_GOOD)] {
                for expires in [None, Some(2), Some(5), Some(9)] {
                    let Some(user) = user(lock_ends, throttle_ends, expires) else { return };
                    for now in 0..10 {
                        let answer = user.sign_in_ability(at(now));
                        let is_able = |now| user.refusal(at(now)).is_none() && user.throttle(at(now)).is_none();
                        let first_change = (now..12).find(|later| is_able(*later) != is_able(now));
                        assert_eq!(answer.until, first_change.map(at), "{user:?} at {now}: {answer:?}");
                        let could = matches!(answer.kind, AbilityKind::Yes | AbilityKind::YesThen);
                        assert_eq!(could, is_able(now), "{user:?} at {now}: {answer:?}");
                        assert_eq!(answer.kind == AbilityKind::No, !could && first_change.is_none());
                    }
                }
            }
        }
    }
}
