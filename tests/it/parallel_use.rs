//! One secret used by many clients at the same time, and many users with one secret each. On PostgreSQL, with two
//! servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latchkey::proto::v1::{self, create_user_request::Credential};
use tonic::{Code, Status};

use crate::harness::calls::{Shown, tokens_of};
use crate::harness::child::{Site, Victim};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, is_full, refused};

const THIRD_PASSWORD: &str = "yet another c4nary here";

/// Anonymous clients of both servers, or of the only one.
async fn two(h: &Harness) -> (Option<Harness>, [Client; 2]) {
    let other = h.replica().await;
    let here = h.stranger().await;
    let there = match &other {
        Some(other) => other.stranger().await,
        None => here.clone(),
    };
    (other, [here, there])
}

/// Repeats a call while the server is busy, as `RetryInfo` asks for, because the test machine may be slow.
async fn with_retries<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> Result<T, Status> {
    for _ in 0..20 {
        match call().await {
            Err(status)
                if ["HASHING_SATURATED", "STORAGE_UNAVAILABLE"].contains(&Refusal::of(&status).reason.as_str()) => {}
            answer => return answer,
        }
    }
    panic!("busy for ever")
}

/// Number of passwords hashed, on both servers.
async fn hashes(h: &Harness, other: Option<&Harness>) -> u64 {
    let there = match other {
        Some(other) => other.metric("latchkey_hashes_total").await,
        None => 0,
    };
    h.metric("latchkey_hashes_total").await + there
}

