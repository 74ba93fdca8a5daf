//! Requiring a password change at the next sign-in, and waiving it.

use crate::app::App;
use crate::app::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::profile::Note;
use crate::domain::user::{Effects, Etag, PasswordFlaw, User, UserKind, UserRef};
use crate::error::{Result, Unmet};
use crate::store::sessions::{Which, session_end};
use crate::store::users::user_save;

/// A command to require a password change at the next sign-in.
#[derive(Debug)]
pub struct RequirePasswordChange {
    /// The account.
    pub user: UserRef,
    /// Whether to end the sessions too, so that the user must sign in again soon.
    pub revoke_sessions: bool,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
}

/// A command to waive a required password change.
#[derive(Debug)]
pub struct WaivePasswordChange {
    /// The account.
    pub user: UserRef,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
}

impl App {
    /// Requires a password change at the next sign-in, which still accepts the old password. Ends sessions only if asked to.
    /// Fails for service accounts and for accounts without a password. Also returns whether no change was required before.
    pub async fn require_password_change(
        &self,
        caller: &Caller,
        command: RequirePasswordChange,
    ) -> Result<(User, Effects, bool)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            match (before.kind, &before.password) {
                (UserKind::Service, _) => return Err(Unmet::UserIsService.into()),
                (UserKind::Person, None) if before.has_ended_password() => return Err(Unmet::PasswordEnded.into()),
                (UserKind::Person, None) => return Err(Unmet::UserPending.into()),
                (UserKind::Person, Some(_)) => {}
            }
            let change = writer.change();
            let mut after = before.clone();
            // What only the policy asks for may end with its rules. What an operator asks for stays.
            let is_asked_for = before.change_required && before.password_flaw != Some(PasswordFlaw::AgainstPolicy);
            if !is_asked_for {
                (after.change_required, after.password_flaw) = (true, None);
                user_save(&change.tx, &before, &mut after, None, change.now).await?;
            }
            let sessions = if command.revoke_sessions {
                session_end(&change.tx, before.id, Which::All, change.now).await?
            } else {
                0
            };
            if is_asked_for && sessions == 0 {
                return Ok(change.roll_back(RolledBack::NotApplied, (before, Effects::default(), false)));
            }
            let event = Event::new(EventType::PasswordChangeRequired, Target::of(&after))
                .note(command.note.as_ref())
                .detail("sessionsRevoked", sessions);
            let effects = self.effects_of_ending(sessions, change.now);
            let is_new = before.change_cause(change.now).is_none();
            change.commit(event, (after, effects, is_new)).await
        })
        .await
    }

    /// Waives a password change that an operator required. A temporary password, one that an operator chose to be changed, and one
    /// that a sign-in found to be leaked or to break the policy must be changed all the same. Returns whether a change was required.
    pub async fn waive_password_change(&self, caller: &Caller, command: WaivePasswordChange) -> Result<(User, bool)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            writer.not_oneself(before.id)?;
            Writer::check_etag(&before, command.etag)?;
            if !before.change_required || before.password_flaw.is_some() {
                return Ok(writer.unchanged((before, false)));
            }
            let change = writer.change();
            let mut after = before.clone();
            after.change_required = false;
            user_save(&change.tx, &before, &mut after, None, change.now).await?;
            let event = Event::new(EventType::PasswordChangeWaived, Target::of(&after)).note(command.note.as_ref());
            change.commit(event, (after, true)).await
        })
        .await
    }
}
