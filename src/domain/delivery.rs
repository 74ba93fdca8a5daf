//! Deliveries: one message to one user, from its first attempt to its last state.
//!
//! ```text
//!           lease            accepted
//!   QUEUED ───────▶ SENDING ─────────▶ ACCEPTED
//!                    │  ▲ │ refused
//!        not accepted│  │ └───────────▶ FAILED
//!                    ▼  │ lost after the final dot
//!                 RETRYING     └─────▶ UNKNOWN, tried once more
//!
//!   QUEUED, RETRYING ──▶ EXPIRED, CANCELLED
//! ```
//!
//! ACCEPTED means that the relay took the message. What becomes of it after that, this server does not learn.

use std::time::Duration;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::id::{DeliveryId, LinkId, UserId};
use super::link::LinkPurpose;
use super::time::Timestamp;

/// How long a worker has a message to itself. An attempt takes at most [`ATTEMPT_LIMIT`], so a lease that ends belongs to a
/// worker that crashed.
pub const LEASE: Duration = Duration::from_mins(2);

/// The longest time of an attempt.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(100);

/// Pauses between attempts: short at first for a relay that restarts or greylists, then long enough not to burden it.
const PAUSES: [Duration; 7] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
    Duration::from_mins(10),
    Duration::from_mins(15),
];

/// How long a message without a link is tried.
const TRIED_FOR: Duration = Duration::from_hours(24);

/// The pause before the one retry of a message that the relay may have accepted.
const PAUSE_AFTER_UNKNOWN: Duration = Duration::from_mins(5);

/// The pause before a message is sent again that may still arrive.
const RESEND_AFTER: Duration = Duration::from_mins(1);

/// How long a message is kept after it was made.
pub const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display, strum::EnumString, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum LetterKind {
    /// A link to choose the first password.
    Invite,
    /// A link to choose another password.
    PasswordReset,
    /// A temporary password.
    TemporaryPassword,
    /// A link to confirm the address.
    EmailVerification,
    /// Notice: the user changed the password.
    PasswordChanged,
    /// Notice: an operator reset the password.
    PasswordResetDone,
    /// Notice: the account was locked because it may be compromised.
    Compromised,
    /// Notice: the account has another address.
    AddressChanged,
    /// Notice: the user set up an authenticator.
    TotpEnrolled,
    /// Notice: the user removed the authenticator.
    TotpDisabled,
    /// Notice: an operator removed the second factor.
    SecondFactorReset,
    /// Notice: a recovery code was used.
    RecoveryCodeUsed,
    /// Notice: wrong codes came after the right password.
    WrongCodes,
    /// Notice: the password will reach the maximum age.
    PasswordExpiring,
    /// Notice: the account will be locked because it is not used.
    AccountInactive,
}

/// The notices, each with its name.
pub const NAMED_NOTICES: [(&str, LetterKind); 11] = [
    ("password_changed", LetterKind::PasswordChanged),
    ("password_reset", LetterKind::PasswordResetDone),
    ("compromised", LetterKind::Compromised),
    ("address_changed", LetterKind::AddressChanged),
    ("totp_enrolled", LetterKind::TotpEnrolled),
    ("totp_disabled", LetterKind::TotpDisabled),
    ("second_factor_reset", LetterKind::SecondFactorReset),
    ("recovery_code_used", LetterKind::RecoveryCodeUsed),
    ("wrong_codes", LetterKind::WrongCodes),
    ("password_expiring", LetterKind::PasswordExpiring),
    ("inactive", LetterKind::AccountInactive),
];

