//! Proves a password: takes a turn of the account, a permit to hash and an attempt of the account's budget (`throttle.rs`),
//! hashes, and counts and audits a failure. The right passwords of a user are limited too.

use super::Entry;
use crate::app::App;
use crate::app::second_factor::Coded;
use crate::app::throttle::Attempt;
use crate::crypto::HashPermit;
use crate::domain::audit::Target;
use crate::domain::caller::Caller;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::password::PlainPassword;
use crate::domain::password_hash::PasswordHash;
use crate::domain::reason::Reason;
use crate::domain::sign_in_ability::Refusal;
use crate::domain::temporary_password::canonical;
use crate::domain::time::Timestamp;
use crate::domain::user::{Password, PasswordKind, User, UserKind};
use crate::error::{Result, Unauthenticated};
use crate::store::throttle::Budgets;

/// What a caller claims with a password.
pub(in crate::app) struct Claim<'a> {
    /// The account, if there is one.
    pub(in crate::app) account: Option<&'a UserWithCredentials>,
    /// Why there is no account, for the audit log.
    pub(in crate::app) absent: Reason,
    /// The login, folded like a known name.
    pub(in crate::app) login: &'a str,
    /// The password. `None` if what was typed cannot be one, and is therefore wrong.
    pub(in crate::app) password: Option<&'a PlainPassword>,
    /// The budgets that a failure is taken from.
    pub(in crate::app) budgets: Budgets,
    /// Whether a session of the account claims it. If so, a spent budget of the account shows.
    pub(in crate::app) in_session: bool,
}

impl<'a> Claim<'a> {
    /// Claims to be the owner of `account`, in one of its sessions.
    pub(in crate::app) fn owner(account: &'a UserWithCredentials, password: Option<&'a PlainPassword>) -> Claim<'a> {
        let login = account.user.username.as_str();
        let budgets = App::budgets_in_session(&account.user);
        Claim { account: Some(account), absent: Reason::UserNotFound, login, password, budgets, in_session: true }
    }
}

/// A password that was right. [`App::settle`] takes the result of what it was proved for.
#[must_use]
pub(in crate::app) struct Proof<'a> {
    /// The account as it was when the password was proved.
    pub(in crate::app) account: &'a UserWithCredentials,
    /// The attempt. The transaction that relies on the proof settles it.
    pub(in crate::app) attempt: Attempt,
    caller: &'a Caller,
}

impl App {
    /// Proves a password: hashes once, a dummy if there is no account or no hash, and judges the account. A failure counts
    /// against account and source, and is recorded with its reason.
    ///
    /// Every refusal of login and password is [`Unauthenticated::Rejected`]. Fails with [`Error::Exhausted`] if the account
    /// is throttled, the source is blocked, the hashing queue is full, or the user signs in too often.
    pub(in crate::app) async fn prove<'a>(&self, entry: Entry<'a>, claim: Claim<'a>) -> Result<Proof<'a>> {
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
    pub(in crate::app) async fn settle<T>(&self, proof: &Proof<'_>, result: Result<Option<T>>) -> Result<T> {
        let Proof { account, attempt, caller } = proof;
        if let Some(done) = self.or_release(attempt, result).await? {
            return Ok(done);
        }
        let user = &account.user;
        self.attempt_failed(caller, attempt, Some(user), Target::of(user), Reason::UserLocked).await?;
        Err(Unauthenticated::Rejected.into())
    }

    /// Does the same for what also depends on a code. A wrong code does not make the password wrong.
    pub(in crate::app) async fn settle_coded<T>(
        &self,
        proof: &Proof<'_>,
        result: Result<Option<Coded<T>>>,
    ) -> Result<T> {
        let coded = self.settle(proof, result).await?;
        if matches!(coded, Coded::Refused(_)) {
            self.release(&proof.attempt).await?;
        }
        coded.answer()
    }

    /// Hashes a password, which was just proved, under today's settings. Returns `None` if the stored hash is not weaker.
    pub(in crate::app) async fn rehash(
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

    /// Returns whether `password` is the account's. Fails if the source was blocked while the password was hashed: of many
    /// guesses in parallel, those that finish after the block learn nothing.
    pub(super) async fn verify_unblocked(
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

/// Returns a typed password in the form that was hashed: a generated password is compared without hyphens and case.
fn as_stored(stored: &Password, typed: &PlainPassword) -> PlainPassword {
    let canonical = (stored.kind == PasswordKind::Generated).then(|| canonical(typed)).flatten();
    canonical.unwrap_or_else(|| typed.copy())
}
