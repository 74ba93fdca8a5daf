//! What a policy means for the users there are: who needs a second factor, and whose password expires when.

use std::time::{Duration, Instant};

use super::App;
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::password_age::MaxAge;
use crate::domain::sign_in_policy::SignInPolicy;
use crate::domain::time::Timestamp;
use crate::error::Result;
use crate::store::ListReader;
use crate::store::inactivity::inactive_count;
use crate::store::users::{
    UsersWithoutFactor, expired_count, expiring_names, password_count, unexpired_without_address, unjudged_count,
    users_without_factor,
};

/// How long passwords are counted. Clients wait for ten seconds.
const LONGEST: Duration = Duration::from_secs(8);

/// Names of each week.
const NAMES: u64 = 20;

/// A week, and how many of them are told apart: a quarter, the usual maximum age.
const WEEK: Duration = Duration::from_hours(7 * 24);
const WEEKS: u32 = 13;

/// What the policy means for the users there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyImpact {
    /// People to whom it applies and who have no second factor.
    pub second_factors_missing: u64,
    /// Live API tokens of these people, which go on.
    pub api_tokens: u64,
    /// Whose password expires when. `None` without a maximum age.
    pub passwords: Option<Expiries>,
    /// People whose password is older than the rules, and is judged at a later sign-in.
    pub unjudged: u64,
    /// People whose account is locked for inactivity as soon as the policy locks any.
    pub inactive: u64,
}

/// Whose password expires when. Only passwords that users may keep are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiries {
    /// All of them.
    pub counted: u64,
    /// Those that have expired.
    pub expired: Group,
    /// The weeks of the next quarter in which others expire, each with its begin. A week in which none does is left out.
    pub weeks: Vec<(Timestamp, Group)>,
    /// Those that expire after the weeks that were counted.
    pub later: u64,
    /// People who cannot be told before: they have no address, or this server sends no such mail.
    pub untold: u64,
    /// Whether all weeks were counted.
    pub is_complete: bool,
}

/// Users whose passwords expire together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub users: u64,
    /// The names of those with the oldest passwords.
    pub usernames: Vec<String>,
}

impl App {
    /// Counts for whom the policy means something.
    pub async fn policy_impact(&self, caller: &Caller, policy: &SignInPolicy) -> Result<PolicyImpact> {
        let now = self.now();
        let UsersWithoutFactor { users, api_tokens } =
            self.list(caller, &[], async |reader: &ListReader| users_without_factor(reader, policy, now).await).await?;
        let passwords = match policy.password_max_age.in_force() {
            Some(max_age) => {
                let mut expiries = self.expiries(caller, max_age, now).await?;
                if !self.sends_notice(LetterKind::PasswordExpiring) {
                    expiries.untold = expiries.counted.saturating_sub(expiries.expired.users);
                }
                Some(expiries)
            }
            None => None,
        };
        let inactive = match policy.inactivity.in_force() {
            Some(inactivity) => {
                let at = now.max(inactivity.begins_at());
                self.list(caller, &[], async |reader: &ListReader| inactive_count(reader, inactivity, at).await).await?
            }
            None => 0,
        };
        let unjudged = match policy.judges_existing_since {
            Some(since) => {
                self.list(caller, &[], async |reader: &ListReader| unjudged_count(reader, since).await).await?
            }
            None => 0,
        };
        Ok(PolicyImpact { second_factors_missing: users, api_tokens, passwords, unjudged, inactive })
    }

    /// Counts the passwords by the week in which they expire. Each count takes a turn of the lists, so that other lists are read in
    /// between.
    async fn expiries(&self, caller: &Caller, max_age: MaxAge, now: Timestamp) -> Result<Expiries> {
        let (started, count) = (Instant::now(), async |at| self.expired_at(caller, max_age, at).await);
        let counted = self.list(caller, &[], async |reader: &ListReader| password_count(reader).await).await?;
        let untold =
            self.list(caller, &[], async |reader: &ListReader| unexpired_without_address(reader, max_age, now).await);
        let untold = untold.await?;
        let expired = count(now).await?;
        let expired_names = self.names_expiring(caller, max_age, None, now).await?;
        let (mut weeks, mut begin, mut so_far) = (Vec::new(), now, expired);
        for _ in 0..WEEKS {
            if started.elapsed() > LONGEST {
                break;
            }
            let end = begin.saturating_add(WEEK);
            let by_then = count(end).await?;
            // Passwords may have been changed between two counts.
            let users = by_then.saturating_sub(so_far);
            if users > 0 {
                let usernames = self.names_expiring(caller, max_age, Some(begin), end).await?;
                weeks.push((begin, Group { users, usernames }));
            }
            (begin, so_far) = (end, so_far.max(by_then));
        }
        Ok(Expiries {
            counted,
            expired: Group { users: expired, usernames: expired_names },
            weeks,
            later: counted.saturating_sub(so_far),
            untold,
            is_complete: begin >= now.saturating_add(WEEK * WEEKS),
        })
    }

    async fn expired_at(&self, caller: &Caller, max_age: MaxAge, at: Timestamp) -> Result<u64> {
        self.list(caller, &[], async |reader: &ListReader| expired_count(reader, max_age, at).await).await
    }

    async fn names_expiring(
        &self,
        caller: &Caller,
        max_age: MaxAge,
        after: Option<Timestamp>,
        until: Timestamp,
    ) -> Result<Vec<String>> {
        let read = async |reader: &ListReader| expiring_names(reader, max_age, after, until, NAMES).await;
        self.list(caller, &[], read).await
    }
}
