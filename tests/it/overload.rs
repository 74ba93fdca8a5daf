//! Overload: what is refused and how, what stays fast, and that the server recovers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use latchkey::config::Config;
use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::cli::terminal_of;
use crate::harness::daemon::Daemon;
use crate::harness::transcript::Shell;
use crate::harness::wire::{Answer, Open, Wire, framed};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Person, Refusal, at_once, eventually, refused};

const SIGN_IN: &str = "latchkey.v1.Auth/SignIn";
/// Streams per connection.
const STREAMS: usize = 64;

/// A hash takes so long that the lane of sign-ins is short on any machine.
fn slow_hashing(config: &mut Config) {
    config.argon2.memory_kib = 65_536;
    config.argon2.iterations = 3;
    config.argon2.threads = Some(1);
}

fn sign_in(login: &str, password: &str) -> Vec<u8> {
    framed(&v1::SignInRequest { login: login.to_owned(), password: password.to_owned(), ..Default::default() })
}

/// Calls that take a permit and never send a request.
async fn fill(address: &str, from: &str, method: &str, calls: usize) -> Vec<Open> {
    let mut open = Vec::new();
    while open.len() < calls {
        let wire = Wire::connect_from(from, address).await;
        for _ in 0..STREAMS.min(calls - open.len()) {
            open.push(wire.open(method, &[]).await);
        }
    }
    open
}

/// Fills the lane to this number, alternating between these addresses. On a slow machine the first calls reach their
/// deadline before the last have started; they are replaced.
async fn fill_up(h: &Harness, from: &[&str], until: usize) -> Vec<Open> {
    let held = std::sync::Mutex::new((Vec::new(), from.iter().cycle()));
    eventually("so many hold a place", || async {
        let missing = until.saturating_sub(usize::try_from(in_flight(h).await).expect("a number"));
        let from = held.lock().expect("a lock").1.next().expect("an address");
        if missing > 0 {
            let more = fill(&h.address(), from, SIGN_IN, missing).await;
            held.lock().expect("a lock").0.extend(more);
        }
        (missing == 0).then_some(())
    })
    .await;
    held.into_inner().expect("a lock").0
}

/// How many sign-ins are admitted at once.
async fn lane(h: &Harness) -> usize {
    usize::try_from(h.metric("latchkey_calls_limit{lane=\"sign_ins\"}").await).expect("a number")
}

async fn in_flight(h: &Harness) -> u64 {
    h.metric("latchkey_calls_in_flight").await
}

async fn comes_back(h: &Harness) {
    eventually("nothing is under way any more", || async { (in_flight(h).await == 0).then_some(()) }).await;
    assert_eq!(h.metric("latchkey_hashes_in_flight").await, 0);
}

fn status_of(answer: Result<Answer, h2::Error>) -> Status {
    answer.expect("an answer, not a reset").status.expect("a status")
}

