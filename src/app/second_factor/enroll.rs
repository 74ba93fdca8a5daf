//! Setting up an authenticator: its key is given out, and counts once a code of it was sent back.

use zeroize::Zeroizing;

use super::{Checked, Coded, confirmed};
use crate::app::App;
use crate::app::sessions::own_session;
use crate::app::writer::{Change, Unaudited};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::id::SessionId;
use crate::domain::reason::Reason;
use crate::domain::second_factor::{
    AccountLabel, Proofs, RecoveryCode, SecondFactorCode, SecondFactorMethod, TotpCode, TotpKey, TotpStep,
};
use crate::domain::secret::TicketSecret;
use crate::domain::session::{Session, SignInWish};
use crate::domain::ticket::{Enrollment, TICKET_TTL, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::second_factors::second_factor_replace;
use crate::store::sessions::{Which, session_end, session_lock_row, session_reauthenticate};
use crate::store::tickets::{ticket_end_all, ticket_find, ticket_insert, ticket_lock_row, ticket_wrong_code};
use crate::store::users::user_save;

/// A command to begin to set up an authenticator.
#[derive(Debug)]
pub struct EnrollTotp {
    /// A code of the second factor that there is.
    pub code: Option<SecondFactorCode>,
    /// What the authenticator shows. `None` means the username.
    pub label: Option<AccountLabel>,
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
    /// Other sessions that were ended.
    pub sessions_revoked: u32,
}

impl App {
    /// Makes the key of an authenticator, and a ticket to confirm it with. Nothing else changes. A later call replaces an earlier
    /// one. Fails if the user has a second factor and does not prove it.
    pub async fn enroll_totp(&self, caller: &Caller, command: EnrollTotp) -> Result<TotpEnrollment> {
        let (id, session_id) = own_session(caller)?;
        let EnrollTotp { code, label } = &command;
        let enrolled = self.write(caller, None, |mut writer| async move {
            let user = writer.locked(id).await?.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
            let change = writer.change();
            let events = match change.demand_code(&user, code.as_ref()).await? {
                Checked::Right { events, .. } => events,
                Checked::Wrong(event) => return self.code_failed(change, caller, &user, event).await,
            };
            let enrollment = self.new_enrollment(&change, &user, session_id, label.as_ref()).await?;
            let enrolled = Coded::Done(enrollment);
            match Events::of(events) {
                Some(events) => change.commit(events, enrolled).await,
                None => change.commit_unaudited(Unaudited::Enrollment, enrolled).await,
            }
        });
        enrolled.await?.answer()
    }

    async fn new_enrollment(
        &self,
        change: &Change<'_>,
        user: &User,
        session_id: SessionId,
        label: Option<&AccountLabel>,
    ) -> Result<TotpEnrollment> {
        let key = TotpKey::from_bytes(self.environment.bytes());
        let ticket = Ticket {
            user_id: user.id,
            purpose: TicketPurpose::TotpConfirmation,
            proofs: Proofs::PASSWORD,
            wish: SignInWish::default(),
            enrollment: Some(Enrollment { session_id, sealed_key: self.seal_totp_key(user.id, &key)? }),
            tries: 0,
            created_at: change.now,
            expires_at: change.now.saturating_add(TICKET_TTL),
        };
        let secret = TicketSecret::from_bytes(self.environment.bytes());
        ticket_insert(&change.tx, &ticket, &secret.digest()).await?;
        let label = label.cloned().unwrap_or_else(|| AccountLabel::of(&user.username));
        Ok(TotpEnrollment {
            ticket: secret,
            secret: key.to_base32(),
            uri: key.uri(&self.settings.organisation, &label),
            expires_at: ticket.expires_at,
        })
    }

    /// Sets up an authenticator, in place of the one before, and makes new recovery codes. The session in which it was asked for
    /// has proved it. Ends all other sessions, tickets and links.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, or if the session has ended or the account was
    /// locked since.
    pub async fn confirm_totp(&self, caller: &Caller, command: ConfirmTotp) -> Result<TotpConfirmed> {
        self.check_source(caller).await?;
        let purpose = TicketPurpose::TotpConfirmation;
        let digest = command.ticket.as_ref().map(TicketSecret::digest);
        let found = match &digest {
            Some(digest) => ticket_find(self.store.reader(), digest, purpose, self.now()).await?,
            None => None,
        };
        let (Some(digest), Some(found)) = (&digest, found) else { return self.ticket_invalid(caller).await };
        let (code, user_id) = (command.code.as_ref(), found.user_id);
        let confirmed = self.write(caller, None, |mut writer| async move {
            let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
            let user = writer.locked(user_id).await?;
            let user = user.filter(|user| user.lock(writer.now).is_none()).ok_or_else(dead)?;
            let ticket = ticket_lock_row(&writer.tx, digest, purpose, writer.now).await?;
            let ticket = ticket.filter(|ticket| ticket.tries < purpose.max_tries()).ok_or_else(dead)?;
            let enrollment = ticket.enrollment.ok_or_else(dead)?;
            let session = session_lock_row(&writer.tx, enrollment.session_id).await?;
            let session = session.filter(|session| session.is_live(writer.now)).ok_or_else(dead)?;
            let change = writer.change();
            let key = self.open_totp_key(user.id, &enrollment.sealed_key)?;
            let step = code.and_then(|code| key.accepts(code, change.now, TotpStep::NONE));
            let Some(step) = step else {
                ticket_wrong_code(&change.tx, digest, purpose, change.now).await?;
                let event =
                    Event::failed(EventType::SecondFactorFailed, Target::of(&user), Reason::SecondFactorRejected)
                        .detail("step", "ENROLLMENT");
                return self.code_failed(change, caller, &user, event).await;
            };
            let totp = confirmed(enrollment.sealed_key, step, &change);
            let (recovery_codes, digests) = self.new_recovery_codes(user.id);
            second_factor_replace(&change.tx, user.id, &totp, &digests).await?;
            let (after, sessions_revoked) = self.prove_in_session(&change, caller, &user, session).await?;
            change.notify(&after, LetterKind::TotpEnrolled).await?;
            let event = Event::new(EventType::TotpEnrolled, Target::of(&after))
                .about(enrollment.session_id)
                .detail("replaced", user.second_factor.is_some())
                .detail("sessionsRevoked", sessions_revoked);
            let confirmed = TotpConfirmed { user: after, recovery_codes, sessions_revoked };
            change.commit(event, Coded::Done(confirmed)).await
        });
        confirmed.await?.answer()
    }

    /// Notes that the new second factor was proved in this session, and ends everything else that was there without it.
    async fn prove_in_session(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        before: &User,
        mut session: Session,
    ) -> Result<(User, u32)> {
        let mut after = before.clone();
        user_save(&change.tx, before, &mut after, None, change.now).await?;
        session.proofs = Proofs { second_factor: Some(SecondFactorMethod::Totp) };
        session.auth_at = change.now;
        self.touch(&mut session, caller, before, change.now);
        if !session_reauthenticate(&change.tx, &session, change.now).await? {
            return Err(Unauthenticated::TicketInvalid.into());
        }
        let ended = session_end(&change.tx, before.id, Which::AllBut(session.id), change.now).await?;
        ticket_end_all(&change.tx, before.id, change.now).await?;
        change.end_links(before, None).await?;
        change.reread(&mut after).await?;
        Ok((after, ended))
    }
}
