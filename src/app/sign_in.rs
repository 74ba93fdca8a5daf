//! Signing in: a proved password leads to tokens or to the next step.
//!
//! An account that is unknown, locked, pending, expired or corrupt, and a wrong password, get the same answer after the
//! same work. Only the audit log has the reason.

use super::App;
use super::sessions::{Tokens, signed_in_event};
use super::throttle::Attempt;
use super::writer::{Change, RolledBack, Unaudited, Writer};
use crate::crypto::{Priority, short};
use crate::domain::audit::Target;
use crate::domain::caller::Caller;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::email::EmailAddress;
use crate::domain::password::{PasswordRules, PlainPassword};
use crate::domain::reason::Reason;
use crate::domain::secret::TicketSecret;
use crate::domain::session::SignInWish;
use crate::domain::ticket::{TICKET_TTL, Ticket, TicketPurpose};
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, User, UserKind};
use crate::domain::username::Username;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::tickets::ticket_replace;
use crate::store::users::{
    Login, user_by_login, user_lock_row_to_sign_in, user_lock_row_with_credentials, user_rehash, user_signed_in_as_read,
};

/// Prove a password.
#[derive(Debug)]
pub struct SignIn {
    /// Username or e-mail address.
    pub login: String,
    /// `None` if what was typed cannot be a password, and is therefore wrong.
    pub password: Option<PlainPassword>,
    /// What the sign-in asks for.
    pub wish: SignInWish,
}

/// The state of a sign-in.
#[derive(Debug)]
pub enum Progress {
    /// Signed in.
    Tokens(Tokens),
    /// The user must choose a new password first.
    PasswordChange {
        /// Proves this step when it comes back.
        ticket: TicketSecret,
        /// Why the password must change.
        cause: ChangeCause,
        /// What is accepted.
        rules: PasswordRules,
        /// When the ticket stops working.
        expires_at: Timestamp,
    },
}

impl App {
    /// Checks a password and signs in, or says which step comes next.
    pub async fn sign_in(&self, caller: &Caller, command: SignIn) -> Result<Progress> {
        self.check_room_to_hash()?;
        self.check_source(caller).await?;
        let SignIn { login, password, wish } = command;
        let parsed = parse_login(&login);
        let login = parsed.as_ref().map_or(login.as_str(), Login::key);
        let Found { account, is_corrupt } = self.account_signing_in(parsed.as_ref()).await?;
        let account = account.as_ref();
        let user = account.map(|account| &account.user);
        let attempt = self.reserve(self.account_of(user, login)).await?;
        let proved = match self.prove_unblocked(caller, password.as_ref(), account).await {
            Ok(proved) => proved,
            Err(error) => return Err(self.release_after(&attempt, error).await),
        };
        let refusal = match user {
            None if is_corrupt => Some(Reason::RecordCorrupt),
            None => Some(Reason::UserNotFound),
            Some(user) => refusal(user, proved, self.now()),
        };
        if let (None, Some(account)) = (refusal, account) {
            let progress = match self.signed_in(caller, &attempt, account, &wish).await {
                Ok(progress) => progress,
                // The password was right: the attempt must not stand in the way of the next one.
                Err(error) => return Err(self.release_after(&attempt, error).await),
            };
            if let Some(progress) = progress {
                match progress {
                    Progress::Tokens(_) => self.metrics.sign_in_succeeded(),
                    Progress::PasswordChange { .. } => self.metrics.sign_in_needs_password_change(),
                }
                self.renew_hash(caller, account, password.as_ref()).await;
                return Ok(progress);
            }
        }
        // The issuing transaction found a lock or a reset that was committed meanwhile.
        let reason = refusal.unwrap_or(Reason::UserLocked);
        let target = match user {
            Some(user) => Target::of(user),
            None => Target { user_id: String::new(), username: self.unknown_name(login) },
        };
        self.attempt_failed(caller, &attempt, user, target, reason).await?;
        Err(Unauthenticated::Rejected.into())
    }

    /// The account that a login names. A corrupt record signs nobody in, and looks like any other failure.
    async fn account_signing_in(&self, login: Option<&Login>) -> Result<Found> {
        let Some(login) = login else { return Ok(Found { account: None, is_corrupt: false }) };
        match user_by_login(self.store.reader(), login).await {
            Ok(account) => Ok(Found { account, is_corrupt: false }),
            Err(Error::Corrupt { .. }) => Ok(Found { account: None, is_corrupt: true }),
            Err(error) => Err(error),
        }
    }

    /// Returns whether `password` is the account's, unless the source was blocked while it was hashed: of many guesses at
    /// once, those that finish after the block get no answer.
    async fn prove_unblocked(
        &self,
        caller: &Caller,
        password: Option<&PlainPassword>,
        account: Option<&UserWithCredentials>,
    ) -> Result<bool> {
        let proved = self.prove(Priority::SignIn, password, account).await?;
        self.check_source(caller).await?;
        Ok(proved)
    }

