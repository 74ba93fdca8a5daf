//! The two example services as processes: one checks tokens offline, one asks latchkey.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use latchkey::proto::v1::{self, sign_in_progress::Step};

use crate::harness::{Harness, PASSWORD};

/// The audience of the services in these tests.
const AUDIENCE: &str = "notes";

/// A running example.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Starts the example and waits until it prints its address. Returns `None` if it is not built.
    async fn start(example: &str, arguments: Vec<String>) -> Option<Service> {
        let Some(program) = built(example) else {
            assert!(std::env::var_os("TEST_REQUIRE_ALL").is_none(), "run `cargo build --examples` first");
            eprintln!(
                "skipped: the example {example} is not built; `cargo test` builds it, `cargo test --test it` not"
            );
            return None;
        };
        let started = tokio::task::spawn_blocking(move || Service::spawn(&program, &arguments));
        Some(started.await.expect("a service"))
    }

    fn spawn(program: &Path, arguments: &[String]) -> Service {
        let mut command = Command::new(program);
        command.args(["--audience", AUDIENCE, "--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let mut line = String::new();
        let output = child.stdout.take().expect("an output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Service { child, address }
    }

    /// The whole response to `GET /hello` with this bearer token.
    async fn hello(&self, token: &str) -> String {
        let (address, token) = (self.address.clone(), token.to_owned());
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let head = "GET /hello HTTP/1.1\r\nhost: notes\r\nconnection: close\r\n";
            write!(stream, "{head}authorization: Bearer {token}\r\n\r\n").expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        });
        answer.await.expect("an answer")
    }

    #[track_caller]
    fn accepted(answer: &str) {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello ada\n"), "{answer}");
    }

    #[track_caller]
    fn refused(answer: &str) {
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("unauthorized\n"), "{answer}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // If it has ended by itself, the test has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary of an example, next to those of the package.
fn built(example: &str) -> Option<PathBuf> {
    let daemon = Path::new(env!("CARGO_BIN_EXE_latchkeyd"));
    let program = daemon.parent()?.join("examples").join(example);
    program.exists().then_some(program)
}

async fn offline_check(h: &Harness) -> Option<Service> {
    Service::start("offline_check", vec!["--latchkey".to_owned(), h.url()]).await
}

/// Starts it with an API token of a service that may introspect and nothing else.
async fn introspect(h: &Harness) -> Option<Service> {
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "notes".to_owned(),
        kind: v1::UserKind::Service.into(),
        roles: vec!["verifier".to_owned()],
        ..Default::default()
    };
    operator.user_admin().create_user(request).await.expect("a service");
    let file = h.dir().join("api-token");
    std::fs::write(&file, operator.api_token("notes", &["tokens.introspect"]).await).expect("a file");
    let file = file.to_str().expect("a path").to_owned();
    Service::start("introspect", vec!["--latchkey".to_owned(), h.url(), "--api-token-file".to_owned(), file]).await
}

/// An access token of ada for these audiences.
async fn token(h: &Harness, audiences: &[&str]) -> String {
    let request = v1::SignInRequest {
        login: "ada".to_owned(),
        password: PASSWORD.to_owned(),
        audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
        ..Default::default()
    };
    let answer = h.stranger().await.auth().sign_in(request).await.expect("an answer").into_inner();
    match answer.progress.and_then(|progress| progress.step) {
        Some(Step::Tokens(tokens)) => tokens.access_token,
        other => panic!("not the end of the sign-in: {other:?}"),
    }
}

/// The token with another header, which the signature does not cover.
fn with_header(token: &str, header: &str) -> String {
    let (_, rest) = token.split_once('.').expect("a token");
    format!("{}.{rest}", BASE64URL_NOPAD.encode(header.as_bytes()))
}

#[tokio::test]
async fn a_service_that_checks_offline_refuses_a_token_of_another_audience() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(service) = offline_check(&h).await else { return };

    Service::accepted(&service.hello(&token(&h, &[AUDIENCE]).await).await);
    Service::accepted(&service.hello(&token(&h, &["billing", AUDIENCE]).await).await);
    Service::refused(&service.hello(&token(&h, &["billing"]).await).await);
    Service::refused(&service.hello(&token(&h, &[]).await).await);
}

