//! Creating accounts.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::app::App;
use crate::app::passwords::{chosen_password_expiry, temporary_password_expiry};
use crate::app::writer::Writer;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::idempotency::{IdempotencyKey, Remembered};
use crate::domain::password::PlainPassword;
use crate::domain::profile::{DisplayName, ExternalId, Labels, Locale, Note};
use crate::domain::role::{Role, Scope, scopes_of};
use crate::domain::secret::Digest32;
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, PasswordKind, StoredPassword, User, UserKind, UserRef};
use crate::domain::username::Username;
use crate::error::{Error, Result, Taken};
use crate::metrics::Lane;
use crate::store::idempotency::{KeyUse, idempotency_find, idempotency_insert};
use crate::store::users::{reservation_find, user_by_id, user_insert};

/// How a new user first gets in.
#[derive(Debug)]
pub enum NewCredential {
    /// Not yet.
    None,
    /// With a password that the server generates.
    Temporary {
        /// How long it works.
        ttl: Option<Duration>,
    },
    /// With a password that the caller chose.
    Password {
        /// It.
        password: PlainPassword,
        /// Make the first sign-in change it. A lasting one needs `users.reset.secrets`.
        change_required: bool,
    },
}

/// What makes a retry safe.
#[derive(Debug)]
pub struct Idempotency {
    /// The caller's key.
    pub key: IdempotencyKey,
    /// The request, encoded, without the key.
    pub body: Zeroizing<Vec<u8>>,
}

/// Make an account.
#[derive(Debug)]
pub struct CreateUser {
    /// The sign-in name.
    pub username: Username,
    /// A person or a program.
    pub kind: UserKind,
    /// The address.
    pub email: Option<EmailAddress>,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// BCP 47.
    pub locale: Option<Locale>,
    /// The id that another system gave.
    pub external_id: Option<ExternalId>,
    /// Free annotations.
    pub labels: Labels,
    /// Roles. The caller must have all their scopes.
    pub roles: Vec<Role>,
    /// How the user first gets in.
    pub credential: NewCredential,
    /// Why, in words.
    pub note: Option<Note>,
    /// What makes a retry safe.
    pub idempotency: Option<Idempotency>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

/// A new account.
#[derive(Debug)]
pub struct CreatedUser {
    /// It.
    pub user: User,
    /// Shown once.
    pub temporary_password: Option<TemporaryPassword>,
    /// When the password stops working.
    pub expires_at: Option<Timestamp>,
    /// This repeats an earlier call: nothing was done again.
    pub replayed: bool,
}

impl App {
    /// Creates an account.
    pub async fn create_user(&self, caller: &Caller, command: CreateUser) -> Result<CreatedUser> {
        self.judge_new_credential(&command.credential)?;
        let body = command.idempotency.as_ref().map(|retry| self.body_digest(retry));
        if let Some(answer) = self.replayed_creation(caller, &command, body.as_ref()).await? {
            return Ok(answer);
        }
        // Rights and names are looked at before the costly hash, and again in the transaction.
        self.look_ahead(caller, None, |writer| {
            let command = &command;
            async move { check_creation(&writer, command).await }
        })
        .await?;
        let now = self.now();
        let (password, temporary_password) = self.new_password(&command.credential, command.validate_only, now).await?;
        let user = new_user(UserId::from_bytes(self.effects.bytes()), &command, password, now);
        let expires_at = user.password.as_ref().and_then(|password| password.expires_at);

        let (command, user, body) = (&command, &user, body.as_ref());
        let is_new = self.write(caller, None, |writer| async move {
            check_creation(&writer, command).await?;
            user_insert(&*writer.tx, user).await?;
            // Again: the insert may have waited for the deletion of the name's last owner.
            check_reservation(&writer, &command.username).await?;
            if command.validate_only {
                return Ok(true);
            }
            if let (Some(retry), Some(body)) = (&command.idempotency, body) {
                let answer = Remembered {
                    user_id: user.id,
                    expires_at: expires_at.map(Timestamp::as_micros),
                    effects: Effects::default(),
                };
                if !idempotency_insert(&*writer.tx, &key_use(caller, retry, body), &answer, writer.now).await? {
                    return Ok(false);
                }
            }
            writer.commit(created_event(user, command.note.as_ref()), []).await?;
            Ok(true)
        });
        match is_new.await {
            Ok(true) => {
                let temporary_password = temporary_password.filter(|_| !command.validate_only);
                Ok(CreatedUser { user: user.clone(), temporary_password, expires_at, replayed: false })
            }
            // Another call with the same key was quicker: its answer is this one's.
            Ok(false) => {
                let answer = self.replayed_creation(caller, command, body).await?;
                answer.ok_or(Error::AlreadyExists(Taken::Username))
            }
            Err(taken @ Error::AlreadyExists(_)) => {
                let answer = self.replayed_creation(caller, command, body).await?;
                answer.ok_or(taken)
            }
            Err(error) => Err(error),
        }
    }

    fn judge_new_credential(&self, credential: &NewCredential) -> Result<()> {
        match credential {
            NewCredential::Password { password, .. } => self.judge_password("password", password),
            NewCredential::None | NewCredential::Temporary { .. } => Ok(()),
        }
    }