/// A temporary password is issued, used twice at once, and completed twice at once. Only one completion succeeds.
async fn used_twice(operator: &Client, clients: &[Client; 2], name: String) {
    let request = v1::CreateUserRequest {
        username: name.clone(),
        credential: Some(Credential::TemporaryPassword(v1::TemporaryPassword::default())),
        ..Default::default()
    };
    let created = with_retries(|| operator.create(request.clone())).await.expect("a user");
    let [here, there] = clients;
    let (first, second) = tokio::join!(
        with_retries(|| here.change_step(&name, created.shown())),
        with_retries(|| there.change_step(&name, created.shown()))
    );
    let tickets = [first.expect("a step").ticket, second.expect("a step").ticket];
    let (first, second) = tokio::join!(
        with_retries(|| here.complete(&tickets[0], OTHER_PASSWORD)),
        with_retries(|| there.complete(&tickets[1], THIRD_PASSWORD))
    );
    let mut winners = Vec::new();
    for (answer, password) in [(first, OTHER_PASSWORD), (second, THIRD_PASSWORD)] {
        match answer {
            Ok(answer) => winners.push((tokens_of(answer.progress).session_id, password)),
            Err(status) => assert_eq!(Refusal::of(&status).reason, "TICKET_INVALID", "{name}"),
        }
    }
    assert_eq!(winners.len(), 1, "{name}: {winners:?}");
    let live: Vec<String> = operator.sessions_of(&name).await.into_iter().map(|session| session.id).collect();
    assert_eq!(live, [winners[0].0.as_str()], "{name}: the winner's session and no other");
    with_retries(|| here.tokens(&name, winners[0].1)).await.expect("the winner's password");
    refused(
        with_retries(|| there.sign_in(&name, created.shown())).await,
        Code::Unauthenticated,
        "CREDENTIALS_REJECTED",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_temporary_passwords_that_are_used_twice_at_once_each_has_one_winner() {
    let h = Harness::start().await;
    let (_other, clients) = two(&h).await;
    let operator = h.operator().await;
    for round in 0..25 {
        let names = (0..8).map(|number| format!("u{round}x{number}"));
        at_once(names.map(|name| used_twice(&operator, &clients, name))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_wrong_passwords_at_once_cost_no_more_verifications_than_the_budget() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_mins(2)).await;
    let (other, clients) = two(&h).await;
    h.create("bob", &[], PASSWORD).await;
    let before = hashes(&h, other.as_ref()).await;
    let guess = |number: usize| {
        let client = &clients[number % 2];
        async move { client.sign_in("bob", &format!("guess {number} of many c4nary")).await }
    };
    let answers = at_once((0..500).map(guess)).await;
    let rejected = answers.iter().filter(|answer| {
        let status = answer.as_ref().expect_err("a refusal");
        let reason = Refusal::of(status).reason;
        assert!(["CREDENTIALS_REJECTED", "THROTTLED", "HASHING_SATURATED"].contains(&reason.as_str()), "{status:?}");
        reason == "CREDENTIALS_REJECTED"
    });
    assert!(rejected.count() <= 5, "the budget is five");
    // If the machine was too slow for some of them, the rest of the allowed attempts.
    for _ in 0..5 {
        let _ = clients[0].sign_in("bob", OTHER_PASSWORD).await;
    }
    assert_eq!(hashes(&h, other.as_ref()).await - before, 5, "verified, on both servers together");
    for client in &clients {
        refused(client.sign_in("bob", PASSWORD).await, Code::ResourceExhausted, "THROTTLED");
    }
    let throttle = h.operator().await.user("bob").await.throttle.expect("a wait");
    assert_eq!(throttle.failures, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_right_passwords_at_once_are_fifty_sign_ins() {
    let h = Harness::with(|config| config.session.max_per_user = 60).await;
    let (_other, clients) = two(&h).await;
    let clients = &clients;
    h.create("bob", &[], PASSWORD).await;
    let sign_in = |number: usize| with_retries(move || clients[number % 2].tokens("bob", PASSWORD));
    let mut sessions: Vec<String> =
        at_once((0..50).map(sign_in)).await.into_iter().map(|answer| answer.expect("tokens").session_id).collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 50);
    assert_eq!(
        h.query("SELECT CAST(SUM(failures + pending) AS TEXT) FROM throttle").await,
        ["0"],
        "nothing is counted against it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refreshed_a_hundred_times_at_once_has_one_successor() {
    let h = Harness::start().await;
    let (_other, clients) = two(&h).await;
    let bob = h.user("bob").await;
    let mut token = bob.tokens.refresh_token.clone();
    for generation in 1..=3 {
        let (clients, token_now) = (&clients, &token);
        let refresh = |number: usize| with_retries(move || clients[number % 2].refresh(token_now));
        let answers = at_once((0..100).map(refresh)).await;
        let successors: Vec<String> = answers.into_iter().map(|answer| answer.expect("tokens").refresh_token).collect();
        assert!(successors.iter().all(|next| *next == successors[0] && *next != token), "two successors");
        assert_eq!(h.query("SELECT CAST(generation AS TEXT) FROM session").await, [generation.to_string()]);
        token.clone_from(&successors[0]);
    }
}

/// A signed-in user.
struct Somebody {
    id: String,
    tokens: v1::TokenSet,
}

impl Somebody {
    /// Asks for the user's own identity, and for an introspection of the token. Both must return this user and no
    /// other.
    async fn is_known(&self, at: &Client, service: &str) {
        let (client, service) = (at.bearing(&self.tokens.access_token), at.bearing(service));
        let who = with_retries(|| client.who_am_i()).await.expect("an answer");
        let session = who.session.expect("a session").id;
        assert_eq!((who.user.expect("a user").id, session), (self.id.clone(), self.tokens.session_id.clone()));
        let request = v1::IntrospectTokenRequest { token: self.tokens.access_token.clone(), ..Default::default() };
        let told = with_retries(async || service.auth().introspect_token(request.clone()).await).await;
        let told = told.expect("an answer").into_inner();
        assert_eq!((told.user_id, told.session_id), (self.id.clone(), self.tokens.session_id.clone()));
    }
}

/// A server in a process of its own, with a higher log level than the tests; and a second one if a database can be
/// shared.
async fn processes(site: &Site) -> Vec<Victim> {
    let mut servers = vec![site.start("").await];
    if site.database.is_shared() {
        servers.push(site.start_as("replica", "").await);
    }
    servers
}

/// Changes other users until stopped, so that cached entries are read again. Returns the number of changes.
async fn changes_others(operator: &Client, done: &AtomicBool) -> usize {
    let mut changes = 0;
    while !done.load(Ordering::Relaxed) {
        let name = format!("other{changes}");
        let request = v1::CreateUserRequest { username: name.clone(), ..service() };
        with_retries(|| operator.create(request.clone())).await.expect("a user");
        with_retries(|| operator.lock(&name)).await.expect("a lock");
        changes += 1;
    }
    changes
}

/// A user without a password, which is cheap to create.
fn service() -> v1::CreateUserRequest {
    v1::CreateUserRequest { kind: v1::UserKind::Service.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_four_people_at_once_each_is_told_who_they_are_themselves() {
    let site = Site::new().await;
    let servers = processes(&site).await;
    let (operator, stranger) = (servers[0].operator().await, servers[0].stranger().await);
    let clients = [stranger.clone(), servers[servers.len() - 1].stranger().await];
    let request =
        v1::CreateUserRequest { username: "service".to_owned(), roles: vec!["verifier".to_owned()], ..service() };
    operator.create(request).await.expect("a service");
    let service = operator.api_token("service", &["tokens.introspect"]).await;
    let sign_up = async |number: usize| {
        let name = format!("u{number}");
        let request = v1::CreateUserRequest {
            username: name.clone(),
            credential: Some(Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        let user = with_retries(|| operator.create(request.clone())).await.expect("a user").user.expect("a user");
        let tokens = with_retries(|| stranger.tokens(&name, PASSWORD)).await.expect("tokens");
        Somebody { id: user.id, tokens }
    };
    let people = at_once((0..64).map(sign_up)).await;
    let done = AtomicBool::new(false);
    let asking = async {
        for round in 0..8 {
            let ask =
                |(number, person): (usize, _)| Somebody::is_known(person, &clients[(round + number) % 2], &service);
            at_once(people.iter().enumerate().map(ask)).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let ((), changes) = tokio::join!(asking, changes_others(&operator, &done));
    assert!(changes > 0, "nothing was forgotten meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_who_write_at_once_get_nothing_but_ok() {
    let mut site = Site::new().await;
    // The checkpoint job of SQLite is not part of a call, and the writer makes up for its failures. The debug log
    // reports them.
    site.variables.push(("LATCHKEY_LOG_LEVEL".to_owned(), "info,latchkey::grpc=warn,latchkey::store=debug".to_owned()));
    let servers = processes(&site).await;
    let operators = [servers[0].operator().await, servers[servers.len() - 1].operator().await];
    let started: Vec<usize> = servers.iter().map(|server| server.log().len()).collect();
    let write = async |number: usize| {
        let (name, operator) = (format!("u{number}"), &operators[number % 2]);
        operator.create(v1::CreateUserRequest { username: name.clone(), ..service() }).await.expect("a user");
        for _ in 0..if is_full() { 150 } else { 10 } {
            operator.lock(&name).await.expect("a lock");
            operator.unlock(&name).await.expect("an unlock");
        }
    };
    at_once((0..64).map(write)).await;
    // Warnings of the libraries only mean that the machine is slow.
    let is_bad =
        |line: &String| [" DEBUG latchkey::store", " WARN latchkey", " ERROR "].iter().any(|bad| line.contains(bad));
    for (server, started) in servers.iter().zip(started) {
        let told: Vec<String> = server.log().split_off(started).into_iter().filter(is_bad).collect();
        assert_eq!(told, [""; 0]);
    }
}

#[tokio::test]
async fn a_refresh_token_that_was_used_up_ends_its_session_after_a_restart_too() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let next = bob.client.refresh(&bob.tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_secs(11));
    let h = h.restart().await;
    let stranger = h.stranger().await;
    refused(stranger.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "REFRESH_REUSED");
    refused(stranger.refresh(&next.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
    let who = stranger.bearing(&next.access_token).who_am_i().await;
    refused(who, Code::Unauthenticated, "SESSION_REVOKED");
}
