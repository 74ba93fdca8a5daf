//! The gate for all that proves a password or a ticket, or hashes: what limits each method, and what a flood with one ticket
//! costs others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use latchkey::config::Config;
use latchkey::proto::v1;
use prost_reflect::{Kind, MessageDescriptor};
use tonic::{Code, Status};

use self::Limit::{Account, Link, Source, Tries};
use crate::harness::actors::named;
use crate::harness::calls::{Shown, told};
use crate::harness::mailbox::Eml;
use crate::harness::raw::{PACKAGE, is_redacted, methods, short_name};
use crate::harness::wire::{Wire, framed};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Person, Refusal, at_once, eventually, refused};

/// What limits how often a secret can be tried, besides the hashing queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Failures of the source.
    Source,
    /// Failures at the account.
    Account,
    /// Tries of the ticket.
    Tries,
    /// Passwords that are hashed for the link.
    Link,
}

/// A method with a secret in its request.
struct Row {
    method: &'static str,
    /// The fields with a secret.
    secrets: &'static [&'static str],
    /// What the secret proves. Empty if a caller with a scope sets it for another account.
    proves: &'static str,
    limits: &'static [Limit],
    /// How many passwords a call hashes. A dry run hashes as many.
    hashes: u64,
}

/// Every method with a secret in its request.
const ROWS: &[Row] = &[
    Row {
        method: "Auth/SignIn",
        // The device token proves nothing: it only chooses the budget.
        secrets: &["password", "totp", "recovery_code", "device_token"],
        proves: "a password",
        limits: &[Source, Account],
        hashes: 1,
    },
    Row {
        method: "Auth/Reauthenticate",
        secrets: &["password", "totp", "recovery_code"],
        proves: "a password",
        limits: &[Source, Account],
        hashes: 1,
    },
    Row {
        method: "Auth/ChangePassword",
        secrets: &["current_password", "new_password", "totp", "recovery_code"],
        proves: "a password",
        limits: &[Source, Account],
        hashes: 2,
    },
    Row {
        method: "Auth/CompletePasswordChange",
        secrets: &["ticket", "new_password"],
        proves: "a ticket",
        limits: &[Source, Tries],
        hashes: 2,
    },
    Row {
        method: "Auth/CompletePasswordReset",
        secrets: &["link_token", "new_password", "totp", "recovery_code"],
        proves: "a link",
        limits: &[Source, Link],
        hashes: 2,
    },
    Row { method: "Auth/InspectLink", secrets: &["link_token"], proves: "a link", limits: &[Source], hashes: 0 },
    Row { method: "Auth/VerifyEmail", secrets: &["link_token"], proves: "a link", limits: &[Source], hashes: 0 },
    Row { method: "Auth/CancelLink", secrets: &["cancel_token"], proves: "a mail", limits: &[Source], hashes: 0 },
    // 256 random bits, or a signature: cannot be guessed, so a limit would only stall live sessions.
    Row {
        method: "Auth/RefreshTokens",
        secrets: &["refresh_token"],
        proves: "a session",
        limits: &[Source],
        hashes: 0,
    },
    Row { method: "Auth/IntrospectToken", secrets: &["token"], proves: "a token", limits: &[], hashes: 0 },
    Row { method: "UserAdmin/CreateUser", secrets: &["password"], proves: "", limits: &[], hashes: 1 },
    Row { method: "UserAdmin/ResetPassword", secrets: &["password"], proves: "", limits: &[], hashes: 1 },
];

/// Methods in which a secret is only judged.
const JUDGED: &[(&str, &[&str])] = &[("Auth/CheckPasswordStrength", &["password"])];