    async fn new_password(
        &self,
        credential: &NewCredential,
        validate_only: bool,
        now: Timestamp,
    ) -> Result<(Option<StoredPassword>, Option<TemporaryPassword>)> {
        let stored = |hash, kind, expires_at| Some(StoredPassword { hash, kind, changed_at: now, expires_at });
        match credential {
            NewCredential::None => Ok((None, None)),
            NewCredential::Temporary { ttl } => {
                let generated = self.generate_password();
                let hash = self.new_hash(&generated.to_plain(), validate_only).await?;
                let expires_at = temporary_password_expiry(&self.settings, *ttl, now);
                Ok((stored(hash, PasswordKind::Generated, Some(expires_at)), Some(generated)))
            }
            NewCredential::Password { password, change_required } => {
                let hash = self.new_hash(password, validate_only).await?;
                let (kind, expires_at) = if *change_required {
                    (PasswordKind::Chosen, Some(chosen_password_expiry(now)))
                } else {
                    (PasswordKind::Lasting, None)
                };
                Ok((stored(hash, kind, expires_at), None))
            }
        }
    }

    /// The hash of a new password. For a check alone nothing is hashed: what stands there is never stored.
    async fn new_hash(&self, password: &PlainPassword, validate_only: bool) -> Result<String> {
        if validate_only { Ok(self.hasher.dummy()) } else { self.hasher.hash(Lane::Operator, password.copy()).await }
    }

    /// The answer that a repeated call gets: of today's account, and without the secret.
    async fn replayed_creation(
        &self,
        caller: &Caller,
        command: &CreateUser,
        body: Option<&Digest32>,
    ) -> Result<Option<CreatedUser>> {
        let (Some(retry), Some(body)) = (&command.idempotency, body) else { return Ok(None) };
        let Some((user, answer)) = self.replayed(caller, retry, body).await? else { return Ok(None) };
        let expires_at = answer.expires_at.map(Timestamp::from_micros);
        Ok(Some(CreatedUser { user, temporary_password: None, expires_at, replayed: true }))
    }

    /// What is remembered of an earlier call with this key, and the account it was about, as it is now.
    pub(in crate::app) async fn replayed(
        &self,
        caller: &Caller,
        retry: &Idempotency,
        body: &Digest32,
    ) -> Result<Option<(User, Remembered)>> {
        let reader = self.store.reader();
        let Some(answer) = idempotency_find(reader, &key_use(caller, retry, body), self.now()).await? else {
            return Ok(None);
        };
        let id = answer.user_id;
        let user = user_by_id(reader, id).await?.ok_or_else(|| Error::no_user(UserRef::Id(id).field()))?;
        // The first call may not have got its answer yet.
        self.store.flush().await?;
        Ok(Some((user, answer)))
    }

    /// Keyed: a plain hash of a request that holds a password would be an oracle.
    pub(in crate::app) fn body_digest(&self, retry: &Idempotency) -> Digest32 {
        self.keys.current().digest("request body", &retry.body)
    }

    /// A password of the server's choice.
    pub(in crate::app) fn generate_password(&self) -> TemporaryPassword {
        TemporaryPassword::generate(&mut |bytes: &mut [u8]| self.effects.entropy.fill(bytes))
    }
}

/// Checks what the caller may give, and that the name is not reserved.
async fn check_creation(writer: &Writer<'_>, command: &CreateUser) -> Result<()> {
    writer.outranks(scopes_of(&command.roles))?;
    if matches!(command.credential, NewCredential::Password { change_required: false, .. }) {
        writer.need(Scope::UsersResetSecrets)?;
    }
    check_reservation(writer, &command.username).await
}

/// Refuses the name of an account that was deleted lately.
pub(super) async fn check_reservation(writer: &Writer<'_>, username: &Username) -> Result<()> {
    match reservation_find(&*writer.tx, username, writer.now).await? {
        Some(until) => Err(Error::AlreadyExists(Taken::UsernameReserved(until))),
        None => Ok(()),
    }
}

/// Who used which key for what.
pub(in crate::app) fn key_use<'a>(caller: &'a Caller, retry: &'a Idempotency, body: &'a Digest32) -> KeyUse<'a> {
    KeyUse { principal: caller.principal.id(), method: &caller.call.method, key: &retry.key, body }
}

fn new_user(id: UserId, command: &CreateUser, password: Option<StoredPassword>, now: Timestamp) -> User {
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
        change_demanded: false,
        stored_lock: None,
        stored_throttle: None,
        version: 1,
        created_at: now,
        updated_at: now,
        last_sign_in_at: None,
    }
}

/// Roles by name, each once.
pub(in crate::app) fn sorted(roles: impl Iterator<Item = Role>) -> Vec<Role> {
    roles.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn created_event(user: &User, note: Option<&Note>) -> Event {
    let event = Event::new(EventType::UserCreated, Target::user(user.id, user.username.as_str())).note(note);
    let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
    if roles.is_empty() { event } else { event.detail("roles", roles.join(" ")) }
}
