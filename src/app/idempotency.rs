//! Idempotency keys: a call that the client sends again, because the answer was lost, is not done twice.

use zeroize::Zeroizing;

use super::App;
use super::writer::Change;
use crate::domain::caller::Caller;
use crate::domain::delivery::Delivery;
use crate::domain::idempotency::{IdempotencyKey, Remembered};
use crate::domain::secret::Digest32;
use crate::domain::user::{User, UserRef};
use crate::error::{Error, Result};
use crate::store::deliveries::delivery_by_id;
use crate::store::idempotency::{KeyUse, idempotency_find, idempotency_insert};
use crate::store::users::user_by_id;

/// The idempotency key of a request, which makes a retry safe.
#[derive(Debug)]
pub struct Idempotency {
    /// The key that the caller chose.
    pub key: IdempotencyKey,
    /// The encoded request without the key, to tell a retry from another request.
    pub body: Zeroizing<Vec<u8>>,
}

/// One use of an idempotency key.
pub(super) struct Retry<'a> {
    caller: &'a Caller,
    key: &'a IdempotencyKey,
    /// A keyed digest of the request. With a plain hash, passwords in the request could be guessed offline.
    body: Digest32,
}

/// What an earlier call with the same key did.
pub(super) struct Replay {
    /// The account as it is now.
    pub(super) user: User,
    /// What is stored of the call.
    pub(super) answer: Remembered,
    /// The message that the call sent, as it is now.
    pub(super) delivery: Option<Delivery>,
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

    /// Stores the answer in the transaction of the change. Returns false if another call with the same key committed first.
    pub(super) async fn remember(&self, change: &Change<'_>, answer: &Remembered) -> Result<bool> {
        idempotency_insert(&change.tx, &self.key_use(), answer, change.now).await
    }
}

impl App {
    /// Runs `work`, unless an earlier call with the same key has committed. In that case `replay` makes the answer, from what
    /// that call did. `work` returns `None` if another call with the same key
    /// committed first.
    pub(super) async fn once<T>(
        &self,
        retry: Option<&Retry<'_>>,
        work: impl Future<Output = Result<Option<T>>>,
        replay: impl Fn(Replay) -> T,
    ) -> Result<T> {
        let Some(retry) = retry else {
            return work.await?.ok_or_else(|| Error::internal("a call without an idempotency key lost a race for one"));
        };
        if let Some(earlier) = self.replayed(retry).await? {
            return Ok(replay(earlier));
        }
        let lost = match work.await {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => Error::internal("an idempotency key was lost"),
            // Another call with this key may have committed, and so have caused this error: the name is taken, or the etag or
            // the state of the account has changed.
            Err(error @ (Error::AlreadyExists(_) | Error::Stale { .. } | Error::Precondition(_))) => error,
            Err(error) => return Err(error),
        };
        Ok(replay(self.replayed(retry).await?.ok_or(lost)?))
    }

    /// Returns what is stored of an earlier call with this key.
    async fn replayed(&self, retry: &Retry<'_>) -> Result<Option<Replay>> {
        let reader = self.store.reader();
        let Some(answer) = idempotency_find(reader, &retry.key_use(), self.now()).await? else { return Ok(None) };
        let id = answer.user_id;
        let user = user_by_id(reader, id).await?.ok_or_else(|| Error::no_user(UserRef::Id(id).field()))?;
        let delivery = match answer.delivery_id {
            Some(id) => delivery_by_id(reader, id).await?,
            None => None,
        };
        // The earlier call may have committed but not be durable yet.
        self.durable_read(Some(Replay { user, answer, delivery })).await
    }
}