/// Methods in which a code is all that can be guessed. `second_factor_attacks.rs` has their limits.
const CODES: &[(&str, &[&str])] = &[
    ("Auth/VerifySecondFactor", &["ticket", "totp", "recovery_code"]),
    ("Auth/EnrollTotp", &["ticket", "totp", "recovery_code"]),
    ("Auth/ConfirmTotp", &["ticket", "code"]),
    ("Auth/DisableTotp", &["totp", "recovery_code"]),
    ("Auth/RegenerateRecoveryCodes", &["totp", "recovery_code"]),
];

/// The names of the fields of a message, also of those within it, that hold a secret.
fn secrets_of(message: &MessageDescriptor) -> Vec<String> {
    let mut found = Vec::new();
    for field in message.fields() {
        match field.kind() {
            Kind::Message(within) if within.full_name().starts_with(PACKAGE) => found.extend(secrets_of(&within)),
            _ if is_redacted(&field) => found.push(field.name().to_owned()),
            _ => {}
        }
    }
    found
}

#[test]
fn each_method_with_a_secret_says_what_it_proves_and_what_limits_it() {
    let secrets = methods().into_iter().map(|method| (short_name(&method), secrets_of(&method.input())));
    let of_contract: BTreeMap<_, _> = secrets.filter(|(_, secrets)| !secrets.is_empty()).collect();
    let rows = ROWS.iter().map(|row| (row.method, row.secrets)).chain(CODES.iter().chain(JUDGED).copied());
    let listed = rows.map(|(name, secrets)| (name.to_owned(), secrets.iter().map(ToString::to_string).collect()));
    assert_eq!(listed.collect::<BTreeMap<_, Vec<_>>>(), of_contract, "list new methods in ROWS");
    for row in ROWS.iter().filter(|row| row.hashes > 0 && !row.proves.is_empty()) {
        let is_limited = row.limits.contains(&Source) && row.limits.iter().any(|limit| *limit != Source);
        assert!(is_limited, "{} hashes for strangers without a limit of its own", row.method);
    }
}

/// A server where every listed method can be called with a secret.
struct Scene {
    h: Harness,
    root: Person,
    bob: Person,
    ticket: String,
}

impl Scene {
    async fn set(change: impl FnOnce(&mut Config)) -> Scene {
        let h = Harness::with(change).await;
        let (root, bob) = (h.admin().await, h.user("bob").await);
        let ticket = ticket_of(&h, "carl").await;
        h.create("lena", &[], PASSWORD).await;
        let address = Some("lena@example.org".to_owned());
        let request = v1::UpdateUserRequest { user: Some(named("lena")), email: address, ..Default::default() };
        h.operator().await.update(request).await.expect("an address");
        Scene { h, root, bob, ticket }
    }

    /// The token of a new link with which lena chooses a password.
    async fn link(&self) -> String {
        let method = Some(v1::reset_password_request::Method::ReturnLink(v1::ReturnLink::default()));
        let request = v1::ResetPasswordRequest { user: Some(named("lena")), method, ..Default::default() };
        let secret = self.h.operator().await.reset_with(request).await.expect("a link").secret;
        let Some(v1::reset_password_response::Secret::ResetLink(url)) = secret else { panic!("no link") };
        url.split_once("token=").expect("a token").1.to_owned()
    }

    /// A new mail that asks lena to confirm the address.
    async fn mail(&self) -> Eml {
        let request = v1::SendEmailVerificationRequest { user: Some(named("lena")), ..Default::default() };
        let sent = self.h.operator().await.user_admin().send_email_verification(request).await.expect("a message");
        self.h.mail_of(&sent.into_inner().delivery.expect("a delivery")).await
    }

