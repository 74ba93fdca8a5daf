//! F12: the p99 of operators, owners and health checks during an attack, compared with their usual p99.
//!
//! The attacker has its own threads at the lowest priority, because a real one would run on another machine, and its own
//! addresses of 127.0.0.0/8.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::sign_in_progress::Step;
use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{
    CompletePasswordChangeRequest, CreateUserRequest, ListUsersRequest, RefreshTokensRequest, SignInRequest,
    UserFilter, UserOrder,
};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::database::Filled;
use crate::load::{Ask, Program, quantile};
use crate::measure::{Goal, Row};
use crate::seed::PASSWORD;
use crate::server::{LATCHKEYD, Server};
use crate::sign_in::able;
use crate::{Outcome, tell};

/// Calls of the bystanders a second: so few that the server is as good as idle.
const BYSTANDERS: [(Ask, u32, &str); 3] =
    [(Ask::Lock, 20, "LockUser"), (Ask::SignIn(0), 5, "SignIn of an owner"), (Ask::Health, 50, "health")];

/// A password that the policy accepts.
const NEXT_PASSWORD: &str = "a password for the next ten minutes";

/// Something that costs the server more than the attacker.
#[derive(Clone)]
enum Attack {
    /// A viewer lists many users in an order of their own, and counts them.
    BroadLists { token: String },
    /// One ticket is checked with a new password again and again.
    OneTicket { ticket: String },
    /// A user without a role lists users.
    Powerless { token: String },
    /// A stranger refreshes tokens that are none.
    DeadTokens,
    /// A stranger calls methods that do not exist.
    UnknownMethods,
    /// Strangers guess the password of the owner who signs in.
    Guesses { login: String },
}

impl Attack {
    const fn name(&self) -> &'static str {
        match self {
            Attack::BroadLists { .. } => "broad lists of a viewer",
            Attack::OneTicket { .. } => "one ticket",
            Attack::Powerless { .. } => "lists of a user without a role",
            Attack::DeadTokens => "dead refresh tokens",
            Attack::UnknownMethods => "unknown methods",
            Attack::Guesses { .. } => "guesses at the owner's password",
        }
    }

    /// Calls at a time.
    const fn callers(&self) -> u8 {
        match self {
            Attack::BroadLists { .. } | Attack::Guesses { .. } => 8,
            Attack::Powerless { .. } | Attack::DeadTokens => 16,
            Attack::OneTicket { .. } | Attack::UnknownMethods => 72,
        }
    }

    /// Makes one call. The answer does not matter.
    async fn call(&self, channel: Channel) {
        match self {
            Attack::BroadLists { token } => {
                let filter = UserFilter { text: "a".to_owned(), ..UserFilter::default() };
                let order = UserOrder::CreateTimeDesc.into();
                let list = ListUsersRequest { filter: Some(filter), order, include_total: true, ..Default::default() };
                let _ = UserAdminClient::new(channel).list_users(bearing(token, list)).await;
            }
            Attack::OneTicket { ticket } => {
                let request = CompletePasswordChangeRequest {
                    ticket: ticket.clone(),
                    new_password: NEXT_PASSWORD.to_owned(),
                    validate_only: true,
                };
                let _ = AuthClient::new(channel).complete_password_change(request).await;
            }
            Attack::Powerless { token } => {
                let _ = UserAdminClient::new(channel).list_users(bearing(token, ListUsersRequest::default())).await;
            }
            Attack::DeadTokens => {
                let request = RefreshTokensRequest { refresh_token: "A".repeat(80), ..Default::default() };
                let _ = AuthClient::new(channel).refresh_tokens(request).await;
            }
            Attack::UnknownMethods => {
                let path = tonic::codegen::http::uri::PathAndQuery::from_static("/latchkey.v1.Auth/Nothing");
                let codec = tonic_prost::ProstCodec::<SignInRequest, SignInRequest>::default();
                let mut client = tonic::client::Grpc::new(channel);
                if client.ready().await.is_ok() {
                    let _ = client.unary(Request::new(SignInRequest::default()), path, codec).await;
                }
            }
            Attack::Guesses { login } => {
                let request =
                    SignInRequest { login: login.clone(), password: NEXT_PASSWORD.to_owned(), ..Default::default() };
                let _ = AuthClient::new(channel).sign_in(request).await;
            }
        }
    }
}

