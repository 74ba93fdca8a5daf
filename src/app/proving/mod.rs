//! The gate for all that proves a password or a ticket, or hashes a new password. Only this folder reaches the hasher.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the gate: turns of sources and accounts, the permit to hash, limits on how often |
//! | `password.rs` | [`App::prove`] proves a password |
//! | `ticket_or_link.rs` | [`App::prove_ticket`] and [`App::prove_link`] prove what a new password comes with |
//! | `new_password.rs` | [`App::hash_own`] and [`App::hash_given`] hash a new password of a user, or one that an operator gives |

mod new_password;
mod password;
mod ticket_or_link;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::new_password::NewPassword;
pub(super) use self::password::{Claim, Proof};
use super::App;
use super::turns::{Admitted, TURN_DEADLINE, Turn, Turns};
use crate::crypto::{HashPermit, Hasher, Priority, short};
use crate::domain::caller::{Caller, Source};
use crate::domain::id::{LinkId, UserId};
use crate::domain::link::HASHES_PER_MINUTE;
use crate::domain::user::Password;
use crate::error::{Error, Limit, Result};
use crate::token_bucket::TokenBuckets;

/// How many attempts at one account go on at a time, on one replica. Enough to keep two hashing threads and the database busy.
const TURNS_OF_ACCOUNT: usize = 4;

/// The part of the hashing queue that one source, or one operator, can have at a time. An eighth delays others by an eighth of
/// a second at most, or a few times that with a password history, and suffices to keep all threads busy.
const SHARE: usize = 8;

/// Passwords that a source can have judged in a minute: as many as a person types.
const STRENGTH_CHECKS_PER_MINUTE: f64 = 30.0;

/// Minutes whose sign-ins a user may make at once.
const BURST_MINUTES: f64 = 5.0;

/// The hasher and the turns at it.
pub(super) struct Gate {
    hasher: Hasher,
    turns: Arc<Turns>,
    /// Right passwords of each user. `None` if they are not limited.
    proofs: Option<Mutex<TokenBuckets<UserId>>>,
    /// Strength checks of each source.
    strength_checks: Mutex<TokenBuckets<Source>>,
    /// Passwords hashed for each link.
    links: Mutex<TokenBuckets<LinkId>>,
}

/// A call that may go on to prove something: it has a turn of its source, which was not blocked.
pub(super) struct Entry<'a> {
    caller: &'a Caller,
    began: Instant,
    turn: Option<Turn>,
}

impl Gate {
    pub(super) fn new(hasher: Hasher, sign_ins_per_minute: u32) -> Gate {
        let rate = f64::from(sign_ins_per_minute);
        let buckets = || Mutex::new(TokenBuckets::full(rate * BURST_MINUTES, rate / 60.0, Instant::now()));
        let links = Mutex::new(TokenBuckets::full(HASHES_PER_MINUTE, HASHES_PER_MINUTE / 60.0, Instant::now()));
        let (most, per_second) = (STRENGTH_CHECKS_PER_MINUTE, STRENGTH_CHECKS_PER_MINUTE / 60.0);
        let strength_checks = Mutex::new(TokenBuckets::full(most, per_second, Instant::now()));
        let proofs = (sign_ins_per_minute > 0).then(buckets);
        Gate { hasher, turns: Arc::default(), proofs, strength_checks, links }
    }

    /// Fails if the user has signed in too often. Only right passwords count, so that strangers cannot use up the limit of an
    /// owner.
    fn take_proof(&self, user: UserId) -> Result<()> {
        let Some(proofs) = &self.proofs else { return Ok(()) };
        // A poisoned lock is safe to use: nothing can panic half-way through a change of the buckets.
        let taken = proofs.lock().unwrap_or_else(PoisonError::into_inner).try_take(user, Instant::now());
        taken.map_err(|retry_after| Error::Exhausted { limit: Limit::SignIns, retry_after })
    }

    /// Fails if the source has had too many passwords judged.
    fn take_strength_check(&self, source: Source) -> Result<()> {
        let mut buckets = self.strength_checks.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buckets.try_take(source, Instant::now());
        taken.map_err(|retry_after| Error::Exhausted { limit: Limit::StrengthChecks, retry_after })
    }

