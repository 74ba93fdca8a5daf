//! Idempotency keys: a call that is sent again after its answer was lost does nothing twice.

use zeroize::Zeroizing;

use super::App;
use super::writer::{Change, Done};
use crate::domain::caller::Caller;
use crate::domain::idempotency::{IdempotencyKey, Remembered};
use crate::domain::secret::Digest32;
use crate::domain::user::{User, UserRef};
use crate::error::{Error, Result};
use crate::store::idempotency::{KeyUse, idempotency_find, idempotency_insert};
use crate::store::users::user_by_id;

/// What makes a retry safe.
#[derive(Debug)]
pub struct Idempotency {
    /// The caller's key.
    pub key: IdempotencyKey,
    /// The request, encoded, without the key.
    pub body: Zeroizing<Vec<u8>>,
}

/// One use of an idempotency key.
pub(super) struct Retry<'a> {
    caller: &'a Caller,
    key: &'a IdempotencyKey,
    /// Keyed: a plain hash of a request that holds a password would be an oracle.
    body: Digest32,
}

impl<'a> Retry<'a> {
    pub(super) fn new(app: &App, caller: &'a Caller, idempotency: &'a Idempotency) -> Retry<'a> {
        let body = app.keys.current().digest("request body", &idempotency.body);
        Retry { caller, key: &idempotency.key, body }
    }

    fn key_use(&self) -> KeyUse<'_> {
        KeyUse {
            principal: self.caller.principal.id(),
            method: &self.caller.call.method,
            key: self.key,
            body: &self.body,
        }
    }

    /// Remembers the answer, together with the change. Returns false if another call with the same key was first.
    pub(super) async fn remember(&self, change: &Change<'_>, answer: &Remembered) -> Result<bool> {
        idempotency_insert(&change.tx, &self.key_use(), answer, change.now).await
    }
}

impl App {
    /// Does `work`, unless an earlier call with the same key did: then `replay` makes the answer from what is remembered of
    /// that call, and from its account as it is now. `work` returns `None` if another call with the key committed first.
    pub(super) async fn once<T>(
        &self,
        retry: Option<&Retry<'_>>,
        work: impl Future<Output = Result<Option<T>>>,
        replay: impl Fn(User, Remembered) -> T,
    ) -> Result<T> {
        let Some(retry) = retry else {
            return work.await?.ok_or_else(|| Error::internal("a call without an idempotency key lost a race for one"));
        };
        if let Some((user, answer)) = self.replayed(retry).await? {
            return Ok(replay(user, answer));
        }
        let lost = match work.await {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => Error::internal("an idempotency key was lost"),
            // The call that committed first may have taken the name, or moved the etag or the state that this one checks.
            Err(error @ (Error::AlreadyExists(_) | Error::Stale { .. } | Error::Precondition(_))) => error,
            Err(error) => return Err(error),
        };
        let (user, answer) = self.replayed(retry).await?.ok_or(lost)?;
        Ok(replay(user, answer))
    }

    /// What is remembered of an earlier call with this key, and its account as it is now.
    async fn replayed(&self, retry: &Retry<'_>) -> Result<Option<(User, Remembered)>> {
        let reader = self.store.reader();
        let Some(answer) = idempotency_find(reader, &retry.key_use(), self.now()).await? else { return Ok(None) };
        let id = answer.user_id;
        let user = user_by_id(reader, id).await?.ok_or_else(|| Error::no_user(UserRef::Id(id).field()))?;
        // The earlier call may not have been answered yet.
        self.durable(Ok(Done::read(Some((user, answer))))).await
    }
}