#[track_caller]
fn is_overloaded(status: Status, lane: &str) {
    let refusal = refused(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED");
    assert_eq!(refusal.metadata("lane"), lane);
    let wait = refusal.retry_after().expect("when to try again");
    assert!((1000..=3000).contains(&wait.as_millis()), "{wait:?}");
    assert_eq!(refusal.details.quota_failure().expect("whose limit").violations[0].subject, "server");
}

#[tokio::test]
async fn one_address_cannot_keep_everybody_else_from_signing_in() {
    let h = Harness::with(slow_hashing).await;
    h.create("bob", &[], PASSWORD).await;
    let lane = lane(&h).await;
    let held = fill_up(&h, &["127.0.0.1"], lane - lane.div_ceil(4)).await;

    let same = Wire::connect(&h.address()).await;
    is_overloaded(status_of(same.call(SIGN_IN, &[], sign_in("bob", PASSWORD)).await), "sign_ins");
    let other = Wire::connect_from("127.0.0.2", &h.address()).await;
    let answer = other.call(SIGN_IN, &[], sign_in("bob", PASSWORD)).await;
    assert_eq!(status_of(answer).code(), Code::Ok, "another address gets in");
    // Other lanes are not affected, even from the same address.
    h.stranger().await.auth().get_signing_keys(v1::GetSigningKeysRequest::default()).await.expect("keys");
    h.operator().await.lock("bob").await.expect("a lock");

    // Further addresses can fill it; health still answers, and the local operator does not wait.
    let rest = fill_up(&h, &["127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"], lane).await;
    is_overloaded(status_of(other.call(SIGN_IN, &[], sign_in("bob", PASSWORD)).await), "sign_ins");
    let mut health = HealthClient::new(h.stranger().await.channel());
    let told = health.check(HealthCheckRequest::default()).await.expect("health").into_inner();
    assert_eq!(told.status(), ServingStatus::Serving);
    h.operator().await.unlock("bob").await.expect("an unlock");
    assert!(h.metric("latchkey_calls_refused_total").await >= 2);

    held.into_iter().chain(rest).for_each(Open::cancel);
    comes_back(&h).await;
    h.stranger().await.tokens("bob", PASSWORD).await.expect("room again");
}

#[tokio::test]
async fn reflection_does_not_delay_operators() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    let path = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(wire.open(path, &[]).await);
    }
    // One address gets three quarters; further calls are refused.
    let refused = at_once(streams.drain(24..).map(Open::answer)).await;
    for answer in refused {
        is_overloaded(status_of(answer), "reflection");
    }
    h.create("bob", &[], PASSWORD).await;
    streams.into_iter().for_each(Open::cancel);
    comes_back(&h).await;
}

/// Three quarters of a lane, the limit for one address.
async fn filled(h: &Harness, method: &str, lane: usize) -> Vec<Open> {
    let held = fill(&h.address(), "127.0.0.1", method, lane / 4 * 3).await;
    let wanted = u64::try_from(held.len()).expect("a number");
    eventually("they are all in", || async { (in_flight(h).await >= wanted).then_some(()) }).await;
    held
}

#[tokio::test]
async fn health_watches_have_their_own_lane_and_checks_are_never_refused() {
    let h = Harness::start().await;
    let held = filled(&h, "grpc.health.v1.Health/Watch", 1024).await;
    let everything = || framed(&HealthCheckRequest::default());
    let same = Wire::connect(&h.address()).await;
    is_overloaded(status_of(same.call("grpc.health.v1.Health/Watch", &[], everything()).await), "watches");
    let check = same.call("grpc.health.v1.Health/Check", &[], everything()).await;
    assert_eq!(status_of(check).code(), Code::Ok);
    held.into_iter().for_each(Open::cancel);
    comes_back(&h).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_refused_for_overload_keeps_the_login() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let held = filled(&h, "latchkey.v1.Auth/GetSigningKeys", 512).await;
    shell.latchkey(&["logout"]).fails(
        1,
        "error: too many calls of this kind are under way; try again in …\n\nhint: on the host of latchkeyd …",
    );
    assert!(shell.path("state/latchkey/login.json").exists(), "or the session could not be ended any more");
    held.into_iter().for_each(Open::cancel);
    comes_back(&h).await;
    shell.latchkey(&["logout"]).good();
    assert!(!shell.path("state/latchkey/login.json").exists());
}

/// `TEST_FULL=1` makes more calls than two cores handle within a minute.
fn full(usual: usize, full: usize) -> usize {
    if std::env::var("TEST_FULL").is_ok_and(|value| value == "1") { full } else { usual }
}

