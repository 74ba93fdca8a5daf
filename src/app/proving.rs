//! The gate for all that proves a password or a ticket, or hashes a new password. Only this file reaches the hasher.
//!
//! - [`App::enter`] takes a turn of the source, and rejects a blocked source.
//! - [`App::prove`] proves a password: it takes a turn of the account, a permit to hash and an attempt of the account's budget
//!   (`throttle.rs`), hashes, and counts and audits a failure. The right passwords of a user are limited too.
//! - [`App::prove_ticket`] does the same for a ticket, which has a budget of its own ([`TicketPurpose::max_tries`]).
//! - [`App::hash_given`] hashes a password that an operator gives; each operator has a few turns too.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::App;
use super::second_factor::Coded;
use super::throttle::Attempt;
use super::turns::{Admitted, TURN_DEADLINE, Turn, Turns};
use crate::crypto::{HashPermit, Hasher, Priority, short};
use crate::domain::audit::Target;
use crate::domain::caller::{Caller, Source};
use crate::domain::credentials::{StoredPassword, UserWithCredentials};
use crate::domain::id::{LinkId, UserId};
use crate::domain::link::{HASHES_PER_MINUTE, Link};
use crate::domain::password::{AcceptedPassword, ContextWords, PasswordFault, PlainPassword, RuleBroken};
use crate::domain::password_hash::PasswordHash;
use crate::domain::reason::Reason;
use crate::domain::second_factor::SecondFactorCode;
use crate::domain::secret::{Digest32, LinkSecret, TicketSecret};
use crate::domain::sign_in_ability::Refusal;
use crate::domain::temporary_password::{TemporaryPassword, canonical};
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::{Password, PasswordKind, User, UserKind};
use crate::domain::violation::Violations;
use crate::error::{Error, Limit, Result, Unauthenticated};
use crate::store::old_passwords::old_passwords;
use crate::store::throttle::{Account, Budgets};
use crate::store::tickets::{ticket_find, ticket_try};
use crate::store::users::user_with_credentials;
use crate::token_bucket::TokenBuckets;

/// How many attempts at one account go on at a time, on one replica. Enough to keep two hashing threads and the database busy.
const TURNS_OF_ACCOUNT: usize = 4;

/// The part of the hashing queue that one source, or one operator, can have at a time. An eighth delays others by an eighth of
/// a second at most, and suffices to keep all threads busy.
const SHARE: usize = 8;

/// Passwords that a source can have judged in a minute: as many as a person types.
const STRENGTH_CHECKS_PER_MINUTE: f64 = 30.0;

/// Minutes whose sign-ins a user may make at once.
const BURST_MINUTES: f64 = 5.0;

/// How long a password works that an operator chose and the user must change. Short, because the operator knows it; long
/// enough for a weekend.
const CHOSEN_PASSWORD_TTL: Duration = Duration::from_hours(72);

/// A new password that an operator gives a user.
#[derive(Debug)]
pub enum NewPassword {
    /// The server generates one.
    Temporary {
        /// How long the password works. `None` takes the configured time.
        ttl: Option<Duration>,
    },
    /// The operator chose one.
    Chosen {
        /// The chosen password.
        password: PlainPassword,
        /// Whether the next sign-in must change it. A lasting password needs the scope `users.reset.secrets`.
        change_required: bool,
    },
}

impl NewPassword {
    /// Returns whether the user may keep the password.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, NewPassword::Chosen { change_required: false, .. })
    }
}

/// A [`NewPassword`] that the rules accept, not hashed yet.
struct GivenPassword {
    password: AcceptedPassword,
    /// The generated password, to be shown to the operator once.
    generated: Option<TemporaryPassword>,
    kind: PasswordKind,
    ttl: Option<Duration>,
}

/// A link that worked, with the hash of the new password that came with it.
pub(super) struct LinkProof {
    /// The link.
    pub(super) link: Link,
    /// The hash of the new password.
    pub(super) hash: PasswordHash,
    /// Held until the transaction ends.
    _admitted: Admitted,
}

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

