//! Updating and deleting accounts.

use std::time::Duration;

use super::{check_reservations, marked, sorted};
use crate::app::App;
use crate::app::writer::{Change, RolledBack, Writer};
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::Caller;
use crate::domain::delivery::LetterKind;
use crate::domain::email::EmailAddress;
use crate::domain::profile::{DisplayName, ExternalId, LabelChanges, Locale, Note};
use crate::domain::role::{Role, ScopeSet, scopes_of};
use crate::domain::user::{Effects, Etag, User, UserRef};
use crate::domain::username::Username;
use crate::domain::violation::Violations;
use crate::error::{Error, Resource, Result};
use crate::store::api_tokens::{api_token_count_live, api_token_scopes_live};
use crate::store::sessions::{Which, session_end};
use crate::store::users::{reservations_move, user_delete, user_lock_version, user_save};

/// How long a username and an address stay reserved that an account gave up, so that no other account receives what is still
/// sent to it.
const RESERVATION: Duration = Duration::from_hours(30 * 24);

/// A command to update an account. `None` keeps a field, `Some(None)` clears it.
#[derive(Debug)]
pub struct UpdateUser {
    /// The account.
    pub user: UserRef,
    /// The new username.
    pub username: Option<Username>,
    /// The new e-mail address.
    pub email: Option<Option<EmailAddress>>,
    /// The name for people to read.
    pub display_name: Option<Option<DisplayName>>,
    /// The language, as a BCP 47 tag.
    pub locale: Option<Option<Locale>>,
    /// The id in another system.
    pub external_id: Option<Option<ExternalId>>,
    /// The labels to add, replace and remove.
    pub labels: LabelChanges,
    /// The roles to add.
    pub add_roles: Vec<Role>,
    /// The roles to remove.
    pub remove_roles: Vec<Role>,
    /// Whether to use a username and an address that are reserved for another account.
    pub take_reserved: bool,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, must match the current version.
    pub etag: Option<Etag>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// A command to delete an account.
#[derive(Debug)]
pub struct DeleteUser {
    /// The account.
    pub user: UserRef,
    /// Must match the current version: the caller must have read what is deleted.
    pub etag: Etag,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

impl App {
    /// Updates an account. Removing a role ends all its sessions. Fails if the new username or another identifier is taken, or
    /// if this would demote the last administrator.
    pub async fn update_user(&self, caller: &Caller, command: UpdateUser) -> Result<(User, Effects)> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let before = writer.target().await?;
            let mut after = changed(&before, command)?;
            if before.roles != after.roles {
                writer.not_oneself(before.id)?;
                writer.outranks(scopes_of(&command.add_roles))?;
            }
            if before.email != after.email {
                // Links go to the address, so a stolen token would become a password.
                writer.not_oneself(before.id)?;
            }
            Writer::check_etag(&before, command.etag)?;
            if before.roles.contains(&Role::Admin) && !after.roles.contains(&Role::Admin) {
                writer.keep_an_administrator(&before).await?;
            }
            if before.username != after.username || before.email != after.email {
                // Sign-ins and links rely on these fields. `target` does not compare scopes on the caller's own account, but a
                // token with few scopes must not take over the account of its user.
                writer.outranks(before.scopes())?;
            }
            let Some(events) = update_events(&before, &after, command) else {
                return Ok(writer.unchanged((before, Effects::default())));
            };
            let change = writer.change();
            user_save(&change.tx, &before, &mut after, None, change.now).await?;
            let is_renamed = before.username != after.username;
            // After the write, which may have waited until the last account of this name was deleted.
            let username = is_renamed.then_some(&after.username);
            let email = after.email.as_ref().filter(|_| before.email != after.email);
            if !command.take_reserved {
                check_reservations(&change, username, email, Some(before.id)).await?;
            }
            let links_revoked =
                if before.email == after.email { 0 } else { readdress(&change, &before, &mut after).await? };
            let reserved_until = change.now.saturating_add(RESERVATION);
            let is_reserved = reservations_move(&change.tx, &before, &after, reserved_until).await?;
            let lost_role = before.roles.iter().any(|role| !after.roles.contains(role));
            let sessions =
                if lost_role { session_end(&change.tx, before.id, Which::All, change.now).await? } else { 0 };
            let mut effects = Effects {
                reserve_expires_at: is_reserved.then(|| reserved_until.as_micros()),
                api_tokens_narrowed: api_tokens_narrowed(&change, &before, &after).await?,
                links_revoked,
                ..self.effects_of_ending(sessions, change.now)
            };
            if is_renamed && before.last_sign_in_at.is_some() {
                effects.access_expires_at = Some(self.last_access_end(change.now).as_micros());
            }
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, (after, effects)));
            }
            change.commit(events, (after, effects)).await
        })
        .await
    }

    /// Deletes an account with its sessions, API tokens and secrets. A corrupt record can be deleted too, but only by a caller
    /// with every scope, such as the local operator, since the scopes of the account cannot be read. Fails if this would
    /// delete the last administrator.
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
                return Err(Error::Stale { resource: Resource::User, current: Etag(version) });
            }
            if let Some(user) = &user {
                writer.keep_an_administrator(user).await?;
            }
            let change = writer.change();
            let sessions = session_end(&change.tx, id, Which::All, change.now).await?;
            let api_tokens_revoked = api_token_count_live(&change.tx, id, change.now).await?;
            let password_ended = user.as_ref().is_some_and(|user| user.password.is_some());
            let reserved_until = change.now.saturating_add(RESERVATION);
            user_delete(&change.tx, id, version, reserved_until).await?;
            let effects = Effects {
                password_ended,
                api_tokens_revoked,
                reserve_expires_at: Some(reserved_until.as_micros()),
                ..self.effects_of_ending(sessions, change.now)
            };
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

