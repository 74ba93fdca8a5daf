//! Asking for a link without a credential: what a stranger learns, what the owner gets, and what a flood costs.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::{self, DeliveryKind};
use tonic::{Code, Response, Status};

use crate::harness::actors::named;
use crate::harness::child::Site;
use crate::harness::raw::method;
use crate::harness::wire::{Wire, framed, post};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, eventually, is_full, refused};

const ADDRESS: &str = "Bob@example.com";

fn asking(login: &str) -> v1::RequestPasswordResetRequest {
    v1::RequestPasswordResetRequest { login: login.to_owned(), locale: String::new() }
}

impl Client {
    async fn forgot(&self, login: &str) -> Result<Response<v1::RequestPasswordResetResponse>, Status> {
        self.auth().request_password_reset(asking(login)).await
    }

    /// Creates a person. An empty address is none.
    async fn person(&self, username: &str, email: &str, credential: Option<Credential>) {
        let (username, email) = (username.to_owned(), email.to_owned());
        let password_change_required = matches!(credential, Some(Credential::Password(_))).then_some(false);
        let request =
            v1::CreateUserRequest { username, email, credential, password_change_required, ..Default::default() };
        self.create(request).await.expect("a user");
    }
}

fn password() -> Credential {
    Credential::Password(PASSWORD.to_owned())
}

/// A server with a person who has an address.
async fn with_bob() -> (Harness, Client) {
    let h = Harness::start().await;
    let operator = h.operator().await;
    operator.person("bob", ADDRESS, Some(password())).await;
    (h, operator)
}

/// Waits until all requests are resolved.
async fn settled(h: &Harness) {
    let waiting = "SELECT count(*) FROM reset_request";
    eventually("no request", || async { (h.query(waiting).await == ["0"]).then_some(()) }).await;
}

async fn asks(h: &Harness, client: &Client, login: &str) {
    client.forgot(login).await.expect("the answer");
    settled(h).await;
}

/// Why nothing was sent.
async fn reasons(h: &Harness) -> Vec<String> {
    let query =
        "SELECT reason FROM audit_event WHERE kind = 'PASSWORD_RESET_REQUESTED' AND reason IS NOT NULL ORDER BY at, id";
    h.query(query).await
}

/// Requests of strangers under way at a time, in the test of many.
const CHUNK: usize = 50;

/// What the audit log and the count of the open minute say of requests for which nothing was sent.
#[derive(Debug)]
struct Suppressed {
    requests: usize,
    events: usize,
    /// From the first event to the last.
    minutes: usize,
}

async fn counted(h: &Harness, reason: &str) -> Suppressed {
    let event = format!("kind = 'PASSWORD_RESET_REQUESTED' AND reason = '{reason}'");
    let details = h.query(&format!("SELECT details FROM audit_event WHERE {event}")).await;
    let count = |details: &String| {
        let details: BTreeMap<String, String> = serde_json::from_str(details).expect("details");
        details.get("count").map_or(1, |count| count.parse().expect("a count"))
    };
    let open = h.query(&format!("SELECT count FROM event_count WHERE kind LIKE 'reset requests %{reason}'")).await;
    let micros = h.query(&format!("SELECT max(at) - min(at) FROM audit_event WHERE {event}")).await;
    Suppressed {
        requests: details.iter().map(count).sum::<usize>()
            + open.iter().map(|count| count.parse::<usize>().expect("a count")).sum::<usize>(),
        events: details.len(),
        minutes: micros[0].parse::<usize>().map_or(0, |micros| micros / 60_000_000),
    }
}

/// What a client can see of an answer, with the names of headers and trailers.
fn seen(answer: &Response<v1::RequestPasswordResetResponse>) -> (v1::RequestPasswordResetResponse, Vec<String>) {
    let mut names: Vec<String> = answer.metadata().keys().map(|key| format!("{key:?}")).collect();
    names.sort();
    (*answer.get_ref(), names)
}

