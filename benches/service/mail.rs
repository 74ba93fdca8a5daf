//! P13: the rate of deliveries compared with a bare loop, resets with mail compared with resets without, and locks beside
//! messages that wait.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::temporary_password::Handover;
use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{
    CreateUserRequest, ResetPasswordRequest, ReturnLink, SendLink, TemporaryPassword, UserRef, user_ref,
};
use tonic::Code;
use tonic::transport::Channel;

use crate::database::Filled;
use crate::load::{Ask, Program, quantile};
use crate::measure::{Goal, Row, cores};
use crate::server::{LATCHKEYD, Server};
use crate::sink::{Pace, Sink};
use crate::{Outcome, tell};

/// Mails of a round.
const MAILS: u64 = 1000;
/// Temporary passwords of a round; each is hashed.
const PASSWORDS: u64 = 150;
/// Messages that wait beside locks.
const WAITING: u64 = 100_000;
/// Locks a second whose latency is measured.
const LOCKS: u32 = 100;
/// Time for the last attempts of a round to be written down.
const SETTLED: Duration = Duration::from_millis(300);
/// Resets at a time that only write.
const CALLERS: usize = 16;
/// The time that the slow relay takes for a mail.
const SLOW: Duration = Duration::from_secs(1);

/// A reset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reset {
    LinkReturned,
    LinkMailed,
    PasswordShown,
    PasswordMailed,
}

impl Reset {
    fn method(self) -> Method {
        let password = |handover: Handover| TemporaryPassword { handover: handover.into(), ttl: None };
        match self {
            Reset::LinkReturned => Method::ReturnLink(ReturnLink::default()),
            Reset::LinkMailed => Method::SendLink(SendLink::default()),
            Reset::PasswordShown => Method::TemporaryPassword(password(Handover::Return)),
            Reset::PasswordMailed => Method::TemporaryPassword(password(Handover::Mail)),
        }
    }

    fn is_mailed(self) -> bool {
        matches!(self, Reset::LinkMailed | Reset::PasswordMailed)
    }
}

/// Processor time of a reset, in milliseconds.
#[derive(Clone, Copy)]
struct Cost {
    answered: f64,
    delivered: f64,
}

/// An operator on the local socket, and a sink for the server's mail.
struct Desk<'a> {
    server: Server,
    admin: UserAdminClient<Channel>,
    sink: Sink,
    /// Names of users, each of them once before any of them again.
    usernames: Box<dyn Iterator<Item = String> + 'a>,
    /// Names of users who get temporary passwords: those of all others stay as they are.
    own: Box<dyn Iterator<Item = String> + 'a>,
}

/// Measures deliveries and resets in turn with what they are compared with.
pub(crate) async fn measure(rounds: u32, filled: &Filled) -> Outcome<Vec<Row>> {
    if (usernames(filled).count() as u64) < MAILS {
        return Err(format!("P13 needs {MAILS} users who can sign in").into());
    }
    let mut desk = Desk::open(filled).await?;
    desk.create_own().await?;
    desk.cost(Reset::PasswordShown, PASSWORDS).await?;
    desk.delivered(MAILS).await?;
    desk.sink.take();
    let (mut rates, mut links, mut passwords) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let rate = desk.delivered(MAILS).await?;
        let bare = desk.sink.bare_loop(&desk.sink.take())?;
        tell(&format!("round {round}: {rate:.0} deliveries/s, {bare:.0} mails/s by a bare loop\n"));
        rates.push((rate, bare));
        links.push((desk.cost(Reset::LinkMailed, MAILS).await?, desk.cost(Reset::LinkReturned, MAILS).await?));
        let shown = desk.cost(Reset::PasswordShown, PASSWORDS).await?;
        passwords.push((desk.cost(Reset::PasswordMailed, PASSWORDS).await?, shown));
        desk.sink.take();
    }
    desk.server.stop().await?;
    let row = |work: &str, costs: &[(Cost, Cost)], of: fn(&Cost) -> f64, goal| {
        let pairs: Vec<_> = costs.iter().map(|(ours, limit)| (of(ours), of(limit))).collect();
        Row::of("P13", work, "ms", &pairs, goal)
    };
    let goal = Some(Goal::AtMost(1.3));
    Ok(vec![
        Row::of("P13", "deliveries : mails of a bare loop", "1/s", &rates, Some(Goal::AtLeast(0.5))),
        row("processor time: link mailed : returned", &links, |cost| cost.answered, goal),
        row("  the same with its delivery", &links, |cost| cost.delivered, None),
        row("temporary password mailed : shown", &passwords, |cost| cost.answered, goal),
        row("  the same with its delivery", &passwords, |cost| cost.delivered, goal),
    ])
}