/// Ten times as many sign-ins as the server admits.
async fn flood(h: &Harness) -> BTreeMap<String, usize> {
    let mut wires = Vec::new();
    for number in 0..8 {
        let from = format!("127.0.1.{}", 1 + number);
        wires.push(Wire::connect_from(&from, &h.address()).await);
    }
    let mut answers = BTreeMap::new();
    for wave in 0..full(1, 8) {
        let calls = (0..8 * STREAMS).map(|number| {
            let wire = &wires[number % 8];
            let body = sign_in(&format!("nobody-{wave}-{number}"), OTHER_PASSWORD);
            async move { status_of(wire.call(SIGN_IN, &[], body).await) }
        });
        for status in at_once(calls).await {
            let refusal = Refusal::of(&status);
            if refusal.code == Code::ResourceExhausted {
                assert!(refusal.retry_after().is_some(), "{refusal:?}");
            }
            *answers.entry(refusal.reason).or_insert(0) += 1;
        }
    }
    answers
}

/// The answer of a call that must not be refused. On a busy machine, a database connection may not be available in
/// time; the call is then repeated.
fn admitted<T: std::fmt::Debug>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Err(status) if status.code() == Code::Unavailable => None,
        answer => Some(answer.expect("an answer, whatever the sign-ins do")),
    }
}

/// Locks, checks tokens and asks for health until stopped. Returns the number of rounds.
async fn quick_work(h: &Harness, (root, eve, checker): (&Person, &Person, &Client), done: &AtomicBool) -> usize {
    let mut health = HealthClient::new(h.stranger().await.channel());
    let mut rounds = 0;
    while !done.load(Ordering::Relaxed) || rounds == 0 {
        let lock = || async { admitted(root.client.lock("bob").await) };
        eventually("a lock", lock).await;
        let unlock = || async { admitted(root.client.unlock("bob").await) };
        eventually("an unlock", unlock).await;
        let request = v1::IntrospectTokenRequest { token: eve.tokens.access_token.clone(), ..Default::default() };
        let check = || async { admitted(checker.auth().introspect_token(request.clone()).await) };
        assert!(eventually("a check", check).await.into_inner().active);
        let told = health.check(HealthCheckRequest::default()).await.expect("health").into_inner();
        assert_eq!(told.status(), ServingStatus::Serving);
        rounds += 1;
    }
    rounds
}

#[tokio::test]
async fn operators_and_services_work_on_while_sign_ins_flood_in() {
    let h = Harness::with(slow_hashing).await;
    let (root, eve) = (h.admin().await, h.user("eve").await);
    h.create("bob", &[], PASSWORD).await;
    let checker = h.token(&["tokens.introspect"]).await;
    let done = AtomicBool::new(false);
    let (answers, rounds) = tokio::join!(
        async {
            let answers = flood(&h).await;
            done.store(true, Ordering::Relaxed);
            answers
        },
        quick_work(&h, (&root, &eve, &checker), &done)
    );
    assert!(rounds > 0);
    let expected = [
        "CREDENTIALS_REJECTED",
        "DEADLINE_PASSED",
        "HASHING_SATURATED",
        "OVERLOADED",
        "STORAGE_UNAVAILABLE",
        "THROTTLED",
    ];
    assert!(answers.keys().all(|reason| expected.contains(&reason.as_str())), "{answers:?}");
    let shed = answers.get("HASHING_SATURATED").unwrap_or(&0) + answers.get("OVERLOADED").unwrap_or(&0);
    assert!(shed > 0, "{answers:?}");
    comes_back(&h).await;
    let stranger = h.stranger().await;
    eventually("a sign-in", || async { admitted(stranger.tokens("eve", PASSWORD).await) }).await;
}

/// Wrong passwords for one user, some of which are cancelled after a while.
async fn storm(h: &Harness, calls: usize, timeout: impl Fn(usize) -> Option<String>) {
    let mut wires = Vec::new();
    for _ in 0..calls.div_ceil(STREAMS) {
        wires.push(Wire::connect(&h.address()).await);
    }
    at_once((0..calls).map(|number| {
        let (wire, timeout) = (&wires[number / STREAMS], timeout(number));
        async move {
            let timeout = timeout.unwrap_or_default();
            let open = wire.open(SIGN_IN, &[("grpc-timeout", timeout.as_str())]).await;
            let _ = open.finish(sign_in("bob", OTHER_PASSWORD)).await;
        }
    }))
    .await;
}

