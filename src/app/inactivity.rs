//! Locks accounts that were not used for longer than the policy allows: at the next sign-in, or by a job, which locks few of them
//! an hour. So a mistake in the policy is seen before it has locked many.

use std::time::Duration;

use super::App;
use super::maintenance::job;
use super::users::{lock_account, locked_event};
use super::writer::{Change, Done, RolledBack};
use crate::domain::id::UserId;
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::user::User;
use crate::error::{Error, Result};
use crate::store::inactivity::{inactive, locked_lately, used_count};
use crate::store::sign_in_policy::policy_lock_row;
use crate::store::users::user_count_able_administrators;

/// The part of all people whose accounts the job locks in an hour, and how many at least.
const SHARE: u64 = 100;
const FEWEST: u64 = 10;

/// The time over which locks are counted.
const HOUR: Duration = Duration::from_hours(1);

/// Accounts in one query, which reads all.
const BATCH: u64 = 500;

/// The pause after a batch.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

impl App {
    /// Locks the accounts that were not used for longer than the policy allows, until none is left or all replicas together have
    /// locked as many in this hour as they may: the others wait for the next time. Locks none while the clock is wrong.
    pub async fn lock_inactive_accounts(&self) -> Result<()> {
        let Some(max) = self.sign_in_policy().await?.inactivity.in_force() else { return Ok(()) };
        let (reader, mut last, mut most) = (self.store.reader(), None, None);
        if self.clock_error().await?.is_some() {
            return Ok(());
        }
        while !self.work.is_closed() {
            let idle = inactive(reader, max, last.as_ref(), BATCH, self.now()).await?;
            if idle.is_empty() {
                return Ok(());
            }
            let most = match most {
                Some(most) => most,
                None => *most.insert(most_of(used_count(reader).await?)),
            };
            for account in &idle {
                // A row whose id cannot be read is left out, like others that cannot be read.
                let Ok(id) = account.id.parse() else { continue };
                if !self.lock_if_inactive(id, most).await? {
                    return Ok(());
                }
            }
            last = idle.into_iter().next_back();
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
        Ok(())
    }

    /// Locks an account if it is inactive, unless it is the last administrator's. Returns `false` if `most` accounts were locked in
    /// this hour. A record that cannot be read is left out.
    async fn lock_if_inactive(&self, id: UserId, most: u64) -> Result<bool> {
        let caller = job("job/lock-inactive");
        let locked = self.write(&caller, None, |mut writer| async move {
            let Some(user) = writer.locked(id).await? else { return Ok(writer.unchanged(true)) };
            // With the policy locked, no other replica locks an account between the count and the lock.
            let policy = policy_lock_row(&writer.tx).await?;
            if policy.inactivity.in_force() != user.policy.max_inactivity {
                // The policy has changed since the account was read.
                return Ok(writer.unchanged(true));
            }
            if locked_lately(&writer.tx, HOUR, writer.now).await? >= most {
                return Ok(writer.unchanged(false));
            }
            let change = writer.change();
            let may_lock = user.lock(change.now).is_none() && user.is_inactive(change.now);
            if !may_lock || !change.may_lock(&user).await? {
                return Ok(change.roll_back(RolledBack::NothingDue, true));
            }
            self.lock_inactive(change, &user).await.map(|done| done.map(|()| true))
        });
        match locked.await {
            Err(Error::Corrupt { .. }) => Ok(true),
            locked => locked,
        }
    }

    /// Returns an account without what the policy says of its use if nothing locks it for that: the last administrator's.
    pub(super) async fn spare_last_administrator(&self, mut user: User) -> Result<User> {
        let now = self.now();
        if user.is_inactive(now)
            && user.is_able_administrator(now)
            && user_count_able_administrators(self.store.reader(), &user, now).await? == 0
        {
            user.policy.max_inactivity = None;
        }
        Ok(user)
    }

    /// Returns whether the clock is right, and fewer accounts were locked in this hour than may be.
    pub(super) async fn is_within_limit(&self, change: &Change<'_>) -> Result<bool> {
        if self.clock_error().await?.is_some() {
            return Ok(false);
        }
        let most = most_of(used_count(&change.tx).await?);
        Ok(locked_lately(&change.tx, HOUR, change.now).await? < most)
    }

    /// Locks an account that is inactive, and commits.
    pub(super) async fn lock_inactive(&self, change: Change<'_>, user: &User) -> Result<Done<()>> {
        let lock = Lock::automatic(LockCause::Inactivity, None, change.now);
        let (after, effects) = lock_account(&change, user, lock).await?;
        let locked = change.commit(locked_event(&after, None, &effects), ()).await?;
        self.metrics.user_locked(LockCause::Inactivity);
        Ok(locked)
    }
}

/// How many of so many accounts are locked in an hour.
fn most_of(accounts: u64) -> u64 {
    (accounts / SHARE).max(FEWEST)
}
