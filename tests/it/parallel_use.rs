//! One secret in many hands at the same moment, and many people each with one of their own. On a database that several
//! servers share, two of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latchkey::proto::v1::{self, create_user_request::Credential};
use tonic::{Code, Status};

use crate::harness::calls::{Shown, tokens_of};
use crate::harness::child::{Site, Victim};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, is_full, refused};

const THIRD_PASSWORD: &str = "yet another c4nary here";

/// Strangers at one server and at the other, or both at the same one.
async fn two(h: &Harness) -> (Option<Harness>, [Client; 2]) {
    let other = h.replica().await;
    let here = h.stranger().await;
    let there = match &other {
        Some(other) => other.stranger().await,
        None => here.clone(),
    };
    (other, [here, there])
}

/// Calls again for as long as the answer is that the server is busy, as `RetryInfo` asks for: the machine of a test may
/// be slow.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> Result<T, Status> {
    for _ in 0..20 {
        match call().await {
            Err(status)
                if ["HASHING_SATURATED", "STORAGE_UNAVAILABLE"].contains(&Refusal::of(&status).reason.as_str()) => {}
            answer => return answer,
        }
    }
    panic!("busy for ever")
}

/// Passwords whose hashes were computed, at both.
async fn hashes(h: &Harness, other: Option<&Harness>) -> u64 {
    let there = match other {
        Some(other) => other.metric("latchkey_hashes_total").await,
        None => 0,
    };
    h.metric("latchkey_hashes_total").await + there
}

/// A temporary password is given out, used twice at once, and answered twice at once. One winner.
async fn used_twice(operator: &Client, clients: &[Client; 2], name: String) {
    let request = v1::CreateUserRequest {
        username: name.clone(),
        credential: Some(Credential::TemporaryPassword(v1::TemporaryPassword::default())),
        ..Default::default()
    };
    let created = patiently(|| operator.create(request.clone())).await.expect("a user");
    let [here, there] = clients;
    let (first, second) = tokio::join!(
        patiently(|| here.change_step(&name, created.shown())),
        patiently(|| there.change_step(&name, created.shown()))
    );
    let tickets = [first.expect("a step").ticket, second.expect("a step").ticket];
    let (first, second) = tokio::join!(
        patiently(|| here.complete(&tickets[0], OTHER_PASSWORD)),
        patiently(|| there.complete(&tickets[1], THIRD_PASSWORD))
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
    patiently(|| here.tokens(&name, winners[0].1)).await.expect("the winner's password");
    refused(patiently(|| there.sign_in(&name, created.shown())).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
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
    // Where the machine was too slow for some of them, the rest of the budget.
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
    let sign_in = |number: usize| patiently(move || clients[number % 2].tokens("bob", PASSWORD));
    let mut sessions: Vec<String> =
        at_once((0..50).map(sign_in)).await.into_iter().map(|answer| answer.expect("tokens").session_id).collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 50);
    assert_eq!(
        h.query("SELECT CAST(failures + pending AS TEXT) FROM throttle").await,
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
        let refresh = |number: usize| patiently(move || clients[number % 2].refresh(token_now));
        let answers = at_once((0..100).map(refresh)).await;
        let successors: Vec<String> = answers.into_iter().map(|answer| answer.expect("tokens").refresh_token).collect();
        assert!(successors.iter().all(|next| *next == successors[0] && *next != token), "two successors");
        assert_eq!(h.query("SELECT CAST(generation AS TEXT) FROM session").await, [generation.to_string()]);
        token.clone_from(&successors[0]);
    }
}

/// Somebody who is signed in.
struct Somebody {
    id: String,
    tokens: v1::TokenSet,
}

impl Somebody {
    /// Asks who they are, and has a service ask about their token. Both are told of them, and of nobody else.
    async fn is_known(&self, at: &Client, service: &str) {
        let (client, service) = (at.bearing(&self.tokens.access_token), at.bearing(service));
        let who = patiently(|| client.who_am_i()).await.expect("an answer");
        let session = who.session.expect("a session").id;
        assert_eq!((who.user.expect("a user").id, session), (self.id.clone(), self.tokens.session_id.clone()));
        let request = v1::IntrospectTokenRequest { token: self.tokens.access_token.clone(), ..Default::default() };
        let told = patiently(async || service.auth().introspect_token(request.clone()).await).await;
        let told = told.expect("an answer").into_inner();
        assert_eq!((told.user_id, told.session_id), (self.id.clone(), self.tokens.session_id.clone()));
    }
}

/// A server in a process of its own, which does not log at the level at which this one does; and a second one, where a
/// database can be shared.
async fn processes(site: &Site) -> Vec<Victim> {
    let mut servers = vec![site.start("").await];
    if site.database.is_shared() {
        servers.push(site.start_as("replica", "").await);
    }
    servers
}

/// Changes others until told to stop, so that whatever is remembered of anybody is read again. Answers how often.
async fn changes_others(operator: &Client, done: &AtomicBool) -> usize {
    let mut changes = 0;
    while !done.load(Ordering::Relaxed) {
        let name = format!("other{changes}");
        let request = v1::CreateUserRequest { username: name.clone(), ..service() };
        patiently(|| operator.create(request.clone())).await.expect("a user");
        patiently(|| operator.lock(&name)).await.expect("a lock");
        changes += 1;
    }
    changes
}

/// Somebody without a password, whom it costs little to make.
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
        let user = patiently(|| operator.create(request.clone())).await.expect("a user").user.expect("a user");
        let tokens = patiently(|| stranger.tokens(&name, PASSWORD)).await.expect("tokens");
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
    // The job that moves the log of the embedded database answers nobody, and the writer makes up for it where it fails:
    // it says so to who listens.
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
    // What the libraries below warn of is a machine that is slow.
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
