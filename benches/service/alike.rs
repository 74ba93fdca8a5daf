//! F19: whether the duration of a failed sign-in, or of a request for a link, tells what its name stands for.

use std::path::Path;
use std::time::Instant;

use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{RequestPasswordResetRequest, SignInRequest, UpdateUserRequest, UserRef, user_ref};
use tonic::Code;
use tonic::transport::Channel;

use crate::database::Filled;
use crate::measure::{Goal, Row};
use crate::seed::{Fate, Seed};
use crate::server::{LATCHKEYD, Server};
use crate::sink::Sink;
use crate::{Outcome, tell};

/// What a name can stand for.
#[derive(Clone, Copy)]
enum Kind {
    Unknown,
    Known,
    Locked,
    WithoutPassword,
    WithoutAddress,
}

/// Wrong passwords at one name. One more would be throttled.
const TRIES: usize = 4;
/// Requests for a link at one name.
const REQUESTS: usize = 2;
/// Names of each kind: 20 000 sign-ins and 10 000 requests in all.
const NAMES: usize = 1250;
/// The share of the longest calls that is left out, as noise of the machine.
const CROPPED: f64 = 0.05;
/// The usual bound for a leak in a test of constant time (dudect; Reparaz and others, 2017).
const LEAK: f64 = 4.5;

/// What is timed.
#[derive(Clone, Copy)]
enum Timed {
    SignIn,
    ResetRequest,
}

impl Timed {
    /// The number of calls at each name, and the first words of a row.
    fn plan(self) -> (usize, &'static str) {
        match self {
            Timed::SignIn => (TRIES, ""),
            Timed::ResetRequest => (REQUESTS, "a link for "),
        }
    }

    /// The names that are compared, the first with all others.
    fn kinds(self) -> [Kind; 4] {
        let last = match self {
            Timed::SignIn => Kind::WithoutPassword,
            Timed::ResetRequest => Kind::WithoutAddress,
        };
        [Kind::Unknown, Kind::Known, Kind::Locked, last]
    }

    /// Returns how long the call took, in milliseconds; `None` if the name was throttled.
    async fn took(self, client: &mut AuthClient<Channel>, login: String) -> Outcome<Option<f64>> {
        match self {
            Timed::SignIn => signing_in(client, login).await,
            Timed::ResetRequest => asking(client, login).await.map(Some),
        }
    }
}

/// Compares calls by Welch's t, in turn. They come over the local socket, which has no limit by source.
pub(crate) async fn measure(filled: &Filled) -> Outcome<Vec<Row>> {
    let sink = Sink::start()?;
    let server = Server::start_with(Path::new(LATCHKEYD), &filled.place(), &sink.settings()).await?;
    let mut client = AuthClient::new(server.connect_locally().await?);
    remove_addresses(&server, filled).await?;
    let mut rows = Vec::new();
    for timed in [Timed::SignIn, Timed::ResetRequest] {
        let (times, words) = timed.plan();
        let kinds = timed.kinds();
        let names = kinds.map(|kind| names(&filled.seed, kind));
        let count = names.iter().map(Vec::len).min().unwrap_or_default();
        tell(&format!("{} calls at {count} names of each kind\n", kinds.len() * count * times));
        for number in 0..200 {
            timed.took(&mut client, format!("warm.up{number}")).await?;
        }
        let mut samples = vec![Vec::new(); kinds.len()];
        for call in 0..times * count {
            for turn in 0..kinds.len() {
                let kind = (turn + call) % kinds.len();
                let name = names.get(kind).and_then(|names| names.get(call % count)).ok_or("a name")?;
                let taken = timed.took(&mut client, name.clone()).await?;
                samples.get_mut(kind).ok_or("a kind")?.extend(taken);
            }
        }
        rows.extend(self::rows(samples, kinds, words));
    }
    tell(&format!("{} mails went out\n", sink.count()));
    server.stop().await?;
    Ok(rows)
}

