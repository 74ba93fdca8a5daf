//! Opening, listing, ending and refreshing sessions.

use secrecy::SecretString;

use super::App;
use super::writer::{Change, RolledBack, Unaudited};
use crate::crypto::REFRESH_KEY_VERSION;
use crate::domain::audit::{Event, EventType, Events, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::id::{SessionId, UserId};
use crate::domain::page::PageRequest;
use crate::domain::profile::{Audience, Note};
use crate::domain::reason::Reason;
use crate::domain::role::ScopeSet;
use crate::domain::second_factor::Proofs;
use crate::domain::secret::RefreshToken;
use crate::domain::session::{Refresh, Session, SignInWish};
use crate::domain::time::Timestamp;
use crate::domain::token::Claims;
use crate::domain::user::{Effects, User, UserRef};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Narrowing, Resource, Result, Unauthenticated};
use crate::store::sessions::{
    Which, session_by_id, session_end, session_evict, session_insert, session_list, session_lock_row, session_rotate,
};
use crate::store::users::{user_id_by_ref, user_signed_in};

/// The tokens of a session.
#[derive(Debug)]
pub struct Tokens {
    /// The access token: signed, so that other services can verify it offline.
    pub access: SecretString,
    /// When the access token expires.
    pub access_expires_at: Timestamp,
    /// The refresh token, which is exchanged for the next pair.
    pub refresh: RefreshToken,
    /// When the refresh token expires.
    pub refresh_expires_at: Timestamp,
    /// The session.
    pub session_id: SessionId,
    /// The scopes of the access token.
    pub scopes: ScopeSet,
    /// The device token. Only a sign-in issues one.
    pub device: Option<SecretString>,
    /// From when on the user needs a second factor and has none yet. Only a sign-in says so.
    pub second_factor_due: Option<Timestamp>,
}

/// One page of sessions, newest first.
#[derive(Debug)]
pub struct SessionPage {
    /// The rows of the page.
    pub sessions: Vec<Session>,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
}

/// A command to end sessions of a user.
#[derive(Debug)]
pub struct RevokeUserSessions {
    /// The account.
    pub user: UserRef,
    /// The sessions to end. Empty means all.
    pub session_ids: Vec<SessionId>,
    /// Why, for the audit log.
    pub note: Option<Note>,
}

/// Which of the caller's own sessions to end.
#[derive(Debug, Clone, Copy)]
pub enum RevokeTarget {
    /// The session of the call itself: the user signs out.
    Current,
    /// The session with this id.
    One(SessionId),
    /// All but the session of the call itself.
    AllOthers,
}

/// A command to exchange a refresh token for a new pair of tokens.
#[derive(Debug)]
pub struct RefreshTokens {
    /// The refresh token. `None` if what was sent cannot be one.
    pub token: Option<RefreshToken>,
    /// The audiences of the new access token, of those that the sign-in asked for. Empty means the same ones.
    pub audiences: Vec<Audience>,
    /// If set, the new access token has no other scopes than these.
    pub scopes: Option<ScopeSet>,
}

/// The result of a refresh, decided while the row of the session is locked.
enum Refreshed {
    Tokens(Tokens),
    Reused,
}

impl App {
    /// Opens a session for a user who has just proved everything, and makes the place familiar. If the user has too many
    /// sessions, ends the oldest ones. Returns the tokens, and the events: the sign-in, then the sessions that were ended.
    pub(super) async fn open_session(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        user: &User,
        proofs: Proofs,
        wish: &SignInWish,
    ) -> Result<(Tokens, Events)> {
        let now = change.now;
        let limits = self.settings.session_limits(user);
        let expires_at = now.saturating_add(limits.absolute);
        let session = Session {
            id: SessionId::from_bytes(self.environment.bytes()),
            user_id: user.id,
            wish: wish.clone(),
            client_address: caller.call.client_address.map(|address| address.to_string()).unwrap_or_default(),
            auth_at: now,
            proofs,
            created_at: now,
            last_used_at: now,
            idle_expires_at: now.saturating_add(limits.idle).min(expires_at),
            expires_at,
            ended_at: None,
            generation: 0,
            rotated_at: None,
        };
        let room = self.settings.max_sessions.saturating_sub(1);
        let evicted = session_evict(&change.tx, user.id, room, now).await?;
        session_insert(&change.tx, &session).await?;
        if user.last_sign_in_at != Some(now) {
            user_signed_in(&change.tx, user.id, now).await?;
        }
        self.remember_place(change, caller, user).await?;
        let device = Some(self.device_token(user, now)?);
        let second_factor_due = user.second_factor_from().filter(|_| user.second_factor.is_none());
        let tokens = Tokens { device, second_factor_due, ..self.tokens(&session, user, wish, now)? };
        let revoked = evicted.into_iter().map(|id| {
            let event = Event::new(EventType::SessionRevoked, Target::of(user));
            event.about(id).detail("cause", "TOO_MANY_SESSIONS")
        });
        Ok((tokens, signed_in_event(user).about(session.id).and(revoked)))
    }