impl LetterKind {
    /// The name of a notice. `None` for another letter.
    pub fn notice(self) -> Option<&'static str> {
        NAMED_NOTICES.into_iter().find(|(_, kind)| *kind == self).map(|(name, _)| name)
    }

    /// The letter that carries a link.
    pub fn of_link(purpose: LinkPurpose) -> LetterKind {
        match purpose {
            LinkPurpose::Invite => LetterKind::Invite,
            LinkPurpose::PasswordReset => LetterKind::PasswordReset,
            LinkPurpose::EmailVerification => LetterKind::EmailVerification,
        }
    }

    /// The purpose of the link in it.
    pub fn purpose(self) -> Option<LinkPurpose> {
        match self {
            LetterKind::Invite => Some(LinkPurpose::Invite),
            LetterKind::PasswordReset => Some(LinkPurpose::PasswordReset),
            LetterKind::EmailVerification => Some(LinkPurpose::EmailVerification),
            _ => None,
        }
    }

    /// Returns whether it invites to set up a second factor, whatever the policy asks for: the user had one.
    pub fn invites_second_factor(self) -> bool {
        matches!(self, LetterKind::TotpDisabled | LetterKind::SecondFactorReset)
    }

    /// The kind of the delivery.
    pub fn kind(self) -> DeliveryKind {
        match self {
            LetterKind::Invite => DeliveryKind::Invite,
            LetterKind::PasswordReset => DeliveryKind::PasswordReset,
            LetterKind::TemporaryPassword => DeliveryKind::TemporaryPassword,
            LetterKind::EmailVerification => DeliveryKind::EmailVerification,
            LetterKind::PasswordChanged
            | LetterKind::PasswordResetDone
            | LetterKind::Compromised
            | LetterKind::AddressChanged
            | LetterKind::TotpEnrolled
            | LetterKind::TotpDisabled
            | LetterKind::SecondFactorReset
            | LetterKind::RecoveryCodeUsed
            | LetterKind::WrongCodes
            | LetterKind::PasswordExpiring
            | LetterKind::AccountInactive => DeliveryKind::Notice,
        }
    }
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum DeliveryKind {
    /// A link to choose the first password.
    Invite,
    /// A link to choose another password.
    PasswordReset,
    /// A temporary password.
    TemporaryPassword,
    /// A link to confirm the address.
    EmailVerification,
    /// Tells of a change. Has no link and no secret.
    Notice,
}

impl DeliveryKind {
    /// The name in metrics and in the audit log.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum DeliveryState {
    /// It waits for its first attempt.
    Queued,
    /// An attempt is under way.
    Sending,
    /// An attempt failed, and another is planned.
    Retrying,
    /// The relay took it.
    Accepted,
    /// It was given up.
    Failed,
    /// Its link or password expired before it went out.
    Expired,
    /// It was cancelled, or its link was used or replaced before it went out.
    Cancelled,
    /// The connection broke after the message was handed over.
    Unknown,
}

impl DeliveryState {
    /// The name in metrics and in the audit log.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns whether no attempt follows. UNKNOWN may have one more.
    pub fn is_last(self) -> bool {
        !self.is_waiting() && self != DeliveryState::Sending
    }

    /// Returns whether the message can still be stopped.
    pub fn is_waiting(self) -> bool {
        matches!(self, DeliveryState::Queued | DeliveryState::Retrying)
    }
}

/// A message, as read from the database, without its contents.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Assigned by the server. The `Message-ID` has it, so every attempt sends the same message.
    pub id: DeliveryId,
    /// The user that it concerns.
    pub user_id: UserId,
    /// What it says.
    pub letter: LetterKind,
    /// The address that it goes to.
    pub address: String,
    /// The language of the user at that time.
    pub locale: Option<String>,
    /// Where it is.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// What the last attempt met: the relay's answer, or why there was none. Empty for a file.
    pub last_words: String,
    /// Whether the last attempt failed at the relay or the folder and not at the recipient: then mail to others would fail, too.
    pub relay_failed: bool,
    /// The relay of the last attempt, or `file`.
    pub relay: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// When its link or password expires.
    pub expires_at: Option<Timestamp>,
    /// Its link.
    pub link_id: Option<LinkId>,
    /// When its link was used or ended, if it was.
    pub link_ended_at: Option<Timestamp>,
    /// The message that it repeats.
    pub resend_of: Option<DeliveryId>,
}

