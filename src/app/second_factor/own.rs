//! What signed-in users do with their own second factor.

use super::{Checked, Coded};
use crate::app::App;
use crate::app::sessions::own_session;
use crate::app::writer::{Change, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::id::{SessionId, UserId};
use crate::domain::second_factor::{RecoveryCode, SecondFactorCode};
use crate::domain::user::User;
use crate::error::{Error, Result, Unauthenticated, Unmet};
use crate::store::second_factors::{recovery_codes_replace, second_factor_remove};
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// A command to remove the caller's second factor.
#[derive(Debug)]
pub struct DisableTotp {
    /// A code of it.
    pub code: SecondFactorCode,
}

/// A command to replace the caller's recovery codes.
#[derive(Debug)]
pub struct RegenerateRecoveryCodes {
    /// A code of the second factor.
    pub code: SecondFactorCode,
}

impl App {
    /// Removes the caller's authenticator and recovery codes, unless the policy asks for them. Ends all other sessions, tickets and
    /// links. Returns the number of sessions that were ended.
    pub async fn disable_totp(&self, caller: &Caller, command: DisableTotp) -> Result<u32> {
        let (id, session_id) = own_session(caller)?;
        let code = &command.code;
        let disabled = self.write(caller, None, |mut writer| async move {
            let user = with_second_factor(&mut writer, id).await?;
            if user.needs_second_factor(writer.now) {
                return Err(Unmet::SecondFactorMandatory.into());
            }
            let change = writer.change();
            let events = match change.check_code(&user, code).await? {
                Checked::Right { events, .. } => events,
                Checked::Wrong(event) => return self.code_failed(change, caller, &user, event).await,
            };
            second_factor_remove(&change.tx, user.id).await?;
            let sessions = end_the_rest(&change, &user, session_id).await?;
            change.notify(&user, LetterKind::TotpDisabled).await?;
            let event = Event::new(EventType::TotpDisabled, Target::of(&user)).detail("sessionsRevoked", sessions);
            change.commit(event.and(events), Coded::Done(sessions)).await
        });
        disabled.await?.answer()
    }

    /// Replaces all recovery codes of the caller, and ends all other sessions, tickets and links. Returns the codes and the number
    /// of sessions that were ended.
    pub async fn regenerate_recovery_codes(
        &self,
        caller: &Caller,
        command: RegenerateRecoveryCodes,
    ) -> Result<(Vec<RecoveryCode>, u32)> {
        let (id, session_id) = own_session(caller)?;
        let code = &command.code;
        let replaced = self.write(caller, None, |mut writer| async move {
            let user = with_second_factor(&mut writer, id).await?;
            let change = writer.change();
            let events = match change.check_code(&user, code).await? {
                Checked::Right { events, .. } => events,
                Checked::Wrong(event) => return self.code_failed(change, caller, &user, event).await,
            };
            let (codes, digests) = self.new_recovery_codes(user.id);
            recovery_codes_replace(&change.tx, user.id, &digests).await?;
            let sessions = end_the_rest(&change, &user, session_id).await?;
            let event =
                Event::new(EventType::RecoveryCodesReplaced, Target::of(&user)).detail("sessionsRevoked", sessions);
            change.commit(event.and(events), Coded::Done((codes, sessions))).await
        });
        replaced.await?.answer()
    }
}

/// Locks and reads the caller's account. Fails if it has no second factor.
async fn with_second_factor(writer: &mut Writer<'_>, id: UserId) -> Result<User> {
    let user = writer.locked(id).await?.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
    if user.second_factor.is_some() { Ok(user) } else { Err(Unmet::SecondFactorMissing.into()) }
}

/// Ends all but one session, and what could begin another. The account gets a new version, so that a sign-in under way reads it
/// again.
async fn end_the_rest(change: &Change<'_>, user: &User, session_id: SessionId) -> Result<u32> {
    user_save(&change.tx, user, &mut user.clone(), None, change.now).await?;
    let sessions = session_end(&change.tx, user.id, Which::AllBut(session_id), change.now).await?;
    ticket_end_all(&change.tx, user.id, change.now).await?;
    change.end_links(user, None).await?;
    Ok(sessions)
}