/// What a caller claims with a password.
pub(super) struct Claim<'a> {
    /// The account, if there is one.
    pub(super) account: Option<&'a UserWithCredentials>,
    /// Why there is no account, for the audit log.
    pub(super) absent: Reason,
    /// The login, folded like a known name.
    pub(super) login: &'a str,
    /// The password. `None` if what was typed cannot be one, and is therefore wrong.
    pub(super) password: Option<&'a PlainPassword>,
    /// The budgets that a failure is taken from.
    pub(super) budgets: Budgets,
    /// Whether a session of the account claims it. If so, a spent budget of the account shows.
    pub(super) in_session: bool,
}

impl<'a> Claim<'a> {
    /// Claims to be the owner of `account`, in one of its sessions.
    pub(super) fn owner(account: &'a UserWithCredentials, password: Option<&'a PlainPassword>) -> Claim<'a> {
        let login = account.user.username.as_str();
        let budgets = App::budgets_in_session(&account.user);
        Claim { account: Some(account), absent: Reason::UserNotFound, login, password, budgets, in_session: true }
    }
}

/// A password that was right. [`App::settle`] takes the result of what it was proved for.
#[must_use]
pub(super) struct Proof<'a> {
    /// The account as it was when the password was proved.
    pub(super) account: &'a UserWithCredentials,
    /// The attempt. The transaction that relies on the proof settles it.
    pub(super) attempt: Attempt,
    caller: &'a Caller,
}

/// A ticket that was live, with the hash of the new password that came with it.
pub(super) struct TicketProof {
    /// The digest of the ticket's secret.
    pub(super) digest: Digest32,
    /// The ticket.
    pub(super) ticket: Ticket,
    /// The account as it was when the new password was compared.
    pub(super) account: UserWithCredentials,
    /// The hash of the new password.
    pub(super) hash: PasswordHash,
    /// Held until the transaction ends.
    _admitted: Admitted,
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
        taken.map_err(|retry_after| Error::Exhausted { limit: Limit::Source, retry_after })
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

    /// Proves a password: hashes once, a dummy if there is no account or no hash, and judges the account. A failure counts
    /// against account and source, and is recorded with its reason.
    ///
    /// Every refusal of login and password is [`Unauthenticated::Rejected`]. Fails with [`Error::Exhausted`] if the account
    /// is throttled, the source is blocked, the hashing queue is full, or the user signs in too often.
    pub(super) async fn prove<'a>(&self, entry: Entry<'a>, claim: Claim<'a>) -> Result<Proof<'a>> {
        let (caller, Claim { account, absent, login, password, budgets, in_session }) = (entry.caller, claim);
        let user = account.map(|account| &account.user);
        let turn_of = self.is_counted(&budgets.account).then(|| budgets.account_id());
        let admitted = self.admit_to_hash(entry, turn_of).await?;
        let attempt = self.reserve(budgets, admitted).await?;
        if in_session {
            self.check_unspent(&attempt).await?;
        }
        let provable = account.filter(|_| attempt.may_prove());
        let proved = self.verify_unblocked(caller, attempt.permit(), password, provable).await;
        let proved = self.or_release(&attempt, proved).await?;
        let reason = match user.map_or(Some(absent), |user| refusal(user, proved, self.now())) {
            Some(Reason::PasswordWrong) if !attempt.may_prove() => Some(Reason::Throttled),
            reason => reason,
        };
        match (reason, account) {
            (None, Some(account)) => {
                self.or_release(&attempt, self.gate.take_proof(account.user.id)).await?;
                Ok(Proof { account, attempt, caller })
            }
            (reason, _) => {
                let unknown = || Target { user_id: String::new(), username: self.unknown_name(login) };
                let target = user.map_or_else(unknown, Target::of);
                self.attempt_failed(caller, &attempt, user, target, reason.unwrap_or(absent)).await?;
                Err(Unauthenticated::Rejected.into())
            }
        }
    }

