//! Asking for a link without a credential ("forgot password"). The call stores the request and looks at no account, so its
//! answer and its work are the same for every login. A job resolves requests: it sends the link, or counts why there is none.

use std::time::Duration;

use super::App;
use super::counted::NETWORK;
use super::writer::{Change, RolledBack, Unaudited, Writer};
use crate::crypto::short;
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::budget::{Budget, RESET_REQUESTS_WINDOW};
use crate::domain::caller::{Call, Caller, CallingApp};
use crate::domain::id::UserId;
use crate::domain::link::{LinkPurpose, LinkWay, LinkWish, MAX_LIVE};
use crate::domain::lockout::LockCause;
use crate::domain::login::Login;
use crate::domain::profile::Locale;
use crate::domain::reason::Reason;
use crate::domain::reset_request::{
    HISTORY, MAX_IN_HISTORY, MAX_MESSAGES_WAITING, MAX_WAITING, RESEND_AFTER, ResetRequest, is_due,
};
use crate::domain::user::{User, UserKind, UserRef};
use crate::domain::violation::Violations;
use crate::error::{Error, Result};
use crate::store::budgets::budget_take;
use crate::store::deliveries::{delivery_has_invited, delivery_is_full, delivery_self_service};
use crate::store::links::link_live;
use crate::store::reset_requests::{StoredRequest, reset_request_delete, reset_request_list, reset_request_save};
use crate::store::users::user_id_by_ref;

/// Requests that are resolved before other calls have a turn. Each has a short transaction of its own.
const BATCH: u64 = 16;

/// The pause after a batch.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// A command to send a link to the owner of an account, for anybody.
#[derive(Debug)]
pub struct RequestPasswordReset {
    /// Username or e-mail address.
    pub login: String,
    /// The language of the message, unless the user has set one.
    pub locale: Option<Locale>,
}

/// The answer, which is the same for every login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetRequested {
    /// How long a link works, if one is sent.
    pub link_ttl: Duration,
    /// The pause before another request has an effect.
    pub resend_after: Duration,
}

/// A request that is being resolved.
struct Resolving<'a> {
    stored: &'a StoredRequest,
    /// `None` if it cannot be opened, because the keys were replaced.
    request: Option<ResetRequest>,
    login: Option<Login>,
    /// The account that it names, if there is one.
    user: Option<UserId>,
}

/// What becomes of a request.
enum Verdict {
    /// The user gets a link.
    Send(Box<User>, LinkPurpose),
    /// Nothing is sent.
    Suppress(Target, Reason),
}

impl App {
    /// Stores a request for a link. Fails if the login cannot be one, if the source is blocked, or if this server sends no links;
    /// none of these depends on an account. Beyond the limits a request is only counted.
    pub async fn request_password_reset(
        &self,
        caller: &Caller,
        command: RequestPasswordReset,
    ) -> Result<ResetRequested> {
        let RequestPasswordReset { login, locale } = command;
        self.check_sends_links()?;
        let login = &Login::parse(&login).map_err(|fault| {
            let mut violations = Violations::new();
            violations.push_error("login", &fault);
            Error::InvalidInput(violations)
        })?;
        self.check_source(caller).await?;
        let key = &short(&self.keys.current().digest("reset request", login.key().as_bytes()));
        let sealed = &self.sealed(caller, key, login, locale.as_ref())?;
        let answer = ResetRequested { link_ttl: self.settings.mail.lifetimes.self_service, resend_after: RESEND_AFTER };
        self.write(caller, None, |writer| async move {
            let change = writer.change();
            let budgets = caller.call.source().map(Budget::of_reset_request).unwrap_or_default();
            let spent = budget_take(&change.tx, budgets, RESET_REQUESTS_WINDOW, change.now).await?;
            let stored = StoredRequest { login: key.clone(), sealed: sealed.clone(), created_at: change.now };
            let refused = match spent {
                Some(budget) => Some((Reason::RateLimited, budget.whose().to_owned())),
                None if reset_request_save(&change.tx, &stored, MAX_WAITING).await? => None,
                None => Some((Reason::Overloaded, IN_ALL.to_owned())),
            };
            if let Some((reason, whose)) = refused {
                self.count_suppressed(&change, caller, Target::default(), reason, &whose).await?;
                return change.commit_unaudited(Unaudited::Counted, ()).await;
            }
            change.commit_unaudited(Unaudited::Requested, ()).await
        })
        .await?;
        self.requested.notify_one();
        Ok(answer)
    }

