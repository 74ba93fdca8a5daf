//! Signing in: a password is proved, and leads to tokens or to the next step.
//!
//! Unknown, wrong, locked, pending, expired, corrupt: the same answer after the same work. Only the audit log knows.

use secrecy::SecretString;

use super::App;
use super::keys::{REFRESH_KEY_VERSION, short};
use super::throttle::Attempt;
use super::writer::{Unaudited, Writer};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::Caller;
use crate::domain::email::EmailAddress;
use crate::domain::id::SessionId;
use crate::domain::password::{PasswordRules, PlainPassword};
use crate::domain::reason::Reason;
use crate::domain::role::ScopeSet;
use crate::domain::secret::{RefreshToken, TicketSecret};
use crate::domain::session::{Session, SignInWish};
use crate::domain::temporary_password::canonical;
use crate::domain::ticket::{TICKET_TTL, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::token::Claims;
use crate::domain::user::{ChangeCause, PasswordKind, StoredPassword, User, UserKind};
use crate::domain::username::Username;
use crate::error::{Error, Result, Unauthenticated};
use crate::metrics::{Lane, SignInOutcome};
use crate::store::sessions::{session_evict, session_insert};
use crate::store::tickets::ticket_replace;
use crate::store::users::{
    Login, user_by_login, user_lock_row_to_sign_in, user_rehash, user_signed_in, user_signed_in_as_read,
};

/// Prove a password.
#[derive(Debug)]
pub struct SignIn {
    /// Username or e-mail address.
    pub login: String,
    /// None: what was typed cannot be a password, and is wrong.
    pub password: Option<PlainPassword>,
    /// What the sign-in asks for.
    pub wish: SignInWish,
}

/// Where a sign-in stands.
#[derive(Debug)]
pub enum Progress {
    /// Signed in.
    Tokens(Tokens),
    /// Choose a new password first.
    PasswordChange {
        /// Send it back.
        ticket: TicketSecret,
        /// Why.
        cause: ChangeCause,
        /// What is accepted.
        rules: PasswordRules,
        /// When the step is over.
        expires_at: Timestamp,
    },
}

/// Tokens of a session.
#[derive(Debug)]
pub struct Tokens {
    /// A signed token that verifiers check offline.
    pub access: SecretString,
    /// When it stops working.
    pub access_expires_at: Timestamp,
    /// For the next pair.
    pub refresh: RefreshToken,
    /// When it stops working.
    pub refresh_expires_at: Timestamp,
    /// The session.
    pub session_id: SessionId,
    /// Scopes of the access token.
    pub scopes: ScopeSet,
}

impl App {
    /// Checks a password and signs in, or says which step comes next.
    pub async fn sign_in(&self, caller: &Caller, command: SignIn) -> Result<Progress> {
        self.hasher.check_room()?;
        self.check_source(caller).await?;
        let SignIn { login, password, wish } = command;
        let parsed = parse_login(&login);
        let login = parsed.as_ref().map_or(login.as_str(), Login::key);
        let Found { user, is_corrupt } = self.user_who_signs_in(parsed.as_ref()).await?;
        let user = user.as_ref();
        let attempt = self.reserve(self.account_of(user, login)).await?;
        let proved = match self.prove_unblocked(caller, password.as_ref(), user).await {
            Ok(proved) => proved,
            Err(error) => return Err(self.release_after(&attempt, error).await),
        };
        let refusal = match user {
            None if is_corrupt => Some(Reason::RecordCorrupt),
            None => Some(Reason::UserNotFound),
            Some(user) => refusal(user, proved, self.now()),
        };
        if let (None, Some(user)) = (refusal, user) {
            let progress = match self.signed_in(caller, &attempt, user, &wish).await {
                Ok(progress) => progress,
                // The password was right: the attempt must not stand in the way of the next one.
                Err(error) => return Err(self.release_after(&attempt, error).await),
            };
            if let Some(progress) = progress {
                self.metrics.signed_in(match progress {
                    Progress::Tokens(_) => SignInOutcome::SignedIn,
                    Progress::PasswordChange { .. } => SignInOutcome::PasswordChange,
                });
                self.renew_hash(caller, user, password).await;
                return Ok(progress);
            }
        }
        // What the issuing transaction found is a lock or a reset that came between.
        let reason = refusal.unwrap_or(Reason::UserLocked);
        let target = match user {
            Some(user) => Target::user(user.id, user.username.as_str()),
            None => Target { user_id: String::new(), username: self.unknown_name(login) },
        };
        self.attempt_failed(caller, &attempt, user, target, reason).await?;
        Err(Unauthenticated::Rejected.into())
    }

    /// Whom a login means. A corrupt record signs nobody in, and looks like any other failure.
    async fn user_who_signs_in(&self, login: Option<&Login>) -> Result<Found> {
        let Some(login) = login else { return Ok(Found { user: None, is_corrupt: false }) };
        match user_by_login(self.store.reader(), login).await {
            Ok(user) => Ok(Found { user, is_corrupt: false }),
            Err(Error::Corrupt { .. }) => Ok(Found { user: None, is_corrupt: true }),
            Err(error) => Err(error),
        }
    }

    /// Whether `password` is the user's, unless the source was blocked while it was hashed: of many guesses at once,
    /// those that come too late are told nothing.
    async fn prove_unblocked(
        &self,
        caller: &Caller,
        password: Option<&PlainPassword>,
        user: Option<&User>,
    ) -> Result<bool> {
        let proved = self.prove(Lane::SignIn, password, user).await?;
        self.check_source(caller).await?;
        Ok(proved)
    }

    /// Whether `password` is the user's. Always costs one hash.
    pub(super) async fn prove(
        &self,
        lane: Lane,
        password: Option<&PlainPassword>,
        user: Option<&User>,
    ) -> Result<bool> {
        let stored = user.and_then(|user| user.password.as_ref());
        let typed = match (stored, password) {
            (Some(stored), Some(password)) if stored.kind == PasswordKind::Generated => {
                canonical(password).unwrap_or_else(|| password.copy())
            }
            (_, Some(password)) => password.copy(),
            // Not text: hash something, and be sure that it is wrong.
            (_, None) => return self.hasher.verify(lane, PlainPassword::nobodys(), None).await,
        };
        self.hasher.verify(lane, typed, stored.map(|stored| stored.hash.as_str())).await
    }

    /// Issues what a proved password leads to, if the account is still as it was when the password was read: not
    /// locked, not reset, not expired. None: it is not.
    async fn signed_in(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        read: &User,
        wish: &SignInWish,
    ) -> Result<Option<Progress>> {
        self.write(caller, None, |mut writer| async move {
            let Some(user) = writer.signing_in(read).await? else { return Ok(None) };
            let wait_over = attempt.succeeded(&writer.tx, &user).await?;
            if let Some(cause) = user.change_cause() {
                let (ticket, secret) = self.new_ticket(&user, wish, writer.now);
                ticket_replace(&writer.tx, &ticket, &secret.digest()).await?;
                let event = signed_in_event(&user).detail("step", "PASSWORD_CHANGE");
                writer.commit(event, wait_over).await?;
                let rules = self.settings.password_rules;
                return Ok(Some(Progress::PasswordChange {
                    ticket: secret,
                    cause,
                    rules,
                    expires_at: ticket.expires_at,
                }));
            }
            let (session, mut events) = self.open_session(&writer, caller, &user, wish).await?;
            let tokens = self.tokens(&session, &user, wish, writer.now)?;
            events.extend(wait_over);
            writer.commit(signed_in_event(&user).about(session.id), events).await?;
            Ok(Some(Progress::Tokens(tokens)))
        })
        .await
    }

    fn new_ticket(&self, user: &User, wish: &SignInWish, now: Timestamp) -> (Ticket, TicketSecret) {
        // A ticket never outlives the temporary password that it was given for.
        let password_ends = user.password.as_ref().and_then(|password| password.expires_at);
        let expires_at = now.saturating_add(TICKET_TTL);
        let ticket = Ticket {
            user_id: user.id,
            purpose: TicketPurpose::PasswordChange,
            wish: wish.clone(),
            created_at: now,
            expires_at: password_ends.map_or(expires_at, |ends| ends.min(expires_at)),
        };
        (ticket, TicketSecret::from_bytes(self.effects.bytes()))
    }

    /// Opens a session. Answers it, and the events of those that had to make room for it.
    pub(super) async fn open_session(
        &self,
        writer: &Writer<'_>,
        caller: &Caller,
        user: &User,
        wish: &SignInWish,
    ) -> Result<(Session, Vec<Event>)> {
        let now = writer.now;
        let limits = self.settings.session_limits(user);
        let expires_at = now.saturating_add(limits.absolute);
        let session = Session {
            id: SessionId::from_bytes(self.effects.bytes()),
            user_id: user.id,
            wish: wish.clone(),
            client_address: caller.call.client_address.map(|address| address.to_string()).unwrap_or_default(),
            auth_at: now,
            created_at: now,
            last_used_at: now,
            idle_expires_at: now.saturating_add(limits.idle).min(expires_at),
            expires_at,
            ended_at: None,
            generation: 0,
            rotated_at: None,
        };
        let room = self.settings.max_sessions.saturating_sub(1);
        let evicted = session_evict(&*writer.tx, user.id, room, now).await?;
        session_insert(&writer.tx, &session).await?;
        if user.last_sign_in_at != Some(now) {
            user_signed_in(&writer.tx, user.id, now).await?;
        }
        let target = Target::user(user.id, user.username.as_str());
        let events = evicted.into_iter().map(|id| {
            Event::new(EventType::SessionRevoked, target.clone()).about(id).detail("cause", "TOO_MANY_SESSIONS")
        });
        Ok((session, events.collect()))
    }

    /// The tokens of a session, for its own wish or a narrower one.
    pub(super) fn tokens(&self, session: &Session, user: &User, wish: &SignInWish, now: Timestamp) -> Result<Tokens> {
        let access_expires_at = now.saturating_add(self.settings.access_ttl).min(session.expires_at);
        let scopes = wish.grant(user.scopes());
        let issued_at = now.as_unix_seconds();
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            sub: user.id.to_string(),
            aud: wish.audience_claim(),
            exp: access_expires_at.as_unix_seconds(),
            nbf: issued_at,
            iat: issued_at,
            jti: SessionId::from_bytes(self.effects.bytes()).to_string(),
            sid: session.id.to_string(),
            auth_time: session.auth_at.as_unix_seconds(),
            amr: vec!["pwd".to_owned()],
            scope: scopes.to_text(),
            client_id: session.wish.app.clone(),
            username: user.username.as_str().to_owned(),
            roles: user.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        };
        let keys = self.keys.current();
        let refresh_key = keys.refresh_key(REFRESH_KEY_VERSION);
        let refresh_key = refresh_key.ok_or_else(|| Error::internal("there is no key for refresh tokens"))?;
        Ok(Tokens {
            access: keys.sign(&claims, now)?.into(),
            access_expires_at,
            refresh: RefreshToken::mint(refresh_key, REFRESH_KEY_VERSION, session.id, session.generation),
            refresh_expires_at: session.idle_expires_at,
            session_id: session.id,
            scopes,
        })
    }

    /// Replaces a hash that is weaker than today's settings, unless a reset was quicker. A failure is not the user's
    /// concern: the next sign-in tries again.
    async fn renew_hash(&self, caller: &Caller, user: &User, password: Option<PlainPassword>) {
        let Some(stored) = user.password.as_ref().filter(|stored| self.hasher.is_outdated(&stored.hash)) else {
            return;
        };
        let Some(password) = password else { return };
        let typed = if stored.kind == PasswordKind::Generated { canonical(&password) } else { Some(password) };
        let Some(typed) = typed else { return };
        let renewed = match self.hasher.hash(Lane::SignIn, typed).await {
            Ok(hash) => {
                let hash = &hash;
                self.write(caller, None, |writer| async move {
                    user_rehash(&*writer.tx, user.id, &stored.hash, hash).await?;
                    writer.commit_unaudited(Unaudited::Rehash).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::warn!(user.id = %user.id, reason = error.reason().as_str(), "a weak hash was not renewed");
        }
    }

    /// What the audit log calls a name that nobody has: people type passwords into name fields.
    fn unknown_name(&self, login: &str) -> String {
        format!("hmac:{}", short(&self.keys.current().digest("login", login.as_bytes())))
    }
}

struct Found {
    user: Option<User>,
    is_corrupt: bool,
}

impl Writer<'_> {
    /// The account that a password was proved for, as [`Writer::unchanged`] has it. Where nothing moved since it was
    /// read, which is nearly always, one guarded update locks the row and notes the sign-in.
    async fn signing_in(&mut self, read: &User) -> Result<Option<User>> {
        let now = self.now;
        let is_expired = read.password.as_ref().is_none_or(|password| password.is_expired(now));
        let is_complete = read.change_cause().is_none() && read.lock(now).is_none() && !is_expired;
        if is_complete && user_signed_in_as_read(&*self.tx, read, now).await? {
            self.now = self.app.now();
            return Ok(Some(User { last_sign_in_at: Some(self.now), ..read.clone() }));
        }
        // The update may have the row all the same, and then nobody may be waited for who waits for it.
        let locked = user_lock_row_to_sign_in(&*self.tx, read.id).await?;
        self.now = self.app.now();
        Ok(self.as_proved(locked, read))
    }

    /// Reads and locks, to change it, an account that a password was proved for. None: it was locked, reset or deleted
    /// meanwhile, or the password's time is over.
    pub(super) async fn unchanged(&mut self, read: &User) -> Result<Option<User>> {
        let locked = self.locked(read.id).await?;
        Ok(self.as_proved(locked, read))
    }

    fn as_proved(&self, locked: Option<User>, read: &User) -> Option<User> {
        let user = locked.filter(|user| user.lock(self.now).is_none())?;
        let same = match (&user.password, &read.password) {
            (Some(found), Some(read)) => !found.is_expired(self.now) && self.app.is_same_password(found, read),
            _ => false,
        };
        same.then_some(user)
    }
}

impl App {
    /// Whether what is stored is what was read: the same hash, or one of the same password that another sign-in has
    /// renewed meanwhile.
    fn is_same_password(&self, found: &StoredPassword, read: &StoredPassword) -> bool {
        let renewed = || {
            found.changed_at == read.changed_at
                && self.hasher.is_outdated(&read.hash)
                && !self.hasher.is_outdated(&found.hash)
        };
        found.hash == read.hash || renewed()
    }
}

fn parse_login(login: &str) -> Option<Login> {
    match Username::parse(login) {
        Ok(username) => Some(Login::Username(username)),
        Err(_) => EmailAddress::parse(login).ok().map(Login::Email),
    }
}

/// The true cause of a refusal.
fn refusal(user: &User, proved: bool, now: Timestamp) -> Option<Reason> {
    if user.lock(now).is_some() {
        return Some(Reason::UserLocked);
    }
    if user.kind == UserKind::Service {
        return Some(Reason::UserIsService);
    }
    match &user.password {
        None => Some(Reason::UserPending),
        Some(_) if !proved => Some(Reason::PasswordWrong),
        Some(password) if password.is_expired(now) => Some(Reason::TemporaryPasswordExpired),
        Some(_) => None,
    }
}

/// Somebody signed in.
pub(super) fn signed_in_event(user: &User) -> Event {
    Event::new(EventType::SignInSucceeded, Target::user(user.id, user.username.as_str()))
}
