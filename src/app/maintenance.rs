//! The work of the background jobs. No request relies on it: expiry is checked at use, so a late job does no harm.

use std::time::Duration;

use super::App;
use super::throttle::{BUDGET_WINDOW, throttle_ended};
use super::writer::{RolledBack, Unaudited};
use crate::crypto::{Keys, NextKey, next_signing_key};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::budget::{RESET_REQUESTS_NAME, RESET_REQUESTS_WINDOW};
use crate::domain::caller::{AccessRule, Call, Caller, Demand, Principal};
use crate::domain::delivery;
use crate::domain::role::ScopeSet;
use crate::domain::time::{MAX_CLOCK_ERROR, MAX_CLOCK_SKEW};
use crate::error::{Error, Result};
use crate::store::audit::event_insert;
use crate::store::budgets::{Which, budgets_sweep};
use crate::store::deliveries::deliveries_sweep;
use crate::store::event_counts::{event_counts_close, event_counts_due};
use crate::store::familiar::places_sweep;
use crate::store::idempotency::idempotency_sweep;
use crate::store::keys::{key_insert, key_list, key_retire, keys_sweep};
use crate::store::links::links_sweep;
use crate::store::old_passwords::old_passwords_sweep;
use crate::store::reset_requests::reset_requests_sweep;
use crate::store::sessions::sessions_sweep;
use crate::store::sign_in_policy::policy_read;
use crate::store::sources::{source_blocks_sweep, source_failures_sweep};
use crate::store::throttle::{throttle_end_waits, throttle_sweep};
use crate::store::tickets::tickets_sweep;
use crate::store::users::{reservations_sweep, user_by_id};

/// How long ended sessions are kept, as evidence after a lock.
const ENDED_SESSIONS: Duration = Duration::from_hours(30 * 24);

/// The pause between two batches of a sweep: twice as long as a batch takes.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

impl App {
    /// Records in the audit log which throttles have expired.
    pub async fn end_waits(&self) -> Result<()> {
        let caller = job("job/end-waits");
        self.write(&caller, None, |writer| async move {
            let change = writer.change();
            // Read again, because an older copy could end throttles that newer rules have just begun.
            let rules = self.throttle_rules_of(policy_read(&change.tx).await?.throttle);
            let ended = throttle_end_waits(&change.tx, &rules, change.now).await?;
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

    /// Records in the audit log how many events of one kind there were in a minute.
    pub async fn close_counts(&self) -> Result<()> {
        /// Counts in one transaction. Few enough not to delay sign-ins.
        const BATCH: u64 = 200;
        if !event_counts_due(self.store.reader(), self.now()).await? {
            return Ok(());
        }
        let caller = job("job/close-counts");
        self.write(&caller, None, |writer| async move {
            let change = writer.change();
            let mut events = Vec::new();
            for counted in event_counts_close(&change.tx, BATCH, change.now).await? {
                events.extend(self.closing_event(&change.tx, counted, change.now).await?);
            }
            if !events.is_empty() {
                event_insert(&change.tx, events).await?;
            }
            change.commit_unaudited(Unaudited::Counted, ()).await
        })
        .await
    }

    /// Moves the write-ahead log of the embedded database into the database file.
    pub async fn move_log(&self) -> Result<()> {
        self.store.move_log().await;
        Ok(())
    }

    /// Deletes expired tickets, idempotency keys, username reservations, throttles, source blocks, familiar places, keys, ended
    /// sessions, events, and requests for a link that nothing resolved.
    pub async fn sweep(&self) -> Result<()> {
        let (c, now, sources) = (self.store.autocommit()?, self.now(), &self.settings.sources);
        let rules = self.throttle.rules();
        self.in_batches(|| tickets_sweep(c, now)).await?;
        self.in_batches(|| idempotency_sweep(c, now)).await?;
        self.in_batches(|| reservations_sweep(c, now)).await?;
        self.in_batches(|| throttle_sweep(c, &rules, now)).await?;
        self.in_batches(|| source_failures_sweep(c, sources, now)).await?;
        self.in_batches(|| source_blocks_sweep(c, sources, now)).await?;
        self.in_batches(|| places_sweep(c, now)).await?;
        self.sweep_events().await?;
        let (resets, others) = (Which::Of(RESET_REQUESTS_NAME), Which::AllBut(RESET_REQUESTS_NAME));
        self.in_batches(|| budgets_sweep(c, others, BUDGET_WINDOW, now)).await?;
        self.in_batches(|| budgets_sweep(c, resets, RESET_REQUESTS_WINDOW, now)).await?;
        let unresolved = now.saturating_sub(self.settings.mail.lifetimes.self_service);
        self.in_batches(|| reset_requests_sweep(c, unresolved, now.saturating_add(MAX_CLOCK_ERROR))).await?;
        self.in_batches(|| keys_sweep(c, now)).await?;
        if policy_read(self.store.reader()).await?.password_history == 0 {
            self.in_batches(|| old_passwords_sweep(c)).await?;
        }
        let old = now.saturating_sub(delivery::KEPT_FOR);
        self.in_batches(|| deliveries_sweep(c, old)).await?;
        self.in_batches(|| links_sweep(c, old)).await?;
        self.in_batches(|| sessions_sweep(c, now.saturating_sub(ENDED_SESSIONS))).await
    }

    /// Deletes batch after batch, until none is left or the server stops. Calls that write have their turn in between.
    pub(super) async fn in_batches<F>(&self, batch: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<bool>>,
    {
        while batch().await? && !self.work.is_closed() {
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
        Ok(())
    }

    /// Returns how far the clock is from that of the database, if that is too far. The embedded database has no other.
    pub(super) async fn clock_error(&self) -> Result<Option<Duration>> {
        let Some(theirs) = self.store.now().await? else { return Ok(None) };
        let ours = self.now();
        let apart = ours.duration_since(theirs).max(theirs.duration_since(ours));
        Ok(Some(apart).filter(|apart| *apart > MAX_CLOCK_SKEW))
    }

    /// Compares the clock with that of the database, and logs a warning if they differ too much: replicas with different
    /// times disagree about what has expired.
    pub async fn check_clock(&self) -> Result<()> {
        if let Some(apart) = self.clock_error().await? {
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
pub(super) fn job(name: &str) -> Caller {
    Caller {
        principal: Principal::Anonymous,
        scopes: ScopeSet::NONE,
        rule: AccessRule { demand: Demand::Anyone, recent_sign_in: None },
        field_scopes: Vec::new(),
        recent_sign_in: None,
        call: Call { method: name.to_owned(), ..Call::default() },
    }
}
