//! Sessions: their lifetime, and the rotation of refresh tokens.

use std::time::Duration;

use super::id::{SessionId, UserId};
use super::profile::{Audience, ClientName};
use super::role::ScopeSet;
use super::second_factor::Proofs;
use super::time::{MAX_CLOCK_SKEW, Timestamp};

/// How long a refresh can be repeated if its answer was lost. RFC 9700, 4.14.2 requires rotation of refresh tokens; a
/// client that lost an answer is not an attacker.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);

/// The audience that latchkey itself accepts, and the default.
pub const OWN_AUDIENCE: &str = "latchkey";

/// Lifetime limits of sessions.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Maximum time without a refresh.
    pub idle: Duration,
    /// Maximum lifetime, regardless of use.
    pub absolute: Duration,
}

/// Options of a sign-in, stored with the session and the ticket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignInWish {
    /// Name of the client, as it stated.
    pub client_name: Option<ClientName>,
    /// Audiences of the access token. Empty means latchkey alone.
    pub audiences: Vec<Audience>,
    /// Upper bound of the granted scopes. `None` means all scopes of the user.
    pub scopes: Option<ScopeSet>,
    /// The application that carried the sign-in: its username, or `latchkey`.
    pub app: String,
}

impl SignInWish {
    /// Returns whether the token is for latchkey itself. A token for any other audience gets no latchkey scopes:
    /// otherwise every service that the user calls could act as the user here.
    pub fn is_for_latchkey(&self) -> bool {
        self.audiences.is_empty() || self.audiences.iter().all(|audience| audience.as_str() == OWN_AUDIENCE)
    }

    /// Returns which of the user's scopes a token may carry.
    pub fn grant(&self, of_user: ScopeSet) -> ScopeSet {
        if self.is_for_latchkey() { self.scopes.unwrap_or(ScopeSet::ALL).intersection(of_user) } else { ScopeSet::NONE }
    }

    /// The `aud` claim.
    pub fn audience_claim(&self) -> Vec<String> {
        if self.audiences.is_empty() {
            vec![OWN_AUDIENCE.to_owned()]
        } else {
            self.audiences.iter().map(|audience| audience.as_str().to_owned()).collect()
        }
    }
}

/// A signed-in session.
#[derive(Debug, Clone)]
pub struct Session {
    /// The `sid` claim. Not a secret.
    pub id: SessionId,
    /// The user.
    pub user_id: UserId,
    /// Options of the sign-in.
    pub wish: SignInWish,
    /// Address of the last use.
    pub client_address: String,
    /// When the user last proved their identity.
    pub auth_at: Timestamp,
    /// How.
    pub proofs: Proofs,
    /// When it was created.
    pub created_at: Timestamp,
    /// Time of the last refresh.
    pub last_used_at: Timestamp,
    /// When it expires unless it is refreshed.
    pub idle_expires_at: Timestamp,
    /// When it expires regardless of refreshes.
    pub expires_at: Timestamp,
    /// When it was revoked or signed out, if it was.
    pub ended_at: Option<Timestamp>,
    /// Number of refreshes so far.
    pub generation: u32,
    /// Time of the last rotation.
    pub rotated_at: Option<Timestamp>,
}

/// Decision on a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// The current generation: rotate.
    Rotate,
    /// The previous generation within [`REFRESH_GRACE`]: return the same successor again.
    Repeat,
    /// An older generation, so the token was copied: revoke the session.
    Reused,
    /// The session has ended.
    Ended,
}

impl Session {
    /// Returns whether the session is live at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && self.expires_at > now && self.idle_expires_at > now
    }

    /// Decides on a refresh token of this generation.
    pub fn judge_refresh(&self, generation: u32, now: Timestamp) -> Refresh {
        if !self.is_live(now) {
            return Refresh::Ended;
        }
        if generation == self.generation {
            return Refresh::Rotate;
        }
        // Setting a clock back must not give a used token its grace period again.
        let in_grace = self
            .rotated_at
            .is_some_and(|at| now.duration_since(at) < REFRESH_GRACE && at.duration_since(now) <= MAX_CLOCK_SKEW);
        if generation.checked_add(1) == Some(self.generation) && in_grace { Refresh::Repeat } else { Refresh::Reused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(generation: u32, rotated_at: i64) -> Session {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        Session {
            id: SessionId::from_bytes([1; 16]),
            user_id: UserId::from_bytes([2; 16]),
            wish: SignInWish::default(),
            client_address: String::new(),
            auth_at: at(0),
            proofs: Proofs::PASSWORD,
            created_at: at(0),
            last_used_at: at(rotated_at),
            idle_expires_at: at(3600),
            expires_at: at(7200),
            ended_at: None,
            generation,
            rotated_at: Some(at(rotated_at)),
        }
    }

    #[test]
    fn only_the_newest_two_generations_are_good_and_the_older_only_for_a_moment() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let session = session(3, 100);
        assert_eq!(session.judge_refresh(3, at(500)), Refresh::Rotate);
        assert_eq!(session.judge_refresh(2, at(109)), Refresh::Repeat);
        assert_eq!(session.judge_refresh(2, at(110)), Refresh::Reused);
        assert_eq!(session.judge_refresh(1, at(101)), Refresh::Reused);
        assert_eq!(session.judge_refresh(4, at(101)), Refresh::Reused);
        assert_eq!(session.judge_refresh(3, at(3600)), Refresh::Ended);
    }

    #[test]
    fn a_clock_that_was_turned_back_gives_no_used_token_its_grace_again() {
        let turned_back = |by: i64| session(3, 3600).judge_refresh(2, Timestamp::from_micros((3600 - by) * 1_000_000));
        assert_eq!(turned_back(4), Refresh::Repeat, "clocks of replicas differ a little");
        assert_eq!(turned_back(1000), Refresh::Reused);
    }

    #[test]
    fn a_token_for_another_audience_carries_no_scope() -> Result<(), Box<dyn std::error::Error>> {
        let audience = Audience::parse("https://billing.example")?.ok_or("empty")?;
        let wish = SignInWish { audiences: vec![audience], ..SignInWish::default() };
        assert_eq!(wish.grant(ScopeSet::ALL), ScopeSet::NONE);
        assert_eq!(SignInWish::default().grant(ScopeSet::ALL), ScopeSet::ALL);
        Ok(())
    }
}