    /// Makes the tokens of a session. `wish` is that of the session or a narrower one.
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
            jti: SessionId::from_bytes(self.environment.bytes()).to_string(),
            sid: session.id.to_string(),
            auth_time: session.auth_at.as_unix_seconds(),
            amr: session.proofs.auth_methods(),
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
            device: None,
            second_factor_due: None,
        })
    }

    /// Lists a user's sessions, newest first.
    pub async fn list_user_sessions(
        &self,
        caller: &Caller,
        user: &UserRef,
        include_ended: bool,
        page: PageRequest,
    ) -> Result<SessionPage> {
        let id = user_id_by_ref(self.store.reader(), user).await?.ok_or_else(|| Error::no_user(user.field()))?;
        self.session_page(caller, id, include_ended, &page).await
    }

    /// Lists the caller's own live sessions, newest first.
    pub async fn list_sessions(&self, caller: &Caller, page: PageRequest) -> Result<SessionPage> {
        let (id, _) = own_session(caller)?;
        self.session_page(caller, id, false, &page).await
    }

    async fn session_page(
        &self,
        caller: &Caller,
        user: UserId,
        include_ended: bool,
        page: &PageRequest,
    ) -> Result<SessionPage> {
        let selection = (user, include_ended);
        let after = self.cursor(caller, &selection, &page.token)?;
        let ways = [(include_ended, Narrowing::LeaveOut("include_ended")), (true, Narrowing::Shorten("page_size"))];
        let narrowing: Vec<_> = ways.into_iter().filter(|(helps, _)| *helps).map(|(_, way)| way).collect();
        let now = self.now();
        let rows = self
            .list(caller, &narrowing, async |reader| {
                session_list(reader, user, include_ended, now, after.as_ref(), page.size).await
            })
            .await?;
        Ok(SessionPage { next_page_token: self.page_token(caller, &selection, rows.next)?, sessions: rows.rows })
    }

    /// Ends some or all of a user's sessions. Sessions that have already ended are no error.
    pub async fn revoke_user_sessions(&self, caller: &Caller, command: RevokeUserSessions) -> Result<Effects> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let user = writer.target().await?;
            let which = if command.session_ids.is_empty() { Which::All } else { Which::These(&command.session_ids) };
            let change = writer.change();
            let ended = session_end(&change.tx, user.id, which, change.now).await?;
            let effects = self.effects_of_ending(ended, change.now);
            if ended == 0 {
                return Ok(change.roll_back(RolledBack::NotApplied, effects));
            }
            let event = Event::new(EventType::SessionRevoked, Target::of(&user))
                .note(command.note.as_ref())
                .about(one_id(&command.session_ids))
                .detail("sessionsRevoked", ended);
            change.commit(event, effects).await
        })
        .await
    }

    /// Ends the caller's own sessions. Returns how many. Fails if the session to end is not one of the caller's.
    pub async fn revoke_session(&self, caller: &Caller, target: RevokeTarget) -> Result<u32> {
        let (user, current) = own_session(caller)?;
        let target = &target;
        self.write(caller, None, |writer| async move {
            let one = match target {
                RevokeTarget::Current => Some(current),
                RevokeTarget::One(id) => {
                    let session = session_by_id(&writer.tx, *id).await?.filter(|session| session.user_id == user);
                    session.ok_or(Error::NotFound { resource: Resource::Session, field: "session_id" })?;
                    Some(*id)
                }
                RevokeTarget::AllOthers => None,
            };
            let which = if one.is_some() { Which::These(one.as_slice()) } else { Which::AllBut(current) };
            let change = writer.change();
            let ended = session_end(&change.tx, user, which, change.now).await?;
            if ended == 0 {
                return Ok(change.roll_back(RolledBack::NotApplied, ended));
            }
            let target = Target { user_id: user.to_string(), username: caller.principal.name().to_owned() };
            let event = Event::new(EventType::SessionRevoked, target).about(one_id(one.as_slice()));
            change.commit(event.detail("sessionsRevoked", ended), ended).await
        })
        .await
    }

    /// Exchanges a refresh token for a new pair of tokens.
    ///
    /// A token of the current generation advances the session to the next. A token of the generation before gets the same
    /// successor again, for a short time. An older token shows that a copy of it exists, and ends the session.
    pub async fn refresh_tokens(&self, caller: &Caller, command: RefreshTokens) -> Result<Tokens> {
        // Genuine tokens are not limited by source: attackers behind the same address could block live sessions.
        let Some(token) = command.token.as_ref().filter(|token| self.is_genuine(token)) else {
            self.check_source(caller).await?;
            self.secret_failed(caller, None, Reason::TokenInvalid).await?;
            return Err(Unauthenticated::TokenInvalid.into());
        };
        let over = || Error::Unauthenticated(Unauthenticated::SessionRevoked);
        let found = session_by_id(self.store.reader(), token.session_id()).await?;
        let found = found.filter(|session| session.is_live(self.now())).ok_or_else(over)?;
        let (wish, user_id) = (narrowed(&found.wish, &command)?, found.user_id);
        let wish = &wish;
        let refreshed = self.write(caller, None, |mut writer| async move {
            let user = writer.locked(user_id).await?;
            let user = user.filter(|user| user.lock(writer.now).is_none()).ok_or_else(over)?;
            let session = session_lock_row(&writer.tx, token.session_id()).await?.ok_or_else(over)?;
            // A policy ends no session at once, and a replica of the version before opens sessions without a second factor.
            if session.proofs.second_factor.is_none()
                && (user.second_factor.is_some() || user.needs_second_factor(writer.now))
            {
                return Err(over());
            }
            match session.judge_refresh(token.generation(), writer.now) {
                Refresh::Ended => Err(over()),
                Refresh::Repeat => {
                    let tokens = self.tokens(&session, &user, wish, writer.now)?;
                    Ok(writer.unchanged(Refreshed::Tokens(tokens)))
                }
                Refresh::Rotate => {
                    let change = writer.change();
                    let tokens = self.rotate(&change, caller, session, &user, wish).await?;
                    change.commit_unaudited(Unaudited::Refresh, Refreshed::Tokens(tokens)).await
                }
                Refresh::Reused => {
                    let change = writer.change();
                    session_end(&change.tx, user.id, Which::These(&[session.id]), change.now).await?;
                    let event = Event::failed(EventType::RefreshReused, Target::of(&user), Reason::RefreshReused);
                    change.commit(event.about(session.id), Refreshed::Reused).await
                }
            }
        });
        match refreshed.await? {
            Refreshed::Tokens(tokens) => Ok(tokens),
            Refreshed::Reused => Err(Unauthenticated::RefreshReused.into()),
        }
    }

    fn is_genuine(&self, token: &RefreshToken) -> bool {
        self.keys.current().refresh_key(token.key_version()).is_some_and(|key| token.verify(key))
    }

    async fn rotate(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        mut session: Session,
        user: &User,
        wish: &SignInWish,
    ) -> Result<Tokens> {
        self.touch(&mut session, caller, user, change.now);
        if !session_rotate(&change.tx, &session, change.now).await? {
            return Err(Unauthenticated::SessionRevoked.into());
        }
        session.generation = session.generation.saturating_add(1);
        self.tokens(&session, user, wish, change.now)
    }

    /// Notes a use of a session, which moves the end that follows from idleness.
    pub(super) fn touch(&self, session: &mut Session, caller: &Caller, user: &User, now: Timestamp) {
        session.last_used_at = now;
        session.idle_expires_at = now.saturating_add(self.settings.session_limits(user).idle).min(session.expires_at);
        if let Some(address) = caller.call.client_address {
            session.client_address = address.to_string();
        }
    }
}

