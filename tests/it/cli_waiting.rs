//! The command line while the server is unavailable, against a server that fails on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::harness::transcript::Shell;

/// A server that refuses calls with these statuses in turn, and answers all others, and health checks, with an empty message.
struct Failing {
    address: String,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Failing {
    async fn with(refusals: impl IntoIterator<Item = Status>) -> Failing {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let refusals: VecDeque<Status> = refusals.into_iter().collect();
        tokio::spawn(serve(listener, Arc::clone(&calls), Arc::new(Mutex::new(refusals))));
        Failing { address, calls }
    }

    /// The paths of the calls so far.
    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("the calls").clone()
    }
}

async fn serve(listener: TcpListener, calls: Arc<Mutex<Vec<String>>>, refusals: Arc<Mutex<VecDeque<Status>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (calls, refusals) = (Arc::clone(&calls), Arc::clone(&refusals));
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                calls.lock().expect("the calls").push(request.uri().path().to_owned());
                let is_check = request.uri().path().ends_with("/Check");
                let refusal = if is_check { None } else { refusals.lock().expect("the refusals").pop_front() };
                if let Some(refusal) = refusal {
                    let response = refusal.into_http::<()>();
                    respond.send_response(response, true).expect("a response");
                    continue;
                }
                let response = http::Response::builder().header("content-type", "application/grpc");
                let mut body = respond.send_response(response.body(()).expect("headers"), false).expect("a response");
                body.send_data(vec![0; 5].into(), false).expect("a message");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                body.send_trailers(trailers).expect("trailers");
            }
        });
    }
}

fn unavailable(reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "latchkey.v1", []);
    Status::with_error_details(Code::Unavailable, "the database cannot be used; try again", details)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_the_database_says_so_once_and_goes_on() {
    let server = Failing::with((0..3).map(|_| unavailable("STORAGE_UNAVAILABLE"))).await;
    let mut shell = Shell::default();
    shell.set("LATCHKEY_TOKEN", "lka_c4nary");
    let ran = shell.latchkey(&["roles", "--server", &server.address]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stderr, "the database is away; trying again for up to 30 s …\n");
    assert_eq!(server.calls(), ["/latchkey.v1.UserAdmin/ListRoles"; 4]);

    let server = Failing::with([unavailable("SHUTTING_DOWN")]).await;
    let ran = shell.latchkey(&["roles", "--server", &server.address, "--output", "json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "a machine is told nothing: {ran:?}");
    let server = Failing::with([unavailable("SHUTTING_DOWN")]).await;
    let ran = shell.latchkey(&["roles", "--server", &server.address]);
    assert!(ran.code == 0 && ran.stderr.starts_with("the server is unavailable; trying again"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_safe_to_repeat_is_made_once() {
    let server = Failing::with([unavailable("STORAGE_UNAVAILABLE")]).await;
    let mut shell = Shell::default();
    shell.set("LATCHKEY_TOKEN", "lka_c4nary");
    let create = ["tokens", "create", "svc", "--name", "x", "--scope", "users.read", "--server", &server.address];
    let ran = shell.latchkey(&create);
    assert!(ran.code == 3 && !ran.stderr.contains("trying again"), "{ran:?}");
    assert_eq!(server.calls().len(), 1, "{:?}", server.calls());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_is_shown_at_once_even_if_the_server_is_unavailable() {
    let server = Failing::with((0..9).map(|_| unavailable("STORAGE_UNAVAILABLE"))).await;
    let mut shell = Shell::default();
    shell.set("LATCHKEY_TOKEN", "lka_c4nary");
    let ran = shell.latchkey(&["status", "--server", &server.address]);
    assert!(ran.stdout.contains("✖ the database cannot be used") && !ran.stderr.contains("trying again"), "{ran:?}");
    let mut calls = server.calls();
    calls.retain(|path| !path.ends_with("/Check"));
    assert_eq!(calls, ["/latchkey.v1.Auth/WhoAmI", "/latchkey.v1.Auth/GetSigningKeys"], "no call is repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_judge_a_new_password_is_asked_to_set_it() {
    for code in [Code::Unimplemented, Code::ResourceExhausted] {
        let server = Failing::with((0..2).map(|_| Status::new(code, "not here"))).await;
        let mut shell = Shell::default();
        if !shell.has("script") {
            return;
        }
        shell.set("LATCHKEY_TOKEN", "lka_c4nary");
        let answers = [("Current password: ", "old c4nary"), ("New password: ", "c4nary"), ("Once more: ", "c4nary")];
        let (printed, exit) = shell.type_at(&format!("latchkey passwd --server {}", server.address), &answers);
        let expected = "Current password: \nNew password: \nOnce more: \n✔ your password is changed";
        assert_eq!((printed.as_str(), exit), (expected, 0), "{code:?}");
        let calls = ["WhoAmI", "CheckPasswordStrength", "ChangePassword"];
        assert_eq!(server.calls(), calls.map(|method| format!("/latchkey.v1.Auth/{method}")), "{code:?}");
    }
}
