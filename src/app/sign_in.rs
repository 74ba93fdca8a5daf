//! Signing in: the right password leads to tokens, or to a ticket for the next step: the second factor, or a new password.
//!
//! A refused sign-in always gets the same answer after the same work, whether the account is unknown, locked, pending or
//! corrupt, or the password is wrong or expired. Only the audit log has the reason.

use super::App;
use super::passwords::Review;
use super::proving::{Claim, Proof};
use super::second_factor::{Checked, Coded};
use super::sessions::{Tokens, signed_in_event};
use super::writer::{Change, Done, RolledBack, Unaudited, Writer};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::Caller;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::familiar::SentDeviceToken;
use crate::domain::login::Login;
use crate::domain::password::{PasswordRules, PlainPassword};
use crate::domain::reason::Reason;
use crate::domain::second_factor::{Proofs, SecondFactorCode, SecondFactorMethod};
use crate::domain::secret::TicketSecret;
use crate::domain::session::SignInWish;
use crate::domain::sign_in_step::Step;
use crate::domain::ticket::{SignInGoal, TICKET_TTL, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, PasswordFlaw, User};
use crate::error::{Error, Result};
use crate::store::tickets::ticket_insert;
use crate::store::users::{
    user_by_login, user_judged, user_lock_row_to_sign_in, user_lock_row_with_credentials, user_rehash, user_save,
    user_signed_in_as_read,
};

/// A command to sign in.
#[derive(Debug)]
pub struct SignIn {
    /// Username or e-mail address.
    pub login: String,
    /// The password. `None` if what was typed cannot be a password, and is therefore wrong.
    pub password: Option<PlainPassword>,
    /// A code, which saves the step of the second factor.
    pub code: Option<SecondFactorCode>,
    /// The device token of an earlier sign-in. An invalid one has no effect.
    pub device_token: Option<SentDeviceToken>,
    /// The client name, audiences and scopes that are asked for.
    pub wish: SignInWish,
    /// What the sign-in is for.
    pub goal: SignInGoal,
}

/// The next step of a sign-in.
#[derive(Debug)]
pub enum Progress {
    /// The user is signed in.
    Tokens(Tokens),
    /// The user must prove the second factor first.
    SecondFactor {
        /// The secret that the client sends back with a code.
        ticket: TicketSecret,
        /// What is accepted.
        methods: Vec<SecondFactorMethod>,
        /// When the ticket stops working.
        expires_at: Timestamp,
    },
    /// The user must set up a second factor first, or asked to.
    Enrollment {
        /// The secret that the client sends back to get the key of an authenticator.
        ticket: TicketSecret,
        /// When the ticket stops working.
        expires_at: Timestamp,
    },
    /// The user must choose a new password first.
    PasswordChange {
        /// The secret that the client sends back with the new password.
        ticket: TicketSecret,
        /// Why the password must change.
        cause: ChangeCause,
        /// The rules for the new password.
        rules: PasswordRules,
        /// When the ticket stops working.
        expires_at: Timestamp,
    },
}

impl App {
    /// Signs a user in by login and password. Returns tokens, or a ticket for the next step.
    ///
    /// The errors are those of [`App::prove`].
    pub async fn sign_in(&self, caller: &Caller, command: SignIn) -> Result<Progress> {
        let entry = self.enter(caller).await?;
        let SignIn { login, password, code, device_token, wish, goal } = command;
        let parsed = Login::parse(&login).ok();
        let login = parsed.as_ref().map_or(login.as_str(), Login::key);
        let Found { account, absent } = self.account_signing_in(parsed.as_ref()).await?;
        let user = account.as_ref().map(|account| &account.user);
        let is_familiar = self.is_familiar(caller, user, device_token.as_ref()).await?;
        let budgets = self.budgets_of(user, login, is_familiar);
        let (account, password) = (account.as_ref(), password.as_ref());
        let claim = Claim { account, absent, login, password, budgets, in_session: false };
        let proof = self.prove(entry, claim).await?;
        let ask = Asked { goal, wish: &wish };
        let review = self.review(&proof, password).await;
        let progress = self.signed_in(caller, &proof, review, code.as_ref(), ask).await;
        let progress = self.settle(&proof, progress).await?;
        if matches!(progress, Coded::Refused(_) | Coded::Done(Progress::SecondFactor { .. })) {
            // The password was right, and the sign-in is not at its end.
            self.release(&proof.attempt).await?;
        }
        let progress = progress.answer()?;
        self.count_progress(&progress);
        self.renew_hash(caller, &proof, password).await;
        Ok(progress)
    }