#[tokio::test]
async fn a_user_asks_for_a_link_and_chooses_a_password() {
    let (h, operator) = with_bob().await;
    let stranger = h.stranger().await;
    let answer = stranger.forgot("BOB").await.expect("the answer").into_inner();
    assert_eq!(answer.link_ttl.map(|ttl| ttl.seconds), Some(1800));
    assert_eq!(answer.resend_after.map(|pause| pause.seconds), Some(60));
    settled(&h).await;
    let deliveries = operator.deliveries("bob").await;
    assert_eq!(deliveries.iter().map(v1::Delivery::kind).collect::<Vec<_>>(), [DeliveryKind::PasswordReset]);
    let mail = h.mail_of(&deliveries[0]).await;
    assert!(mail.text.contains("127.0.0.1"), "the source is in the mail: {}", mail.text);
    let complete = v1::CompletePasswordResetRequest {
        link_token: mail.token("reset"),
        new_password: OTHER_PASSWORD.to_owned(),
        second_factor: None,
        validate_only: false,
    };
    stranger.auth().complete_password_reset(complete).await.expect("a new password");
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("it works");
    let events = operator.events().await;
    let asked = events.iter().find(|event| event.r#type() == v1::EventType::PasswordResetRequested).expect("an event");
    assert_eq!((asked.subject_id.as_str(), asked.outcome()), (deliveries[0].id.as_str(), v1::EventOutcome::Succeeded));
    assert_eq!(asked.actor.as_ref().expect("an actor").client_address, "127.0.0.1");
}

#[tokio::test]
async fn sec_001_no_header_changes_where_a_link_leads() {
    let (h, operator) = with_bob().await;
    let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
    for name in ["x-forwarded-host", "x-forwarded-server", "x-original-host", "x-host", "origin"] {
        headers.push((name, "evil.test"));
    }
    headers.extend([("forwarded", "host=evil.test;proto=http"), ("x-forwarded-proto", "javascript")]);
    let (parts, body) = post("latchkey.v1.Auth/RequestPasswordReset", &headers).into_parts();
    let mut parts = parts;
    parts.uri = "http://evil.test/latchkey.v1.Auth/RequestPasswordReset".parse().expect("a URI");
    let wire = Wire::connect(&h.address()).await;
    let request = http::Request::from_parts(parts, body);
    let answer = wire.open_request(request).await.finish(framed(&asking("bob"))).await.expect("an answer");
    assert_eq!(answer.status.map(|status| status.code()), Some(Code::Ok));
    settled(&h).await;
    let mail = h.mail_of(&operator.deliveries("bob").await[0]).await;
    let own = format!("http://{}/reset?token=", h.pages_address());
    assert!(mail.text.contains(&own), "{}", mail.text);
    assert!(!mail.raw.contains("evil.test"), "{}", mail.raw);
}

#[tokio::test]
async fn sec_002_a_request_has_one_login_and_mail_goes_to_the_stored_address() {
    let request = method("Auth/RequestPasswordReset").input();
    assert!(request.fields().all(|field| !field.is_list() && !field.is_map()));
    let (h, operator) = with_bob().await;
    let local = h.operator().await;
    for wrong in [
        "bob@example.com,eve@example.com",
        "bob@example.com;eve@example.com",
        "bob@example.com\nbcc:eve@example.com",
        "bob@example.com eve@example.com",
        "<bob@example.com>",
        "neither a name nor an address",
        "",
    ] {
        let status = local.forgot(wrong).await.expect_err(wrong);
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}");
    }
    assert_eq!(operator.deliveries("bob").await.len(), 0);
    for login in ["bob", "BOB@EXAMPLE.COM", "bob@example.com"] {
        asks(&h, &local, login).await;
        h.clock.advance(Duration::from_secs(61));
    }
    let deliveries = operator.deliveries("bob").await;
    assert_eq!(deliveries.len(), 3);
    for delivery in &deliveries {
        assert_eq!(delivery.address, ADDRESS);
        assert_eq!(h.mail_of(delivery).await.header("To"), ADDRESS);
    }
}

#[tokio::test]
async fn sec_010_a_hundred_requests_change_nothing_of_the_account() {
    let (h, operator) = with_bob().await;
    let session = h.signed_in("bob", PASSWORD).await;
    let before = operator.user("bob").await;
    let local = h.operator().await;
    for _ in 0..100 {
        local.forgot("bob").await.expect("the answer");
        h.clock.advance(Duration::from_secs(1));
    }
    settled(&h).await;
    assert_eq!(operator.user("bob").await.etag, before.etag);
    session.client.who_am_i().await.expect("the session lives");
    h.stranger().await.tokens("bob", PASSWORD).await.expect("the password works");
}

