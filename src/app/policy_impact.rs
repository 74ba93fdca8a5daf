//! What a policy means for the users there are: who needs a second factor, and whose password expires when.

use std::collections::{BTreeMap, BinaryHeap};
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
    PasswordAge, Place, UsersWithoutFactor, password_ages, unjudged_count, users_without_factor,
};

/// Passwords in one query. Each takes a turn of the lists, so that other lists are read in between.
const PAGE: u64 = 20_000;

/// How long passwords are counted. Clients wait for ten seconds.
const LONGEST: Duration = Duration::from_secs(8);

/// Names of each week.
const NAMES: usize = 20;

/// A week, and how many of them are told apart: a quarter, the usual maximum age.
const WEEK: Duration = Duration::from_hours(7 * 24);
const WEEKS: u64 = 13;

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
    /// Passwords that were counted.
    pub counted: u64,
    /// Those that have expired.
    pub expired: Group,
    /// The weeks in which others expire, each with its begin. A week in which none does is left out.
    pub weeks: Vec<(Timestamp, Group)>,
    /// Those that expire after the last week.
    pub later: u64,
    /// People who cannot be told before: they have no address, or this server sends no such mail.
    pub untold: u64,
    /// Whether all passwords were counted.
    pub is_complete: bool,
}

/// Users whose passwords expire together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub users: u64,
    /// The names of the first.
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
                    expiries.untold = expiries.counted - expiries.expired.users;
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

    async fn expiries(&self, caller: &Caller, max_age: MaxAge, now: Timestamp) -> Result<Expiries> {
        let began = Instant::now();
        let (mut counting, mut after) = (Counting::default(), Some(Place::default()));
        while let Some(last) = after.take_if(|_| began.elapsed() < LONGEST) {
            let (ages, next) =
                self.list(caller, &[], async |reader: &ListReader| password_ages(reader, &last, PAGE).await).await?;
            for age in ages {
                counting.add(age, max_age, now);
            }
            after = next;
        }
        Ok(counting.end(now, after.is_none()))
    }
}

#[derive(Default)]
struct Counting {
    expired: Earliest,
    /// By the number of the week.
    weeks: BTreeMap<u64, Earliest>,
    later: u64,
    without_address: u64,
}

impl Counting {
    fn add(&mut self, age: PasswordAge, max_age: MaxAge, now: Timestamp) {
        let expires_at = max_age.expires_at(age.user, age.changed_at);
        if expires_at <= now {
            return self.expired.add(expires_at, age.username);
        }
        self.without_address += u64::from(!age.has_address);
        match expires_at.duration_since(now).as_micros() / WEEK.as_micros() {
            week if week < u128::from(WEEKS) => {
                let week = u64::try_from(week).unwrap_or_default();
                self.weeks.entry(week).or_default().add(expires_at, age.username);
            }
            _ => self.later += 1,
        }
    }

    fn end(self, now: Timestamp, is_complete: bool) -> Expiries {
        let begin = |week: u64| now.saturating_add(WEEK * u32::try_from(week).unwrap_or_default());
        let expired = self.expired.group();
        let weeks: Vec<_> = self.weeks.into_iter().map(|(week, group)| (begin(week), group.group())).collect();
        Expiries {
            counted: expired.users + weeks.iter().map(|(_, group)| group.users).sum::<u64>() + self.later,
            expired,
            weeks,
            later: self.later,
            untold: self.without_address,
            is_complete,
        }
    }
}

/// The number of users of a group, and those whose passwords expire first.
#[derive(Default)]
struct Earliest {
    users: u64,
    first: BinaryHeap<(Timestamp, String)>,
}

impl Earliest {
    fn add(&mut self, at: Timestamp, username: String) {
        self.users += 1;
        if self.first.len() < NAMES || self.first.peek().is_some_and(|(last, _)| at < *last) {
            self.first.push((at, username));
        }
        if self.first.len() > NAMES {
            self.first.pop();
        }
    }

    fn group(self) -> Group {
        let usernames = self.first.into_sorted_vec().into_iter().map(|(_, username)| username).collect();
        Group { users: self.users, usernames }
    }
}