/// Removes the addresses of some users, for no made-up user is without.
async fn remove_addresses(server: &Server, filled: &Filled) -> Outcome<()> {
    let mut admin = UserAdminClient::new(server.connect_locally().await?);
    for name in names(&filled.seed, Kind::WithoutAddress) {
        let user = Some(UserRef { r#ref: Some(user_ref::Ref::Username(name)) });
        let request = UpdateUserRequest { user, email: Some(String::new()), ..UpdateUserRequest::default() };
        admin.update_user(request).await?;
    }
    Ok(())
}

fn rows(mut samples: Vec<Vec<f64>>, kinds: [Kind; 4], words: &str) -> Vec<Row> {
    let mut all: Vec<f64> = samples.iter().flatten().copied().collect();
    all.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    let longest = all.get((all.len() as f64 * (1.0 - CROPPED)) as usize).copied().unwrap_or(f64::INFINITY);
    for of_kind in &mut samples {
        of_kind.retain(|took| *took <= longest);
    }
    let mut rows = Vec::new();
    let Some((unknown, others)) = samples.split_first() else { return rows };
    for (other, kind) in others.iter().zip(kinds.map(Kind::words).iter().skip(1)) {
        let (ours, theirs) = (Sample::of(other), Sample::of(unknown));
        rows.push(Row::of("F19", format!("{words}{kind} : an unknown one"), "ms", &[(ours.mean, theirs.mean)], None));
        let t = ours.welch(&theirs).abs();
        rows.push(Row::of("F19", "  |t| : 4.5", "", &[(t, LEAK)], Some(Goal::AtMost(1.0))));
    }
    rows
}

struct Sample {
    mean: f64,
    /// The square of the standard error of the mean.
    error: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "some thousand calls")]
    fn of(values: &[f64]) -> Sample {
        let number = values.len().max(2) as f64;
        let mean = values.iter().sum::<f64>() / number;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (number - 1.0);
        Sample { mean, error: variance / number }
    }

    fn welch(&self, other: &Sample) -> f64 {
        (self.mean - other.mean) / (self.error + other.error).sqrt()
    }
}

/// Signs in with a wrong password. Returns how long the refusal took, in milliseconds; `None` if the name was throttled.
async fn signing_in(client: &mut AuthClient<Channel>, login: String) -> Outcome<Option<f64>> {
    let request = SignInRequest { login, password: "no password of anybody".to_owned(), ..SignInRequest::default() };
    let began = Instant::now();
    let answer = client.sign_in(request).await;
    let taken = began.elapsed().as_secs_f64() * 1000.0;
    match answer {
        Err(status) if status.code() == Code::Unauthenticated => Ok(Some(taken)),
        Err(status) if status.code() == Code::ResourceExhausted => Ok(None),
        Err(status) => Err(status.into()),
        Ok(_) => Err("a wrong password was accepted".into()),
    }
}

/// Asks for a link. Returns how long the answer took, in milliseconds.
async fn asking(client: &mut AuthClient<Channel>, login: String) -> Outcome<f64> {
    let request = RequestPasswordResetRequest { login, ..RequestPasswordResetRequest::default() };
    let began = Instant::now();
    client.request_password_reset(request).await?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Names of one kind, which are alike in length and never throttled before.
fn names(seed: &Seed, kind: Kind) -> Vec<String> {
    let of_fate = |fate: Fate| {
        let users = (0..seed.users).filter(move |user| seed.fate(*user) == fate && !seed.is_throttled(*user));
        users.map(|user| seed.username(user))
    };
    match kind {
        Kind::Unknown => of_fate(Fate::Ordinary).map(|name| format!("{name}x")).take(NAMES).collect(),
        Kind::Known => of_fate(Fate::Ordinary).take(NAMES).collect(),
        Kind::Locked => of_fate(Fate::Locked).take(NAMES).collect(),
        Kind::WithoutPassword => of_fate(Fate::Pending).take(NAMES).collect(),
        Kind::WithoutAddress => of_fate(Fate::Ordinary).skip(NAMES).take(NAMES).collect(),
    }
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Kind::Unknown => "an unknown name",
            Kind::Known => "a known name",
            Kind::Locked => "a locked account",
            Kind::WithoutPassword => "an account without a password",
            Kind::WithoutAddress => "an account without an address",
        }
    }
}
