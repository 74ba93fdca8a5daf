//! Second factors: proving one, setting one up, and removing it.
//!
//! A code is checked in the transaction of what it is for, under the lock of the user's row. So it works once, on all replicas, and
//! a code that was used is used for something.

mod enroll;
mod own;
mod reset;
mod verify;

pub use self::enroll::{ConfirmTotp, EnrollBy, EnrollTotp, TotpConfirmed, TotpEnrollment};
pub use self::own::{DisableTotp, RegenerateRecoveryCodes};
pub use self::reset::ResetSecondFactor;
pub(super) use self::reset::remove_second_factor;
pub use self::verify::{SecondFactorVerified, VerifySecondFactor};
use super::App;
use super::throttle::{Committed, Failure};
use super::writer::{Change, Done, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::id::UserId;
use crate::domain::reason::Reason;
use crate::domain::second_factor::{
    CODE_RULES, Proofs, RECOVERY_CODES, RecoveryCode, SecondFactorCode, SecondFactorMethod, TotpKey, TotpStep,
};
use crate::domain::secret::{Digest32, TicketSecret};
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::domain::user::User;
use crate::error::{Error, Limit, Resource, Result, Unauthenticated};
use crate::store::second_factors::{
    StoredTotp, WrongCodes, recovery_code_use, totp_accept, totp_lock_row, totp_wrong_code,
};
use crate::store::throttle::Account;
use crate::store::tickets::{ticket_find, ticket_lock_row};

/// The detail of a wrong code that is right for another time.
pub(super) const CLOCK_AHEAD: &str = "clockAheadSeconds";

/// What became of a code.
pub(super) enum Checked {
    /// It is right, and used up.
    Right {
        /// What is proved with it.
        proofs: Proofs,
        /// What to record.
        events: Vec<Event>,
    },
    /// It is wrong. The failure is counted; commit it with [`App::code_failed`].
    Wrong(Event),
}

/// The end of a transaction that depends on a code.
pub(super) enum Coded<T> {
    /// The code was right.
    Done(T),
    /// It was wrong, and the failure was committed.
    Refused(Committed),
}

impl<T> Coded<T> {
    pub(super) fn answer(self) -> Result<T> {
        match self {
            Coded::Done(done) => Ok(done),
            Coded::Refused(committed) => {
                committed.answer()?;
                Err(Unauthenticated::SecondFactorRejected.into())
            }
        }
    }
}

/// A ticket that was found, by the digest of its secret.
pub(super) struct KnownTicket {
    digest: Digest32,
    purpose: TicketPurpose,
    user_id: UserId,
}

impl App {
    /// Finds a ticket. One that does not exist counts against the source.
    async fn known_ticket(
        &self,
        caller: &Caller,
        secret: Option<&TicketSecret>,
        purpose: TicketPurpose,
    ) -> Result<KnownTicket> {
        self.check_source(caller).await?;
        let Some(digest) = secret.map(TicketSecret::digest) else { return self.ticket_invalid(caller).await };
        match ticket_find(self.store.reader(), &digest, purpose, self.now()).await? {
            Some(ticket) => Ok(KnownTicket { digest, purpose, user_id: ticket.user_id }),
            None => self.ticket_invalid(caller).await,
        }
    }

    /// Commits a wrong code: its count, what an auditor learns, and the failure of the source.
    pub(super) async fn code_failed<T>(
        &self,
        change: Change<'_>,
        caller: &Caller,
        user: &User,
        event: Event,
    ) -> Result<Done<Coded<T>>> {
        self.metrics.second_factor_rejected();
        let failure = Failure { name: &Account::Known(user.id).key(), events: vec![event], locked: None };
        Ok(self.commit_failure(change, caller, failure).await?.map(Coded::Refused))
    }

    /// Fails if the user has a second factor and no code was sent. Called before anything is hashed.
    pub(super) fn check_code_sent(user: &User, code: Option<&SecondFactorCode>) -> Result<()> {
        if user.second_factor.is_some() && code.is_none() {
            return Err(Unauthenticated::SecondFactorRequired.into());
        }
        Ok(())
    }

    /// Fails if the user has no second factor.
    pub(super) fn check_second_factor(user: &User) -> Result<()> {
        if user.second_factor.is_some() { Ok(()) } else { Err(Unauthenticated::SecondFactorRequired.into()) }
    }

    fn recovery_digest(&self, user: UserId, code: &RecoveryCode) -> Digest32 {
        let message = [user.as_bytes().as_slice(), code.as_bytes()].concat();
        self.keys.current().digest("recovery code", &message)
    }

    /// Makes recovery codes, with the digests to store.
    fn new_recovery_codes(&self, user: UserId) -> (Vec<RecoveryCode>, Vec<Digest32>) {
        let codes: Vec<RecoveryCode> =
            (0..RECOVERY_CODES).map(|_| RecoveryCode::from_bytes(self.environment.bytes())).collect();
        let digests = codes.iter().map(|code| self.recovery_digest(user, code)).collect();
        (codes, digests)
    }

    fn open_totp_key(&self, user: UserId, sealed: &[u8]) -> Result<TotpKey> {
        let plain = self.keys.current().second_factor_key().open(&context(user), sealed);
        // A key that was moved to another user does not open.
        let corrupt = || Error::Corrupt { resource: Resource::User, id: user.to_string(), etag: None };
        plain.and_then(|plain| TotpKey::from_slice(&plain)).ok_or_else(corrupt)
    }

    fn seal_totp_key(&self, user: UserId, key: &TotpKey) -> Result<Vec<u8>> {
        let sealed = self.keys.current().second_factor_key().seal(&self.environment, &context(user), key.as_bytes());
        sealed.ok_or_else(|| Error::internal("the key of an authenticator could not be sealed"))
    }
}

impl Writer<'_> {
    /// Locks and reads the account of a ticket, and the ticket. Fails if the ticket has no tries left or is gone, or if the account
    /// would refuse a sign-in.
    async fn locked_ticket(&mut self, known: &KnownTicket) -> Result<(User, Ticket)> {
        let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
        let user = self.locked(known.user_id).await?;
        let user = user.filter(|user| user.refusal(self.now).is_none()).ok_or_else(dead)?;
        let ticket = ticket_lock_row(&self.tx, &known.digest, known.purpose, self.now).await?;
        let ticket = ticket.filter(|ticket| ticket.tries < known.purpose.max_tries()).ok_or_else(dead)?;
        Ok((user, ticket))
    }
}

