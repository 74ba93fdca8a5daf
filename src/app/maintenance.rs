//! The work of the background jobs. No request relies on it: expiry is checked at use, so a late job does no harm.

use std::time::Duration;

use super::App;
use super::throttle::throttle_ended;
use super::writer::{RolledBack, Unaudited};
use crate::crypto::{Keys, NextKey, next_signing_key};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::{AccessRule, Call, Caller, Demand, Principal};
use crate::domain::role::ScopeSet;
use crate::domain::time::MAX_CLOCK_SKEW;
use crate::error::{Error, Result};
use crate::store::familiar::places_sweep;
use crate::store::idempotency::idempotency_sweep;
use crate::store::keys::{key_insert, key_list, key_retire, keys_sweep};
use crate::store::sessions::sessions_sweep;
use crate::store::sources::sources_sweep;
use crate::store::throttle::{throttle_end_waits, throttle_sweep};
use crate::store::tickets::tickets_sweep;
use crate::store::users::{reservations_sweep, user_by_id};

/// How long ended sessions are kept, as evidence after a lock.
const ENDED_SESSIONS: Duration = Duration::from_hours(30 * 24);

impl App {
    /// Records in the audit log which throttles have expired.
    pub async fn end_waits(&self) -> Result<()> {
        let caller = job("job/end-waits");
        self.write(&caller, None, |writer| async move {
            let change = writer.change();
            let ended = throttle_end_waits(&change.tx, &self.settings.throttle, change.now).await?;
            if ended.is_empty() {
                return Ok(change.roll_back(RolledBack::NothingDue, ()));
            }
            let mut events = Vec::new();
            for id in ended.into_iter().flatten() {
                let target = match user_by_id(&change.tx, id).await {
                    Ok(Some(user)) => Target::of(&user),
                    // A corrupt record must not keep the other events out of the audit log.
                    Err(Error::Corrupt { .. }) => Target { user_id: id.to_string(), username: String::new() },
                    Ok(None) => continue,
                    Err(error) => return Err(error),
                };
                events.push(throttle_ended(target));
            }
            match Events::of(events) {
                Some(events) => change.commit(events, ()).await,
                None => change.commit_unaudited(Unaudited::UnknownUsernames, ()).await,
            }
        })
        .await
    }

    /// Moves the write-ahead log of the embedded database into the database file.
    pub async fn move_log(&self) -> Result<()> {
        self.store.move_log().await;
        Ok(())
    }

    /// Deletes expired tickets, idempotency keys, username reservations, throttles, source blocks, familiar
    /// places, keys and ended sessions.
    pub async fn sweep(&self) -> Result<()> {
        let (c, now) = (self.store.autocommit()?, self.now());
        tickets_sweep(c, now).await?;
        idempotency_sweep(c, now).await?;
        reservations_sweep(c, now).await?;
        throttle_sweep(c, &self.settings.throttle, now).await?;
        sources_sweep(c, &self.settings.sources, now).await?;
        places_sweep(c, now).await?;
        keys_sweep(c, now).await?;
        sessions_sweep(c, now.saturating_sub(ENDED_SESSIONS)).await
    }

    /// Compares the clock with that of the database, and logs a warning if they differ too much: replicas with different
    /// times disagree about what has expired.
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

    /// Loads the keys that other replicas have made, and makes the next signing key when it is due. If the keys were replaced
    /// under another seal key, stops the server.
    pub async fn tend_keys(&self) -> Result<()> {
        let stored = key_list(self.store.reader(), false).await?;
        if stored.iter().any(|key| key.seal_fingerprint != self.seal.fingerprint()) {
            // The old keys are lost or stolen: no token may be signed or accepted with them any more.
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
        let caller = job("job/tend-keys");
        self.write(&caller, None, |writer| async move {
            // Locks the rows, so that two replicas that find a key due make only one.
            key_list(&writer.tx, true).await?;
            // Read again: a statement that waited for a lock does not see the rows that were added meanwhile.
            let stored = key_list(&writer.tx, false).await?;
            let Some(replaced) = Keys::open(&self.seal, &stored)?.rotation_due(writer.now) else {
                return Ok(writer.unchanged(()));
            };
            let NextKey { key, retires_old_at } = next_signing_key(&self.seal, &self.environment)?;
            let change = writer.change();
            key_insert(&change.tx, &key).await?;
            key_retire(&change.tx, replaced, retires_old_at).await?;
            let event = Event::new(EventType::KeyRotated, Target::default())
                .about(key.id)
                .detail("notBeforeTime", key.not_before);
            change.commit(event, ()).await
        })
        .await?;
        let stored = key_list(self.store.reader(), false).await?;
        self.keys.replace(Keys::open(&self.seal, &stored)?);
        Ok(())
    }
}

/// The server itself as a caller, as it appears in the audit log.
fn job(name: &str) -> Caller {
    Caller {
        principal: Principal::Anonymous,
        scopes: ScopeSet::NONE,
        rule: AccessRule { demand: Demand::Anyone, max_auth_age: None },
        field_scopes: Vec::new(),
        call: Call { method: name.to_owned(), ..Call::default() },
    }
}