    fn sealed(&self, caller: &Caller, key: &str, login: &Login, locale: Option<&Locale>) -> Result<Vec<u8>> {
        let call = &caller.call;
        let request = ResetRequest {
            login: login.key().to_owned(),
            locale: locale.map(|locale| locale.as_str().to_owned()),
            client_address: call.client_address,
            app: call.app.as_ref().map(|app| app.name.clone()),
            request_id: call.request_id.clone(),
            client_request_id: call.client_request_id.clone(),
            user_agent: call.user_agent.clone(),
        };
        let plain = request.encode().map_err(Error::internal)?;
        let sealed = self.keys.current().outbox_key().seal(&self.environment, &context(key), &plain);
        sealed.ok_or_else(|| Error::internal("a request could not be sealed"))
    }

    fn opened(&self, stored: &StoredRequest) -> Option<ResetRequest> {
        let plain = self.keys.current().outbox_key().open(&context(&stored.login), &stored.sealed)?;
        ResetRequest::decode(&plain)
    }

    /// Counts a request for which nothing is sent.
    async fn count_suppressed(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        target: Target,
        reason: Reason,
        whose: &str,
    ) -> Result<()> {
        let event = Event::failed(EventType::PasswordResetRequested, target, reason).detail(NETWORK, whose);
        let kind = format!("reset requests {whose} {}", reason.as_str());
        self.count_event(&change.tx, &kind, self.recorded(caller, change.now, event)).await
    }

    /// Waits until a request was stored on this server.
    pub async fn reset_requested(&self) {
        self.requested.notified().await;
    }

