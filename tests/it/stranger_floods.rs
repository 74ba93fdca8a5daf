//! Floods of calls that fail before the caller is known: what they write to the log, what they get, and what others get.

use std::net::Ipv4Addr;

use latchkey::proto::v1;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::actors::named;
use crate::harness::daemon::Daemon;
use crate::harness::h2::{self, Raw, flag, flood_of_calls, frame, kind};
use crate::harness::transcript::Shell;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, http, refused};

const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A call with an empty message and more metadata.
fn call(number: usize, path: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
    let stream = 2 * u32::try_from(number).expect("a small number") + 1;
    let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &h2::call_block(path, metadata));
    [head, frame(kind::DATA, flag::END_STREAM, stream, &[0; 5])].concat()
}

/// What the log says about the calls of a flood.
struct Logged {
    /// Lines of single calls.
    own: usize,
    /// Lines of gathered calls.
    gathered: usize,
    /// Calls in all lines.
    calls: u64,
}

impl Logged {
    fn of(log: &str, method: &str) -> Logged {
        let wanted = format!("rpc.method=\"{method}\"");
        let lines = || log.lines().filter(|line| line.contains(&wanted));
        for line in lines() {
            assert!(line.contains("127.0.0.2"), "the address is missing: {line}");
            assert!(line.len() < 500, "{line}");
        }
        let count = |line: &str| line.split_once(" calls=")?.1.split(' ').next()?.parse::<u64>().ok();
        let gathered: Vec<u64> = lines().filter_map(count).collect();
        let own = lines().count() - gathered.len();
        let calls = gathered.iter().sum::<u64>() + u64::try_from(own).expect("few");
        Logged { own, gathered: gathered.len(), calls }
    }
}

