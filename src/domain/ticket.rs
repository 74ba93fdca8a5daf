//! Tickets: what an incomplete sign-in, or the start of an enrolment, returns. A ticket has one purpose and lives for ten minutes.
//! There are no partially authenticated sessions.

use std::time::Duration;

use super::id::{SessionId, UserId};
use super::second_factor::Proofs;
use super::session::SignInWish;
use super::time::Timestamp;

/// Lifetime of a ticket: enough to choose a password, or to set up an authenticator.
pub const TICKET_TTL: Duration = Duration::from_mins(10);

/// Purpose of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketPurpose {
    /// Choose a new password.
    PasswordChange,
    /// Prove the second factor.
    SecondFactor,
    /// Set up an authenticator.
    Enrollment,
    /// Confirm a new authenticator.
    TotpConfirmation,
}

impl TicketPurpose {
    /// How many tries a ticket has. A new password costs one or two hashes; a code is one of a million.
    pub const fn max_tries(self) -> u32 {
        match self {
            TicketPurpose::PasswordChange | TicketPurpose::Enrollment => 10,
            TicketPurpose::SecondFactor | TicketPurpose::TotpConfirmation => 5,
        }
    }

    /// How many tickets of a user work at a time; of more, the newest. People sign in on several devices at once, but set up one
    /// authenticator, and a temporary password opens one way.
    pub const fn max_live(self) -> usize {
        match self {
            TicketPurpose::PasswordChange | TicketPurpose::Enrollment | TicketPurpose::TotpConfirmation => 1,
            TicketPurpose::SecondFactor => 8,
        }
    }
}

/// What a sign-in is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignInGoal {
    /// A session.
    #[default]
    Session,
    /// Setting up an authenticator, and no session.
    Enrollment,
}

/// A ticket, as read from the database, which stores only a digest of the secret.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The user.
    pub user_id: UserId,
    /// The purpose.
    pub purpose: TicketPurpose,
    /// What was proved before it was issued.
    pub proofs: Proofs,
    /// What the sign-in is for.
    pub goal: SignInGoal,
    /// Options of the sign-in.
    pub wish: SignInWish,
    /// The authenticator to confirm, with [`TicketPurpose::TotpConfirmation`].
    pub enrollment: Option<Enrollment>,
    /// How many tries were made with it.
    pub tries: u32,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// An authenticator that was not confirmed.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// The session in which it was asked for. `None` if it is a step of a sign-in.
    pub session_id: Option<SessionId>,
    /// Its key, sealed.
    pub sealed_key: Vec<u8>,
}