/// Measures locks beside messages that a slow relay keeps waiting, in turn with locks on a database without messages.
pub(crate) async fn locks(rounds: u32, turn: Duration, filled: &Filled, empty: &Filled) -> Outcome<Vec<Row>> {
    let mut desk = Desk::open(filled).await?;
    desk.sink.set(Pace::Held);
    let waiting = WAITING.min(usernames(filled).count() as u64);
    tell(&format!("posting {waiting} messages\n"));
    desk.reset(Reset::LinkMailed, waiting).await?;
    desk.server.stop().await?;
    desk.sink.set(Pace::Slow(SLOW));
    let settings = desk.sink.settings();
    let mut measured = [const { Vec::new() }; 2];
    for round in 1..=rounds {
        let mut turns = Vec::new();
        for database in [filled, empty] {
            let server = Server::start_with(Path::new(LATCHKEYD), &database.place(), &settings).await?;
            let program = Program::enrol(&server, database).await?;
            program.latencies(Ask::Lock, LOCKS, Duration::from_secs(1)).await?;
            turns.push(program.latencies(Ask::Lock, LOCKS, turn).await?);
            server.stop().await?;
        }
        for (share, rounds) in [0.5, 0.99].into_iter().zip(&mut measured) {
            let [ours, limit] = [0, 1].map(|at| turns.get(at).map_or(f64::NAN, |turn| quantile(turn, share)));
            tell(&format!("round {round}: {share} of locks {ours:.2} ms, without messages {limit:.2} ms\n"));
            rounds.push((ours, limit));
        }
    }
    let [medians, p99] = measured;
    // Two medians of the same work differ by a tenth from one round to the next.
    let work = format!("LockUser, median, {waiting} messages wait : none");
    Ok(vec![Row::of("P13", work, "ms", &medians, Some(Goal::AtMost(1.1))), Row::of("P13", "  p99", "ms", &p99, None)])
}

fn usernames(filled: &Filled) -> impl Iterator<Item = String> + Clone {
    let seed = &filled.seed;
    (0..seed.users).filter(|user| seed.can_sign_in(*user)).map(|user| seed.username(user))
}

impl<'a> Desk<'a> {
    async fn open(filled: &'a Filled) -> Outcome<Desk<'a>> {
        let sink = Sink::start()?;
        let server = Server::start_with(Path::new(LATCHKEYD), &filled.place(), &sink.settings()).await?;
        let admin = UserAdminClient::new(server.connect_locally().await?);
        let own = (0..PASSWORDS).map(|n| format!("bench-reset-{n}"));
        let (usernames, own) = (Box::new(usernames(filled).cycle()), Box::new(own.cycle()));
        Ok(Desk { server, admin, sink, usernames, own })
    }

    /// Creates the users who get temporary passwords.
    async fn create_own(&mut self) -> Outcome<()> {
        let usernames: Vec<String> = self.own.by_ref().take(usize::try_from(PASSWORDS)?).collect();
        for username in usernames {
            let email = format!("{username}@example.com");
            let request = CreateUserRequest { username, email, ..CreateUserRequest::default() };
            match self.admin.create_user(request).await {
                // An earlier run on this database may have created it.
                Err(status) if status.code() != Code::AlreadyExists => return Err(status.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Resets the next users.
    async fn reset(&mut self, reset: Reset, number: u64) -> Outcome<()> {
        let is_link = matches!(reset, Reset::LinkReturned | Reset::LinkMailed);
        let (usernames, callers) = if is_link { (&mut self.usernames, CALLERS) } else { (&mut self.own, cores()) };
        let usernames: Vec<String> = usernames.by_ref().take(usize::try_from(number)?).collect();
        let calls = usernames.into_iter().map(|username| {
            let mut admin = self.admin.clone();
            let user = Some(UserRef { r#ref: Some(user_ref::Ref::Username(username)) });
            let request = ResetPasswordRequest { user, method: Some(reset.method()), ..Default::default() };
            async move { admin.reset_password(request).await }
        });
        let done: Vec<_> = stream::iter(calls).buffer_unordered(callers).try_collect().await?;
        if done.len() as u64 == number { Ok(()) } else { Err("a reset is missing".into()) }
    }

    /// Lets messages gather, and then go out. Returns how many were accepted in a second.
    #[expect(clippy::cast_precision_loss, reason = "some thousand mails")]
    async fn delivered(&mut self, number: u64) -> Outcome<f64> {
        let expected = self.sink.count() + usize::try_from(number)?;
        self.sink.set(Pace::Held);
        self.reset(Reset::LinkMailed, number).await?;
        let began = Instant::now();
        self.sink.set(Pace::Open);
        self.sink.wait_for(expected).await?;
        let rate = number as f64 / began.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLED).await;
        Ok(rate)
    }

    /// Processor time of a reset: until the answer, while the relay takes nothing, and with the delivery.
    #[expect(clippy::cast_precision_loss, reason = "some thousand resets")]
    async fn cost(&mut self, reset: Reset, number: u64) -> Outcome<Cost> {
        let mailed = if reset.is_mailed() { usize::try_from(number)? } else { 0 };
        let expected = self.sink.count() + mailed;
        self.sink.set(Pace::Held);
        let before = self.server.processor_time()?;
        self.reset(reset, number).await?;
        let answered = self.server.processor_time()? - before;
        self.sink.set(Pace::Open);
        self.sink.wait_for(expected).await?;
        tokio::time::sleep(SETTLED).await;
        let delivered = self.server.processor_time()? - before;
        let each = |seconds: f64| seconds * 1000.0 / number as f64;
        Ok(Cost { answered: each(answered), delivered: each(delivered) })
    }
}
