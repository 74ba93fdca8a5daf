//! Creating accounts.

use super::{check_reservations, marked, sorted};
use crate::app::App;
use crate::app::idempotency::{Idempotency, Retry};
use crate::app::proving::{GivenPassword, NewPassword};
use crate::app::writer::{RolledBack, Unit, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::credentials::Credentials;
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::idempotency::Remembered;
use crate::domain::profile::{DisplayName, ExternalId, Labels, Locale, Note};
use crate::domain::role::{Role, Scope, scopes_of};
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, Password, User, UserKind};
use crate::domain::username::Username;
use crate::error::Result;
use crate::store::Connection;
use crate::store::users::{reservations_end, user_insert};

/// A command to create an account.
#[derive(Debug)]
pub struct CreateUser {
    /// The username.
    pub username: Username,
    /// A person or a program.
    pub kind: UserKind,
    /// The e-mail address.
    pub email: Option<EmailAddress>,
    /// The name for people to read.
    pub display_name: Option<DisplayName>,
    /// The language, as a BCP 47 tag.
    pub locale: Option<Locale>,
    /// The id in another system.
    pub external_id: Option<ExternalId>,
    /// The labels.
    pub labels: Labels,
    /// The roles. The caller must have all their scopes.
    pub roles: Vec<Role>,
    /// The first password. `None` leaves the account pending.
    pub credential: Option<NewPassword>,
    /// Whether to use a username and an address that are reserved for another account.
    pub take_reserved: bool,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, makes a retry safe.
    pub idempotency: Option<Idempotency>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// A new account.
#[derive(Debug)]
pub struct CreatedUser {
    /// The account.
    pub user: User,
    /// The generated password, if there is one. It is shown only once.
    pub temporary_password: Option<TemporaryPassword>,
    /// When the password expires.
    pub expires_at: Option<Timestamp>,
    /// Whether this repeats the answer of an earlier call; nothing was done again.
    pub replayed: bool,
}

impl App {
    /// Creates an account. Fails if the username or another identifier is taken, or the username is reserved.
    pub async fn create_user(&self, caller: &Caller, mut command: CreateUser) -> Result<CreatedUser> {
        let given = command.credential.take();
        let given = given.map(|given| self.accept_given("password", given)).transpose()?;
        let retry = command.idempotency.as_ref().map(|key| Retry::new(self, caller, key));
        let work = Box::pin(self.create_once(caller, &command, given, retry.as_ref()));
        self.once(retry.as_ref(), work, |user, answer| CreatedUser {
            user,
            temporary_password: None,
            expires_at: answer.expires_at.map(Timestamp::from_micros),
            replayed: true,
        })
        .await
    }

    /// Creates the account. Returns `None` if another call with the same idempotency key committed first.
    async fn create_once(
        &self,
        caller: &Caller,
        command: &CreateUser,
        given: Option<GivenPassword>,
        retry: Option<&Retry<'_>>,
    ) -> Result<Option<CreatedUser>> {
        let is_lasting = given.as_ref().is_some_and(GivenPassword::is_lasting);
        // Scopes and reserved names are checked before the costly hash, and again in the transaction.
        self.write(caller, None, |writer| async move {
            check_creation(&writer, command, is_lasting).await?;
            Ok(writer.checked())
        })
        .await?;
        let now = self.now();
        let (password, temporary_password) = match given {
            Some(given) => {
                let (password, generated) = self.hash_given(caller, given, now).await?;
                (Some(password), generated.filter(|_| !command.validate_only))
            }
            None => (None, None),
        };
        let credentials = &Credentials { password: password.as_ref().map(|password| password.hash.clone()) };
        let password = password.map(|password| password.password);
        let expires_at = password.as_ref().and_then(|password| password.expires_at);
        let user = &new_user(UserId::from_bytes(self.environment.bytes()), command, password, now);
        let created = self.write(caller, None, |writer| async move {
            check_creation(&writer, command, is_lasting).await?;
            let change = writer.change();
            user_insert(&change.tx, user, credentials).await?;
            // Checked again: the insert may have waited until the last account of this name was deleted.
            check_not_reserved(&change, command).await?;
            if command.take_reserved {
                reservations_end(&change.tx, user).await?;
            }
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, true));
            }
            let expires_at = expires_at.map(Timestamp::as_micros);
            let answer = Remembered { user_id: user.id, expires_at, effects: Effects::default() };
            if let Some(retry) = retry
                && !retry.remember(&change, &answer).await?
            {
                return Ok(change.roll_back(RolledBack::LostIdempotencyRace, false));
            }
            change.commit(created_event(user, command), true).await
        });
        let created = created.await?;
        Ok(created.then(|| CreatedUser { user: user.clone(), temporary_password, expires_at, replayed: false }))
    }
}

/// Fails if the caller lacks a scope that the new account needs, or if the username is reserved.
async fn check_creation(writer: &Writer<'_>, command: &CreateUser, is_lasting: bool) -> Result<()> {
    writer.outranks(scopes_of(&command.roles))?;
    if is_lasting {
        writer.need(Scope::UsersResetSecrets)?;
    }
    check_not_reserved(writer, command).await
}

async fn check_not_reserved<Tx: Connection>(unit: &Unit<'_, Tx>, command: &CreateUser) -> Result<()> {
    if command.take_reserved {
        return Ok(());
    }
    check_reservations(unit, Some(&command.username), command.email.as_ref(), None).await
}

fn new_user(id: UserId, command: &CreateUser, password: Option<Password>, now: Timestamp) -> User {
    User {
        id,
        kind: command.kind,
        username: command.username.clone(),
        email: command.email.clone(),
        display_name: command.display_name.clone(),
        locale: command.locale.clone(),
        external_id: command.external_id.clone(),
        labels: command.labels.clone(),
        roles: sorted(command.roles.iter().copied()),
        password,
        password_ended_at: None,
        change_required: false,
        stored_lock: None,
        stored_throttle: None,
        version: 1,
        created_at: now,
        updated_at: now,
        last_sign_in_at: None,
        devices_valid_after: None,
    }
}

fn created_event(user: &User, command: &CreateUser) -> Event {
    let event = Event::new(EventType::UserCreated, Target::of(user)).note(command.note.as_ref());
    let event = marked(event, command.take_reserved);
    let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
    if roles.is_empty() { event } else { event.detail("roles", roles.join(" ")) }
}