impl Delivery {
    /// When the message can be sent again: at once if it will not arrive, otherwise after a pause.
    pub fn resend_allowed_at(&self) -> Timestamp {
        match self.state {
            DeliveryState::Failed | DeliveryState::Expired | DeliveryState::Cancelled => self.updated_at,
            _ => self.created_at.saturating_add(RESEND_AFTER),
        }
    }

    /// What stands in the way, by the last attempt. `None` if nothing does, or if there was no refusal that tells.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self.state {
            DeliveryState::Failed | DeliveryState::Retrying | DeliveryState::Expired | DeliveryState::Unknown => {}
            _ => return None,
        }
        if self.relay_failed { Some(Obstacle::Relay) } else { Obstacle::of_refusal(&self.last_words) }
    }
}

/// What stands in the way of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The relay or the folder: mail to others would fail, too.
    Relay,
    /// The address.
    Address,
    /// The mailbox, which is full or closed.
    Mailbox,
    /// The message, such as one that is taken for spam.
    Message,
}

impl Obstacle {
    /// Judges by the enhanced status code (RFC 3463) of an answer such as `…, at RCPT TO: 550 5.1.1 no such user`. Without one,
    /// only an answer to `RCPT TO` is about the address.
    fn of_refusal(words: &str) -> Option<Obstacle> {
        let (step, answer) = words.split_once(", at ")?.1.split_once(": ")?;
        let mut parts = answer.split(' ');
        let code = parts.next().filter(|code| code.len() == 3 && code.starts_with(['4', '5']))?;
        let enhanced: Vec<&str> = parts.next().unwrap_or_default().split('.').collect();
        Some(match (enhanced.as_slice(), code) {
            // 1.7 and 1.8 are about the address of the sender, 2.3 about the length of the message.
            (["4" | "5", "1", "7" | "8"] | ["4" | "5", "2", "3"], _) => Obstacle::Message,
            (["4" | "5", "1", _], _) => Obstacle::Address,
            (["4" | "5", "2", _], _) => Obstacle::Mailbox,
            (["4" | "5", _, _], _) => Obstacle::Message,
            (_, "452" | "552") if step == "RCPT TO" => Obstacle::Mailbox,
            _ if step == "RCPT TO" => Obstacle::Address,
            _ => Obstacle::Message,
        })
    }
}

/// Selects messages.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct DeliveryFilter {
    /// Any of these kinds. Empty means all.
    pub kinds: Vec<DeliveryKind>,
    /// Any of these states. Empty means all.
    pub states: Vec<DeliveryState>,
}

/// What an attempt met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempted {
    /// The relay took the message.
    Accepted,
    /// The relay did not take it and may do so later.
    NotAccepted,
    /// The relay, or this server, refused it for good.
    Refused,
    /// The connection broke after the message was handed over.
    Unknown,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// The state.
    pub state: DeliveryState,
    /// When the next attempt is due. The contents are wiped if there is none.
    pub next_attempt_at: Option<Timestamp>,
}

/// The message that an attempt was made with.
#[derive(Debug, Clone, Copy)]
pub struct Tried {
    /// Attempts, with this one.
    pub attempts: u32,
    /// Whether the relay may have accepted an earlier attempt.
    pub was_unknown: bool,
    /// Whether it was cancelled during the attempt.
    pub is_cancelled: bool,
    /// When the message was made.
    pub created_at: Timestamp,
    /// When its link or password expires.
    pub expires_at: Option<Timestamp>,
}