fn count_everything(config: &mut Config) {
    config.throttle.threshold = 100_000;
    config.throttle.lockout_threshold = 0;
}

/// Every verified password is counted.
async fn is_accounted_for(h: &Harness) -> u64 {
    comes_back(h).await;
    let number = |rows: Vec<String>| rows.first().and_then(|text| text.parse::<u64>().ok()).expect("a number");
    let verified = h.metric("latchkey_sign_ins_total").await;
    // Each failure counts against the account and against the name.
    let of_accounts = "FROM throttle WHERE id NOT LIKE 'n:%' AND id NOT LIKE '_n:%'";
    let failures = number(h.query(&format!("SELECT COALESCE(SUM(failures), 0) AS n {of_accounts}")).await);
    let pending = number(h.query(&format!("SELECT COALESCE(SUM(pending), 0) AS n {of_accounts}")).await);
    let events = number(h.query("SELECT COUNT(*) FROM audit_event WHERE reason = 'PASSWORD_WRONG'").await);
    // If no connection was available in time to record the result, the attempt stays reserved, lapses, and counts as a
    // failure.
    assert_eq!((failures, failures + pending), (events, verified));
    let hashed = h.metric("latchkey_hashes_total").await;
    // One more: bob's password at creation.
    assert!(hashed <= verified + 1, "{hashed} were hashed and {verified} counted");
    verified
}

#[tokio::test]
async fn a_storm_of_cancelled_sign_ins_leaves_nothing_behind() {
    let h = Harness::with(count_everything).await;
    h.create("bob", &[], PASSWORD).await;
    storm(&h, full(200, 2000), |number| Some(format!("{}m", 1 + number % 50))).await;
    is_accounted_for(&h).await;
    h.stranger().await.tokens("bob", PASSWORD).await.expect("bob signs in");
}

#[tokio::test]
async fn of_many_sign_ins_half_are_taken_back() {
    let h = Harness::with(count_everything).await;
    h.create("bob", &[], PASSWORD).await;
    let (storm, most) = tokio::join!(
        async {
            storm(&h, full(300, 2000), |number| number.is_multiple_of(2).then(|| "5m".to_owned())).await;
        },
        async {
            let mut most = 0;
            for _ in 0..20 {
                most = most.max(h.metric("latchkey_hashes_in_flight").await);
            }
            most
        }
    );
    let () = storm;
    let threads = std::thread::available_parallelism().expect("a number of cores").get() as u64;
    assert!(most <= threads, "{most} hashes at once on {threads} threads");
    assert!(is_accounted_for(&h).await > 0);
}