    /// Returns the result of what a password was proved for. If it failed, the attempt is released: the password was right,
    /// so it must not delay the next one. `None` means that the account was locked or reset while the password was checked:
    /// this counts as a failure.
    pub(super) async fn settle<T>(&self, proof: &Proof<'_>, result: Result<Option<T>>) -> Result<T> {
        let Proof { account, attempt, caller } = proof;
        if let Some(done) = self.or_release(attempt, result).await? {
            return Ok(done);
        }
        let user = &account.user;
        self.attempt_failed(caller, attempt, Some(user), Target::of(user), Reason::UserLocked).await?;
        Err(Unauthenticated::Rejected.into())
    }

    /// Does the same for what also depends on a code. A wrong code does not make the password wrong.
    pub(super) async fn settle_coded<T>(&self, proof: &Proof<'_>, result: Result<Option<Coded<T>>>) -> Result<T> {
        let coded = self.settle(proof, result).await?;
        if matches!(coded, Coded::Refused(_)) {
            self.release(&proof.attempt).await?;
        }
        coded.answer()
    }

    /// Proves a ticket and hashes the new password, which must differ from the old one. Whatever is hashed costs one of the
    /// ticket's tries; a new password that breaks a rule costs none. A failure counts against the source and is recorded.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, has no tries left, or its account is locked.
    pub(super) async fn prove_ticket(
        &self,
        entry: Entry<'_>,
        secret: Option<&TicketSecret>,
        new_password: Result<PlainPassword, PasswordFault>,
    ) -> Result<TicketProof> {
        let caller = entry.caller;
        let Some((digest, ticket, account)) = self.live_ticket(secret).await? else {
            return self.ticket_invalid(caller).await;
        };
        let admitted = self.admit_to_hash(entry, Some(Account::Known(ticket.user_id).key())).await?;
        let words = self.words_of(&account.user);
        let new_password = self.accept(&admitted.permit, "new_password", new_password, words).await?;
        if !ticket_try(self.store.autocommit()?, &digest, ticket.purpose, self.now()).await? {
            return self.ticket_invalid(caller).await;
        }
        let (permit, typed) = (&admitted.permit, new_password.as_plain());
        if self.verify_unblocked(caller, permit, Some(typed), Some(&account)).await?
            || self.was_used_before(permit, typed, &account).await?
        {
            self.secret_failed(caller, Some(&account.user), Reason::PasswordRejected).await?;
            return Err(reused("new_password"));
        }
        let hash = self.gate.hasher.hash(permit, new_password.into_plain()).await?;
        Ok(TicketProof { digest, ticket, account, hash, _admitted: admitted })
    }

    /// Proves a link and hashes the new password, which must differ from the old one. What breaks a rule is not hashed. A link
    /// never dies of wrong passwords, since it has no password to guess; its hashes are limited.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the link does not work.
    pub(super) async fn prove_link(
        &self,
        entry: Entry<'_>,
        secret: Option<&LinkSecret>,
        new_password: Result<PlainPassword, PasswordFault>,
        code: Option<&SecondFactorCode>,
    ) -> Result<LinkProof> {
        let caller = entry.caller;
        let (link, user) = self.live_link(caller, secret).await?;
        if !link.purpose.sets_password() {
            return Err(Unauthenticated::TicketInvalid.into());
        }
        let admitted = self.admit_to_hash(entry, Some(Account::Known(user.id).key())).await?;
        let words = self.words_of(&user);
        let new_password = self.accept(&admitted.permit, "new_password", new_password, words).await?;
        App::check_code_sent(&user, code)?;
        self.gate.take_link(link.id)?;
        let (permit, typed) = (&admitted.permit, new_password.as_plain());
        let account = user_with_credentials(self.store.reader(), user.id).await?;
        let account = account.ok_or(Error::Unauthenticated(Unauthenticated::TicketInvalid))?;
        let has_password = account.credentials.password.is_some();
        if (has_password && self.verify_unblocked(caller, permit, Some(typed), Some(&account)).await?)
            || self.was_used_before(permit, typed, &account).await?
        {
            return Err(reused("new_password"));
        }
        let hash = self.gate.hasher.hash(permit, new_password.into_plain()).await?;
        Ok(LinkProof { link, hash, _admitted: admitted })
    }