    /// Resolves the requests that wait, oldest first.
    pub async fn resolve_reset_requests(&self) -> Result<()> {
        loop {
            let waiting = reset_request_list(self.store.reader(), BATCH).await?;
            for stored in &waiting {
                self.resolve(stored).await?;
            }
            if (waiting.len() as u64) < BATCH || self.work.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
    }

    /// Resolves one request. One that always fails is dropped: it must not hold up the others.
    async fn resolve(&self, stored: &StoredRequest) -> Result<()> {
        let request = self.opened(stored);
        let login = request.as_ref().and_then(|request| Login::parse(&request.login).ok());
        let user = match &login {
            Some(login) => user_id_by_ref(self.store.reader(), &user_ref(login)).await?,
            None => None,
        };
        let caller = asking(request.as_ref());
        let resolving = Resolving { stored, request, login, user };
        match self.resolve_once(&caller, &resolving).await {
            Err(error @ Error::Unavailable(_)) => Err(error),
            Err(error) => {
                tracing::warn!(reason = error.reason().as_str(), "a request for a link was dropped, because it failed");
                self.suppress(&caller, stored, error.reason()).await
            }
            Ok(()) => Ok(()),
        }
    }

    async fn resolve_once(&self, caller: &Caller, resolving: &Resolving<'_>) -> Result<()> {
        self.write(caller, None, |mut writer| async move {
            let verdict = self.judge(&mut writer, resolving).await?;
            let change = writer.change();
            if !reset_request_delete(&change.tx, resolving.stored).await? {
                return Ok(change.roll_back(RolledBack::NothingDue, ()));
            }
            match verdict {
                Verdict::Suppress(target, reason) => {
                    self.count_suppressed(&change, caller, target, reason, IN_ALL).await?;
                    change.commit_unaudited(Unaudited::Counted, ()).await
                }
                Verdict::Send(user, purpose) => {
                    let ttl = Some(self.settings.mail.lifetimes.self_service);
                    let wish = LinkWish { way: LinkWay::Mailed, ttl };
                    let sent = self.send_link(&change, &user, purpose, wish, None).await?;
                    let event = Event::new(EventType::PasswordResetRequested, Target::of(&user))
                        .detail("purpose", purpose.as_str());
                    let event = match sent.delivery {
                        Some(delivery) => event.about(delivery.id),
                        None => event,
                    };
                    change.commit(event, ()).await
                }
            }
        })
        .await
    }

    async fn suppress(&self, caller: &Caller, stored: &StoredRequest, reason: Reason) -> Result<()> {
        self.write(caller, None, |writer| async move {
            let change = writer.change();
            if reset_request_delete(&change.tx, stored).await? {
                self.count_suppressed(&change, caller, Target::default(), reason, IN_ALL).await?;
            }
            change.commit_unaudited(Unaudited::Counted, ()).await
        })
        .await
    }

    /// Decides whether the user gets a link. Locks and reads the account.
    async fn judge(&self, writer: &mut Writer<'_>, resolving: &Resolving<'_>) -> Result<Verdict> {
        let Resolving { stored, request, login, user } = resolving;
        let (Some(request), Some(login)) = (request, login) else {
            return Ok(Verdict::Suppress(Target::default(), Reason::RecordCorrupt));
        };
        let user = match user {
            Some(id) => writer.locked(*id).await?,
            None => None,
        };
        let Some(mut user) = user.filter(|user| is_named(user, login)) else {
            let target = Target { user_id: String::new(), username: self.unknown_name(login.key()) };
            return Ok(Verdict::Suppress(target, Reason::UserNotFound));
        };
        let expires_at = stored.created_at.saturating_add(self.settings.mail.lifetimes.self_service);
        let refusal = match refusal(&user, writer) {
            None if expires_at <= writer.now => Some(Reason::DeadlinePassed),
            None => beyond_limits(&user, writer).await?,
            refusal => refusal,
        };
        if let Some(reason) = refusal {
            return Ok(Verdict::Suppress(Target::of(&user), reason));
        }
        if user.locale.is_none() {
            user.locale = request.locale.as_deref().and_then(|locale| Locale::parse(locale).ok()).flatten();
        }
        let purpose = user.password_link_purpose();
        Ok(Verdict::Send(Box::new(user), purpose))
    }
}

/// Whose limits are meant in events about no network in particular.
const IN_ALL: &str = "in all";

/// Why a user gets no link. `None` if nothing about the account is in the way.
fn refusal(user: &User, writer: &Writer<'_>) -> Option<Reason> {
    if user.kind == UserKind::Service {
        return Some(Reason::UserIsService);
    }
    let is_locked = user.lock(writer.now).is_some_and(|lock| lock.cause != LockCause::FailedSignIns);
    if is_locked || user.is_inactive(writer.now) {
        return Some(Reason::UserLocked);
    }
    user.email.is_none().then_some(Reason::NoDeliveryAddress)
}

/// Why a user gets no further link at present.
async fn beyond_limits(user: &User, writer: &Writer<'_>) -> Result<Option<Reason>> {
    let (tx, now) = (&writer.tx, writer.now);
    let Some(address) = &user.email else { return Ok(Some(Reason::NoDeliveryAddress)) };
    if user.is_pending() && !delivery_has_invited(tx, user.id, address.key()).await? {
        return Ok(Some(Reason::UserPending));
    }
    let sent = delivery_self_service(tx, user.id, address.key(), now.saturating_sub(HISTORY), MAX_IN_HISTORY).await?;
    let purpose = user.password_link_purpose();
    let live = link_live(tx, user.id, now).await?.into_iter().filter(|link| link.purpose == purpose).count();
    // A further link would end the oldest, which may be an operator's.
    if !is_due(&sent, now) || live >= MAX_LIVE {
        return Ok(Some(Reason::RateLimited));
    }
    Ok(delivery_is_full(tx, MAX_MESSAGES_WAITING).await?.then_some(Reason::Overloaded))
}

fn is_named(user: &User, login: &Login) -> bool {
    match login {
        Login::Username(username) => user.username == *username,
        Login::Email(email) => user.email.as_ref().is_some_and(|own| own.key() == email.key()),
    }
}

fn user_ref(login: &Login) -> UserRef {
    match login {
        Login::Username(username) => UserRef::Username(username.clone()),
        Login::Email(email) => UserRef::Email(email.clone()),
    }
}

/// The caller who made a request, for the audit log and for the message.
fn asking(request: Option<&ResetRequest>) -> Caller {
    let mut caller = super::maintenance::job("job/reset-requests");
    let Some(request) = request else { return caller };
    caller.call = Call {
        client_address: request.client_address,
        app: request.app.as_ref().map(|name| CallingApp { name: name.clone(), is_proxy: false }),
        request_id: request.request_id.clone(),
        client_request_id: request.client_request_id.clone(),
        user_agent: request.user_agent.clone(),
        ..caller.call
    };
    caller
}

/// The context that a request is sealed with.
fn context(key: &str) -> Vec<u8> {
    format!("reset request {key}").into_bytes()
}