#[tokio::test]
async fn forged_tokens_write_nothing() {
    let h = Harness::start().await;
    let checker = h.token(&["tokens.introspect"]).await;
    let rows = || async {
        let tables = ["audit_event", "throttle", "source_failure", "source_block", "session", "api_token"];
        let mut counts = Vec::new();
        for table in tables {
            counts.extend(h.query(&format!("SELECT COUNT(*) FROM {table}")).await);
        }
        counts
    };
    let before = rows().await;
    let stranger = h.stranger().await;
    for number in 0..100 {
        let token = format!("lka_{number:026}_{number:043}");
        let request = v1::IntrospectTokenRequest { token: token.clone(), ..Default::default() };
        assert!(!checker.auth().introspect_token(request).await.expect("an answer").into_inner().active);
        refused(stranger.bearing(&token).who_am_i().await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    assert_eq!(rows().await, before);
}

/// The number of the field `nice` in `proc_pid_stat(5)`.
#[cfg(target_os = "linux")]
const NICE: usize = 19;

/// The name and the nice value of each thread of a process.
#[cfg(target_os = "linux")]
fn nice_of_threads(pid: u32) -> Vec<(String, i32)> {
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.expect("a thread").path();
        // The thread may have ended in the meantime.
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // The second field is the name in brackets, which can contain anything. Therefore count from the third field.
        let (_, from_third) = stat.rsplit_once(')').expect("a name");
        let value = from_third.split_whitespace().nth(NICE - 3).and_then(|value| value.parse().ok());
        Some((name.trim_end().to_owned(), value.expect("a number")))
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").filter_map(of).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_threads_that_hash_let_all_others_go_first() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_ARGON2_THREADS", "2");
    let daemon = Daemon::start(&shell, &[]);
    let wire = Wire::connect(&daemon.address).await;
    let answer = wire.call(SIGN_IN, &[], sign_in("nobody", OTHER_PASSWORD)).await;
    assert_eq!(Refusal::of(&status_of(answer)).reason, "CREDENTIALS_REJECTED");
    let threads = || nice_of_threads(daemon.pid()).into_iter().partition(|(name, _)| name.starts_with("argon2-"));
    // One has hashed. The other sets its nice value when it first runs, possibly a moment later.
    let others: Vec<(String, i32)> = eventually("both have stepped back", || async {
        let (hashing, others): (Vec<_>, Vec<_>) = threads();
        (hashing.len() == 2 && hashing.iter().all(|(_, nice)| *nice == 19)).then_some(others)
    })
    .await;
    // The test itself may run with a higher nice value.
    let (_, usual) = nice_of_threads(std::process::id()).swap_remove(0);
    let strange: Vec<_> = others.iter().filter(|(_, nice)| *nice != usual).collect();
    assert!(strange.is_empty() && others.len() > 1, "{strange:?} of {others:?}, where {usual} is usual");
}

/// Memory that a call may leave allocated in the server, in KiB: security invariant of bounded memory.
const SLACK_KIB: u64 = 64 << 10;

#[tokio::test]
async fn memory_stays_where_it_was_when_a_thousand_are_refused() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_ARGON2_THREADS", "1").set("LATCHKEY_ARGON2_MEMORY_KIB", "65536");
    shell.set("LATCHKEY_ARGON2_ITERATIONS", "3").set("LATCHKEY_LOG_LEVEL", "error,latchkey::daemon=info");
    let daemon = Daemon::start(&shell, &[]);
    let base = daemon.memory_kib();
    // More than the lane admits. Each address holds its share, so that together they fill it.
    let mut held = Vec::new();
    for number in 0..8 {
        held.extend(fill(&daemon.address, &format!("127.0.2.{}", 1 + number), SIGN_IN, 12).await);
    }
    let mut wires = Vec::new();
    for _ in 0..1000_usize.div_ceil(STREAMS) {
        wires.push(Wire::connect_from("127.0.3.2", &daemon.address).await);
    }
    let body = sign_in("nobody", OTHER_PASSWORD);
    let refusals = at_once((0..1000).map(|number| wires[number / STREAMS].call(SIGN_IN, &[], body.clone()))).await;
    let refused = refusals.into_iter().map(|answer| Refusal::of(&status_of(answer)).reason);
    // On a slow machine, calls that hold permits reach their deadline before the last of these have started.
    assert!(refused.filter(|reason| reason == "OVERLOADED").count() > 0);
    let hashing = 65_536;
    let grown = daemon.memory_kib().saturating_sub(base);
    assert!(grown <= hashing + SLACK_KIB, "{base} KiB grew by {grown} KiB");

    held.into_iter().for_each(Open::cancel);
    let probe = Wire::connect_from("127.0.3.1", &daemon.address).await;
    eventually("a sign-in is looked at again", || async {
        let answer = probe.call(SIGN_IN, &[], sign_in("nobody", OTHER_PASSWORD)).await;
        (Refusal::of(&status_of(answer)).reason == "CREDENTIALS_REJECTED").then_some(())
    })
    .await;
    let (code, _) = daemon.stop();
    assert_eq!(code, Some(0));
}