    pub(super) async fn live_ticket(
        &self,
        secret: Option<&TicketSecret>,
    ) -> Result<Option<(Digest32, Ticket, UserWithCredentials)>> {
        let Some(secret) = secret else { return Ok(None) };
        let (reader, now, digest) = (self.store.reader(), self.now(), secret.digest());
        let found = ticket_find(reader, &digest, TicketPurpose::PasswordChange, now).await?;
        let Some(ticket) = found.filter(|ticket| ticket.tries < ticket.purpose.max_tries()) else { return Ok(None) };
        let account = user_with_credentials(reader, ticket.user_id).await?;
        let account = account.filter(|account| account.user.lock(now).is_none());
        Ok(account.map(|account| (digest, ticket, account)))
    }

    /// Counts a ticket or a link that does not exist against the source.
    pub(super) async fn ticket_invalid<T>(&self, caller: &Caller) -> Result<T> {
        self.secret_failed(caller, None, Reason::TicketInvalid).await?;
        Err(Unauthenticated::TicketInvalid.into())
    }

    /// Judges and hashes the new password of a user whose current one, `current`, was just proved. Fails if they are the same.
    pub(super) async fn hash_own(
        &self,
        proof: &Proof<'_>,
        current: Option<&PlainPassword>,
        new_password: std::result::Result<PlainPassword, PasswordFault>,
    ) -> Result<PasswordHash> {
        let words = self.words_of(&proof.account.user);
        let new_password = self.accept(proof.attempt.permit(), "new_password", new_password, words).await?;
        let (permit, typed) = (proof.attempt.permit(), new_password.as_plain());
        let is_current = current.is_some_and(|current| current.expose() == typed.expose());
        if is_current || self.was_used_before(permit, typed, proof.account).await? {
            return Err(reused("new_password"));
        }
        self.gate.hasher.hash(permit, new_password.into_plain()).await
    }

