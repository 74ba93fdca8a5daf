//! Tickets: what an incomplete sign-in returns. A ticket has one purpose and lives for ten minutes, and a user has at
//! most one. There are no partially authenticated sessions.

use std::time::Duration;

use super::id::UserId;
use super::session::SignInWish;
use super::time::Timestamp;

/// Lifetime of a ticket: enough to choose a password.
pub const TICKET_TTL: Duration = Duration::from_mins(10);

/// How many tries a ticket has. Each costs one or two hashes.
pub const MAX_TRIES: u32 = 10;

/// Purpose of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketPurpose {
    /// Choose a new password.
    PasswordChange,
}

/// A ticket, as read from the database, which stores only a digest of the secret.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The user.
    pub user_id: UserId,
    /// The purpose.
    pub purpose: TicketPurpose,
    /// Options of the sign-in.
    pub wish: SignInWish,
    /// How many tries were made with it.
    pub tries: u32,
    /// When the password was verified.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}