/// Ends what was sent to the old address, and tells both. Returns the number of links that were ended.
async fn readdress(change: &Change<'_>, before: &User, after: &mut User) -> Result<u32> {
    let ended = change.end_links(before, None).await?;
    for address in before.email.iter().chain(&after.email) {
        change.notify_at(before, LetterKind::AddressChanged, address, after.email.as_ref()).await?;
    }
    change.reread(after).await?;
    Ok(ended)
}

/// Counts the API tokens that lose a scope by the change of the roles.
async fn api_tokens_narrowed(change: &Change<'_>, before: &User, after: &User) -> Result<u32> {
    let lost = before.scopes().difference(after.scopes());
    if lost.is_empty() {
        return Ok(0);
    }
    let tokens = api_token_scopes_live(&change.tx, before.id, change.now).await?;
    let narrowed = tokens.iter().filter(|scopes| !scopes.intersection(lost).is_empty()).count();
    Ok(u32::try_from(narrowed).unwrap_or(u32::MAX))
}

fn changed(before: &User, command: &UpdateUser) -> Result<User> {
    let mut after = before.clone();
    if let Some(username) = &command.username {
        after.username = username.clone();
    }
    if let Some(email) = &command.email {
        if before.email != *email {
            after.email_verified_at = None;
        }
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

/// Makes one audit event for each kind of change. Returns `None` if nothing changes.
fn update_events(before: &User, after: &User, command: &UpdateUser) -> Option<Events> {
    let note = command.note.as_ref();
    let target = || Target::of(before);
    let mut events = Vec::new();
    let fields = changed_fields(before, after);
    if !fields.is_empty() {
        let mut event = Event::new(EventType::UserUpdated, target()).note(note);
        event.changed_fields = fields;
        events.push(marked(event, command.take_reserved));
    }
    if before.email != after.email {
        let mut event = Event::new(EventType::EmailChanged, target()).note(note);
        event.changed_fields = vec!["email"];
        events.push(marked(event, command.take_reserved));
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