    /// Returns whether `password` is the one that was ended last, which someone else may know, or one of those that the policy
    /// asks to remember.
    async fn was_used_before(
        &self,
        permit: &HashPermit,
        password: &PlainPassword,
        account: &UserWithCredentials,
    ) -> Result<bool> {
        let mut old: Vec<PasswordHash> = account.ended_password.iter().cloned().collect();
        if account.user.policy.password_history > 0 {
            let remembered = account.user.policy.password_history;
            old.extend(old_passwords(self.store.reader(), account.user.id, remembered).await?);
        }
        for hash in old {
            if self.gate.hasher.verify(permit, password.copy(), Some(&hash)).await? {
                return Ok(true);
            }
        }
        Ok(false)
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

    /// Returns whether `password` is the account's. Fails if the source was blocked while the password was hashed: of many
    /// guesses in parallel, those that finish after the block learn nothing.
    async fn verify_unblocked(
        &self,
        caller: &Caller,
        permit: &HashPermit,
        password: Option<&PlainPassword>,
        account: Option<&UserWithCredentials>,
    ) -> Result<bool> {
        let proved = self.verify(permit, password, account).await?;
        self.check_source(caller).await?;
        Ok(proved)
    }

    /// Judges and hashes a password that an operator gives, or generates one. Also for a dry run, which then costs as much and
    /// fails as the act would. `words` are those of the user.
    pub(super) async fn hash_given(
        &self,
        caller: &Caller,
        field: &str,
        given: NewPassword,
        words: ContextWords,
        now: Timestamp,
    ) -> Result<(StoredPassword, Option<TemporaryPassword>)> {
        let of_operator = format!("o:{}", caller.principal.id());
        let _turn = self.turn(of_operator, self.gate.share(), Instant::now()).await?;
        let permit = self.gate.hasher.admit(Priority::Operator)?;
        let GivenPassword { password, generated, kind, ttl } = self.given(&permit, field, given, words).await?;
        let hash = self.gate.hasher.hash(&permit, password.into_plain()).await?;
        let expires_at = ttl.map(|ttl| now.saturating_add(ttl));
        let password = Password { method: hash.method(), kind, changed_at: now, expires_at };
        Ok((StoredPassword { password, hash }, generated))
    }

    async fn given(
        &self,
        permit: &HashPermit,
        field: &str,
        given: NewPassword,
        words: ContextWords,
    ) -> Result<GivenPassword> {
        match given {
            NewPassword::Temporary { ttl } => {
                let generated =
                    TemporaryPassword::generate(&mut |bytes: &mut [u8]| self.environment.entropy.fill(bytes));
                Ok(GivenPassword {
                    password: generated.to_accepted(),
                    generated: Some(generated),
                    kind: PasswordKind::Generated,
                    ttl: Some(ttl.unwrap_or(self.settings.temporary_password_ttl)),
                })
            }
            NewPassword::Chosen { password, change_required } => {
                let password = self.accept(permit, field, Ok(password), words).await?;
                let (kind, ttl) = if change_required {
                    (PasswordKind::Chosen, Some(CHOSEN_PASSWORD_TTL))
                } else {
                    (PasswordKind::Lasting, None)
                };
                Ok(GivenPassword { password, generated: None, kind, ttl })
            }
        }
    }

    /// Hashes a password, which was just proved, under today's settings. Returns `None` if the stored hash is not weaker.
    pub(super) async fn rehash(
        &self,
        proof: &Proof<'_>,
        password: Option<&PlainPassword>,
    ) -> Result<Option<PasswordHash>> {
        let (Some(stored), Some(typed)) = (&proof.account.user.password, password) else { return Ok(None) };
        if !self.is_rehash_pending(stored) {
            return Ok(None);
        }
        self.gate.hasher.hash(proof.attempt.permit(), as_stored(stored, typed)).await.map(Some)
    }

    /// Returns whether `password` is the account's. Always computes one hash, so that the duration does
    /// not show whether the account exists.
    async fn verify(
        &self,
        permit: &HashPermit,
        password: Option<&PlainPassword>,
        account: Option<&UserWithCredentials>,
    ) -> Result<bool> {
        let hasher = &self.gate.hasher;
        let Some(typed) = password else {
            // What was typed cannot be a password. Hash a dummy, which is always wrong.
            return hasher.verify(permit, PlainPassword::decoy(), None).await;
        };
        let hash = account.and_then(|account| account.credentials.password.as_ref());
        let typed = match account.and_then(|account| account.user.password.as_ref()) {
            Some(stored) => as_stored(stored, typed),
            None => typed.copy(),
        };
        hasher.verify(permit, typed, hash).await
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

/// The reason to refuse a password, for the audit log. Returns `None` if there is none.
fn refusal(user: &User, proved: bool, now: Timestamp) -> Option<Reason> {
    match user.refusal(now) {
        Some(Refusal::Locked) => Some(Reason::UserLocked),
        _ if user.kind == UserKind::Service => Some(Reason::UserIsService),
        Some(Refusal::Pending) => Some(Reason::UserPending),
        Some(Refusal::PasswordEnded) => Some(Reason::PasswordEnded),
        _ if !proved => Some(Reason::PasswordWrong),
        Some(Refusal::TemporaryPasswordExpired) => Some(Reason::TemporaryPasswordExpired),
        None => None,
    }
}

fn reused(field: &str) -> Error {
    let mut violations = Violations::new();
    violations.push_error(field, &RuleBroken::Reused);
    Error::PasswordRejected(violations)
}

/// Returns a typed password in the form that was hashed: a generated password is compared without hyphens and case.
fn as_stored(stored: &Password, typed: &PlainPassword) -> PlainPassword {
    let canonical = (stored.kind == PasswordKind::Generated).then(|| canonical(typed)).flatten();
    canonical.unwrap_or_else(|| typed.copy())
}
