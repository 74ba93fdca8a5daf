//! The client: a connection to a server, and calls over it.

mod alike;
pub(crate) mod call;
mod fault;
pub(crate) mod grpcurl;
mod listener;
pub(crate) mod local;
pub(crate) mod login;
pub(crate) mod socket;
pub(crate) mod target;
pub(crate) mod tls;
pub(crate) mod wish;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost_reflect::DynamicMessage;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::contract::dynamic;
use super::error::{Error, Refusal};
use super::output::Screen;
use super::output::words::shell_word;
use crate::proto::v1::who_am_i_response::Kind;
use crate::proto::v1::{
    ListRolesRequest, ReauthenticateRequest, RefreshTokensRequest, SecondFactorProof, WhoAmIRequest,
};
use call::{Call, Method, subject};
use login::{Login, LoginStore};
use target::{ChosenBy, Target};
use tls::Trust;
use wish::Identity;

/// The timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for a call, with its retries. Longer than the server's own limit of 15 s.
const DEADLINE: Duration = Duration::from_secs(30);
/// The timeout for a call whose answer is wanted at once. Longer than the server waits for its database.
const SHORT_DEADLINE: Duration = Duration::from_secs(5);
/// The pauses between retries of a call that is safe to repeat, unless the server sends a retry delay.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// The pause before every further retry.
const LAST_PAUSE: Duration = Duration::from_millis(1600);
/// The longest pause between retries, whatever retry delay the server sends.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The scope that `ListRoles` needs.
const READS: &str = "users.read";

type Bearer = MetadataValue<Ascii>;

/// A client of one server, with the credentials of one caller.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    /// Whether the user named the server, now or by a variable.
    is_named: bool,
    trust: Trust,
    caller: Caller,
    channel: OnceCell<Channel>,
    /// Whether to print calls instead of making them.
    show: bool,
    /// Whether a call has proved that the caller may read users and roles.
    reads: AtomicBool,
    /// For what is said while a call is repeated.
    screen: Screen,
    /// Whether it was said that a call is repeated.
    has_said: AtomicBool,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, for as long as the process lives")]
enum Caller {
    Token(SecretString),
    Login { store: LoginStore, login: Mutex<Login> },
    Local,
    Anonymous,
}

impl Client {
    /// A client that connects at its first call.
    pub(crate) fn new(
        (target, is_named): (Target, bool),
        trust: Trust,
        identity: Identity,
        store: Option<LoginStore>,
        show: bool,
        screen: Screen,
    ) -> Client {
        let caller = match (identity, store) {
            (Identity::Token(token), _) => Caller::Token(token),
            (Identity::Login(login), Some(store)) => Caller::Login { store, login: Mutex::new(login) },
            (Identity::Local, _) => Caller::Local,
            (Identity::Login(_) | Identity::Anonymous, _) => Caller::Anonymous,
        };
        let (reads, has_said) = (AtomicBool::new(false), AtomicBool::new(false));
        Client { target, is_named, trust, caller, channel: OnceCell::new(), show, reads, screen, has_said }
    }

    /// The address of the server.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The TLS settings.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns whether calls are printed instead of being made.
    pub(crate) fn is_showing(&self) -> bool {
        self.show
    }

    /// The call as a grpcurl command.
    pub(crate) fn grpcurl<C: Call>(&self, request: &C) -> Result<String, Error> {
        let has_token = matches!(self.caller, Caller::Token(_) | Caller::Login { .. });
        grpcurl::show(&self.target, &self.trust, has_token, request)
    }