/// Measures each attack in turn with the usual latencies.
pub(crate) async fn measure(rounds: u32, turn: Duration, filled: &Filled) -> Outcome<Vec<Row>> {
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let program = Program::enrol(&server, filled).await?;
    let attacks = attacks(&server, filled).await?;
    beside(&program, 0, Duration::from_secs(1)).await;
    let mut rows = Vec::new();
    for (number, attack) in (1..).zip(attacks) {
        let mut measured = [const { Vec::new() }; BYSTANDERS.len()];
        for round in 1..=rounds {
            let usual = beside(&program, number, turn).await;
            let attacker = Attacker::start(server.address(), &attack);
            let during = beside(&program, number, turn).await;
            attacker.stop();
            let pairs = BYSTANDERS.iter().zip(during).zip(usual).zip(&mut measured);
            for ((((_, _, call), (ours, refused)), (limit, _)), measured) in pairs {
                let name = attack.name();
                tell(&format!("round {round}, {name}: {call} {ours:.1} ms, usual {limit:.1} ms, {refused} refused\n"));
                measured.push((ours, limit));
            }
        }
        for ((_, _, call), measured) in BYSTANDERS.iter().zip(&measured) {
            let work = format!("{call} p99 beside {} : usual", attack.name());
            rows.push(Row::of("F12", work, "ms", measured, Some(Goal::AtMost(3.0))));
        }
    }
    server.stop().await?;
    Ok(rows)
}

/// The attacks, with the accounts that they need.
async fn attacks(server: &Server, filled: &Filled) -> Outcome<Vec<Attack>> {
    let mut admin = UserAdminClient::new(server.connect_locally().await?);
    let mut auth = AuthClient::new(server.connect().await?);
    for (username, role) in [("bench-viewer", Some("viewer")), ("bench-powerless", None), ("bench-ticket", None)] {
        let request = CreateUserRequest {
            username: username.to_owned(),
            roles: role.map(str::to_owned).into_iter().collect(),
            credential: Some(Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(username == "bench-ticket"),
            ..CreateUserRequest::default()
        };
        match admin.create_user(request).await {
            // An earlier run on this database may have created it.
            Err(status) if status.code() != tonic::Code::AlreadyExists => return Err(status.into()),
            _ => {}
        }
    }
    let mut signed_in = async |login: &str| {
        let request = SignInRequest { login: login.to_owned(), password: PASSWORD.to_owned(), ..Default::default() };
        match auth.sign_in(request).await?.into_inner().progress.and_then(|progress| progress.step) {
            Some(Step::Tokens(tokens)) => Outcome::Ok(tokens.access_token),
            Some(Step::PasswordChange(step)) => Ok(step.ticket),
            _ => Err("a sign-in led to nothing".into()),
        }
    };
    Ok(vec![
        Attack::BroadLists { token: signed_in("bench-viewer").await? },
        Attack::OneTicket { ticket: signed_in("bench-ticket").await? },
        Attack::Powerless { token: signed_in("bench-powerless").await? },
        Attack::DeadTokens,
        Attack::UnknownMethods,
        // The owner whom `beside` signs in when this attack, the sixth, is measured.
        Attack::Guesses { login: filled.seed.username(able(&filled.seed, 6)) },
    ])
}

/// Makes the calls of all bystanders at once. Returns the p99 of each, with a refused call as an infinite time, and the
/// number of refused calls.
async fn beside(program: &Program, owner: u64, time: Duration) -> Vec<(f64, usize)> {
    let calls = BYSTANDERS.map(|(ask, per_second, _)| {
        let ask = if let Ask::SignIn(_) = ask { Ask::SignIn(owner) } else { ask };
        program.attempts(ask, per_second, time)
    });
    let p99 = |took: Vec<f64>| (quantile(&took, 0.99), took.iter().filter(|took| took.is_infinite()).count());
    join_all(calls).await.into_iter().map(p99).collect()
}

fn bearing<M>(token: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    if let Ok(bearer) = format!("Bearer {token}").parse() {
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

/// An attacker, on its own thread.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Attacker {
    fn start(server: SocketAddr, attack: &Attack) -> Attacker {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, attack) = (Arc::clone(&stop), attack.clone());
        let thread = std::thread::spawn(move || {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let callers = (1..=attack.callers()).map(|caller| persist(server, &attack, caller));
            // A caller may wait for a connection for a minute, so none is asked to end.
            let end = async {
                while !stopped.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            runtime.block_on(futures_util::future::select(join_all(callers), std::pin::pin!(end)));
        });
        Attacker { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // An attacker that panicked has attacked less, which the figures show.
        let _ = self.thread.join();
    }
}

/// Calls again and again, and connects again whenever it is cut off. Guesses come from an address each, other calls from one.
async fn persist(server: SocketAddr, attack: &Attack, caller: u8) {
    let last = if let Attack::Guesses { .. } = attack { caller } else { 1 };
    let source = Ipv4Addr::new(127, 2, 0, last);
    let connect = tower::service_fn(move |_| async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(socket.connect(server).await?))
    });
    let channel = Endpoint::from_static("http://attacked").connect_with_connector_lazy(connect);
    loop {
        attack.call(channel.clone()).await;
        tokio::task::yield_now().await;
    }
}
