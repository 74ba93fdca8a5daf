//! Creating accounts.

use zeroize::Zeroizing;

use super::{check_reservations, marked, sorted};
use crate::app::App;
use crate::app::idempotency::{Idempotency, Replay, Retry};
use crate::app::passwords::Handover;
use crate::app::proving::NewPassword;
use crate::app::writer::{RolledBack, Unit, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::credentials::Credentials;
use crate::domain::delivery::Delivery;
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::idempotency::Remembered;
use crate::domain::link::{LinkPurpose, LinkWay, LinkWish};
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
    /// How the user first gets in. `None` leaves the account pending.
    pub credential: Option<FirstCredential>,
    /// Whether to use a username and an address that are reserved for another account.
    pub take_reserved: bool,
    /// Why, for the audit log.
    pub note: Option<Note>,
    /// If set, makes a retry safe.
    pub idempotency: Option<Idempotency>,
    /// Dry run: check everything and change nothing.
    pub validate_only: bool,
}

/// How a user first gets in.
#[derive(Debug)]
pub enum FirstCredential {
    /// The user chooses a password with a link.
    Invite(LinkWish),
    /// The operator gives a password.
    Password(NewPassword, Handover),
}

/// A new account.
#[derive(Debug)]
pub struct CreatedUser {
    /// The account.
    pub user: User,
    /// The generated password, if there is one. It is shown only once.
    pub temporary_password: Option<TemporaryPassword>,
    /// The invitation, if the operator passes it on. It is shown only once.
    pub link: Option<Zeroizing<String>>,
    /// The message that was sent.
    pub delivery: Option<Delivery>,
    /// When the password or the link expires.
    pub expires_at: Option<Timestamp>,
    /// Whether this repeats the answer of an earlier call; nothing was done again.
    pub replayed: bool,
}

impl App {
    /// Creates an account. Fails if the username or another identifier is taken, or the username is reserved.
    pub async fn create_user(&self, caller: &Caller, mut command: CreateUser) -> Result<CreatedUser> {
        let first = match command.credential.take() {
            None => First::Nothing,
            Some(FirstCredential::Invite(wish)) => First::Invite(wish),
            Some(FirstCredential::Password(given, handover)) => First::Password(given, handover),
        };
        let retry = command.idempotency.as_ref().map(|key| Retry::new(self, caller, key));
        let work = Box::pin(self.create_once(caller, &command, first, retry.as_ref()));
        self.once(retry.as_ref(), work, |Replay { user, answer, delivery }| CreatedUser {
            user,
            temporary_password: None,
            link: None,
            delivery,
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
        first: First,
        retry: Option<&Retry<'_>>,
    ) -> Result<Option<CreatedUser>> {
        let is_lasting = matches!(&first, First::Password(given, _) if given.is_lasting());
        let (invite, handover) = first.ways();
        let sends = handover.is_mailed() || invite.is_some_and(|wish| wish.way == LinkWay::Mailed);
        // Scopes and reserved names are checked before the costly hash, and again in the transaction.
        self.write(caller, None, |writer| async move {
            check_creation(&writer, command, is_lasting).await?;
            self.check_first_message(command, invite, handover)?;
            Ok(writer.checked(()))
        })
        .await?;
        let (password, temporary_password) = match first {
            First::Password(given, _) => {
                let words =
                    self.words().of_user(&command.username, command.email.as_ref(), command.display_name.as_ref());
                let (password, generated) = self.hash_given(caller, "password", given, words).await?;
                (Some(password), generated.filter(|_| !command.validate_only))
            }
            First::Nothing | First::Invite(_) => (None, None),
        };
        let now = self.now();
        let credentials = &Credentials { password: password.as_ref().map(|password| password.hash.clone()) };
        let password = password.map(|password| password.password);
        let expires_at = password.as_ref().and_then(|password| password.expires_at);
        let generated = temporary_password.as_ref();
        let user = &new_user(UserId::from_bytes(self.environment.bytes()), command, password, now);
        let created = self.write(caller, None, |writer| async move {
            check_creation(&writer, command, is_lasting).await?;
            if sends {
                writer.check_operator_messages(&caller.principal).await?;
            }
            let change = writer.change();
            user_insert(&change.tx, user, credentials).await?;
            // Checked again: the insert may have waited until the last account of this name was deleted.
            check_not_reserved(&change, command).await?;
            if command.take_reserved {
                reservations_end(&change.tx, user).await?;
            }
            if command.validate_only {
                return Ok(change.roll_back(RolledBack::DryRun, Some(None)));
            }
            let mut created = user.clone();
            let sent = match invite {
                Some(wish) => Some(self.send_link(&change, user, LinkPurpose::Invite, wish, None).await?),
                None => None,
            };
            if sent.is_some() {
                change.reread(&mut created).await?;
            }
            let delivery = match (&sent, generated) {
                (Some(sent), _) => sent.delivery.clone(),
                (None, Some(password)) if handover.is_mailed() => {
                    change.post_password(user, password, expires_at).await?
                }
                _ => None,
            };
            let expires_at = sent.as_ref().map(|sent| sent.link.link.expires_at).or(expires_at);
            let answer = Remembered {
                user_id: user.id,
                expires_at: expires_at.map(Timestamp::as_micros),
                effects: Effects::default(),
                delivery_id: delivery.as_ref().map(|delivery| delivery.id),
            };
            if let Some(retry) = retry
                && !retry.remember(&change, &answer).await?
            {
                return Ok(change.roll_back(RolledBack::LostIdempotencyRace, None));
            }
            let link = sent.as_ref().zip(invite).and_then(|(sent, wish)| self.url(sent, wish.way));
            change.commit(created_event(user, command), Some(Some((created, delivery, link, expires_at)))).await
        });
        let Some(created) = created.await? else { return Ok(None) };
        let (user, delivery, link, expires_at) = created.unwrap_or_else(|| (user.clone(), None, None, expires_at));
        let temporary_password = temporary_password.filter(|_| handover != Handover::Mail);
        Ok(Some(CreatedUser { user, temporary_password, link, delivery, expires_at, replayed: false }))
    }
}

/// How a user first gets in, once a given password was checked.
enum First {
    Nothing,
    Invite(LinkWish),
    Password(NewPassword, Handover),
}

impl First {
    /// The invitation, and how a temporary password reaches its user.
    fn ways(&self) -> (Option<LinkWish>, Handover) {
        match self {
            First::Nothing => (None, Handover::Return),
            First::Invite(wish) => (Some(*wish), Handover::Return),
            First::Password(_, handover) => (None, *handover),
        }
    }
}

impl App {
    /// Fails if the invitation or the password cannot be sent.
    fn check_first_message(&self, command: &CreateUser, invite: Option<LinkWish>, handover: Handover) -> Result<()> {
        let has_address = command.email.is_some();
        if let Some(wish) = invite {
            self.check_link(has_address, wish.way)?;
        }
        self.check_handover(has_address, handover.is_mailed())
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
        password_flaw: None,
        stored_lock: None,
        stored_throttle: None,
        version: 1,
        created_at: now,
        updated_at: now,
        last_sign_in_at: None,
        devices_valid_after: None,
        email_verified_at: None,
        active_from: None,
        stored_link: None,
        mail_failed_at: None,
        second_factor: None,
        policy: crate::domain::user_policy::UserPolicy::default(),
    }
}

fn created_event(user: &User, command: &CreateUser) -> Event {
    let event = Event::new(EventType::UserCreated, Target::of(user)).note(command.note.as_ref());
    let event = marked(event, command.take_reserved);
    let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
    if roles.is_empty() { event } else { event.detail("roles", roles.join(" ")) }
}