    /// Calls a method with right secrets, except for a refresh token that was altered.
    async fn call(&self, method: &str, validate_only: bool) -> Result<(), Status> {
        let stranger = self.h.stranger().await;
        let admin = || self.root.client.user_admin();
        match method {
            "Auth/SignIn" => stranger.sign_in("bob", PASSWORD).await.map(drop),
            "Auth/Reauthenticate" => self.bob.client.reauthenticate(PASSWORD).await.map(drop),
            "Auth/ChangePassword" => {
                let request = v1::ChangePasswordRequest {
                    current_password: PASSWORD.to_owned(),
                    new_password: OTHER_PASSWORD.to_owned(),
                    second_factor: None,
                    validate_only,
                };
                self.bob.client.auth().change_password(request).await.map(drop)
            }
            "Auth/CompletePasswordChange" => {
                complete(&stranger, &self.ticket, OTHER_PASSWORD, validate_only).await.map(drop)
            }
            "Auth/CompletePasswordReset" => choose(&stranger, &self.link().await, validate_only).await,
            "Auth/InspectLink" => {
                let request = v1::InspectLinkRequest { link_token: self.link().await };
                stranger.auth().inspect_link(request).await.map(drop)
            }
            "Auth/VerifyEmail" => {
                let request = v1::VerifyEmailRequest { link_token: self.mail().await.token("verify") };
                stranger.auth().verify_email(request).await.map(drop)
            }
            "Auth/CancelLink" => {
                let request = v1::CancelLinkRequest { cancel_token: self.mail().await.token("cancel") };
                stranger.auth().cancel_link(request).await.map(drop)
            }
            "Auth/RefreshTokens" => stranger.refresh(&format!("{}A", self.bob.tokens.refresh_token)).await.map(drop),
            "Auth/IntrospectToken" => {
                let token = self.bob.tokens.access_token.clone();
                let request = v1::IntrospectTokenRequest { token, ..Default::default() };
                self.root.client.auth().introspect_token(request).await.map(drop)
            }
            "UserAdmin/CreateUser" => {
                let request = v1::CreateUserRequest {
                    username: "dora".to_owned(),
                    credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
                    validate_only,
                    ..Default::default()
                };
                admin().create_user(request).await.map(drop)
            }
            "UserAdmin/ResetPassword" => {
                let set = v1::SetPassword { password: OTHER_PASSWORD.to_owned() };
                let request = v1::ResetPasswordRequest {
                    user: Some(named("eve")),
                    method: Some(v1::reset_password_request::Method::SetPassword(set)),
                    validate_only,
                    ..Default::default()
                };
                admin().reset_password(request).await.map(drop)
            }
            other => panic!("say how to call {other}"),
        }
    }

    /// Checks that a method is refused with `reason` exactly if this limits it.
    async fn limits(&self, limit: Limit, reason: &str) {
        for row in ROWS {
            let seen = self.call(row.method, true).await.err().map(|status| Refusal::of(&status).reason);
            let is_refused = seen.as_deref() == Some(reason);
            assert_eq!(is_refused, row.limits.contains(&limit), "{}: {seen:?}", row.method);
        }
    }
}

async fn complete(
    client: &Client,
    ticket: &str,
    new_password: &str,
    validate_only: bool,
) -> Result<v1::CompletePasswordChangeResponse, Status> {
    let (ticket, new_password) = (ticket.to_owned(), new_password.to_owned());
    let request = v1::CompletePasswordChangeRequest { ticket, new_password, validate_only };
    client.auth().complete_password_change(request).await.map(tonic::Response::into_inner)
}

async fn choose(client: &Client, link: &str, validate_only: bool) -> Result<(), Status> {
    let (link_token, new_password) = (link.to_owned(), OTHER_PASSWORD.to_owned());
    let request = v1::CompletePasswordResetRequest { link_token, new_password, second_factor: None, validate_only };
    client.auth().complete_password_reset(request).await.map(drop)
}

/// The ticket of a new user who must change the password [`PASSWORD`].
async fn ticket_of(h: &Harness, username: &str) -> String {
    h.create(username, &[], PASSWORD).await;
    h.operator().await.require_change(username).await.expect("a demand");
    h.stranger().await.change_step(username, PASSWORD).await.expect("a step").ticket
}