/// Floods a server with calls while an operator, a user and a load balancer use it. Returns its log, and how many calls of
/// the method were counted.
async fn flooded(method: &str, bytes: impl FnMut(usize) -> Vec<u8>) -> (String, u64) {
    let shell = Shell::default();
    let daemon = Daemon::start(&shell, &["serve", "--set", "argon2.allow_weak=true", "--set", "argon2.memory_kib=64"]);
    let operator = Client::on_socket(&shell.path("latchkey-data/latchkey.sock")).await;
    for name in ["bob", "eve"] {
        let create = v1::CreateUserRequest {
            username: name.to_owned(),
            credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        operator.user_admin().create_user(create).await.expect("a user");
    }
    let user = Client::at(&daemon.address).await;
    let mut health = HealthClient::new(user.channel());
    let mut raw = Raw::silent_from(FLOODER, &daemon.address).await.expect("a connection");
    raw.greet(&[]).await.expect("a preface");
    let others = async {
        for _ in 0..10 {
            operator.lock("bob").await.expect("a lock");
            operator.unlock("bob").await.expect("an unlock");
            user.sign_in("eve", PASSWORD).await.expect("eve signs in");
            health.check(HealthCheckRequest::default()).await.expect("an answer to the load balancer");
        }
    };
    let ((sent, is_closed), ()) = tokio::join!(flood_of_calls(raw, 100_000, bytes), others);
    assert!(is_closed, "{sent} calls were taken, and the connection is open");

    let metrics = http::get(&daemon.http_address, "/metrics").await.body;
    assert!(!metrics.contains("Guess") && !metrics.contains("garbage"), "labels are bounded: {metrics}");
    let counted = format!("latchkey_rpc_total{{method=\"{method}\"");
    let counts = metrics.lines().filter(|line| line.starts_with(&counted));
    let count = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    let (status, log) = daemon.stop();
    assert_eq!(status, Some(0));
    (log, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_methods_is_bounded_in_lines_and_calls_and_others_are_served() {
    let (log, counted) = flooded("unknown", |sent| call(sent, &format!("/latchkey.v1.Guess/Me{sent}"), &[])).await;
    let Logged { own, gathered, calls } = Logged::of(&log, "unknown");
    assert!(own >= 10 && own + gathered < 60, "{own} {gathered}\n{log}");
    assert_eq!(calls, counted, "every call is in a line");
    assert!(counted > 500, "{counted}");
    assert!(log.contains("RATE_LIMITED"), "{log}");
    assert!(!log.contains("Guess"), "names that a client chooses are not logged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_tokens_is_bounded_in_lines_and_none_hides_its_address() {
    let method = "latchkey.v1.Auth/WhoAmI";
    let garbage = |sent: usize| match sent % 3 {
        0 => vec![("authorization", "Bearer garbage")],
        1 => vec![("latchkey-app", "x"), ("latchkey-client-address", "192.0.2.7")],
        _ => vec![("authorization", "garbage"), ("x-request-id", "a-client's own id"), ("user-agent", "nobody")],
    };
    let (log, counted) = flooded(method, |sent| call(sent, &format!("/{method}"), &garbage(sent))).await;
    let Logged { own, gathered, calls } = Logged::of(&log, method);
    assert!(own >= 10 && own + gathered < 60, "{own} {gathered}\n{log}");
    assert_eq!(calls, counted, "every call is in a line");
    assert!(log.contains("request.client_id=\"a-client's own id\"") && !log.contains("192.0.2.7"), "{log}");
}

/// Calls with a garbage token until the source is over its limit. Returns the number of calls before.
async fn exhaust(client: &Client) -> usize {
    for number in 0..1000 {
        let refusal = Refusal::of(&client.who_am_i().await.expect_err("a refusal"));
        if refusal.code == Code::ResourceExhausted {
            assert_eq!(refusal.reason, "RATE_LIMITED");
            assert!(refusal.retry_after().is_some(), "{refusal:?}");
            return number;
        }
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
    }
    panic!("a thousand calls were not limited");
}

#[tokio::test]
async fn only_calls_that_fail_are_limited_at_the_address_of_a_flooder() {
    let h = Harness::with(|config| config.connections.failed_calls = 1).await;
    let admin = h.admin().await;
    h.create("bob", &[], PASSWORD).await;
    let flooder = h.stranger().await.bearing("garbage");
    assert!(exhaust(&flooder).await >= 10);

    let stranger = h.stranger().await;
    let mut health = HealthClient::new(stranger.channel());
    for _ in 0..30 {
        admin.client.lock("bob").await.expect("an operator at this address locks");
        admin.client.unlock("bob").await.expect("and unlocks");
        health.check(HealthCheckRequest::default()).await.expect("health answers");
    }
    stranger.tokens("bob", PASSWORD).await.expect("a user at this address signs in");
    for number in 0..30 {
        let wrong = stranger.sign_in(&format!("nobody{number}"), OTHER_PASSWORD).await;
        refused(wrong, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    let local = h.operator().await.bearing("garbage");
    for _ in 0..100 {
        refused(local.who_am_i().await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    assert!(exhaust(&flooder).await < 10, "the flooder is limited still");
}

#[tokio::test]
async fn calls_without_a_credential_of_no_method_or_without_sense_are_limited_alike() {
    let h = Harness::with(|config| config.connections.failed_calls = 1).await;
    let failing: [(&str, &[u8], Code); 4] = [
        ("latchkey.v1.Auth/WhoAmI", &[], Code::Unauthenticated),
        ("no.such.Service/Method", &[], Code::Unimplemented),
        ("latchkey.v1.Auth/SignIn", &[0xff], Code::InvalidArgument),
        ("latchkey.v1.Auth/SignIn", &[], Code::InvalidArgument),
    ];
    let mut limited = 0;
    for number in 0..80 {
        let (path, message, code) = failing[number % failing.len()];
        let stranger = h.stranger().await;
        let status = stranger.call_path(path, message.to_vec()).await.expect_err("a refusal");
        match Refusal::of(&status).reason.as_str() {
            "RATE_LIMITED" => limited += 1,
            _ => assert_eq!(status.code(), code, "{path}"),
        }
    }
    assert!(limited > 50, "{limited}");
}

#[tokio::test]
async fn an_application_is_not_limited_for_what_its_users_send() {
    let h = Harness::with(|config| config.connections.failed_calls = 1).await;
    let operator = h.operator().await;
    let portal = v1::CreateUserRequest {
        username: "portal".to_owned(),
        kind: v1::UserKind::Service.into(),
        roles: vec!["app".to_owned()],
        ..Default::default()
    };
    operator.create(portal).await.expect("an application");
    let token = operator.api_token("portal", &["auth.proxy"]).await;
    let app = h.stranger().await.with("latchkey-app", &token);
    for number in 0..60 {
        let client = app.with("latchkey-client-address", &format!("192.0.2.{number}"));
        let wrong = client.sign_in(&format!("nobody{number}"), OTHER_PASSWORD).await;
        refused(wrong, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        refused(app.sign_in("nobody", "").await, Code::InvalidArgument, "FIELD_INVALID");
        refused(app.refresh("garbage").await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    let service = h.stranger().await.bearing(&token);
    for _ in 0..60 {
        let request = v1::GetUserRequest { user: Some(named("bob")) };
        refused(service.user_admin().get_user(request).await, Code::PermissionDenied, "SCOPE_MISSING");
    }
}