    /// Finds the account that a login names. Sign-ins to a corrupt record are refused like any other.
    async fn account_signing_in(&self, login: Option<&Login>) -> Result<Found> {
        let absent = Reason::UserNotFound;
        let Some(login) = login else { return Ok(Found { account: None, absent }) };
        match user_by_login(self.store.reader(), login).await {
            Ok(account) => Ok(Found { account, absent }),
            Err(Error::Corrupt { .. }) => Ok(Found { account: None, absent: Reason::RecordCorrupt }),
            Err(error) => Err(error),
        }
    }

    /// Goes on with a sign-in whose password was proved. Returns `None` if the account was locked, reset or deleted since it was
    /// read, if the password has expired, or if the account has to be locked because it was not used.
    async fn signed_in(
        &self,
        caller: &Caller,
        proof: &Proof<'_>,
        review: Review,
        code: Option<&SecondFactorCode>,
        asked: Asked<'_>,
    ) -> Result<Option<Coded<Progress>>> {
        self.write(caller, None, |writer| async move {
            let mut change = writer.change();
            let goal = asked.goal;
            let Some(mut user) = change.signing_in(proof.account, goal, review).await? else {
                return Ok(change.roll_back(RolledBack::NotApplied, None));
            };
            if user.is_inactive(change.now) && change.may_lock(&user).await? {
                // Beyond the limit it is refused all the same, so that a wrong policy can be taken back.
                return if self.is_within_limit(&change).await? {
                    self.lock_inactive(change, &user).await.map(|done| done.map(|()| None))
                } else {
                    Ok(change.roll_back(RolledBack::NotApplied, None))
                };
            }
            let (mut proofs, mut told) = (Proofs::PASSWORD, Told::default());
            if let (true, Some(code)) = (user.owes_second_factor(proofs), code) {
                match change.check_code(&user, code).await? {
                    Checked::Right { proofs: all, events } => (proofs, told.before) = (all, events),
                    Checked::Wrong(event) => {
                        return Ok(self.code_failed(change, caller, &user, event).await?.map(Some));
                    }
                }
            }
            match review {
                Review::Flawed(flaw) if user.change_cause(change.now).is_none() => {
                    user = demand_change(&change, &user, flaw).await?;
                    let event = Event::new(EventType::PasswordChangeRequired, Target::of(&user));
                    told.before.push(event.detail("cause", demand_cause(flaw)));
                }
                Review::Fit { judged_at } => {
                    if user.password_flaw == Some(PasswordFlaw::AgainstPolicy) {
                        user = waive_change(&change, &user).await?;
                        let event = Event::new(EventType::PasswordChangeWaived, Target::of(&user));
                        told.before.push(event.detail("cause", demand_cause(PasswordFlaw::AgainstPolicy)));
                    }
                    user_judged(&change.tx, user.id, judged_at).await?;
                }
                Review::Flawed(_) | Review::NotDue => {}
            }
            // Wrong passwords are forgotten with the last proof: of two, a guesser may have one.
            if !user.owes_second_factor(proofs) {
                told.after = proof.attempt.succeeded(&change, &user).await?;
            }
            let advanced = self.advance(change, caller, &user, proofs, asked, told).await?;
            Ok(advanced.map(|progress| Some(Coded::Done(progress))))
        })
        .await
    }