    /// Returns whether calls identify the caller.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.caller, Caller::Anonymous)
    }

    /// Returns whether calls are made with a stored login.
    pub(crate) fn has_login(&self) -> bool {
        matches!(self.caller, Caller::Login { .. })
    }

    /// The caller's name, for people: `root (local)`, `ada at 127.0.0.1:50051`.
    pub(crate) async fn whom(&self) -> String {
        let name = match &self.caller {
            // The path tells which server it is, where the user did not say it.
            Caller::Local if !matches!(self.target, Target::Socket(_, ChosenBy::System)) => {
                return format!("{} (local)", own_name());
            }
            Caller::Local => format!("{} (local)", own_name()),
            Caller::Anonymous => "a caller without credentials".to_owned(),
            Caller::Login { login, .. } => login.lock().await.username.clone(),
            Caller::Token(_) => self.token_owner().await,
        };
        format!("{name} at {}", self.target.place())
    }

    async fn token_owner(&self) -> String {
        match self.call(WhoAmIRequest::default()).await {
            Ok(answer) => {
                let name = answer.user.as_ref().map_or(answer.principal_id.as_str(), |user| user.username.as_str());
                let kind = if answer.kind() == Kind::ApiToken { " (API token)" } else { "" };
                format!("{name}{kind}")
            }
            Err(_) => "the owner of LATCHKEY_TOKEN".to_owned(),
        }
    }

    /// Makes a call. While the server is UNAVAILABLE, says so and repeats the call within its deadline, if that is safe.
    pub(crate) async fn call<C: Call>(&self, request: C) -> Result<C::Answer, Error> {
        let end = Instant::now() + DEADLINE;
        let mut pauses = PAUSES.into_iter();
        loop {
            // Every command has calls in its future, and the state of one is large.
            let outcome = Box::pin(self.try_call(request.clone(), end)).await;
            let Err(Error::Refused(refusal)) = &outcome else { return outcome };
            if refusal.is_of_breach_list() {
                return outcome;
            }
            let pause = pauses.next().unwrap_or(LAST_PAUSE);
            let pause = refusal.retry_after.unwrap_or(pause).min(LONGEST_PAUSE);
            if refusal.code != Code::Unavailable || Instant::now() + pause >= end || !repeats_safely(&request)? {
                return outcome;
            }
            self.say_that_it_waits(refusal);
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes a call once, and waits for a short time only. For what should answer at once, even if the answer is that the
    /// server is unavailable.
    pub(crate) async fn call_once<C: Call>(&self, request: C) -> Result<C::Answer, Error> {
        Box::pin(self.try_call(request, Instant::now() + SHORT_DEADLINE)).await
    }

    async fn try_call<C: Call>(&self, request: C, end: Instant) -> Result<C::Answer, Error> {
        if self.show {
            return Err(Error::Shown(self.grpcurl(&request)?));
        }
        let method = Method::of::<C>()?;
        let reflected = method.request(&request)?;
        self.call_as_caller(&method, &reflected, request, end).await
    }

    /// Says once, and only to people, why the command takes time.
    fn say_that_it_waits(&self, refusal: &Refusal) {
        if self.screen.is_json() || self.has_said.swap(true, Ordering::Relaxed) {
            return;
        }
        let what = match refusal.reason.as_str() {
            "STORAGE_UNAVAILABLE" => "the database is away",
            _ => "the server is unavailable",
        };
        self.screen.note(format!("{what}; trying again for up to {} s …", DEADLINE.as_secs()));
    }

    /// Makes a call with the caller's token. If the server reports a stored login's token as expired, renews it and repeats
    /// the call once. The clock of this machine may be wrong.
    async fn call_as_caller<C: Call>(
        &self,
        method: &Method,
        reflected: &DynamicMessage,
        request: C,
        end: Instant,
    ) -> Result<C::Answer, Error> {
        let bearer = if method.wants_identity(reflected) { self.bearer(false).await? } else { None };
        let outcome = self.send_before(end, method, request.clone(), bearer).await;
        let outcome = match outcome {
            Err(Sent::Status(status)) if self.has_expired_login(&status, method, reflected) => {
                let bearer = self.bearer(true).await?;
                self.send_before(end, method, request, bearer).await
            }
            outcome => outcome,
        };
        match outcome {
            Ok(answer) => {
                if method.proves(READS) {
                    self.reads.store(true, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Err(Sent::Not(error)) => Err(error),
            Err(Sent::Status(status)) => {
                let mut refusal = Refusal::from_status(&status, subject(reflected));
                if matches!(self.caller, Caller::Token(_)) && refusal.is_of_token() {
                    refusal.hint = Some("unset LATCHKEY_TOKEN, or set a valid one".to_owned());
                }
                if matches!(self.caller, Caller::Token(_)) && refusal.reason == "REAUTHENTICATION_REQUIRED" {
                    refusal.hint = Some("unset LATCHKEY_TOKEN and sign in with `latchkey login`".to_owned());
                }
                if std::error::Error::source(&status).is_some() && refusal.reason.is_empty() {
                    refusal.hint = self.broken_off();
                }
                if let Some(scope) = refusal.scope_missing() {
                    refusal.roles = self.roles_with(scope).await.unwrap_or_default();
                }
                // Machines get no hints.
                if let Some(typed) = &refusal.subject
                    && refusal.names_unknown_user()
                    && !self.screen.is_json()
                {
                    refusal.alike = self.alike(typed).await;
                }
                Err(Error::Refused(Box::new(refusal)))
            }
        }
    }

    /// The roles that include a scope, for the caller to ask for. Only asks if the caller is known to have the right: an
    /// attempt without it would write a second refusal to the audit log.
    async fn roles_with(&self, scope: &str) -> Option<Vec<String>> {
        if scope == READS || !self.reads.load(Ordering::Relaxed) {
            return None;
        }
        let method = Method::of::<ListRolesRequest>().ok()?;
        let bearer = self.bearer(false).await.ok()?;
        let answer = self.send(&method, ListRolesRequest {}, bearer).await.ok()?;
        let having = answer.roles.into_iter().filter(|role| role.scopes.iter().any(|other| other == scope));
        Some(having.map(|role| role.name).collect())
    }

    fn has_expired_login(&self, status: &Status, method: &Method, request: &DynamicMessage) -> bool {
        matches!(self.caller, Caller::Login { .. })
            && method.wants_identity(request)
            && Refusal::from_status(status, None).reason == "TOKEN_EXPIRED"
    }

    async fn send<C: Call>(&self, method: &Method, request: C, bearer: Option<Bearer>) -> Result<C::Answer, Sent> {
        self.send_before(Instant::now() + DEADLINE, method, request, bearer).await
    }

    async fn send_before<C: Call>(
        &self,
        end: Instant,
        method: &Method,
        request: C,
        bearer: Option<Bearer>,
    ) -> Result<C::Answer, Sent> {
        let channel = self.channel().await?.clone();
        let mut grpc = Grpc::new(channel);
        if let Err(fault) = grpc.ready().await {
            let mut status = Status::unavailable(fault.to_string());
            status.set_source(Arc::new(fault));
            return Err(self.explained(status).await);
        }
        let mut request = Request::new(request);
        request.set_timeout(end.saturating_duration_since(Instant::now()));
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", bearer);
        }
        let codec = ProstCodec::<C, C::Answer>::default();
        match grpc.unary(request, method.path()?, codec).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.explained(status).await),
        }
    }

    async fn channel(&self) -> Result<&Channel, Error> {
        self.channel.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Channel, Error> {
        if self.target.is_overheard() && !self.trust.bears_plaintext() {
            let place = self.target.place();
            let secure = shell_word(&format!("https://{place}"));
            return Err(Error::usage(format!("http://{place} is another host: others may listen on the way"))
                .hint(format!("use {secure}, or --insecure-plaintext")));
        }
        let connected = match &self.target {
            Target::Tcp(uri) if self.is_named => endpoint(uri.clone())?.connect().await,
            Target::Tcp(uri) => {
                let connector = tower::service_fn(listener::connect);
                endpoint(uri.clone())?.connect_with_connector(connector).await
            }
            Target::Tls(uri) => {
                let (place, config) = (uri.clone(), self.trust.config()?);
                let connector = tower::service_fn(move |_: Uri| tls::connect(place.clone(), Arc::clone(&config)));
                // `origin` sets the scheme and authority of the calls. The connector does TLS itself.
                let plain = endpoint(Uri::from_static("http://localhost"))?.origin(uri.clone());
                plain.connect_with_connector(connector).await
            }
            Target::Socket(path, chosen_by) => {
                let (path, chosen_by) = (path.clone(), *chosen_by);
                let connector = tower::service_fn(move |_: Uri| socket::connect(path.clone(), chosen_by));
                endpoint(Uri::from_static("http://localhost"))?.connect_with_connector(connector).await
            }
        };
        connected.map_err(|fault| self.unreachable(&fault))
    }

    async fn bearer(&self, expired: bool) -> Result<Option<Bearer>, Error> {
        match &self.caller {
            Caller::Token(token) => bearer(token.expose_secret()).map(Some),
            Caller::Login { store, login } => {
                let mut login = login.lock().await;
                if expired || !login.is_fresh(jiff::Timestamp::now()) {
                    *login = self.renew(store, &login).await?;
                }
                bearer(&login.access_token).map(Some)
            }
            Caller::Local | Caller::Anonymous => Ok(None),
        }
    }

    /// Renews a login. Reads the file again under the lock, because another process may have renewed it meanwhile.
    async fn renew(&self, store: &LoginStore, old: &Login) -> Result<Login, Error> {
        let _lock = store.lock().await?;
        let stored = store.read()?.filter(|login| login.server == old.server).ok_or_else(signed_out)?;
        if stored.access_token != old.access_token && stored.is_fresh(jiff::Timestamp::now()) {
            return Ok(stored);
        }
        let request = RefreshTokensRequest { refresh_token: stored.refresh_token.clone(), ..Default::default() };
        let method = Method::of::<RefreshTokensRequest>()?;
        let answer = match self.send(&method, request, None).await {
            Ok(answer) => answer,
            Err(Sent::Not(error)) => return Err(error),
            Err(Sent::Status(status)) if status.code() == Code::Unauthenticated => return Err(signed_out()),
            Err(Sent::Status(status)) => return Err(Error::Refused(Box::new(Refusal::from_status(&status, None)))),
        };
        let tokens = answer.tokens.ok_or_else(|| Error::unexpected("the server sent no tokens"))?;
        let login = stored.renewed(tokens);
        store.write(&login)?;
        Ok(login)
    }

    /// Renews a stored login whose session has changed. Without a stored login there is nothing to renew.
    pub(crate) async fn renew_login(&self) -> Result<(), Error> {
        let Caller::Login { store, login } = &self.caller else { return Ok(()) };
        let mut login = login.lock().await;
        *login = self.renew(store, &login).await?;
        Ok(())
    }

    /// Proves the password of a stored login again, and the second factor if there is one, and stores the new tokens. Holds the lock meanwhile: another process
    /// that renews the login must neither overwrite these tokens nor be overwritten.
    pub(crate) async fn reauthenticate(
        &self,
        password: &SecretString,
        second_factor: Option<SecondFactorProof>,
    ) -> Result<(), Error> {
        let Caller::Login { store, login } = &self.caller else {
            return Err(Error::unexpected("there is no stored login"));
        };
        let method = Method::of::<ReauthenticateRequest>()?;
        let request = ReauthenticateRequest { password: password.expose_secret().to_owned(), second_factor };
        let reflected = method.request(&request)?;
        let mut expired = false;
        loop {
            let bearer = self.bearer(expired).await?;
            let _lock = store.lock().await?;
            match self.send(&method, request.clone(), bearer).await {
                Ok(answer) => {
                    let tokens = answer.tokens.ok_or_else(|| Error::unexpected("the server sent no tokens"))?;
                    let mut login = login.lock().await;
                    *login = login.clone().renewed(tokens);
                    // The user may have signed in anew in another process; that login stays.
                    let is_stored = store.read()?.is_some_and(|stored| stored.session_id == login.session_id);
                    return if is_stored { store.write(&login) } else { Ok(()) };
                }
                // The clock of this machine may be wrong.
                Err(Sent::Status(status)) if !expired && self.has_expired_login(&status, &method, &reflected) => {
                    expired = true;
                }
                Err(Sent::Status(status)) => {
                    let name = login.lock().await.username.clone();
                    return Err(Error::Refused(Box::new(Refusal::from_status(&status, Some(name)))));
                }
                Err(Sent::Not(error)) => return Err(error),
            }
        }
    }

    /// Converts a response to a reflected message, which serializes as proto3 JSON.
    pub(crate) fn reflected<C: Call>(answer: &C::Answer) -> Result<DynamicMessage, Error> {
        dynamic(Method::of::<C>()?.answer(), answer)
    }

    /// Warns before a password goes over a network in plain text.
    pub(crate) fn warn_if_overheard(&self, screen: &Screen) {
        if self.target.is_overheard() && (self.show || self.trust.bears_plaintext()) {
            screen.note(format!("warning: the connection to {} is not encrypted", self.target.place()));
        }
    }
}

/// The reason why a call failed.
enum Sent {
    /// The server or the connection returned a status.
    Status(Status),
    /// The request was not sent.
    Not(Error),
}

impl From<Status> for Sent {
    fn from(status: Status) -> Sent {
        Sent::Status(status)
    }
}

impl From<Error> for Sent {
    fn from(error: Error) -> Sent {
        Sent::Not(error)
    }
}

fn repeats_safely<C: Call>(request: &C) -> Result<bool, Error> {
    let method = Method::of::<C>()?;
    Ok(method.repeats_safely(&method.request(request)?))
}

fn endpoint(uri: Uri) -> Result<Endpoint, Error> {
    let agent = concat!("latchkey-cli/", env!("CARGO_PKG_VERSION"));
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(DEADLINE)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(false);
    endpoint.user_agent(agent).map_err(|fault| Error::unexpected(fault.to_string()))
}

fn bearer(token: &str) -> Result<Bearer, Error> {
    let mut value = Bearer::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::usage("the token contains invalid characters").hint("check LATCHKEY_TOKEN"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn signed_out() -> Error {
    let refusal =
        Refusal::foreseen(Code::Unauthenticated, "SESSION_REVOKED", "the stored login is no longer valid", None);
    Error::Refused(Box::new(refusal)).hint("sign in again with `latchkey login`")
}

/// The name of the user of this process, from `/etc/passwd`. Directory services are not asked: it is only for display.
pub(crate) fn own_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}
