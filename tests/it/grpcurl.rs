//! grpcurl as a client: without any of our files it lists, describes, calls, and prints errors.

use crate::harness::transcript::{Ran, Shell, text_matches};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

/// The exit code of grpcurl for a status: 64 plus its code.
const NOT_FOUND: i32 = 69;
const INVALID_ARGUMENT: i32 = 67;
const ALREADY_EXISTS: i32 = 70;
const PERMISSION_DENIED: i32 = 71;
const RESOURCE_EXHAUSTED: i32 = 72;
const FAILED_PRECONDITION: i32 = 73;
const ABORTED: i32 = 74;
const UNIMPLEMENTED: i32 = 76;
const UNAUTHENTICATED: i32 = 80;

struct Grpcurl {
    shell: Shell,
    address: String,
}

impl Grpcurl {
    /// Returns `None`, with a message, if grpcurl is not installed.
    fn of(h: &Harness) -> Option<Grpcurl> {
        let shell = Shell::default();
        shell.has("grpcurl").then(|| Grpcurl { shell, address: h.address() })
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.shell.feed("grpcurl", &[&["-plaintext"], arguments].concat(), "")
    }

    fn describe(&self, symbol: &str) -> String {
        self.run(&[&self.address, "describe", symbol]).good()
    }

    /// Calls with `TOKEN` as the bearer token, if it is set. The request is sent on standard input, because it may
    /// contain a secret.
    fn call(&self, method: &str, request: &str) -> Ran {
        let signed_in = self.shell.bash("test -n \"$TOKEN\"").status.success();
        let mut arguments = vec!["-plaintext"];
        if signed_in {
            arguments.extend(["-expand-headers", "-H", "authorization: Bearer ${TOKEN}"]);
        }
        arguments.extend(["-d", "@", &self.address, method]);
        self.shell.feed("grpcurl", &arguments, request)
    }