    /// Takes the next step of a sign-in in which `proofs` were given, and commits: tokens, or a ticket for what is missing.
    pub(super) async fn advance(
        &self,
        change: Change<'_>,
        caller: &Caller,
        user: &User,
        proofs: Proofs,
        asked: Asked<'_>,
        told: Told,
    ) -> Result<Done<Progress>> {
        let (event, progress) = match (user.next_step(proofs, change.now), asked.goal) {
            (Step::Done, SignInGoal::Session) => {
                let (tokens, signed_in) = self.open_session(&change, caller, user, proofs, asked.wish).await?;
                return change.commit(told.around(signed_in), Progress::Tokens(tokens)).await;
            }
            (Step::Done, SignInGoal::Enrollment) | (Step::Enrollment, _) => {
                let purpose = TicketPurpose::Enrollment;
                let (ticket, expires_at) = self.issue_ticket(&change, user, purpose, proofs, asked).await?;
                let event = signed_in_event(user).detail("step", "ENROLLMENT");
                (event, Progress::Enrollment { ticket, expires_at })
            }
            (Step::SecondFactor, _) => {
                let purpose = TicketPurpose::SecondFactor;
                let (ticket, expires_at) = self.issue_ticket(&change, user, purpose, proofs, asked).await?;
                let methods = user.second_factor.map(|factor| factor.methods()).unwrap_or_default();
                let event = signed_in_event(user).detail("step", "SECOND_FACTOR");
                (event, Progress::SecondFactor { ticket, methods, expires_at })
            }
            (Step::PasswordChange(cause), _) => {
                let purpose = TicketPurpose::PasswordChange;
                let (ticket, expires_at) = self.issue_ticket(&change, user, purpose, proofs, asked).await?;
                let rules = self.password_rules_in(&change.tx).await?;
                let event = signed_in_event(user).detail("step", "PASSWORD_CHANGE");
                (event, Progress::PasswordChange { ticket, cause, rules, expires_at })
            }
        };
        change.commit(told.around(event.into()), progress).await
    }

    pub(super) fn count_progress(&self, progress: &Progress) {
        match progress {
            Progress::Tokens(_) => self.metrics.sign_in_succeeded(),
            Progress::SecondFactor { .. } => self.metrics.sign_in_needs_second_factor(),
            Progress::Enrollment { .. } => self.metrics.sign_in_needs_enrollment(),
            Progress::PasswordChange { .. } => self.metrics.sign_in_needs_password_change(),
        }
    }

    async fn issue_ticket(
        &self,
        change: &Change<'_>,
        user: &User,
        purpose: TicketPurpose,
        proofs: Proofs,
        asked: Asked<'_>,
    ) -> Result<(TicketSecret, Timestamp)> {
        // A ticket expires no later than the temporary password that it was issued for.
        let password_ends = user.password.as_ref().and_then(|password| password.expires_at);
        let expires_at = change.now.saturating_add(TICKET_TTL);
        let ticket = Ticket {
            user_id: user.id,
            purpose,
            proofs,
            goal: asked.goal,
            wish: asked.wish.clone(),
            enrollment: None,
            created_at: change.now,
            tries: 0,
            expires_at: password_ends.map_or(expires_at, |ends| ends.min(expires_at)),
        };
        let secret = TicketSecret::from_bytes(self.environment.bytes());
        ticket_insert(&change.tx, &ticket, &secret.digest()).await?;
        Ok((secret, ticket.expires_at))
    }

    /// Replaces a hash that is weaker than today's settings, unless the password was reset meanwhile. A failure is only
    /// logged: the user is signed in, and the next sign-in tries again.
    pub(super) async fn renew_hash(&self, caller: &Caller, proof: &Proof<'_>, password: Option<&PlainPassword>) {
        let UserWithCredentials { user, credentials, .. } = proof.account;
        let (id, Some(verified)) = (user.id, &credentials.password) else { return };
        let renewed = match self.rehash(proof, password).await {
            Ok(None) => return,
            Ok(Some(hash)) => {
                let hash = &hash;
                self.write(caller, None, |writer| async move {
                    let change = writer.change();
                    user_rehash(&change.tx, id, verified, hash).await?;
                    change.commit_unaudited(Unaudited::Rehash, ()).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::warn!(user.id = %id, reason = error.reason().as_str(), "a weak hash was not renewed");
        }
    }

    /// Returns whether the password that was proved for `read` still signs in to `found`, the same account read again under a
    /// row lock. It does if the account does not refuse it, and the hash is the same, or was renewed from the same password by
    /// another sign-in.
    fn is_as_proved(&self, found: &UserWithCredentials, read: &UserWithCredentials, now: Timestamp) -> bool {
        if found.user.refusal(now).is_some() {
            return false;
        }
        let (Some(password), Some(earlier)) = (&found.user.password, &read.user.password) else { return false };
        let is_renewed = || {
            password.changed_at == earlier.changed_at
                && self.is_rehash_pending(earlier)
                && !self.is_rehash_pending(password)
        };
        found.credentials == read.credentials || is_renewed()
    }
}

/// What is recorded with a sign-in, before it and after it.
#[derive(Default)]
pub(super) struct Told {
    /// What led to it: a new password ends the sessions before this one.
    pub(super) before: Vec<Event>,
    /// What follows from it.
    pub(super) after: Vec<Event>,
}

impl Told {
    fn around(self, signed_in: Events) -> Events {
        match Events::of(self.before) {
            Some(before) => before.and(signed_in).and(self.after),
            None => signed_in.and(self.after),
        }
    }
}

/// What a sign-in asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) goal: SignInGoal,
    pub(super) wish: &'a SignInWish,
}

impl Asked<'_> {
    /// What the sign-in of a ticket asks for.
    pub(super) fn of(ticket: &Ticket) -> Asked<'_> {
        Asked { goal: ticket.goal, wish: &ticket.wish }
    }
}

