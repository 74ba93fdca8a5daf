//! Calls at a constant rate, or as fast as they return, and the accounts and tokens that they need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{
    CreateApiTokenRequest, CreateUserRequest, GetUserRequest, IntrospectTokenRequest, LockUserRequest,
    UnlockUserRequest, UserKind, UserRef, user_ref,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::Outcome;
use crate::database::Filled;
use crate::measure::cores;
use crate::seed::Seed;
use crate::server::Server;
use crate::sign_in::{able, access_token};

/// Connections that the callers share.
pub(crate) const CONNECTIONS: usize = 4;
/// Callers of P3 and P4.
pub(crate) const CALLERS: usize = 64;
/// Sessions whose tokens are checked.
const TOKENS: u64 = 64;
/// Accounts that are locked and unlocked again.
const LOCKABLE: u64 = 64;

/// A program with an API token, and the tokens and users that it asks about.
pub(crate) struct Program {
    channels: Vec<Channel>,
    bearer: MetadataValue<Ascii>,
    access_tokens: Vec<String>,
    user_ids: Vec<String>,
    seed: Seed,
}

/// The calls of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// `grpc.health.v1.Health/Check`: the cost of the cheapest call.
    Health,
    /// `IntrospectToken`.
    Introspect,
    /// `GetUser` by id.
    GetUser,
    /// `LockUser`, of an account that is not locked.
    Lock,
    /// `SignIn` of the nth user who can.
    SignIn(u64),
}