    /// Issues what a proved password leads to. Returns `None` if the account was locked or reset since it was read, or if
    /// the password has expired.
    async fn signed_in(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        read: &UserWithCredentials,
        wish: &SignInWish,
    ) -> Result<Option<Progress>> {
        self.write(caller, None, |writer| async move {
            let mut change = writer.change();
            let Some(user) = change.signing_in(read).await? else {
                return Ok(change.roll_back(RolledBack::NotApplied, None));
            };
            let throttle_ended = attempt.succeeded(&change.tx, &user).await?;
            if let Some(cause) = user.change_cause() {
                let (ticket, secret) = self.new_ticket(&user, wish, change.now);
                ticket_replace(&change.tx, &ticket, &secret.digest()).await?;
                let event = signed_in_event(&user).detail("step", "PASSWORD_CHANGE");
                let rules = self.settings.password_rules;
                let expires_at = ticket.expires_at;
                let progress = Progress::PasswordChange { ticket: secret, cause, rules, expires_at };
                return change.commit(event.and(throttle_ended), Some(progress)).await;
            }
            let (tokens, events) = self.open_session(&change, caller, &user, wish).await?;
            change.commit(events.and(throttle_ended), Some(Progress::Tokens(tokens))).await
        })
        .await
    }

    fn new_ticket(&self, user: &User, wish: &SignInWish, now: Timestamp) -> (Ticket, TicketSecret) {
        // A ticket never outlives the temporary password that it was issued for.
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

    /// Replaces a hash that is weaker than today's settings, unless the password was reset meanwhile. A failure does not
    /// concern the user: the next sign-in tries again.
    async fn renew_hash(&self, caller: &Caller, account: &UserWithCredentials, password: Option<&PlainPassword>) {
        let (id, Some(verified)) = (account.user.id, &account.credentials.password) else { return };
        let renewed = match self.rehash(account, password).await {
            Ok(None) => return,
            Ok(Some(hash)) => {
                let hash = &hash;
                self.write(caller, None, |writer| async move {
                    let change = writer.change();
                    user_rehash(&change.tx, id, verified, hash).await?;
                    change.commit_unaudited(Unaudited::Rehash, ()).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::warn!(user.id = %id, reason = error.reason().as_str(), "a weak hash was not renewed");
        }
    }

    /// What the audit log calls an unknown name. It is a digest, because people type passwords into name fields.
    fn unknown_name(&self, login: &str) -> String {
        format!("hmac:{}", short(&self.keys.current().digest("login", login.as_bytes())))
    }

    /// Returns whether `found`, which is locked, is as `read`: not locked, not expired, and with the same hash or one of the
    /// same password that another sign-in has renewed meanwhile.
    fn is_as_proved(&self, found: &UserWithCredentials, read: &UserWithCredentials, now: Timestamp) -> bool {
        if found.user.lock(now).is_some() {
            return false;
        }
        let (Some(password), Some(earlier)) = (&found.user.password, &read.user.password) else { return false };
        let is_renewed = || {
            password.changed_at == earlier.changed_at
                && self.is_rehash_pending(earlier)
                && !self.is_rehash_pending(password)
        };
        !password.is_expired(now) && (found.credentials == read.credentials || is_renewed())
    }
}

struct Found {
    account: Option<UserWithCredentials>,
    is_corrupt: bool,
}

impl Writer<'_> {
    /// Reads and locks, to change it, an account whose password was proved. Returns `None` if it was locked, reset or
    /// deleted meanwhile, or if the password has expired.
    pub(super) async fn unchanged_since(&mut self, read: &UserWithCredentials) -> Result<Option<User>> {
        let locked = user_lock_row_with_credentials(&self.tx, read.user.id).await?;
        self.now = self.app.now();
        let same = locked.filter(|locked| self.app.is_as_proved(locked, read, self.now));
        Ok(same.map(|account| account.user))
    }
}

impl Change<'_> {
    /// The account that signs in, under the same conditions as [`Writer::unchanged_since`]. Nearly always nothing has
    /// changed since it was read, and one guarded update both locks the row and notes the sign-in.
    async fn signing_in(&mut self, read: &UserWithCredentials) -> Result<Option<User>> {
        let (now, user) = (self.now, &read.user);
        let is_expired = user.password.as_ref().is_none_or(|password| password.is_expired(now));
        let is_complete = user.change_cause().is_none() && user.lock(now).is_none() && !is_expired;
        if is_complete && user_signed_in_as_read(&self.tx, read, now).await? {
            self.now = self.app.now();
            return Ok(Some(User { last_sign_in_at: Some(self.now), ..user.clone() }));
        }
        // We may already hold the row, so waiting for an advisory lock could deadlock.
        let locked = user_lock_row_to_sign_in(&self.tx, user.id).await?;
        self.now = self.app.now();
        let same = locked.filter(|locked| self.app.is_as_proved(locked, read, self.now));
        Ok(same.map(|account| account.user))
    }
}

fn parse_login(login: &str) -> Option<Login> {
    match Username::parse(login) {
        Ok(username) => Some(Login::Username(username)),
        Err(_) => EmailAddress::parse(login).ok().map(Login::Email),
    }
}

/// The true reason of a refusal.
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