#[tokio::test]
async fn sec_011_every_login_gets_the_same_answer_and_the_same_row() {
    let (h, operator) = with_bob().await;
    operator.person("locked", "locked@example.com", Some(password())).await;
    operator.lock("locked").await.expect("a lock");
    operator.person("mailless", "", Some(password())).await;
    operator.person("pending", "pending@example.com", None).await;
    operator.person("corrupt", "corrupt@example.com", Some(password())).await;
    let service = v1::CreateUserRequest {
        username: "service".to_owned(),
        kind: v1::UserKind::Service.into(),
        ..Default::default()
    };
    operator.create(service).await.expect("a service");
    h.sql(r#"UPDATE "user" SET roles = 'emperor' WHERE username = 'corrupt'"#).await;
    let stranger = h.stranger().await;
    let mut answers = Vec::new();
    for login in
        ["nobody", "no@example.com", "bob", "bob@example.com", "locked", "mailless", "pending", "service", "corrupt"]
    {
        answers.push((login, seen(&stranger.forgot(login).await.expect("the answer"))));
    }
    for (login, answer) in &answers {
        assert_eq!(answer, &answers[0].1, "{login}");
    }
    settled(&h).await;
    let sent = h.query("SELECT address FROM delivery").await;
    assert_eq!(sent, [ADDRESS], "bob, once");
    let mut reasons = reasons(&h).await;
    reasons.sort();
    let expected = [
        "NO_DELIVERY_ADDRESS",
        "RATE_LIMITED",
        "RECORD_CORRUPT",
        "USER_IS_SERVICE",
        "USER_LOCKED",
        "USER_NOT_FOUND",
        "USER_PENDING",
    ];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn the_name_of_no_account_is_not_in_the_audit_log() {
    let h = Harness::start().await;
    asks(&h, &h.stranger().await, "hunter2").await;
    assert_eq!(reasons(&h).await, ["USER_NOT_FOUND"]);
    let events = h.operator().await.events().await;
    let asked = events.iter().find(|event| event.r#type() == v1::EventType::PasswordResetRequested).expect("an event");
    assert!(format!("{asked:?}").contains("hmac:") && !format!("{asked:?}").contains("hunter2"), "{asked:?}");
}

#[tokio::test]
async fn without_mail_everybody_is_told_so() {
    let h = Harness::with(|config| config.mail.transport = latchkey::config::Transport::Off).await;
    h.create("bob", &[], PASSWORD).await;
    for login in ["bob", "nobody"] {
        let answer = h.stranger().await.forgot(login).await;
        refused(answer, Code::FailedPrecondition, "DELIVERY_DISABLED");
    }
}

#[tokio::test]
async fn a_blocked_source_asks_for_no_link() {
    let h = Harness::with(|config| config.throttle.source_failures = 3).await;
    let stranger = h.stranger().await;
    for number in 0..3 {
        stranger.sign_in(&format!("nobody{number}"), OTHER_PASSWORD).await.expect_err("a refusal");
    }
    refused(stranger.forgot("nobody").await, Code::ResourceExhausted, "RATE_LIMITED");
}

#[tokio::test]
async fn a_lock_for_wrong_passwords_lets_its_owner_ask() {
    let h = Harness::with(|config| config.throttle.lockout_threshold = 3).await;
    let operator = h.operator().await;
    operator.person("bob", ADDRESS, Some(password())).await;
    h.sql(r#"UPDATE "user" SET lock_cause = 5, locked_at = 1, lock_note = '', lock_actor_id = '', lock_actor_name = '' WHERE username = 'bob'"#)
        .await;
    assert_eq!(operator.user("bob").await.lock.expect("a lock").cause(), v1::LockCause::FailedSignIns);
    asks(&h, &h.operator().await, "bob").await;
    assert_eq!(operator.deliveries("bob").await.len(), 1);
}

#[tokio::test]
async fn a_pending_user_gets_an_invitation_only_where_one_was_sent() {
    let h = Harness::start().await;
    let (operator, local) = (h.operator().await, h.operator().await);
    operator.person("invited", "invited@example.com", Some(Credential::Invite(v1::SendLink::default()))).await;
    operator.person("unasked", "unasked@example.com", Some(Credential::ReturnInvite(v1::ReturnLink::default()))).await;
    for login in ["invited", "unasked"] {
        asks(&h, &local, login).await;
    }
    let deliveries = operator.deliveries("invited").await;
    assert_eq!(deliveries.iter().map(v1::Delivery::kind).collect::<Vec<_>>(), [DeliveryKind::Invite; 2]);
    let asked = &deliveries[0];
    let life = asked.expire_time.expect("an end").seconds - asked.create_time.expect("a time").seconds;
    assert_eq!(life, 1800);
    assert_eq!(operator.deliveries("unasked").await.len(), 0);
    assert_eq!(reasons(&h).await, ["USER_PENDING"]);
}

#[tokio::test]
async fn a_pending_user_gets_no_invitation_at_an_address_to_which_none_was_sent() {
    let h = Harness::start().await;
    let (operator, local) = (h.operator().await, h.operator().await);
    operator.person("invited", "invited@example.com", Some(Credential::Invite(v1::SendLink::default()))).await;
    let email = Some("moved@example.com".to_owned());
    let request = v1::UpdateUserRequest { user: Some(named("invited")), email, ..Default::default() };
    operator.update(request).await.expect("an address");
    asks(&h, &local, "invited").await;
    assert_eq!(reasons(&h).await, ["USER_PENDING"]);
}

#[tokio::test]
async fn a_user_who_moves_to_another_address_gets_no_further_mail_for_it() {
    let (h, operator) = with_bob().await;
    let local = h.operator().await;
    asks(&h, &local, "bob").await;
    let email = Some("robert@example.com".to_owned());
    let request = v1::UpdateUserRequest { user: Some(named("bob")), email, ..Default::default() };
    operator.update(request).await.expect("an address");
    asks(&h, &local, "bob").await;
    assert_eq!(reasons(&h).await, ["RATE_LIMITED"]);
}

#[tokio::test]
async fn links_of_another_purpose_do_not_keep_a_user_from_asking() {
    let (h, operator) = with_bob().await;
    for _ in 0..3 {
        let request = v1::SendEmailVerificationRequest { user: Some(named("bob")), ..Default::default() };
        operator.user_admin().send_email_verification(request).await.expect("a link");
    }
    asks(&h, &h.operator().await, "bob").await;
    assert_eq!(operator.deliveries("bob").await.len(), 4);
}

#[tokio::test]
async fn a_stranger_cannot_end_the_link_of_an_operator() {
    let (h, operator) = with_bob().await;
    let local = h.operator().await;
    let reset = v1::ResetPasswordRequest { user: Some(named("bob")), ..Default::default() };
    let sent = operator.reset_with(reset).await.expect("a reset").delivery.expect("a delivery");
    for _ in 0..5 {
        asks(&h, &local, "bob").await;
        h.clock.advance(Duration::from_secs(61));
    }
    assert_eq!(operator.deliveries("bob").await.len(), 3, "two of them asked for by strangers");
    let link_token = h.mail_of(&sent).await.token("reset");
    local.auth().inspect_link(v1::InspectLinkRequest { link_token }).await.expect("the operator's link works");
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_or_back_delays_a_link_for_no_longer_than_that() {
    const HOUR: Duration = Duration::from_hours(1);
    for is_ahead in [true, false] {
        let (h, operator) = with_bob().await;
        let local = h.operator().await;
        asks(&h, &local, "bob").await;
        if is_ahead {
            h.clock.advance(HOUR);
        } else {
            h.clock.turn_back(HOUR);
            asks(&h, &local, "bob").await;
            assert_eq!(
                (operator.deliveries("bob").await.len(), reasons(&h).await),
                (1, vec!["RATE_LIMITED".to_owned()])
            );
            h.clock.advance(HOUR + Duration::from_secs(61));
        }
        asks(&h, &local, "bob").await;
        let sent = operator.deliveries("bob").await;
        assert_eq!(sent.len(), 2, "ahead: {is_ahead}");
        h.mail_of(&sent[0]).await;
    }
}

#[tokio::test]
async fn while_the_outbox_is_full_strangers_get_no_mail_and_operators_send_theirs() {
    let (h, operator) = with_bob().await;
    operator.person("ada", "ada@example.com", Some(password())).await;
    h.sql(
        "INSERT INTO delivery (id, user_id, letter, address, address_key, state, attempts, last_error, relay, created_at,
            updated_at, next_attempt_at, requested_by, contents_version, is_slow, was_unknown, is_cancelled)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        SELECT 'x' || i, (SELECT id FROM \"user\" WHERE username = 'ada'), 51, 'a', 'a', 3, 1, '', '', 1, 1,
            9000000000000000, 'someone', 1, FALSE, FALSE, FALSE FROM n",
    )
    .await;
    asks(&h, &h.operator().await, "bob").await;
    assert_eq!((operator.deliveries("bob").await.len(), reasons(&h).await), (0, vec!["OVERLOADED".to_owned()]));
    let reset = v1::ResetPasswordRequest { user: Some(named("bob")), ..Default::default() };
    operator.reset_with(reset).await.expect("the operator's mail waits its turn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_014_a_flood_over_two_servers_yields_three_mails_and_one_answer() {
    let (h, operator) = with_bob().await;
    let second = h.replica().await;
    let clients = [h.operator().await, second.as_ref().unwrap_or(&h).operator().await];
    let mut answers = Vec::new();
    for _ in 0..20 {
        let calls = (0..50).map(|number| clients[number % 2].forgot(["bob", "bob@example.com"][number / 2 % 2]));
        answers.extend(at_once(calls).await.into_iter().map(|answer| seen(&answer.expect("the answer"))));
        settled(&h).await;
        h.clock.advance(Duration::from_secs(61));
    }
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(operator.deliveries("bob").await.len(), 3);
    let others = reasons(&h).await.len();
    assert!(others <= 2 * 21, "one counted event a minute: {others}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_014_two_servers_resolve_a_request_once() {
    let h = Harness::start().await;
    let Some(second) = h.replica().await else { return };
    let operator = h.operator().await;
    let clients = [h.operator().await, second.operator().await];
    let names: Vec<String> = (0..20).map(|number| format!("user{number}")).collect();
    for name in &names {
        operator.person(name, &format!("{name}@example.com"), Some(password())).await;
    }
    let asked = names.iter().flat_map(|name| clients.iter().map(move |client| client.forgot(name)));
    at_once(asked).await.into_iter().for_each(|answer| drop(answer.expect("the answer")));
    settled(&h).await;
    for name in &names {
        assert_eq!(operator.deliveries(name).await.len(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_014_requests_for_unknown_users_leave_few_rows() {
    let h = Harness::start().await;
    let stranger = h.stranger().await;
    // By default 300; a million with TEST_FULL, which takes several windows of the budgets.
    let calls = if is_full() { 1_000_000 } else { 300 };
    for chunk in 0..calls / CHUNK {
        let calls = (0..CHUNK).map(|number| {
            let client = stranger.clone();
            async move { client.forgot(&format!("nobody{chunk}.{number}")).await }
        });
        at_once(calls).await.into_iter().for_each(|answer| drop(answer.expect("the same answer")));
    }
    settled(&h).await;
    assert_eq!(h.query("SELECT count(*) FROM row_budget").await, ["4"], "source, two networks, all");
    // A job may move the count of a minute into an event between two reads.
    let [stored, refused] = eventually("every request is counted", || async {
        let all = [counted(&h, "USER_NOT_FOUND").await, counted(&h, "RATE_LIMITED").await];
        (all.iter().map(|counted| counted.requests).sum::<usize>() == calls).then_some(all)
    })
    .await;
    if !is_full() {
        assert_eq!(h.query("SELECT taken FROM row_budget WHERE name LIKE 'resets %/32'").await, ["10"]);
        assert_eq!(stored.requests, 10, "the others were only counted");
    }
    for counted in [stored, refused] {
        // An event begins each minute of a kind, and another ends it.
        assert!(counted.events <= 2 * counted.minutes + 2, "{counted:?}");
    }
    assert_eq!(h.query("SELECT count(*) FROM delivery").await, ["0"]);
    // Others are served.
    let elsewhere = h.stranger_at("127.0.0.9").await;
    h.operator().await.person("bob", ADDRESS, Some(password())).await;
    asks(&h, &elsewhere, "bob").await;
    assert_eq!(h.query("SELECT count(*) FROM delivery").await, ["1"]);
}

#[tokio::test]
async fn a_request_that_is_resolved_after_its_link_would_have_expired_sends_none() {
    for (late, sends) in [(1_700, true), (1_800, false)] {
        let site = Site::new().await;
        let barrier = site.barrier("resolving");
        let server = site.start(&format!("reset-requests.begin=1*{}", barrier.action())).await;
        let operator = server.operator().await;
        operator.person("bob", ADDRESS, Some(password())).await;
        operator.forgot("bob").await.expect("the answer");
        let held = barrier.reached().await;
        // The job does not find the request as it was, and tries again.
        let statement = format!("UPDATE reset_request SET created_at = created_at - {late}000000");
        site.database.execute(&statement).await;
        drop(held);
        let waiting = "SELECT count(*) FROM reset_request";
        eventually("no request", || async { (site.database.query(waiting).await == ["0"]).then_some(()) }).await;
        assert_eq!(operator.deliveries("bob").await.len(), usize::from(sends), "{late}");
        let reasons = "SELECT reason FROM audit_event WHERE kind = 'PASSWORD_RESET_REQUESTED' AND reason IS NOT NULL";
        let expected: &[&str] = if sends { &[] } else { &["DEADLINE_PASSED"] };
        assert_eq!(site.database.query(reasons).await, expected, "{late}");
    }
}