struct Found {
    account: Option<UserWithCredentials>,
    /// Why there is none, for the audit log.
    absent: Reason,
}

impl Writer<'_> {
    /// Locks the row of an account whose password was proved, and reads it again. Returns `None` if the account was locked,
    /// reset or deleted since it was read, or if the password has expired.
    pub(super) async fn unchanged_since(&mut self, read: &UserWithCredentials) -> Result<Option<User>> {
        let locked = user_lock_row_with_credentials(&self.tx, read.user.id).await?;
        self.now = self.app.now();
        let same = locked.filter(|locked| self.app.is_as_proved(locked, read, self.now));
        Ok(same.map(|account| account.user))
    }
}

/// The cause of a required change, as in the audit log.
fn demand_cause(flaw: PasswordFlaw) -> &'static str {
    match flaw {
        PasswordFlaw::Breached => "BREACHED",
        PasswordFlaw::AgainstPolicy => "POLICY",
    }
}

/// Requires a new password because of what a sign-in found wrong with the one of today.
async fn demand_change(change: &Change<'_>, before: &User, flaw: PasswordFlaw) -> Result<User> {
    let mut after = User { change_required: true, password_flaw: Some(flaw), ..before.clone() };
    user_save(&change.tx, before, &mut after, None, change.now).await?;
    Ok(after)
}

/// Waives a change that only rules of before asked for.
async fn waive_change(change: &Change<'_>, before: &User) -> Result<User> {
    let mut after = User { change_required: false, password_flaw: None, ..before.clone() };
    user_save(&change.tx, before, &mut after, None, change.now).await?;
    Ok(after)
}

impl Change<'_> {
    /// Does the same as [`Writer::unchanged_since`] for a sign-in. Nearly always the account has not changed since it was
    /// read. Then one update, guarded by what was read, both locks the row and records the sign-in.
    async fn signing_in(
        &mut self,
        read: &UserWithCredentials,
        goal: SignInGoal,
        review: Review,
    ) -> Result<Option<User>> {
        let (now, user) = (self.now, &read.user);
        let is_flawed = matches!(review, Review::Flawed(_));
        let is_last_step =
            user.next_step(Proofs::PASSWORD, now) == Step::Done && goal == SignInGoal::Session && !is_flawed;
        let is_complete = is_last_step && user.refusal(now).is_none() && !user.is_inactive(now);
        if is_complete && user_signed_in_as_read(&self.tx, read, now).await? {
            self.now = self.app.now();
            return Ok(Some(User { last_sign_in_at: Some(self.now), ..user.clone() }));
        }
        // Unlike other row locks, this one takes no advisory lock first: the update may have locked the row already, so
        // waiting for an advisory lock could deadlock.
        let locked = user_lock_row_to_sign_in(&self.tx, user.id).await?;
        self.now = self.app.now();
        let same = locked.filter(|locked| self.app.is_as_proved(locked, read, self.now));
        Ok(same.map(|account| account.user))
    }
}