#[tokio::test]
async fn a_service_that_checks_offline_refuses_what_latchkey_did_not_sign() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let other = Harness::start().await;
    other.create("ada", &[], PASSWORD).await;
    let Some(service) = offline_check(&h).await else { return };
    let good = token(&h, &[AUDIENCE]).await;
    let header = good.split_once('.').expect("a token").0;
    let header = String::from_utf8(BASE64URL_NOPAD.decode(header.as_bytes()).expect("base64url")).expect("text");

    Service::refused(&service.hello("").await);
    Service::refused(&service.hello("not-a-token").await);
    // A key of another latchkey server is unknown here.
    Service::refused(&service.hello(&token(&other, &[AUDIENCE]).await).await);
    Service::refused(&service.hello(&with_header(&good, r#"{"typ":"at+jwt","alg":"none"}"#)).await);
    Service::refused(&service.hello(&with_header(&good, &header.replace("at+jwt", "JWT"))).await);
    let (signed, _) = good.rsplit_once('.').expect("a token");
    Service::refused(&service.hello(&format!("{signed}.{}", "A".repeat(86))).await);
    Service::accepted(&service.hello(&good).await);
}

#[tokio::test]
async fn a_service_that_checks_offline_refuses_an_expired_token_and_one_before_its_time() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(service) = offline_check(&h).await else { return };

    h.clock.advance(Duration::from_hours(1));
    let early = token(&h, &[AUDIENCE]).await;
    h.clock.turn_back(Duration::from_hours(2));
    let expired = token(&h, &[AUDIENCE]).await;
    h.clock.advance(Duration::from_hours(1));

    Service::refused(&service.hello(&early).await);
    Service::refused(&service.hello(&expired).await);
    Service::accepted(&service.hello(&token(&h, &[AUDIENCE]).await).await);
}

#[tokio::test]
async fn a_service_that_checks_offline_refuses_another_issuer_with_the_same_key_and_outlives_latchkey() {
    let mut h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(service) = offline_check(&h).await else { return };
    let good = token(&h, &[AUDIENCE]).await;

    h.config.issuer = "https://id.example.org".to_owned();
    let h = h.restart().await;
    Service::refused(&service.hello(&token(&h, &[AUDIENCE]).await).await);

    h.stop().await;
    Service::accepted(&service.hello(&good).await);
}

#[tokio::test]
async fn a_service_that_asks_refuses_a_token_of_another_audience() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(service) = introspect(&h).await else { return };

    Service::accepted(&service.hello(&token(&h, &[AUDIENCE]).await).await);
    Service::refused(&service.hello(&token(&h, &["billing"]).await).await);
    Service::refused(&service.hello(&token(&h, &[]).await).await);
    Service::refused(&service.hello("").await);
    Service::refused(&service.hello(&"a".repeat(10_000)).await);
    // API tokens are valid only at latchkey.
    let api_token = h.operator().await.api_token("notes", &["tokens.introspect"]).await;
    Service::refused(&service.hello(&api_token).await);
}

#[tokio::test]
async fn a_lock_counts_at_once_where_latchkey_is_asked_and_later_where_it_is_not() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(asking) = introspect(&h).await else { return };
    let Some(offline) = offline_check(&h).await else { return };
    let token = token(&h, &[AUDIENCE]).await;
    Service::accepted(&asking.hello(&token).await);

    h.operator().await.lock("ada").await.expect("a lock");

    Service::refused(&asking.hello(&token).await);
    // Until the token expires, as SECURITY.md documents.
    Service::accepted(&offline.hello(&token).await);
}

#[tokio::test]
async fn a_service_that_asks_rejects_every_caller_while_latchkey_is_away() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let Some(service) = introspect(&h).await else { return };
    let token = token(&h, &[AUDIENCE]).await;
    h.stop().await;
    let answer = service.hello(&token).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}
