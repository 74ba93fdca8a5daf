//! Stopping a server: the real binary, with everything open that could delay its end.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::{self, sign_in_progress::Step};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::daemon::Daemon;
use crate::harness::database::TestDatabase;
use crate::harness::h2::{self, Raw};
use crate::harness::transcript::Shell;
use crate::harness::wire::{Wire, framed};
use crate::harness::{PASSWORD, at_once, eventually, refused};

/// How long service managers wait before they kill a process. It is also the default of Kubernetes.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A server on the database of the test, with slow hashing.
async fn server(shell: &mut Shell) -> (Daemon, TestDatabase) {
    let database = TestDatabase::create(&shell.path("")).await;
    shell.set("LATCHKEY_DATABASE_URL", &database.url()).set("LATCHKEY_SEAL_KEY_FILE", "seal.key");
    if database.is_shared() {
        shell.feed("latchkeyd", &["key", "new", "seal.key"], "").good();
    }
    let settings = [
        "--set",
        "argon2.memory_kib=7168",
        "--set",
        "argon2.iterations=5",
        "--log-level",
        "warn,latchkey::daemon=info",
    ];
    (Daemon::start(shell, &settings), database)
}

async fn connect(daemon: &Daemon) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address)).expect("a URL");
    endpoint.connect().await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_in_time_whatever_is_open_and_what_it_acknowledged_holds() {
    let mut shell = Shell::default();
    let (daemon, database) = server(&mut shell).await;
    for number in 0..10 {
        let create = ["users", "create", &format!("user{number}"), "--password-stdin", "--lasting"];
        shell.feed("latchkey", &create, &format!("{PASSWORD}\n")).good();
    }
    let channel = connect(&daemon).await;
    let mut watch = HealthClient::new(channel.clone());
    let mut watch = watch.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    assert_eq!(watch.message().await.expect("a status").map(|told| told.status()), Some(ServingStatus::Serving));
    let mut silent = Raw::silent(&daemon.address).await.expect("a connection");
    let mut half_read = Raw::open(&daemon.address, &[(h2::INITIAL_WINDOW_SIZE, 0)]).await.expect("a connection");
    half_read.send(&h2::empty_call(1, "/latchkey.v1.Auth/GetSigningKeys")).await.expect("a call");

    let answered = AtomicUsize::new(0);
    let sign_ins = at_once((0..100).map(|number| {
        let mut auth = AuthClient::new(channel.clone());
        let request = v1::SignInRequest {
            login: format!("user{}", number % 10),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let answered = &answered;
        async move {
            let answer = auth.sign_in(request).await;
            answered.fetch_add(1, Ordering::Relaxed);
            answer
        }
    }));
    let signal = async {
        eventually("the first answer", || async { (answered.load(Ordering::Relaxed) > 0).then_some(()) }).await;
        daemon.terminate();
        std::time::Instant::now()
    };
    let last_words = async {
        let mut last = ServingStatus::Serving;
        while let Ok(Some(told)) = watch.message().await {
            last = told.status();
        }
        last
    };
    let open = async { tokio::join!(half_read.stay(), silent.end()) };
    let (answers, signalled_at, last, _) = tokio::join!(sign_ins, signal, last_words, open);
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(signalled_at.elapsed() < LIMIT && log.ends_with("stopped\n"), "{log}");
    assert_ne!(last, ServingStatus::Serving, "a watcher of its health was told");

    let mut acknowledged = 0;
    for answer in answers {
        match answer.map(|answer| answer.into_inner().progress.and_then(|progress| progress.step)) {
            Ok(Some(Step::Tokens(_))) => acknowledged += 1,
            Ok(step) => panic!("{step:?}"),
            // Refused by the server, or not accepted any more, which the client reports with a source.
            Err(status) => assert!(
                [tonic::Code::Unavailable, tonic::Code::ResourceExhausted].contains(&status.code())
                    || std::error::Error::source(&status).is_some(),
                "{status:?}"
            ),
        }
    }
    let kept = database.query("SELECT count(*) FROM session WHERE ended_at IS NULL").await;
    assert!(acknowledged > 0);
    assert_eq!(kept, [acknowledged.to_string()], "a session for each answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_no_connection_without_work() {
    let shell = Shell::default();
    let daemon = Daemon::start(&shell, &[]);
    let (grpc, http) = (daemon.address.as_str(), daemon.http_address.as_str());
    let mut open = Vec::new();
    // Each sends this much, and then nothing: it answers neither PING nor GOAWAY.
    for (address, first) in [(grpc, &b""[..]), (grpc, &h2::PREFACE[..10]), (http, b""), (http, b"GET /metr")] {
        let mut raw = Raw::silent(address).await.expect("a connection");
        raw.send(first).await.expect("a start");
        open.push(raw);
    }
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let calls = [
        vec![],
        h2::call(1, "/latchkey.v1.Auth/GetSigningKeys"),
        h2::call(1, reflection),
        h2::empty_call(1, "/grpc.health.v1.Health/Watch"),
    ];
    for call in calls {
        let mut raw = Raw::open(grpc, &[]).await.expect("a connection");
        raw.send(&call).await.expect("a call");
        raw.next_of(h2::kind::SETTINGS).await.expect("settings");
        open.push(raw);
    }
    let mut unread = Raw::open(grpc, &[(h2::INITIAL_WINDOW_SIZE, 0)]).await.expect("a connection");
    unread.send(&h2::empty_call(1, "/latchkey.v1.Auth/GetSigningKeys")).await.expect("a call");
    unread.next_of(h2::kind::HEADERS).await.expect("the answer has begun");
    open.push(unread);
    let local = tokio::net::UnixStream::connect(shell.path("latchkey-data/latchkey.sock")).await.expect("the socket");
    let mut local = Raw { stream: local };
    local.greet(&[]).await.expect("a preface");
    local.next_of(h2::kind::SETTINGS).await.expect("settings");

    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    // The line of a call that was cut off may come last, from another thread.
    let stopped = log.lines().any(|line| line.ends_with(" stopped"));
    assert!(stopped && !log.contains("calls in progress at") && !log.contains("waiting"), "{log}");
    drop((open, local));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_in_order() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let shell = Shell::default();
    let daemon = Daemon::start(&shell, &[]);
    let channel = connect(&daemon).await;
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let questions = futures_util::stream::iter([question]).chain(futures_util::stream::pending());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut answers = reflection.server_reflection_info(questions).await.expect("a stream").into_inner();
    answers.message().await.expect("an answer").expect("an answer");
    let mut watch = HealthClient::new(channel);
    let mut watch = watch.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    watch.message().await.expect("a status").expect("a status");

    daemon.terminate();
    let told = watch.message().await.expect("a status").map(|told| told.status());
    assert_eq!(told, Some(ServingStatus::NotServing));
    refused(watch.message().await, tonic::Code::Unavailable, "SHUTTING_DOWN");
    refused(answers.message().await, tonic::Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(daemon.end().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_server_at_once() {
    let shell = Shell::default();
    let mut daemon = Daemon::start(&shell, &[]);
    let mut half_read = Raw::open(&daemon.address, &[(h2::INITIAL_WINDOW_SIZE, 0)]).await.expect("a connection");
    half_read.send(&h2::empty_call(1, "/latchkey.v1.Auth/GetSigningKeys")).await.expect("a call");
    half_read.next_of(h2::kind::HEADERS).await.expect("the answer has begun");
    daemon.terminate();
    while !daemon.next_line().contains("stopping") {}
    daemon.terminate();
    let (code, log) = daemon.end();
    assert!(code == Some(1) && log.contains("stopped at once"), "{log}");
    // The files that it left do not prevent a start.
    assert!(shell.path("latchkey-data/latchkey.sock").exists());
    let again = Daemon::start(&shell, &[]);
    assert!(shell.latchkey(&["status"]).good().contains("● serving"));
    assert_eq!(again.stop().0, Some(0));
}

#[test]
fn other_files_at_the_path_of_the_socket_are_not_touched() {
    let shell = Shell::default();
    let start = || shell.feed("latchkeyd", &["--listen", "127.0.0.1:0", "--http-listen", "off"], "");
    let data = shell.path("latchkey-data");
    std::fs::create_dir(&data).expect("a directory");
    let path = data.join("latchkey.sock");
    let told = |text: &str| {
        let ran = start();
        assert!(ran.code == 1 && ran.stderr.contains(text), "{text}: {ran:?}");
    };
    let other = "cannot listen on ./latchkey-data/latchkey.sock: there is another file of this name";
    std::fs::write(&path, "mine").expect("a file");
    told(other);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "mine");
    std::fs::remove_file(&path).expect("a file");
    std::fs::create_dir(&path).expect("a directory");
    told(other);
    std::fs::remove_dir(&path).expect("a directory");
    // A link to a socket with a listener, and a link to nothing.
    let target = shell.path("elsewhere.sock");
    let listener = UnixListener::bind(&target).expect("a socket");
    symlink(&target, &path).expect("a link");
    told(other);
    drop(listener);
    std::fs::remove_file(&target).expect("a file");
    told(other);
    std::fs::remove_file(&path).expect("a link");
    let listener = UnixListener::bind(&path).expect("a socket");
    told("another server listens on ./latchkey-data/latchkey.sock; stop it first, or choose another with --socket");
    drop(listener);
    // Without a listener the socket is stale, and is replaced.
    let daemon = Daemon::start(&shell, &[]);
    assert!(shell.latchkey(&["status"]).good().contains("● serving"));
    assert_eq!(daemon.stop().0, Some(0));
    assert!(!path.exists(), "its own socket is removed");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let shell = Shell::default();
    let data = shell.path("latchkey-data");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    let ran = shell.feed("latchkeyd", &["--listen", "127.0.0.1:0", "--http-listen", "off"], "");
    assert!(ran.code == 1 && ran.stderr.contains("other users can write to ./latchkey-data (mode 0777"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_a_reader_delays_neither_calls_nor_the_stop() {
    let shell = Shell::default();
    // From here on nothing reads its log.
    let daemon = Daemon::start(&shell, &[]);
    let wire = Wire::connect(&daemon.address).await;
    // About 300 bytes a call; a pipe holds 64 KiB.
    for _ in 0..2_000 {
        let answer =
            wire.call("latchkey.v1.Auth/GetSigningKeys", &[], framed(&v1::GetSigningKeysRequest::default())).await;
        assert_eq!(answer.expect("an answer").status.expect("a status").code(), tonic::Code::Ok);
    }
    daemon.terminate();
    assert_eq!(daemon.end().0, Some(0));
}