    /// Fails if too many passwords were hashed for the link.
    fn take_link(&self, link: LinkId) -> Result<()> {
        let taken = self.links.lock().unwrap_or_else(PoisonError::into_inner).try_take(link, Instant::now());
        taken.map_err(|retry_after| Error::Exhausted { limit: Limit::Hashing, retry_after })
    }

    fn share(&self) -> usize {
        (self.hasher.capacity() / SHARE).max(1)
    }
}

impl App {
    /// Waits for a turn of the caller's source. Fails if the hashing queue is full, or if the source is blocked. The local
    /// socket has no source. Called before anything is read or written for the call.
    pub(super) async fn enter<'a>(&self, caller: &'a Caller) -> Result<Entry<'a>> {
        self.gate.hasher.check_room(Priority::SignIn)?;
        let began = Instant::now();
        let turn = match caller.call.source() {
            Some(source) => Some(self.turn(format!("s:{source}"), self.gate.share(), began).await?),
            None => None,
        };
        self.check_source(caller).await?;
        Ok(Entry { caller, began, turn })
    }

    /// Waits until no other password of the caller's source is judged. Fails if the source has had too many judged. The local
    /// socket has no source.
    pub(super) async fn enter_strength_check(&self, caller: &Caller) -> Result<Option<Turn>> {
        let Some(source) = caller.call.source() else { return Ok(None) };
        let turn = self.turn(format!("p:{source}"), 1, Instant::now()).await?;
        self.gate.take_strength_check(source)?;
        Ok(Some(turn))
    }

    /// Takes a permit to judge a password that is not set. Fails if the queue is full.
    pub(super) fn admit_to_judge(&self) -> Result<HashPermit> {
        self.gate.hasher.admit(Priority::SignIn)
    }

    /// Runs work on a hashing thread that takes too long for a thread of the runtime.
    pub(super) async fn run_permitted<T: Send + 'static>(
        &self,
        permit: &HashPermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.gate.hasher.run(permit, work).await
    }

    /// Waits for a turn of the account, and takes a permit to hash.
    async fn admit_to_hash(&self, entry: Entry<'_>, account: Option<String>) -> Result<Admitted> {
        let Entry { began, turn, .. } = entry;
        let of_account = match account {
            Some(key) => Some(self.turn(key, TURNS_OF_ACCOUNT.min(self.gate.share()), began).await?),
            None => None,
        };
        let permit = self.gate.hasher.admit(Priority::SignIn)?;
        Ok(Admitted { began, permit, _turns: [turn, of_account] })
    }

    /// Waits for a turn of `key`. Fails if it does not come in time.
    async fn turn(&self, key: String, share: usize, began: Instant) -> Result<Turn> {
        let deadline = TURN_DEADLINE.saturating_sub(began.elapsed());
        let busy = || Error::Exhausted { limit: Limit::Hashing, retry_after: self.environment.retry_soon() };
        self.gate.turns.take(key, share, deadline).await.ok_or_else(busy)
    }

    /// Returns whether a hash is weaker than today's settings. If so, the next sign-in renews it.
    pub fn is_rehash_pending(&self, password: &Password) -> bool {
        self.gate.hasher.is_outdated(&password.method)
    }

    /// Returns whether this server can verify hashes of this method.
    pub(super) fn is_hash_usable(&self, password: &Password) -> bool {
        self.gate.hasher.accepts(&password.method)
    }

    /// Returns whether a sign-in would find room to hash.
    pub(super) fn has_room_to_hash(&self) -> bool {
        self.gate.hasher.check_room(Priority::SignIn).is_ok()
    }

    /// Returns how long a user must wait who has signed in too often on this replica. `None` if not at all.
    pub(super) fn sign_ins_wait(&self, user: UserId) -> Option<Duration> {
        let proofs = self.gate.proofs.as_ref()?;
        proofs.lock().unwrap_or_else(PoisonError::into_inner).wait(&user, Instant::now())
    }

    /// The name of an unknown account in the audit log. It is a digest, because users sometimes type their password into the
    /// field for the name.
    pub(super) fn unknown_name(&self, login: &str) -> String {
        format!("hmac:{}", short(&self.keys.current().digest("login", login.as_bytes())))
    }

    /// Returns how many calls may hash or wait for it before more are refused.
    pub fn hashing_capacity(&self) -> usize {
        self.gate.hasher.capacity()
    }

    /// Updates the gauges that are measured on demand.
    pub fn report_queues(&self) {
        self.gate.hasher.report_queues();
    }
}
