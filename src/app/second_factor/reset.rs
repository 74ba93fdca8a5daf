//! Removing the second factor of a user who has lost it, by an operator.

use crate::app::App;
use crate::app::writer::{Change, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::profile::Note;
use crate::domain::user::{Effects, Etag, User, UserRef};
use crate::error::Result;
use crate::store::second_factors::second_factor_remove;
use crate::store::sessions::{Which, session_end};
use crate::store::tickets::ticket_end_all;
use crate::store::users::user_save;

/// A command to remove a user's second factor.
#[derive(Debug)]
pub struct ResetSecondFactor {
    /// The account.
    pub user: UserRef,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
}

impl App {
    /// Removes the authenticator and the recovery codes of a user. Ends all sessions, tickets and links, and requires a new
    /// password: whoever asked for this in the user's name may know the old one. Does nothing if there is no second factor.
    pub async fn reset_second_factor(&self, caller: &Caller, command: ResetSecondFactor) -> Result<(User, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            if before.second_factor.is_none() {
                return Ok(writer.unchanged((before, Effects::default())));
            }
            let change = writer.change();
            let mut after = before.clone();
            remove_second_factor(&change, &mut after).await?;
            after.change_required = before.password.is_some();
            user_save(&change.tx, &before, &mut after, None, change.now).await?;
            let sessions = session_end(&change.tx, before.id, Which::All, change.now).await?;
            let tickets_revoked = ticket_end_all(&change.tx, before.id, change.now).await?;
            let links_revoked = change.end_links(&before, None).await?;
            after.stored_link = None;
            change.notify(&after, LetterKind::SecondFactorReset).await?;
            let effects = Effects {
                second_factors_removed: true,
                tickets_revoked,
                links_revoked,
                ..self.effects_of_ending(sessions, change.now)
            };
            let event = Event::new(EventType::SecondFactorReset, Target::of(&after))
                .note(command.note.as_ref())
                .detail("sessionsRevoked", sessions)
                .detail("linksRevoked", links_revoked);
            change.commit(event, (after, effects)).await
        })
        .await
    }
}

/// Removes the authenticator and the recovery codes of an account, whose row is saved after it.
pub(in crate::app) async fn remove_second_factor(change: &Change<'_>, user: &mut User) -> Result<()> {
    user.second_factor = None;
    second_factor_remove(&change.tx, user.id).await
}