impl Program {
    /// Creates the account and its token over the local socket, and signs some users in.
    pub(crate) async fn enrol(server: &Server, filled: &Filled) -> Outcome<Program> {
        let mut admin = UserAdminClient::new(server.connect_locally().await?);
        service(&mut admin, "bench", &["admin"]).await?;
        for n in 0..LOCKABLE {
            service(&mut admin, &lockable(n), &[]).await?;
        }
        let scopes = ["tokens.introspect", "users.read", "users.lock"].map(str::to_owned).to_vec();
        let request = CreateApiTokenRequest { user: Some(named("bench")), name: "bench".to_owned(), scopes, ttl: None };
        let secret = admin.create_api_token(request).await?.into_inner().secret;
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(server.connect().await?);
        }
        let (mut access_tokens, mut user_ids) = (Vec::new(), Vec::new());
        for n in 0..TOKENS.min(filled.users) {
            let login = filled.seed.username(able(&filled.seed, n));
            let mut auth = AuthClient::new(channels.first().cloned().ok_or("no connection")?);
            access_tokens.push(access_token(&mut auth, login.clone()).await?);
            let request = GetUserRequest { user: Some(named(&login)) };
            user_ids.push(admin.get_user(request).await?.into_inner().user.ok_or("no user")?.id);
        }
        let bearer = format!("Bearer {secret}").parse()?;
        Ok(Program { channels, bearer, access_tokens, user_ids, seed: filled.seed.clone() })
    }

    /// Makes the nth call.
    pub(crate) async fn ask(&self, ask: Ask, n: usize) -> Outcome<()> {
        let channel = nth(&self.channels, n)?.clone();
        match ask {
            Ask::Health => {
                HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
            }
            Ask::Introspect => {
                let token = nth(&self.access_tokens, n)?.clone();
                let request = self.request(IntrospectTokenRequest { token, ..IntrospectTokenRequest::default() });
                let answer = AuthClient::new(channel).introspect_token(request).await?.into_inner();
                if !answer.active {
                    return Err("a token that was good is not".into());
                }
            }
            Ask::GetUser => {
                let id = user_ref::Ref::Id(nth(&self.user_ids, n)?.clone());
                let request = self.request(GetUserRequest { user: Some(UserRef { r#ref: Some(id) }) });
                UserAdminClient::new(channel).get_user(request).await?;
            }
            Ask::Lock => {
                let user = Some(named(&lockable(n as u64 % LOCKABLE)));
                let request = self.request(LockUserRequest { user, ..LockUserRequest::default() });
                UserAdminClient::new(channel).lock_user(request).await?;
            }
            Ask::SignIn(owner) => {
                let login = self.seed.username(able(&self.seed, owner));
                access_token(&mut AuthClient::new(channel), login).await?;
            }
        }
        Ok(())
    }

    /// Unlocks the account, so that it can be locked again.
    async fn undo(&self, ask: Ask, n: usize) -> Outcome<()> {
        if let Ask::Lock = ask {
            let user = Some(named(&lockable(n as u64 % LOCKABLE)));
            let request = self.request(UnlockUserRequest { user, ..UnlockUserRequest::default() });
            UserAdminClient::new(nth(&self.channels, n)?.clone()).unlock_user(request).await?;
        }
        Ok(())
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    /// Calls a second, when each caller makes the next call as soon as the last one returns.
    #[expect(clippy::cast_precision_loss, reason = "calls of some seconds")]
    pub(crate) async fn rate(&self, ask: Ask, time: Duration) -> Outcome<f64> {
        let began = Instant::now();
        let callers = (0..CALLERS).map(|caller| async move {
            let mut n = caller;
            while began.elapsed() < time {
                self.ask(ask, n).await?;
                n += CALLERS;
            }
            Outcome::Ok((n - caller) / CALLERS)
        });
        let done: usize = try_join_all(callers).await?.into_iter().sum();
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// Makes calls at a constant rate, however long earlier calls take. Returns the time of each since it was due, in
    /// milliseconds, sorted. A call that starts late because of earlier calls is late for its caller too.
    pub(crate) async fn latencies(&self, ask: Ask, per_second: u32, time: Duration) -> Outcome<Vec<f64>> {
        let mut took = try_join_all(self.paced(ask, per_second, time)).await?;
        took.sort_unstable_by(f64::total_cmp);
        Ok(took)
    }

    /// The same, with an infinite time for each call that is refused.
    pub(crate) async fn attempts(&self, ask: Ask, per_second: u32, time: Duration) -> Vec<f64> {
        let calls = self.paced(ask, per_second, time).map(async |call| call.await.unwrap_or(f64::INFINITY));
        let mut took = join_all(calls).await;
        took.sort_unstable_by(f64::total_cmp);
        took
    }

    fn paced(
        &self,
        ask: Ask,
        per_second: u32,
        time: Duration,
    ) -> impl Iterator<Item = impl Future<Output = Outcome<f64>>> {
        let pause = Duration::from_secs(1) / per_second;
        let began = tokio::time::Instant::now();
        let dues = (0_u32..).map(move |n| pause * n).take_while(move |after| *after < time);
        (0..).zip(dues).map(move |(n, after)| async move {
            let due = began + after;
            tokio::time::sleep_until(due).await;
            // The timer of tokio has a resolution of a millisecond, which must not count as the server's time.
            let woken = due.max(tokio::time::Instant::now() - Duration::from_millis(1));
            self.ask(ask, n).await?;
            let took = woken.elapsed().as_secs_f64() * 1000.0;
            self.undo(ask, n).await?;
            Outcome::Ok(took)
        })
    }
}

/// The value below which `share` of the sorted values lie.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a place in a list of some thousands"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Keeps every core busy with sign-ins from its own thread, until it is dropped.
pub(crate) struct Saturation {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<(), String>>>,
}

impl Saturation {
    /// Starts the sign-ins.
    pub(crate) async fn begin(server: &Server, filled: &Filled) -> Outcome<Saturation> {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, seed, stopped) = (server.url(), filled.seed.clone(), Arc::clone(&stop));
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let work = async {
                let channel = tonic::transport::Endpoint::from_shared(url)?.connect().await?;
                let callers = (0..8 * cores() as u64).map(|caller| {
                    let (mut auth, seed, stopped) = (AuthClient::new(channel.clone()), &seed, &stopped);
                    async move {
                        let mut n = 1_000_000 + caller;
                        while !stopped.load(Ordering::Relaxed) {
                            access_token(&mut auth, seed.username(able(seed, n))).await?;
                            n += 1000;
                        }
                        Outcome::Ok(())
                    }
                });
                try_join_all(callers).await.map(|_| ())
            };
            runtime.map_err(|error| error.to_string())?.block_on(work).map_err(|error| error.to_string())
        };
        let thread = std::thread::spawn(work);
        // Time for the hashing queue to fill.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Saturation { stop, thread: Some(thread) })
    }

    /// Stops the sign-ins. Fails if one of them has failed.
    pub(crate) fn end(mut self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("it has ended before")?;
        thread.join().map_err(|_| "the sign-ins panicked")?.map_err(Into::into)
    }
}

impl Drop for Saturation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn service(admin: &mut UserAdminClient<Channel>, username: &str, roles: &[&str]) -> Outcome<()> {
    let request = CreateUserRequest {
        username: username.to_owned(),
        kind: UserKind::Service.into(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..CreateUserRequest::default()
    };
    match admin.create_user(request).await {
        // An earlier run on this database may have created it.
        Err(status) if status.code() != Code::AlreadyExists => Err(status.into()),
        _ => Ok(()),
    }
}

fn lockable(n: u64) -> String {
    format!("bench-lockable-{n}")
}

fn named(username: &str) -> UserRef {
    UserRef { r#ref: Some(user_ref::Ref::Username(username.to_owned())) }
}

fn nth<T>(all: &[T], n: usize) -> Outcome<&T> {
    all.get(n % all.len().max(1)).ok_or_else(|| "there is none".into())
}