    /// Checks a refusal: the exit code, and the output on one line, where `…` stands for any text.
    fn refuses(&self, method: &str, request: &str, code: i32, printed: &str) {
        let ran = self.call(method, request);
        let stderr = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text_matches(printed, &stderr), "{method} {request}\n--- expected\n{printed}\n--- printed\n{stderr}");
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{method} {request}");
        assert!(stderr.contains("google.rpc.RequestInfo"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_describes_itself() {
    let h = Harness::start().await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    let services = "grpc.health.v1.Health\ngrpc.reflection.v1.ServerReflection\nlatchkey.v1.Audit\nlatchkey.v1.Auth\n\
                    latchkey.v1.UserAdmin\n";
    assert_eq!(grpcurl.run(&[&grpcurl.address, "list"]).good(), services);

    let method = grpcurl.describe("latchkey.v1.UserAdmin.LockUser");
    let one_line = method.split_whitespace().collect::<Vec<_>>().join(" ");
    let access =
        r#"option (.latchkey.v1.access) = { caller: CALLER_SCOPE, scope: "users.lock", lane: LANE_OPERATOR };"#;
    assert!(one_line.contains(access), "{method}");
    assert!(
        method.contains("// Locks an account: the user cannot sign in")
            && method.contains("idempotency_level = IDEMPOTENT")
    );
    let field = grpcurl.describe("latchkey.v1.ResetPasswordRequest");
    assert!(field.contains(r#"unlock = 7 [(.latchkey.v1.needs) = "users.lock"];"#), "{field}");
    assert!(grpcurl.describe("google.rpc.ErrorInfo").contains("string reason = 1;"), "details can be resolved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_for_the_server_and_for_each_service() {
    let h = Harness::start().await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    for service in ["", "latchkey.v1.Auth", "latchkey.v1.UserAdmin", "latchkey.v1.Audit"] {
        let answer = grpcurl.call("grpc.health.v1.Health/Check", &format!(r#"{{"service":"{service}"}}"#)).json();
        assert_eq!(answer["status"], "SERVING", "{service:?}");
    }
    let unknown = grpcurl.call("grpc.health.v1.Health/Check", r#"{"service":"nonsense"}"#);
    assert_eq!(unknown.code, NOT_FOUND, "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_socket_knows_who_calls() {
    let h = Harness::start().await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    let socket = h.socket().display().to_string();
    let answer = grpcurl.run(&["-unix", &socket, "latchkey.v1.Auth/WhoAmI"]).json();
    assert_eq!(answer["kind"], "KIND_LOCAL");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(answer["principalId"], format!("local:uid={uid}"));
    grpcurl.refuses(
        "latchkey.v1.Auth/WhoAmI",
        "{}",
        UNAUTHENTICATED,
        r#"ERROR: Code: Unauthenticated Message: … "reason": "CREDENTIALS_MISSING" …"#,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_and_changes_a_temporary_password() {
    let h = Harness::start().await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    h.create("ada", &[], PASSWORD).await;
    let sign_in = |password: &str| {
        let request = format!(r#"{{"login":"ada","password":"{password}"}}"#);
        grpcurl.call("latchkey.v1.Auth/SignIn", &request)
    };
    let tokens = sign_in(PASSWORD).json()["progress"]["tokens"].clone();
    assert!(tokens["accessToken"].as_str().is_some_and(|token| token.starts_with("eyJ")), "{tokens}");
    assert!(tokens["refreshToken"].as_str().is_some_and(|token| token.starts_with("lkr_")), "{tokens}");
    grpcurl.refuses(
        "latchkey.v1.Auth/SignIn",
        r#"{"login":"ada","password":"wrong c4nary"}"#,
        UNAUTHENTICATED,
        r#"ERROR: Code: Unauthenticated Message: sign-in failed Details: 1) { "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "latchkey.v1", "reason": "CREDENTIALS_REJECTED" } …"#,
    );

    let reset = h.operator().await.reset("ada").await.expect("a reset");
    let Some(latchkey::proto::v1::reset_password_response::Secret::TemporaryPassword(given)) = reset.secret else {
        panic!("no password")
    };
    let step = sign_in(&given).json()["progress"]["passwordChange"].clone();
    assert_eq!(step["cause"], "PASSWORD_CHANGE_CAUSE_TEMPORARY");
    assert_eq!((&step["rules"]["minLength"], &step["rules"]["maxLength"]), (&15.into(), &256.into()));
    let ticket = step["ticket"].as_str().expect("a ticket");
    let change = |password: &str| format!(r#"{{"ticket":"{ticket}","new_password":"{password}"}}"#);
    grpcurl.refuses(
        "latchkey.v1.Auth/CompletePasswordChange",
        &change("c4nary"),
        INVALID_ARGUMENT,
        r#"ERROR: Code: InvalidArgument … "reason": "PASSWORD_REJECTED" } 2) { "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [ { "field": "new_password", "description": "shorter than 15 characters", "reason": "TOO_SHORT" }, …"#,
    );
    let done = grpcurl.call("latchkey.v1.Auth/CompletePasswordChange", &change(OTHER_PASSWORD)).json();
    assert!(done["progress"]["tokens"]["accessToken"].is_string(), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_refusal_prints_its_details() {
    let h = Harness::start().await;
    let Some(mut grpcurl) = Grpcurl::of(&h) else { return };
    let admin = h.admin().await;
    h.create("ada", &[], PASSWORD).await;
    grpcurl.shell.set("TOKEN", &admin.tokens.access_token);
    let rows = [
        (
            "GetUser",
            r#"{"user":{"username":"bob"}}"#,
            NOT_FOUND,
            r#"… no user matches user.username … "reason": "USER_NOT_FOUND" … "resourceType": "latchkey.v1.User" …"#,
        ),
        (
            "UpdateUser",
            r#"{"user":{"username":"ada"},"etag":"\"6\""}"#,
            ABORTED,
            r#"… "currentEtag": "\"1\"", "resource": "latchkey.v1.User" }, "reason": "ETAG_MISMATCH" …"#,
        ),
        ("ResetPassword", r#"{"sendLink":{}}"#, INVALID_ARGUMENT, r#"… "field": "user", … "reason": "REQUIRED" …"#),
        ("CreateUser", r#"{"username":"ada"}"#, ALREADY_EXISTS, r#"… "reason": "USERNAME_TAKEN" …"#),
        ("LockUser", r#"{"user":{"username":"root"}}"#, PERMISSION_DENIED, r#"… "reason": "SELF_ACTION_FORBIDDEN" …"#),
    ];
    for (method, request, code, printed) in rows {
        grpcurl.refuses(&format!("latchkey.v1.UserAdmin/{method}"), request, code, printed);
    }
    admin.client.lock("ada").await.expect("a lock");
    let reset = r#"{"user":{"username":"ada"},"temporary_password":{}}"#;
    let locked = r#"… "metadata": { "lockCause": "OPERATOR" }, "reason": "USER_LOCKED" …"#;
    grpcurl.refuses("latchkey.v1.UserAdmin/ResetPassword", reset, FAILED_PRECONDITION, locked);

    let viewer = h.person("victor", &["viewer"]).await;
    grpcurl.shell.set("TOKEN", &viewer.tokens.access_token);
    let missing = r#"ERROR: Code: PermissionDenied … "scope": "users.lock" }, "reason": "SCOPE_MISSING" …"#;
    grpcurl.refuses("latchkey.v1.UserAdmin/LockUser", r#"{"user":{"username":"ada"}}"#, PERMISSION_DENIED, missing);

    grpcurl.shell.set("TOKEN", "");
    for _ in 0..5 {
        let wrong = grpcurl.call("latchkey.v1.Auth/SignIn", r#"{"login":"victor","password":"wrong c4nary"}"#);
        assert_eq!(wrong.code, UNAUTHENTICATED);
    }
    let waits =
        r#"… "reason": "THROTTLED" … "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "…s" …"#;
    let sign_in = r#"{"login":"victor","password":"wrong c4nary"}"#;
    grpcurl.refuses("latchkey.v1.Auth/SignIn", sign_in, RESOURCE_EXHAUSTED, waits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protoset_stands_in_for_reflection() {
    let h = Harness::with(|config| config.reflection = latchkey::config::Reflection::Off).await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    let refused = grpcurl.run(&[&grpcurl.address, "list"]);
    assert!(refused.code != 0 && refused.stderr.contains("reflection"), "{refused:?}");

    grpcurl.shell.feed("latchkeyd", &["protoset", "latchkey.pb"], "").good();
    let method = ["-protoset", "latchkey.pb", "describe", "latchkey.v1.UserAdmin.LockUser"];
    let described = grpcurl.run(&method).good();
    assert!(described.contains(r#"scope: "users.lock""#) && described.contains("// Locks an account"), "{described}");
    let keys = ["-protoset", "latchkey.pb", &grpcurl.address, "latchkey.v1.Auth/GetSigningKeys"];
    assert_eq!(grpcurl.run(&keys).json()["issuer"], "latchkey");
    let unknown = ["-protoset", "latchkey.pb", &grpcurl.address, "latchkey.v1.UserAdmin/ListUsers"];
    let refused = grpcurl.run(&unknown);
    assert!(refused.code == UNAUTHENTICATED && refused.stderr.contains("CREDENTIALS_MISSING"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_this_server_lacks_is_named_as_such() {
    let h = Harness::start().await;
    let Some(grpcurl) = Grpcurl::of(&h) else { return };
    // A newer client: it knows a method that this server does not have.
    let newer = "syntax = \"proto3\"; package latchkey.v1; message None {} \
                 service UserAdmin { rpc Resurrect(None) returns (None); }";
    std::fs::write(grpcurl.shell.path("newer.proto"), newer).expect("a file");
    let call = ["-proto", "newer.proto", &grpcurl.address, "latchkey.v1.UserAdmin/Resurrect"];
    let refused = grpcurl.run(&call);
    assert!(refused.code == UNIMPLEMENTED, "{refused:?}");
}