/// The audit event of a sign-in.
pub(super) fn signed_in_event(user: &User) -> Event {
    Event::new(EventType::SignInSucceeded, Target::of(user))
}

/// The session that an event is about, if there is exactly one.
fn one_id(ids: &[SessionId]) -> String {
    match ids {
        [id] => id.to_string(),
        _ => String::new(),
    }
}

pub(super) fn own_session(caller: &Caller) -> Result<(UserId, SessionId)> {
    match &caller.principal {
        Principal::User { id, session_id, .. } => Ok((*id, *session_id)),
        _ => Err(Denied::UserRequired.into()),
    }
}

/// Narrows the wish of a session to what the refresh asks for. Fails if the refresh asks for an audience that the sign-in did
/// not ask for.
fn narrowed(of_session: &SignInWish, command: &RefreshTokens) -> Result<SignInWish> {
    let mut wish = of_session.clone();
    if !command.audiences.is_empty() {
        let known = of_session.audience_claim();
        let mut violations = Violations::new();
        for (index, audience) in command.audiences.iter().enumerate() {
            if !known.iter().any(|known| known == audience.as_str()) {
                violations.push(format!("audiences[{index}]"), Fault::Unknown, "the sign-in did not ask for it");
            }
        }
        violations.finish().map_err(Error::InvalidInput)?;
        wish.audiences.clone_from(&command.audiences);
    }
    if let Some(scopes) = command.scopes {
        wish.scopes = Some(wish.scopes.unwrap_or(ScopeSet::ALL).intersection(scopes));
    }
    Ok(wish)
}