/// The context to which the key of a user is bound.
fn context(user: UserId) -> Vec<u8> {
    format!("totp {user}").into_bytes()
}

impl Change<'_> {
    /// Checks that a user whose row is locked has proved the second factor, if there is one. Fails if no code was sent, and while
    /// codes are refused after wrong ones.
    pub(super) async fn demand_code(&self, user: &User, code: Option<&SecondFactorCode>) -> Result<Checked> {
        App::check_code_sent(user, code)?;
        match code.filter(|_| user.second_factor.is_some()) {
            Some(code) => self.check_code(user, code).await,
            None => Ok(Checked::Right { proofs: Proofs::PASSWORD, events: Vec::new() }),
        }
    }

    /// Checks a code of a user whose row is locked. A right one is used up, and a wrong one is counted.
    pub(super) async fn check_code(&self, user: &User, code: &SecondFactorCode) -> Result<Checked> {
        let missing = || Error::Unauthenticated(Unauthenticated::SecondFactorRejected);
        let totp = totp_lock_row(&self.tx, user.id).await?.ok_or_else(missing)?;
        if let Some(until) = totp.waits_until.filter(|until| *until > self.now) {
            return Err(Error::Exhausted { limit: Limit::Codes, retry_after: until.duration_since(self.now) });
        }
        let (method, is_right, clock_ahead) = match code {
            SecondFactorCode::Totp(code) => {
                let key = self.app.open_totp_key(user.id, &totp.sealed_key)?;
                let step = code.as_ref().and_then(|code| key.accepts(code, self.now, totp.last_step));
                let is_right = match step {
                    Some(step) => totp_accept(&self.tx, user.id, step).await?,
                    None => false,
                };
                let ahead = code.as_ref().and_then(|code| key.clock_ahead(code, self.now));
                (SecondFactorMethod::Totp, is_right, ahead)
            }
            SecondFactorCode::Recovery(code) => {
                let is_right = match code {
                    Some(code) => {
                        recovery_code_use(&self.tx, user.id, &self.app.recovery_digest(user.id, code)).await?
                    }
                    None => false,
                };
                (SecondFactorMethod::RecoveryCode, is_right, None)
            }
        };
        if is_right {
            return self.right(user, method).await;
        }
        self.wrong(user, method, &totp, clock_ahead).await
    }

    async fn right(&self, user: &User, method: SecondFactorMethod) -> Result<Checked> {
        let proofs = Proofs { second_factor: Some(method) };
        let mut events = Vec::new();
        if method == SecondFactorMethod::RecoveryCode {
            let left = user.second_factor.map_or(0, |factor| factor.recovery_codes_left).saturating_sub(1);
            events.push(Event::new(EventType::RecoveryCodeUsed, Target::of(user)).detail("recoveryCodesLeft", left));
            self.notify(user, LetterKind::RecoveryCodeUsed).await?;
        }
        Ok(Checked::Right { proofs, events })
    }

    async fn wrong(
        &self,
        user: &User,
        method: SecondFactorMethod,
        totp: &StoredTotp,
        clock_ahead: Option<i64>,
    ) -> Result<Checked> {
        let forgotten = self.now.saturating_sub(CODE_RULES.failure_memory);
        let remembered = totp.last_failure_at.filter(|at| *at > forgotten).map_or(0, |_| totp.failures);
        let failures = remembered.saturating_add(1);
        let waits_until = CODE_RULES.wait_after(failures).map(|wait| self.now.saturating_add(wait));
        totp_wrong_code(&self.tx, user.id, &WrongCodes { failures, waits_until }, self.now).await?;
        if failures == CODE_RULES.threshold {
            self.notify(user, LetterKind::WrongCodes).await?;
        }
        let event = Event::failed(EventType::SecondFactorFailed, Target::of(user), Reason::SecondFactorRejected)
            .detail("method", method.as_str())
            .detail("failures", failures);
        let event = match waits_until {
            Some(until) => event.detail("untilTime", until),
            None => event,
        };
        // An operator reads it, and can tell the user to set the clock of the telephone.
        Ok(Checked::Wrong(match clock_ahead {
            Some(seconds) => event.detail(CLOCK_AHEAD, seconds),
            None => event,
        }))
    }
}

/// The authenticator as it is stored when it was just confirmed with the code of `step`.
fn confirmed(sealed_key: Vec<u8>, step: TotpStep, change: &Change<'_>) -> StoredTotp {
    StoredTotp {
        sealed_key,
        enrolled_at: change.now,
        last_step: step,
        failures: 0,
        waits_until: None,
        last_failure_at: None,
    }
}
