//! Changing and deleting accounts.

use std::time::Duration;

use super::{check_reservation, sorted};
use crate::app::App;
use crate::app::writer::{RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::Caller;
use crate::domain::email::EmailAddress;
use crate::domain::profile::{DisplayName, ExternalId, LabelChanges, Locale, Note};
use crate::domain::role::{Role, ScopeSet, scopes_of};
use crate::domain::user::{Effects, Etag, User, UserRef};
use crate::domain::username::Username;
use crate::domain::violation::Violations;
use crate::error::{Error, Result};
use crate::store::api_tokens::api_token_count_live;
use crate::store::sessions::{Which, session_end};
use crate::store::users::{user_delete, user_lock_version, user_save};

/// How long the name of a deleted account stays reserved, so that nobody inherits what others still send to it.
const USERNAME_RESERVATION: Duration = Duration::from_hours(30 * 24);

/// Change fields of an account. `None` stays, `Some(None)` clears.
#[derive(Debug)]
pub struct UpdateUser {
    /// Whom.
    pub user: UserRef,
    /// A new sign-in name.
    pub username: Option<Username>,
    /// A new address.
    pub email: Option<Option<EmailAddress>>,
    /// For people to read.
    pub display_name: Option<Option<DisplayName>>,
    /// BCP 47.
    pub locale: Option<Option<Locale>>,
    /// The id that another system gave.
    pub external_id: Option<Option<ExternalId>>,
    /// Labels to add, replace and remove.
    pub labels: LabelChanges,
    /// Roles to add.
    pub add_roles: Vec<Role>,
    /// Roles to take away.
    pub remove_roles: Vec<Role>,
    /// Why, in words.
    pub note: Option<Note>,
    /// If given, must match.
    pub etag: Option<Etag>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

/// Remove an account for good.
#[derive(Debug)]
pub struct DeleteUser {
    /// Whom.
    pub user: UserRef,
    /// Must match: whoever deletes has looked.
    pub etag: Etag,
    /// Why, in words.
    pub note: Option<Note>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

impl App {
    /// Changes fields of an account. Taking roles away ends its sessions.
    pub async fn update_user(&self, caller: &Caller, command: UpdateUser) -> Result<(User, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            let mut after = changed(&before, command)?;
            if before.roles != after.roles {
                writer.not_oneself(before.id)?;
                writer.outranks(scopes_of(&command.add_roles))?;
            }
            Writer::check_etag(&before, command.etag)?;
            if before.roles.contains(&Role::Admin) && !after.roles.contains(&Role::Admin) {
                writer.keep_an_administrator(&before).await?;
            }
            if before.username != after.username || before.email != after.email {
                // Sign-in and links go by these fields. `target` does not compare ranks on one's own account, but a narrow
                // token must not take over the account of its user.
                writer.outranks(before.scopes())?;
            }
            let Some(events) = update_events(&before, &after, command.note.as_ref()) else {
                return Ok(writer.unchanged((before, Effects::default())));
            };
            let change = writer.change();
            user_save(&change.tx, &before, &mut after, None, change.now).await?;
            if before.username != after.username {
                // After the write, which may have waited for the deletion of the name's last owner.
                check_reservation(&change, &after.username).await?;
            }
            let lost_role = before.roles.iter().any(|role| !after.roles.contains(role));
            let sessions =
                if lost_role { session_end(&change.tx, before.id, Which::All, change.now).await? } else { 0 };
            let effects = self.effects_of_ending(sessions, change.now);
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, (after, effects)));
            }
            change.commit(events, (after, effects)).await
        })
        .await
    }

    /// Removes an account, its sessions, API tokens and secrets. A corrupt record can be removed too; its rank cannot
    /// be read then, so only the local operator or somebody with every scope may.
    pub async fn delete_user(&self, caller: &Caller, command: DeleteUser) -> Result<(Option<User>, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let id = writer.target_id()?;
            let user = match writer.target().await {
                Ok(user) => Some(user),
                Err(Error::Corrupt { .. }) => {
                    writer.outranks(ScopeSet::ALL)?;
                    None
                }
                Err(error) => return Err(error),
            };
            writer.not_oneself(id)?;
            let version =
                user_lock_version(&writer.tx, id).await?.ok_or_else(|| Error::no_user(command.user.field()))?;
            if command.etag != Etag(version) {
                return Err(Error::Stale { current: Etag(version) });
            }
            if let Some(user) = &user {
                writer.keep_an_administrator(user).await?;
            }
            let change = writer.change();
            let sessions = session_end(&change.tx, id, Which::All, change.now).await?;
            let api_tokens_revoked = api_token_count_live(&change.tx, id, change.now).await?;
            let password_ended = user.as_ref().is_some_and(|user| user.password.is_some());
            user_delete(&change.tx, id, version, change.now.saturating_add(USERNAME_RESERVATION)).await?;
            let effects =
                Effects { password_ended, api_tokens_revoked, ..self.effects_of_ending(sessions, change.now) };
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, (user, effects)));
            }
            let nameless = || Target { user_id: id.to_string(), username: String::new() };
            let event = Event::new(EventType::UserDeleted, user.as_ref().map_or_else(nameless, Target::of))
                .note(command.note.as_ref())
                .detail("sessionsRevoked", sessions)
                .detail("apiTokensRevoked", api_tokens_revoked);
            change.commit(event, (user, effects)).await
        })
        .await
    }
}