impl Tried {
    /// Returns what follows from an attempt that ended at `now`. `jitter` is between 0 and 1; it spreads the retries of many
    /// messages.
    pub fn next(&self, attempted: Attempted, now: Timestamp, jitter: f64) -> Next {
        let finally = |state| Next { state, next_attempt_at: None };
        match attempted {
            Attempted::Accepted => finally(DeliveryState::Accepted),
            // The relay may have the message already, so only one more attempt is made.
            _ if self.was_unknown => finally(DeliveryState::Unknown),
            Attempted::Unknown if self.is_cancelled => finally(DeliveryState::Unknown),
            _ if self.is_cancelled => finally(DeliveryState::Cancelled),
            Attempted::Refused => finally(DeliveryState::Failed),
            Attempted::Unknown => {
                let again = now.saturating_add(PAUSE_AFTER_UNKNOWN);
                let next_attempt_at = Some(again).filter(|at| *at < self.gives_up_at());
                Next { state: DeliveryState::Unknown, next_attempt_at }
            }
            Attempted::NotAccepted => {
                let again = now.saturating_add(self.pause(jitter));
                if again < self.gives_up_at() {
                    return Next { state: DeliveryState::Retrying, next_attempt_at: Some(again) };
                }
                finally(if self.expires_at.is_some() { DeliveryState::Expired } else { DeliveryState::Failed })
            }
        }
    }

    fn gives_up_at(&self) -> Timestamp {
        let last = self.created_at.saturating_add(TRIED_FOR);
        self.expires_at.unwrap_or(last)
    }

    /// The pause after the attempts so far, 20 % shorter or longer.
    fn pause(&self, jitter: f64) -> Duration {
        let index = self.attempts.saturating_sub(1) as usize;
        let pause = PAUSES.get(index).or(PAUSES.last()).copied().unwrap_or_default();
        pause.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    }
}

/// The side that asked for a message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Requester {
    /// The owner of the account, or a stranger in the owner's name.
    Owner {
        /// The address of the client, if it is known.
        source: Option<String>,
    },
    /// An operator.
    Operator {
        /// The display name, if there is one.
        name: Option<String>,
    },
}

/// What a message is made of when it is sent. The database stores it sealed, and wipes it once the message has its last state.
#[derive(Clone, serde::Serialize, serde::Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Contents {
    /// The sign-in name.
    #[zeroize(skip)]
    pub username: String,
    /// The name shown to people.
    #[zeroize(skip)]
    pub name: Option<String>,
    /// The side that asked for it.
    #[zeroize(skip)]
    pub requester: Requester,
    /// The token of the link.
    pub link_token: Option<String>,
    /// The token that cancels the link.
    pub cancel_token: Option<String>,
    /// The temporary password.
    pub temporary_password: Option<String>,
    /// The new address.
    #[zeroize(skip)]
    pub new_address: Option<String>,
    /// Whether the user is invited to set up a second factor. Messages of earlier versions lack this and the next.
    #[zeroize(skip)]
    #[serde(default)]
    pub invites_second_factor: bool,
    /// When the policy begins to ask the user for it, in microseconds since 1970.
    #[zeroize(skip)]
    #[serde(default)]
    pub second_factor_due: Option<i64>,
}

/// Version of [`Contents`]. A worker leaves messages of other versions to replicas that know them.
pub const CONTENTS_VERSION: i16 = 1;