#[tokio::test]
async fn a_blocked_source_is_refused_wherever_a_secret_can_be_guessed() {
    let scene = Scene::set(|config| config.throttle.source_failures = 1).await;
    scene.h.create("eve", &[], PASSWORD).await;
    let answer = scene.h.stranger().await.sign_in("nobody", OTHER_PASSWORD).await;
    refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    scene.limits(Source, "RATE_LIMITED").await;
}

#[tokio::test]
async fn a_throttled_account_is_refused_wherever_its_password_is_proved() {
    let scene = Scene::set(|config| config.throttle.initial = std::time::Duration::from_mins(2)).await;
    scene.h.create("eve", &[], PASSWORD).await;
    for _ in 0..5 {
        let answer = scene.h.stranger().await.sign_in("bob", OTHER_PASSWORD).await;
        refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    }
    scene.limits(Account, "THROTTLED").await;
}

#[tokio::test]
async fn a_ticket_without_tries_is_refused_wherever_it_is_proved() {
    let scene = Scene::set(|_| {}).await;
    scene.h.create("eve", &[], PASSWORD).await;
    scene.h.sql("UPDATE sign_in_ticket SET tries = 10").await;
    scene.limits(Tries, "TICKET_INVALID").await;
}

#[tokio::test]
async fn a_dry_run_hashes_as_much_as_the_act() {
    let scene = Scene::set(|_| {}).await;
    scene.h.create("eve", &[], PASSWORD).await;
    for row in ROWS.iter().filter(|row| row.method != "Auth/RefreshTokens") {
        for validate_only in [true, false] {
            let before = scene.h.metric("latchkey_hashes_total").await;
            scene.call(row.method, validate_only).await.expect(row.method);
            let hashed = scene.h.metric("latchkey_hashes_total").await - before;
            assert_eq!(hashed, row.hashes, "{}, validate_only: {validate_only}", row.method);
        }
    }
}

#[tokio::test]
async fn a_ticket_dies_after_ten_tries() {
    let h = Harness::start().await;
    let (ticket, stranger) = (ticket_of(&h, "bob").await, h.stranger().await);
    for _ in 0..12 {
        // A rule that is checked before anything is hashed.
        refused(stranger.complete(&ticket, "c4nary").await, Code::InvalidArgument, "PASSWORD_REJECTED");
    }
    for number in 0..10 {
        let (new_password, validate_only) = if number % 2 == 0 { (PASSWORD, false) } else { (OTHER_PASSWORD, true) };
        let answer = complete(&stranger, &ticket, new_password, validate_only).await;
        if validate_only {
            answer.expect("a password that would do");
        } else {
            refused(answer, Code::InvalidArgument, "PASSWORD_REJECTED");
        }
    }
    refused(stranger.complete(&ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    let failed: Vec<_> = h.operator().await.events().await.into_iter().map(|event| told(&event)).collect();
    let count = |text: &str| failed.iter().filter(|told| *told == text).count();
    assert_eq!(count("SIGN_IN_FAILED FAILED PASSWORD_REJECTED >bob"), 5, "{failed:?}");
    assert_eq!(count("SIGN_IN_FAILED FAILED TICKET_INVALID >"), 1, "{failed:?}");
    let step = stranger.change_step("bob", PASSWORD).await.expect("a new ticket");
    stranger.complete(&step.ticket, OTHER_PASSWORD).await.expect("with tries of its own");
}

#[tokio::test]
async fn one_link_cannot_have_any_number_of_passwords_hashed_and_another_is_not_held_up() {
    let scene = Scene::set(|_| {}).await;
    let (link, other, stranger) = (scene.link().await, scene.link().await, scene.h.stranger().await);
    let mut hashed = 0;
    let refused = loop {
        match choose(&stranger, &link, true).await {
            Ok(()) => hashed += 1,
            Err(status) => break Refusal::of(&status),
        }
        assert!(hashed < 100, "no limit");
    };
    assert!(hashed >= 10, "{hashed}");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "HASHING_SATURATED"));
    choose(&stranger, &other, false).await.expect("the other link");
}

