//! Sessions: list, end, refresh.

use super::App;
use super::sign_in::Tokens;
use super::writer::Unaudited;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::id::{SessionId, UserId};
use crate::domain::page::PageRequest;
use crate::domain::profile::{Audience, Note};
use crate::domain::reason::Reason;
use crate::domain::role::ScopeSet;
use crate::domain::secret::RefreshToken;
use crate::domain::session::{Refresh, Session, SignInWish};
use crate::domain::user::{Effects, User, UserRef};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Resource, Result, Unauthenticated};
use crate::store::sessions::{Which, session_by_id, session_end, session_list, session_lock_row, session_rotate};
use crate::store::users::user_id_by_ref;

/// One page of sessions, newest first.
#[derive(Debug)]
pub struct SessionPage {
    /// Its rows.
    pub sessions: Vec<Session>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// End sessions of a user.
#[derive(Debug)]
pub struct RevokeUserSessions {
    /// Whose.
    pub user: UserRef,
    /// Which. Empty means all.
    pub session_ids: Vec<SessionId>,
    /// Why, in words.
    pub note: Option<Note>,
}

/// Which of one's own sessions to end.
#[derive(Debug, Clone, Copy)]
pub enum RevokeTarget {
    /// The one that calls: signing out.
    Current,
    /// This one.
    One(SessionId),
    /// All but the one that calls.
    AllOthers,
}

/// Exchange a refresh token for a new pair.
#[derive(Debug)]
pub struct RefreshTokens {
    /// None: what was sent cannot be a refresh token.
    pub token: Option<RefreshToken>,
    /// No others than the sign-in asked for. Empty means the same.
    pub audiences: Vec<Audience>,
    /// No more scopes than these.
    pub scopes: Option<ScopeSet>,
}

/// What a refresh came to, decided under the lock of the session.
enum Refreshed {
    Tokens(Tokens),
    Reused,
}

impl App {
    /// Lists a user's sessions.
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

    /// Lists the caller's own sessions.
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
        let rows =
            session_list(self.store.reader(), user, include_ended, self.now(), after.as_ref(), page.size).await?;
        Ok(SessionPage { next_page_token: self.page_token(caller, &selection, rows.next)?, sessions: rows.rows })
    }

    /// Ends some or all of a user's sessions.
    pub async fn revoke_user_sessions(&self, caller: &Caller, command: RevokeUserSessions) -> Result<Effects> {
        let command = &command;
        self.write(caller, Some(&command.user), |mut writer| async move {
            let user = writer.target().await?;
            let which = if command.session_ids.is_empty() { Which::All } else { Which::These(&command.session_ids) };
            let ended = session_end(&*writer.tx, user.id, which, writer.now).await?;
            let effects = self.effects_of_ending(ended, writer.now);
            if ended > 0 {
                let event = Event::new(EventType::SessionRevoked, Target::user(user.id, user.username.as_str()))
                    .note(command.note.as_ref())
                    .about(one_id(&command.session_ids))
                    .detail("sessionsRevoked", ended);
                writer.commit(event, []).await?;
            }
            Ok(effects)
        })
        .await
    }

    /// Ends sessions of the caller's own.
    pub async fn revoke_session(&self, caller: &Caller, target: RevokeTarget) -> Result<u32> {
        let (user, current) = own_session(caller)?;
        let target = &target;
        self.write(caller, None, |writer| async move {
            let one;
            let which = match target {
                RevokeTarget::Current => {
                    one = [current];
                    Which::These(&one)
                }
                RevokeTarget::One(id) => {
                    let session = session_by_id(&*writer.tx, *id).await?.filter(|session| session.user_id == user);
                    session.ok_or(Error::NotFound { resource: Resource::Session, field: "session_id" })?;
                    one = [*id];
                    Which::These(&one)
                }
                RevokeTarget::AllOthers => Which::AllBut(current),
            };
            let subject = if let Which::These(ids) = &which { one_id(ids) } else { String::new() };
            let ended = session_end(&*writer.tx, user, which, writer.now).await?;
            if ended > 0 {
                let target = Target::user(user, caller.principal.name());
                let event = Event::new(EventType::SessionRevoked, target).about(subject);
                writer.commit(event.detail("sessionsRevoked", ended), []).await?;
            }
            Ok(ended)
        })
        .await
    }

    /// Exchanges a refresh token. The current generation advances by one guarded update; the one before gets the same
    /// successor again for a moment; anything older is a copy that somebody kept, and ends the session.
    pub async fn refresh_tokens(&self, caller: &Caller, command: RefreshTokens) -> Result<Tokens> {
        // Genuine tokens are under no limit by source: strangers behind the same address could stall live sessions.
        let Some(token) = command.token.as_ref().filter(|token| self.is_genuine(token)) else {
            self.check_source(caller).await?;
            self.secret_failed(caller, Reason::TokenInvalid).await?;
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
            let session = session_lock_row(&*writer.tx, token.session_id()).await?.ok_or_else(over)?;
            match session.judge_refresh(token.generation(), writer.now) {
                Refresh::Ended => Err(over()),
                Refresh::Repeat => self.tokens(&session, &user, wish, writer.now).map(Refreshed::Tokens),
                Refresh::Rotate => {
                    let tokens = self.rotate(&writer, caller, session, &user, wish).await?;
                    writer.commit_unaudited(Unaudited::Refresh).await?;
                    Ok(Refreshed::Tokens(tokens))
                }
                Refresh::Reused => {
                    session_end(&*writer.tx, user.id, Which::These(&[session.id]), writer.now).await?;
                    let target = Target::user(user.id, user.username.as_str());
                    let event = Event::failed(EventType::RefreshReused, target, Reason::RefreshReused);
                    writer.commit(event.about(session.id), []).await?;
                    Ok(Refreshed::Reused)
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
        writer: &super::writer::Writer<'_>,
        caller: &Caller,
        mut session: Session,
        user: &User,
        wish: &SignInWish,
    ) -> Result<Tokens> {
        let idle = writer.now.saturating_add(self.settings.session_limits(user).idle).min(session.expires_at);
        let address = caller.call.client_address.map(|address| address.to_string());
        let address = address.unwrap_or_else(|| session.client_address.clone());
        if !session_rotate(&*writer.tx, &session, &address, writer.now, idle).await? {
            return Err(Unauthenticated::SessionRevoked.into());
        }
        session.generation = session.generation.saturating_add(1);
        session.idle_expires_at = idle;
        self.tokens(&session, user, wish, writer.now)
    }
}

/// The id, if there is exactly one: what an event is about.
fn one_id(ids: &[SessionId]) -> String {
    match ids {
        [id] => id.to_string(),
        _ => String::new(),
    }
}

fn own_session(caller: &Caller) -> Result<(UserId, SessionId)> {
    match &caller.principal {
        Principal::User { id, session_id, .. } => Ok((*id, *session_id)),
        _ => Err(Denied::UserRequired.into()),
    }
}

/// A refresh asks for no audience that its sign-in did not ask for, and for no more scopes.
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