fn changed(before: &User, command: &UpdateUser) -> Result<User> {
    let mut after = before.clone();
    if let Some(username) = &command.username {
        after.username = username.clone();
    }
    if let Some(email) = &command.email {
        after.email.clone_from(email);
    }
    if let Some(display_name) = &command.display_name {
        after.display_name.clone_from(display_name);
    }
    if let Some(locale) = &command.locale {
        after.locale.clone_from(locale);
    }
    if let Some(external_id) = &command.external_id {
        after.external_id.clone_from(external_id);
    }
    let mut violations = Violations::new();
    if let Some(labels) = violations.check("labels", command.labels.apply(&before.labels)) {
        after.labels = labels;
    }
    violations.finish().map_err(Error::InvalidInput)?;
    let roles = before.roles.iter().chain(&command.add_roles).copied();
    after.roles = sorted(roles.filter(|role| !command.remove_roles.contains(role)));
    Ok(after)
}

/// One event for each kind of change. Returns `None` if nothing changes.
fn update_events(before: &User, after: &User, note: Option<&Note>) -> Option<Events> {
    let target = || Target::of(before);
    let mut events = Vec::new();
    let fields = changed_fields(before, after);
    if !fields.is_empty() {
        let mut event = Event::new(EventType::UserUpdated, target()).note(note);
        event.changed_fields = fields;
        events.push(event);
    }
    if before.email != after.email {
        let mut event = Event::new(EventType::EmailChanged, target()).note(note);
        event.changed_fields = vec!["email"];
        events.push(event);
    }
    if before.roles != after.roles {
        let names = |of: &User, but: &User| {
            let only: Vec<&str> =
                of.roles.iter().filter(|role| !but.roles.contains(role)).map(|role| role.as_str()).collect();
            only.join(" ")
        };
        let mut event = Event::new(EventType::RolesChanged, target())
            .note(note)
            .detail("added", names(after, before))
            .detail("removed", names(before, after));
        event.changed_fields = vec!["roles"];
        events.push(event);
    }
    Events::of(events)
}

fn changed_fields(before: &User, after: &User) -> Vec<&'static str> {
    [
        (before.username != after.username, "username"),
        (before.display_name != after.display_name, "display_name"),
        (before.locale != after.locale, "locale"),
        (before.external_id != after.external_id, "external_id"),
        (before.labels != after.labels, "labels"),
    ]
    .into_iter()
    .filter_map(|(changed, field)| changed.then_some(field))
    .collect()
}