#[tokio::test]
async fn sec_060_refused_tries_of_a_ticket_count_against_the_source() {
    let h = Harness::with(|config| config.throttle.source_failures = 3).await;
    let (ticket, stranger) = (ticket_of(&h, "bob").await, h.stranger().await);
    for _ in 0..3 {
        refused(stranger.complete(&ticket, PASSWORD).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    }
    refused(stranger.complete(&ticket, PASSWORD).await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn replicas_share_the_tries_of_a_ticket() {
    let h = Harness::start().await;
    let Some(other) = h.replica().await else { return };
    let ticket = ticket_of(&h, "bob").await;
    let clients = [h.stranger().await, other.stranger().await];
    let answers = at_once((0..40).map(|number| clients[number % 2].complete(&ticket, PASSWORD))).await;
    let reasons = answers.into_iter().map(|answer| Refusal::of(&answer.expect_err("a refusal")).reason);
    let compared = reasons.filter(|reason| reason == "PASSWORD_REJECTED").count();
    assert_eq!(compared, 10);
    other.stop().await;
}

/// How many calls the attack has under way at a time, and how many it makes.
const AT_ONCE: usize = 72;
const CALLS: usize = 360;

/// Headers of a call.
type Headers = Vec<(&'static str, String)>;

/// Calls `CompletePasswordChange` with one ticket over these connections, always so many at once. `headers` returns those of a
/// call. Returns the answers.
async fn flood(
    wires: &[Wire],
    ticket: &str,
    calls: usize,
    headers: impl Fn(usize) -> Headers,
) -> BTreeMap<String, usize> {
    let ticket = ticket.to_owned();
    let body =
        framed(&v1::CompletePasswordChangeRequest { ticket, new_password: PASSWORD.to_owned(), validate_only: true });
    let attackers = (0..AT_ONCE).map(|number| {
        let (wire, body, headers) = (&wires[number % wires.len()], &body, &headers);
        async move {
            let mut reasons = Vec::new();
            for call in 0..calls / AT_ONCE {
                let headers = headers(call * AT_ONCE + number);
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let answer = wire.call("latchkey.v1.Auth/CompletePasswordChange", &headers, body.clone()).await;
                reasons.push(Refusal::of(&answer.expect("an answer").status.expect("a status")).reason);
            }
            reasons
        }
    });
    let mut answers = BTreeMap::new();
    for reason in at_once(attackers).await.into_iter().flatten() {
        *answers.entry(reason).or_insert(0) += 1;
    }
    answers
}

/// Checks that a flood got ten tries at most, and no answer that does not belong there.
fn is_bounded(answers: &BTreeMap<String, usize>, calls: usize) {
    assert_eq!(answers.values().sum::<usize>(), calls);
    let compared = answers.get("PASSWORD_REJECTED").copied().unwrap_or(0);
    let others = [
        "PASSWORD_REJECTED",
        "TICKET_INVALID",
        "OVERLOADED",
        "HASHING_SATURATED",
        "STORAGE_UNAVAILABLE",
        "DEADLINE_PASSED",
    ];
    assert!(compared <= 10 && answers.keys().all(|reason| others.contains(&reason.as_str())), "{answers:?}");
}

#[tokio::test]
async fn a_flood_with_one_ticket_costs_ten_tries_and_delays_no_other_user() {
    let h = Harness::with(|config| {
        config.argon2.memory_kib = 19_456;
        config.argon2.iterations = 2;
    })
    .await;
    let ticket = ticket_of(&h, "bob").await;
    let before = h.metric("latchkey_hashes_total").await;
    let wires =
        [Wire::connect_from("127.0.0.9", &h.address()).await, Wire::connect_from("127.0.0.9", &h.address()).await];
    let (answers, rounds) = h.serves_others_during(flood(&wires, &ticket, CALLS, |_| Vec::new())).await;
    let hashed = h.metric("latchkey_hashes_total").await - before;
    assert!(hashed <= 10 + rounds + 3, "{hashed} hashes for ten tries and {rounds} rounds of others");
    is_bounded(&answers, CALLS);
}

#[tokio::test]
async fn a_ticket_has_ten_tries_from_many_addresses_through_an_application_and_for_calls_that_are_given_up() {
    let h = Harness::start().await;
    let other = h.replica().await;
    let servers = [&h, other.as_ref().unwrap_or(&h)];
    let operator = h.operator().await;
    let create = serde_json::json!({"username": "portal", "kind": "USER_KIND_SERVICE", "roles": ["app"]});
    operator.call("UserAdmin/CreateUser", create).await.expect("an application");
    let app = operator.api_token("portal", &["auth.proxy"]).await;
    let address = |number: usize| format!("2001:db8:{number:x}::1");
    let through = |number| vec![("latchkey-app", app.clone()), ("latchkey-client-address", address(number))];
    let given_up = |_| vec![("grpc-timeout", "1m".to_owned())];
    let headers: [(&str, &dyn Fn(usize) -> Headers); 3] =
        [("many", &|_| Vec::new()), ("app", &through), ("hurried", &given_up)];
    for (username, headers) in headers {
        let ticket = ticket_of(&h, username).await;
        let mut wires = Vec::new();
        for number in 0..24 {
            wires.push(Wire::connect_from(&format!("127.9.0.{}", number + 1), &servers[number % 2].address()).await);
        }
        let (answers, _) = h.serves_others_during(flood(&wires, &ticket, 3 * AT_ONCE, headers)).await;
        is_bounded(&answers, 3 * AT_ONCE);
        let tries = async || h.query("SELECT CAST(SUM(tries) AS TEXT) FROM sign_in_ticket").await[0].clone();
        if username == "hurried" {
            let stranger = h.stranger().await;
            for _ in 0..10 {
                stranger.complete(&ticket, PASSWORD).await.expect_err("a try");
            }
        }
        let counted = eventually("ten tries", || async { Some(tries().await).filter(|tries| tries == "10") }).await;
        assert_eq!(counted, "10", "{username}");
        refused(h.stranger().await.complete(&ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
        h.sql("DELETE FROM sign_in_ticket").await;
    }
}

/// One thread, and hashes that take so long that some wait.
fn slow_hashing(config: &mut Config) {
    config.argon2.memory_kib = 32_768;
    config.argon2.iterations = 2;
    config.argon2.threads = Some(1);
}

/// How many calls may hash or wait for it.
async fn capacity(h: &Harness) -> u64 {
    h.metric("latchkey_calls_limit{lane=\"sign_ins\"}").await
}

/// Sends wrong passwords over these connections at once. Returns the longest queue for hashing.
async fn longest_queue(h: &Harness, wires: &[Wire], calls: usize, login: impl Fn(usize) -> String) -> u64 {
    let done = AtomicBool::new(false);
    let longest = || async {
        let mut longest = 0;
        while !done.load(Ordering::Relaxed) {
            longest = longest.max(h.metric("latchkey_hash_queue_length{lane=\"sign_in\"}").await);
        }
        longest
    };
    let calls = (0..calls).map(|number| {
        let login = login(number);
        let body = framed(&v1::SignInRequest { login, password: OTHER_PASSWORD.to_owned(), ..Default::default() });
        wires[number % wires.len()].call("latchkey.v1.Auth/SignIn", &[], body)
    });
    let ((), longest) = tokio::join!(
        async {
            at_once(calls).await;
            done.store(true, Ordering::Relaxed);
        },
        longest()
    );
    longest
}

#[tokio::test]
async fn one_source_has_only_a_share_of_the_hashing_queue() {
    let h = Harness::with(slow_hashing).await;
    h.create("eve", &[], PASSWORD).await;
    let share = (capacity(&h).await / 8).max(1);
    let wires = [Wire::connect_from("127.0.0.9", &h.address()).await];
    let longest = longest_queue(&h, &wires, 32, |number| format!("nobody-{number}")).await;
    assert!(longest <= share, "{longest} wait, where {share} may");
    h.stranger().await.tokens("eve", PASSWORD).await.expect("another source gets in");
}

#[tokio::test]
async fn one_account_has_only_a_share_of_the_hashing_queue_from_however_many_addresses() {
    let h = Harness::with(|config| {
        slow_hashing(config);
        // Otherwise the reservations of the account admit few attempts.
        config.throttle.threshold = 1_000;
    })
    .await;
    for name in ["bob", "eve"] {
        h.create(name, &[], PASSWORD).await;
    }
    let capacity = capacity(&h).await;
    let share = (capacity / 8).clamp(1, 4);
    // Half of the lane of sign-ins, which is as long as the queue: calls that wait for a turn are in it.
    let calls = (capacity / 2).clamp(2, 32);
    let mut wires = Vec::new();
    for number in 1..=calls {
        wires.push(Wire::connect_from(&format!("127.9.1.{number}"), &h.address()).await);
    }
    let (longest, eve) = tokio::join!(longest_queue(&h, &wires, wires.len(), |_| "bob".to_owned()), async {
        h.stranger().await.tokens("eve", PASSWORD).await
    });
    assert!(longest <= share + 1, "{longest} wait, where {share} may, and eve");
    eve.expect("another account gets in");
}

#[tokio::test]
async fn one_operator_has_only_a_share_of_the_hashing_queue() {
    let h = Harness::with(slow_hashing).await;
    let (root, helper) = (h.admin().await, h.person("helper", &["operator"]).await);
    h.create("bob", &[], PASSWORD).await;
    let done = AtomicBool::new(false);
    let calls = (0..2 * capacity(&h).await).map(|number| {
        let request = v1::CreateUserRequest {
            username: format!("user-{number}"),
            credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
            ..Default::default()
        };
        root.client.create(request)
    });
    let (answers, resets) = tokio::join!(
        async {
            let answers = at_once(calls).await;
            done.store(true, Ordering::Relaxed);
            answers
        },
        async {
            let mut resets = 0;
            while !done.load(Ordering::Relaxed) || resets == 0 {
                let answer = helper.client.reset("bob").await.expect("another operator is not refused");
                assert!(!answer.shown().is_empty());
                resets += 1;
            }
            resets
        }
    );
    assert!(resets > 0);
    for answer in answers.into_iter().filter_map(Result::err) {
        assert_eq!(Refusal::of(&answer).reason, "HASHING_SATURATED");
    }
    eventually("nothing waits any more", || async {
        (h.metric("latchkey_hash_queue_length").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_who_signs_in_without_end_is_limited_and_others_are_not() {
    let h = Harness::with(|config| config.session.sign_ins_per_minute = 1).await;
    let stranger = h.stranger().await;
    for name in ["bob", "eve"] {
        h.create(name, &[], PASSWORD).await;
    }
    let answers = at_once((0..20).map(|_| stranger.sign_in("bob", PASSWORD))).await;
    let (signed_in, limited): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(signed_in.len() >= 5, "{} of 20 signed in, where five may at once", signed_in.len());
    let limited = limited.into_iter().next().expect("one beyond the limit");
    let refusal = refused(limited, Code::ResourceExhausted, "RATE_LIMITED");
    assert!(refusal.details.retry_info().is_some_and(|info| info.retry_delay.is_some()), "{refusal:?}");
    let wrong = stranger.sign_in("bob", OTHER_PASSWORD).await;
    refused(wrong, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    stranger.tokens("eve", PASSWORD).await.expect("another user signs in");
}
