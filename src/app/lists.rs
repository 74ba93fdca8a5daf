//! Lists: the reads that a caller can make long. They wait for each other, and no other call waits for them.
//!
//! A caller reads one list at a time, so that one in a loop leaves room for others. Few calls of a caller wait; the lane of
//! lists (`grpc/lanes.rs`) limits how many do in all.

use std::time::Duration;

use tokio::time::Instant;

use super::App;
use super::turns::Turn;
use crate::domain::caller::Caller;
use crate::error::{Error, Limit, Narrowing, Result};
use crate::store::ListReader;

/// How many lists a caller reads at a time, on one replica.
const OF_ONE_CALLER: usize = 1;

/// How many calls of a caller read a list or wait to, on one replica. A list that the client gave up goes on waiting. A quarter
/// of the lane, so that one caller cannot fill it from many addresses.
const CALLS_OF_ONE_CALLER: usize = 16;

/// How long a list waits for its turn, and for a connection: as long as another takes at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The lane in the error of a list that waited in vain.
const LANE: &str = "lists";

impl App {
    /// Reads a list. If it takes too long, the error says how to narrow it.
    pub(super) async fn list<T>(
        &self,
        caller: &Caller,
        narrowing: &[Narrowing],
        read: impl AsyncFnOnce(&ListReader) -> Result<T>,
    ) -> Result<T> {
        let Some((reader, _turns)) = self.list_reader(caller).await? else {
            self.metrics.list_refused();
            let retry_after = self.environment.retry_soon();
            return Err(Error::Exhausted { limit: Limit::Lane(LANE), retry_after });
        };
        let done = read(&reader).await;
        if done.is_err() && reader.was_interrupted() {
            return Err(Error::QueryTooBroad { narrowing: narrowing.to_vec() });
        }
        done
    }

    /// Waits for the turn of the caller, and for a connection. Returns `None` if that takes too long, or if too many calls of
    /// the caller wait already.
    async fn list_reader(&self, caller: &Caller) -> Result<Option<(ListReader, [Turn; 2])>> {
        let (give_up, id) = (Instant::now() + LONGEST_WAIT, caller.principal.id());
        let waiting = self.list_queues.take(format!("waiting {id}"), CALLS_OF_ONE_CALLER, Duration::ZERO).await;
        let Some(waiting) = waiting else { return Ok(None) };
        let turn = self.list_queues.take(id, OF_ONE_CALLER, LONGEST_WAIT).await;
        let Some(turn) = turn else { return Ok(None) };
        Ok(self.store.list_reader(give_up).await?.map(|reader| (reader, [turn, waiting])))
    }
}
