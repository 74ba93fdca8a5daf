//! How long events are kept: deletes older ones, and knows since when the audit log is complete.

use super::App;
use crate::domain::horizon::{Horizon, KeptClass, Sweep};
use crate::error::Result;
use crate::store::horizons::{event_exists_before, events_sweep, horizon_list, horizon_save};

impl App {
    /// Deletes the events that are older than the retention of their class.
    pub(super) async fn sweep_events(&self) -> Result<()> {
        let known = horizon_list(self.store.reader()).await?;
        for class in KeptClass::ALL {
            self.sweep_class(class, known.iter().find(|known| known.class == class).copied()).await?;
        }
        Ok(())
    }

    async fn sweep_class(&self, class: KeptClass, before: Option<Horizon>) -> Result<()> {
        let Some(kept) = self.settings.retention.of(class) else { return Ok(()) };
        let (c, now) = (self.store.autocommit()?, self.now());
        let cut = now.saturating_sub(kept);
        let has_older = event_exists_before(self.store.reader(), class, cut).await?;
        match Sweep::of(class, before, cut, has_older, now) {
            Sweep::Nothing(horizon) => horizon_save(c, &horizon).await,
            Sweep::Announce(horizon) => {
                tracing::warn!(
                    setting = class.setting(),
                    older_than = %cut,
                    from = horizon.waits_until.map(tracing::field::display),
                    "old events of the audit log will be deleted; to keep them, raise the setting, or set it to 0s"
                );
                horizon_save(c, &horizon).await
            }
            Sweep::Wait => Ok(()),
            Sweep::Delete(horizon) => {
                horizon_save(c, &horizon).await?;
                self.in_batches(|| events_sweep(c, class, cut)).await
            }
        }
    }

    /// Since when each class of events is complete, and until when a deletion waits. Classes without either are left out.
    pub(super) async fn horizons(&self) -> Result<Vec<Horizon>> {
        let mut horizons = horizon_list(self.store.reader()).await?;
        for horizon in &mut horizons {
            // A retention that was turned off meanwhile deletes nothing.
            horizon.waits_until.take_if(|_| self.settings.retention.of(horizon.class).is_none());
        }
        horizons.retain(|horizon| horizon.complete_since.is_some() || horizon.waits_until.is_some());
        horizons.sort_by_key(|horizon| horizon.class.setting());
        Ok(horizons)
    }
}