/// Omits the contents, which hold secrets.
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn tried(attempts: u32) -> Tried {
        let (created_at, expires_at) = (Timestamp::from_micros(0), Some(Timestamp::from_micros(HOUR)));
        Tried { attempts, was_unknown: false, is_cancelled: false, created_at, expires_at }
    }

    fn after_seconds(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_pauses_grow_to_a_quarter_of_an_hour() {
        let now = Timestamp::from_micros(0);
        let pauses: Vec<_> = (1..=9).map(|n| tried(n).next(Attempted::NotAccepted, now, 0.5).next_attempt_at).collect();
        assert_eq!(pauses, [10, 30, 60, 120, 300, 600, 900, 900, 900].map(|seconds| Some(after_seconds(seconds))));
        let spread = [0.0, 1.0].map(|jitter| tried(1).next(Attempted::NotAccepted, now, jitter).next_attempt_at);
        assert_eq!(spread, [8, 12].map(|seconds| Some(after_seconds(seconds))));
    }

    #[test]
    fn a_refusal_is_of_the_address_the_mailbox_or_the_message_by_its_code_and_its_step() {
        use Obstacle::{Address, Mailbox, Message};
        let dot = "the end of the content";
        for (step, answer, expected) in [
            ("RCPT TO", "550 5.1.1 no such user", Some(Address)),
            ("RCPT TO", "550 no such user", Some(Address)),
            ("RCPT TO", "550 5.1.8 bad sender", Some(Message)),
            ("RCPT TO", "550 5.7.1 looks like spam", Some(Message)),
            ("RCPT TO", "552 5.2.2 mailbox full", Some(Mailbox)),
            ("RCPT TO", "552 mailbox full", Some(Mailbox)),
            ("RCPT TO", "451 4.2.1 mailbox busy", Some(Mailbox)),
            (dot, "550 5.1.1 no such user", Some(Address)),
            (dot, "554 5.7.1 spam", Some(Message)),
            (dot, "552 5.3.4 too big", Some(Message)),
            (dot, "552 5.2.3 too big", Some(Message)),
            (dot, "550 not wanted", Some(Message)),
            (dot, "the connection was closed", None),
            ("RCPT TO", "no answer in time", None),
        ] {
            let words = format!("mail.example.org:465, at {step}: {answer}");
            assert_eq!(Obstacle::of_refusal(&words), expected, "{words}");
        }
        assert_eq!(Obstacle::of_refusal("the address is no address: 550 5.1.1"), None);
    }

    #[test]
    fn a_message_ends_with_its_link() {
        let now = Timestamp::from_micros(HOUR - 5_000_000);
        let next = tried(1).next(Attempted::NotAccepted, now, 0.5);
        assert_eq!(next, Next { state: DeliveryState::Expired, next_attempt_at: None });
        let notice = Tried { expires_at: None, ..tried(1) };
        assert_eq!(notice.next(Attempted::NotAccepted, now, 0.5).state, DeliveryState::Retrying);
        let late = Timestamp::from_micros(24 * HOUR);
        assert_eq!(notice.next(Attempted::NotAccepted, late, 0.5).state, DeliveryState::Failed);
    }

    #[test]
    fn what_the_relay_may_have_is_tried_once_more() {
        let now = Timestamp::from_micros(0);
        let first = tried(1).next(Attempted::Unknown, now, 0.5);
        assert_eq!(first, Next { state: DeliveryState::Unknown, next_attempt_at: Some(after_seconds(300)) });
        let again = Tried { was_unknown: true, ..tried(2) };
        for attempted in [Attempted::Unknown, Attempted::NotAccepted, Attempted::Refused] {
            assert_eq!(again.next(attempted, now, 0.5), Next { state: DeliveryState::Unknown, next_attempt_at: None });
        }
        assert_eq!(again.next(Attempted::Accepted, now, 0.5).state, DeliveryState::Accepted);
    }

    #[test]
    fn a_cancelled_message_is_honest_about_what_went_out() {
        let now = Timestamp::from_micros(0);
        let cancelled = Tried { is_cancelled: true, ..tried(1) };
        let states = [Attempted::Accepted, Attempted::Unknown, Attempted::NotAccepted, Attempted::Refused]
            .map(|attempted| cancelled.next(attempted, now, 0.5));
        assert!(states.iter().all(|next| next.next_attempt_at.is_none()));
        let states = states.map(|next| next.state);
        let expected =
            [DeliveryState::Accepted, DeliveryState::Unknown, DeliveryState::Cancelled, DeliveryState::Cancelled];
        assert_eq!(states, expected);
    }
}
