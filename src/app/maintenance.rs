//! What the jobs do: nothing that a request relies on. Expiry is judged at use, so a job that is late is late, not
//! wrong.

use std::time::Duration;

use super::App;
use super::keys::{Keys, create_next_key};
use super::throttle::wait_ended;
use super::writer::Unaudited;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{AccessRule, Call, Caller, Demand, Principal};
use crate::domain::role::ScopeSet;
use crate::domain::time::MAX_CLOCK_SKEW;
use crate::error::{Error, Result};
use crate::store::idempotency::idempotency_sweep;
use crate::store::keys::{key_list, keys_sweep};
use crate::store::sessions::sessions_sweep;
use crate::store::sources::sources_sweep;
use crate::store::throttle::{throttle_end_waits, throttle_sweep};
use crate::store::tickets::tickets_sweep;
use crate::store::users::{reservations_sweep, user_by_id};

/// How long sessions that have ended are kept: the evidence after a lock.
const ENDED_SESSIONS: Duration = Duration::from_hours(30 * 24);

impl App {
    /// Says in the audit log that waits are over.
    pub async fn end_waits(&self) -> Result<()> {
        let caller = nobody("job/end-waits");
        self.transact(&caller, None, |writer| async move {
            let ended = throttle_end_waits(&*writer.tx, &self.settings.throttle, writer.now).await?;
            if ended.is_empty() {
                return Ok(());
            }
            let mut events = Vec::new();
            for id in ended.into_iter().flatten() {
                let name = match user_by_id(&*writer.tx, id).await {
                    Ok(Some(user)) => user.username.as_str().to_owned(),
                    // One broken record must not keep the log from hearing of the others.
                    Err(Error::Corrupt { .. }) => String::new(),
                    Ok(None) => continue,
                    Err(error) => return Err(error),
                };
                events.push(wait_ended(Target::user(id, name)));
            }
            let mut events = events.into_iter();
            match events.next() {
                Some(first) => writer.commit(first, events).await,
                None => writer.commit_unaudited(Unaudited::WaitsOfNobody).await,
            }
        })
        .await
        .map(|_| ())
    }

    /// Moves the log of the embedded database to its file.
    pub async fn move_log(&self) -> Result<()> {
        self.store.move_log().await;
        Ok(())
    }

    /// Forgets what nobody asks for any more.
    pub async fn sweep(&self) -> Result<()> {
        let (c, now) = (self.store.autocommit(), self.now());
        tickets_sweep(c, now).await?;
        idempotency_sweep(c, now).await?;
        reservations_sweep(c, now).await?;
        throttle_sweep(c, &self.settings.throttle, now).await?;
        sources_sweep(c, &self.settings.sources, now).await?;
        keys_sweep(c, now).await?;
        sessions_sweep(c, now.saturating_sub(ENDED_SESSIONS)).await
    }

    /// Compares the clock with the database's: replicas that disagree about the time disagree about what has expired.
    pub async fn check_clock(&self) -> Result<()> {
        let Some(theirs) = self.store.now().await? else { return Ok(()) };
        let ours = self.now();
        let apart = ours.duration_since(theirs).max(theirs.duration_since(ours));
        if apart > MAX_CLOCK_SKEW {
            tracing::warn!(
                seconds_apart = apart.as_secs(),
                "the clock of this machine and that of the database disagree; check time synchronisation on both"
            );
        }
        Ok(())
    }

    /// Makes the next signing key when it is time, and takes up what other replicas made.
    pub async fn tend_keys(&self) -> Result<()> {
        let stored = key_list(self.store.reader(), false).await?;
        if stored.iter().any(|key| key.seal_fingerprint != self.seal.fingerprint()) {
            // Somebody stole the old ones, or they are lost: tokens must not be signed or accepted by them any more.
            tracing::error!("the keys of the database were replaced under another seal key; this server stops");
            self.close();
            self.keys_replaced.cancel();
            return Ok(());
        }
        let keys = Keys::open(&self.seal, &stored)?;
        let due = keys.rotation_due(self.now()).is_some();
        self.keys.replace(keys);
        if due { self.rotate_signing_key().await } else { Ok(()) }
    }

    async fn rotate_signing_key(&self) -> Result<()> {
        let caller = nobody("job/tend-keys");
        self.write(&caller, None, |writer| async move {
            // Under the lock: two replicas that find it due make one key.
            key_list(&*writer.tx, true).await?;
            // Read again: a reader that waited for a lock does not see the rows that were added meanwhile.
            let stored = key_list(&*writer.tx, false).await?;
            let Some(replaced) = Keys::open(&self.seal, &stored)?.rotation_due(writer.now) else { return Ok(()) };
            let key = create_next_key(&*writer.tx, &self.seal, &self.effects, replaced).await?;
            let event = Event::new(EventType::KeyRotated, Target::default())
                .about(key.id)
                .detail("notBeforeTime", key.not_before);
            writer.commit(event, []).await
        })
        .await?;
        let stored = key_list(self.store.reader(), false).await?;
        self.keys.replace(Keys::open(&self.seal, &stored)?);
        Ok(())
    }
}

/// The server itself, in the audit log.
fn nobody(job: &str) -> Caller {
    Caller {
        principal: Principal::Nobody,
        scopes: ScopeSet::NONE,
        rule: AccessRule { demand: Demand::Anyone, max_auth_age: None },
        field_scopes: Vec::new(),
        call: Call { method: job.to_owned(), ..Call::default() },
    }
}
