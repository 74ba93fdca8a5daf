//! Setting up an authenticator, in a session or as a step of a sign-in: its key is given out, and counts once a code of it was sent
//! back.

use zeroize::Zeroizing;

use super::{Checked, Coded, confirmed};
use crate::app::App;
use crate::app::sessions::own_session;
use crate::app::sign_in::{Asked, Progress, Told};
use crate::app::writer::{Change, Unaudited, Writer};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::reason::Reason;
use crate::domain::second_factor::{
    AccountLabel, Proofs, RecoveryCode, SecondFactorCode, SecondFactorMethod, TotpCode, TotpKey, TotpStep,
};
use crate::domain::secret::TicketSecret;
use crate::domain::session::{Session, SignInWish};
use crate::domain::ticket::{Enrollment, SignInGoal, TICKET_TTL, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::second_factors::second_factor_replace;
use crate::store::sessions::{Which, session_end, session_lock_row, session_reauthenticate};
use crate::store::tickets::{ticket_end_all, ticket_insert, ticket_wrong_code};
use crate::store::users::user_save;

/// A command to begin to set up an authenticator.
#[derive(Debug)]
pub struct EnrollTotp {
    /// By which right.
    pub by: EnrollBy,
    /// What the authenticator shows. `None` means the username.
    pub label: Option<AccountLabel>,
}

/// By which right a user sets up an authenticator.
#[derive(Debug)]
pub enum EnrollBy {
    /// The session of the call, with a code of the second factor that there is.
    Session(Option<SecondFactorCode>),
    /// The ticket of a sign-in. `None` if what was sent cannot be one.
    Ticket(Option<TicketSecret>),
}

/// An authenticator to be set up.
#[derive(Debug)]
pub struct TotpEnrollment {
    /// The ticket to confirm it with.
    pub ticket: TicketSecret,
    /// The key in base32.
    pub secret: Zeroizing<String>,
    /// The key as a URI for a QR code.
    pub uri: Zeroizing<String>,
    /// When the ticket expires.
    pub expires_at: Timestamp,
}

/// A command to confirm an authenticator.
#[derive(Debug)]
pub struct ConfirmTotp {
    /// The ticket. `None` if what was sent cannot be one.
    pub ticket: Option<TicketSecret>,
    /// A code of the authenticator. `None` if what was sent cannot be one.
    pub code: Option<TotpCode>,
}

/// An authenticator that was confirmed.
#[derive(Debug)]
pub struct TotpConfirmed {
    /// The account as it is now.
    pub user: User,
    /// The recovery codes, shown only once.
    pub recovery_codes: Vec<RecoveryCode>,
    /// The next step, if this was a step of a sign-in.
    pub progress: Option<Progress>,
    /// Other sessions that were ended.
    pub sessions_revoked: u32,
}

impl App {
    /// Makes the key of an authenticator, and a ticket to confirm it with. Nothing else changes. A later call replaces an earlier
    /// one. Fails if the user has a second factor and has not proved it.
    pub async fn enroll_totp(&self, caller: &Caller, command: EnrollTotp) -> Result<TotpEnrollment> {
        let label = command.label.as_ref();
        match command.by {
            EnrollBy::Session(code) => self.enroll_in_session(caller, code.as_ref(), label).await,
            EnrollBy::Ticket(ticket) => self.enroll_by_ticket(caller, ticket.as_ref(), label).await,
        }
    }

    async fn enroll_in_session(
        &self,
        caller: &Caller,
        code: Option<&SecondFactorCode>,
        label: Option<&AccountLabel>,
    ) -> Result<TotpEnrollment> {
        let (id, session_id) = own_session(caller)?;
        let enrolled = self.write(caller, None, |mut writer| async move {
            let user = writer.locked(id).await?.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
            let change = writer.change();
            let (proofs, events) = match change.demand_code(&user, code).await? {
                Checked::Right { proofs, events } => (proofs, events),
                Checked::Wrong(event) => return self.code_failed(change, caller, &user, event).await,
            };
            let wish = SignInWish::default();
            let asked = Asked { goal: SignInGoal::Enrollment, wish: &wish };
            let key = TotpKey::from_bytes(self.environment.bytes());
            let enrollment = Enrollment { session_id: Some(session_id), sealed_key: self.seal_totp_key(id, &key)? };
            let ticket = new_ticket(&change, &user, proofs, asked, enrollment);
            let enrolled = Coded::Done(self.offer(&change, &user, &ticket, &key, label).await?);
            match Events::of(events) {
                Some(events) => change.commit(events, enrolled).await,
                None => change.commit_unaudited(Unaudited::Enrollment, enrolled).await,
            }
        });
        enrolled.await?.answer()
    }

    async fn enroll_by_ticket(
        &self,
        caller: &Caller,
        ticket: Option<&TicketSecret>,
        label: Option<&AccountLabel>,
    ) -> Result<TotpEnrollment> {
        let known = &self.known_ticket(caller, ticket, TicketPurpose::Enrollment).await?;
        self.write(caller, None, |mut writer| async move {
            let (user, ticket) = writer.locked_ticket(known).await?;
            if user.owes_second_factor(ticket.proofs) {
                return Err(Error::Unauthenticated(Unauthenticated::TicketInvalid));
            }
            let change = writer.change();
            let key = TotpKey::from_bytes(self.environment.bytes());
            let enrollment = Enrollment { session_id: None, sealed_key: self.seal_totp_key(user.id, &key)? };
            let ticket = new_ticket(&change, &user, ticket.proofs, Asked::of(&ticket), enrollment);
            let offered = self.offer(&change, &user, &ticket, &key, label).await?;
            change.commit_unaudited(Unaudited::Enrollment, offered).await
        })
        .await
    }

    async fn offer(
        &self,
        change: &Change<'_>,
        user: &User,
        ticket: &Ticket,
        key: &TotpKey,
        label: Option<&AccountLabel>,
    ) -> Result<TotpEnrollment> {
        let secret = TicketSecret::from_bytes(self.environment.bytes());
        ticket_insert(&change.tx, ticket, &secret.digest()).await?;
        let label = label.cloned().unwrap_or_else(|| AccountLabel::of(&user.username));
        Ok(TotpEnrollment {
            ticket: secret,
            secret: key.to_base32(),
            uri: key.uri(&self.settings.organisation, &label),
            expires_at: ticket.expires_at,
        })
    }

    /// Sets up an authenticator, in place of the one before, and makes new recovery codes. The session in which it was asked for
    /// has proved it; a sign-in goes on. Ends all other sessions, tickets and links.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, or if the session has ended or the account was
    /// locked since.
    pub async fn confirm_totp(&self, caller: &Caller, command: ConfirmTotp) -> Result<TotpConfirmed> {
        let known = &self.known_ticket(caller, command.ticket.as_ref(), TicketPurpose::TotpConfirmation).await?;
        let code = command.code.as_ref();
        let confirmed = self.write(caller, None, |mut writer| async move {
            let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
            let (user, ticket) = writer.locked_ticket(known).await?;
            let enrollment = ticket.enrollment.clone().ok_or_else(dead)?;
            if user.owes_second_factor(ticket.proofs) {
                return Err(dead());
            }
            let session = writer.live_session(&enrollment).await?;
            let change = writer.change();
            let key = self.open_totp_key(user.id, &enrollment.sealed_key)?;
            let step = code.and_then(|code| key.accepts(code, change.now, TotpStep::NONE));
            let Some(step) = step else {
                ticket_wrong_code(&change.tx, &known.digest, ticket.purpose, change.now).await?;
                let event =
                    Event::failed(EventType::SecondFactorFailed, Target::of(&user), Reason::SecondFactorRejected)
                        .detail("step", "ENROLLMENT");
                return self.code_failed(change, caller, &user, event).await;
            };
            let totp = confirmed(enrollment.sealed_key, step, &change);
            let (recovery_codes, digests) = self.new_recovery_codes(user.id);
            second_factor_replace(&change.tx, user.id, &totp, &digests).await?;
            let is_step = session.is_none() && ticket.goal == SignInGoal::Session;
            let (after, sessions_revoked) = self.end_the_old(&change, caller, &user, session).await?;
            change.notify(&after, LetterKind::TotpEnrolled).await?;
            let event = Event::new(EventType::TotpEnrolled, Target::of(&after))
                .detail("replaced", user.second_factor.is_some())
                .detail("sessionsRevoked", sessions_revoked);
            let confirmed = TotpConfirmed { user: after.clone(), recovery_codes, progress: None, sessions_revoked };
            if !is_step {
                return change.commit(event, Coded::Done(confirmed)).await;
            }
            let proofs = Proofs { second_factor: Some(SecondFactorMethod::Totp) };
            let told = Told { before: vec![event], after: Vec::new() };
            let advanced = self.advance(change, caller, &after, proofs, Asked::of(&ticket), told).await?;
            Ok(advanced.map(|progress| Coded::Done(TotpConfirmed { progress: Some(progress), ..confirmed })))
        });
        let confirmed = confirmed.await?.answer()?;
        confirmed.progress.iter().for_each(|progress| self.count_progress(progress));
        Ok(confirmed)
    }

    /// Ends what was there without the new second factor. `session`, in which it was set up, stays, and has proved it.
    async fn end_the_old(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        before: &User,
        session: Option<Session>,
    ) -> Result<(User, u32)> {
        let mut after = before.clone();
        user_save(&change.tx, before, &mut after, None, change.now).await?;
        let others = match session {
            Some(mut session) => {
                session.proofs = Proofs { second_factor: Some(SecondFactorMethod::Totp) };
                session.auth_at = change.now;
                self.touch(&mut session, caller, before, change.now);
                if !session_reauthenticate(&change.tx, &session, change.now).await? {
                    return Err(Unauthenticated::TicketInvalid.into());
                }
                Which::AllBut(session.id)
            }
            None => Which::All,
        };
        let ended = session_end(&change.tx, before.id, others, change.now).await?;
        ticket_end_all(&change.tx, before.id, change.now).await?;
        change.end_links(before, None).await?;
        change.reread(&mut after).await?;
        Ok((after, ended))
    }
}

impl Writer<'_> {
    /// Locks and reads the session in which an authenticator is set up. Fails if it has ended.
    async fn live_session(&self, enrollment: &Enrollment) -> Result<Option<Session>> {
        let Some(id) = enrollment.session_id else { return Ok(None) };
        let session = session_lock_row(&self.tx, id).await?.filter(|session| session.is_live(self.now));
        session.map(Some).ok_or(Error::Unauthenticated(Unauthenticated::TicketInvalid))
    }
}

fn new_ticket(change: &Change<'_>, user: &User, proofs: Proofs, asked: Asked<'_>, enrollment: Enrollment) -> Ticket {
    Ticket {
        user_id: user.id,
        purpose: TicketPurpose::TotpConfirmation,
        proofs,
        goal: asked.goal,
        wish: asked.wish.clone(),
        enrollment: Some(enrollment),
        tries: 0,
        created_at: change.now,
        expires_at: change.now.saturating_add(TICKET_TTL),
    }
}
