//! Tickets: what a sign-in that is not at its end hands out. One purpose, ten minutes, one at a time; there is no
//! session that is half allowed.

use std::time::Duration;

use super::id::UserId;
use super::session::SignInWish;
use super::time::Timestamp;

/// How long a ticket is good: time to think of a password, not to lose the ticket.
pub const TICKET_TTL: Duration = Duration::from_mins(10);

/// What a ticket is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketPurpose {
    /// Choosing a new password.
    PasswordChange,
}

/// A ticket, as the store reads it: of its secret, only a digest is kept.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Whose.
    pub user_id: UserId,
    /// What for.
    pub purpose: TicketPurpose,
    /// What the sign-in asked for.
    pub wish: SignInWish,
    /// When the password was proved.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Timestamp,
}
