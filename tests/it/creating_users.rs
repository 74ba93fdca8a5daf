//! Creating accounts.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::{self, PasswordChangeCause, UserFlag, UserKind, UserState};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, at_once, refused};

const KEY: &str = "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7";

fn bob() -> v1::CreateUserRequest {
    v1::CreateUserRequest { username: "bob".to_owned(), ..Default::default() }
}

fn with_temporary() -> v1::CreateUserRequest {
    v1::CreateUserRequest { credential: Some(Credential::TemporaryPassword(v1::TemporaryPassword::default())), ..bob() }
}

fn with_password(change_required: Option<bool>) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: change_required,
        ..bob()
    }
}

async fn count(operator: &Client) -> i32 {
    let request = v1::ListUsersRequest { include_total: true, ..Default::default() };
    operator.list(request).await.expect("a list").total_size.expect("a count")
}

fn seconds_from_now(h: &Harness, at: Option<prost_types::Timestamp>) -> i64 {
    use latchkey::clock::Clock;
    at.expect("a time").seconds - h.clock.now().as_unix_seconds()
}

#[tokio::test]
async fn every_field_of_a_new_user_is_read_back() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "Ada.L".to_owned(),
        kind: UserKind::Person.into(),
        email: "Ada@Example.com".to_owned(),
        display_name: "Ada Lovelace".to_owned(),
        locale: "en-GB".to_owned(),
        external_id: "hr-1815".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "engines".to_owned())]),
        roles: vec!["viewer".to_owned(), "auditor".to_owned(), "viewer".to_owned()],
        note: "ticket 1".to_owned(),
        ..Default::default()
    };
    let created = operator.create(request).await.unwrap().user.unwrap();
    let read = operator.get("ada.l").await.unwrap();
    assert_eq!(created, read);
    let texts = [&read.username, &read.email, &read.display_name, &read.locale, &read.external_id];
    assert_eq!(texts, ["ada.l", "Ada@Example.com", "Ada Lovelace", "en-GB", "hr-1815"]);
    assert_eq!(read.labels, BTreeMap::from([("team".to_owned(), "engines".to_owned())]));
    assert_eq!(read.roles, ["auditor", "viewer"]);
    assert_eq!((read.kind(), read.state()), (UserKind::Person, UserState::Pending));
    assert_eq!(read.flags, [UserFlag::EmailUnverified, UserFlag::NeverSignedIn].map(i32::from));
    assert!(!read.etag.is_empty() && read.create_time == read.update_time && read.last_sign_in_time.is_none());
    let references = [
        v1::user_ref::Ref::Id(read.id.clone()),
        v1::user_ref::Ref::Username("ADA.L".to_owned()),
        v1::user_ref::Ref::Email("ada@example.COM".to_owned()),
        v1::user_ref::Ref::ExternalId("hr-1815".to_owned()),
    ];
    for reference in references {
        let request = v1::GetUserRequest { user: Some(v1::UserRef { r#ref: Some(reference) }) };
        let found = operator.user_admin().get_user(request).await.unwrap().into_inner();
        assert_eq!(found.user.as_ref(), Some(&read));
    }
}

#[tokio::test]
async fn a_user_without_a_credential_is_pending_and_cannot_sign_in() {
    let h = Harness::start().await;
    let answer = h.operator().await.create(bob()).await.unwrap();
    assert_eq!((answer.secret, answer.expire_time), (None, None));
    assert_eq!(answer.user.unwrap().state(), UserState::Pending);
    refused(h.stranger().await.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_temporary_password_is_shown_once_and_must_be_changed() {
    let h = Harness::start().await;
    let answer = h.operator().await.create(with_temporary()).await.unwrap();
    let user = answer.user.clone().unwrap();
    assert_eq!(user.state(), UserState::Active);
    let status = user.password_status.unwrap();
    assert!(status.password_set && status.change_required);
    assert_eq!(status.change_cause(), PasswordChangeCause::Temporary);
    assert_eq!(status.temporary_expire_time, answer.expire_time);
    assert!((86_380..=86_400).contains(&seconds_from_now(&h, answer.expire_time)));
    h.stranger().await.change_step("bob", answer.shown()).await.expect("a demand for a new password");
}

#[tokio::test]
async fn a_chosen_password_must_be_changed_within_three_days() {
    let h = Harness::start().await;
    let answer = h.operator().await.create(with_password(None)).await.unwrap();
    assert_eq!(answer.secret, None);
    assert!((259_180..=259_200).contains(&seconds_from_now(&h, answer.expire_time)));
    let stranger = h.stranger().await;
    stranger.change_step("bob", PASSWORD).await.expect("a demand for a new password");
    h.clock.advance(Duration::from_hours(72));
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_lasting_password_needs_the_right_to_know_secrets() {
    let h = Harness::start().await;
    let limited = h.token(&["users.write", "users.reset.temporary"]).await;
    let refusal = refused(limited.create(with_password(Some(false))).await, Code::PermissionDenied, "SCOPE_MISSING");
    assert_eq!(refusal.metadata("scope"), "users.reset.secrets");
    limited.create(with_password(Some(true))).await.expect("one that has to be changed");

    let full = h.token(&["users.write", "users.reset.secrets"]).await;
    let request = v1::CreateUserRequest { username: "eve".to_owned(), ..with_password(Some(false)) };
    let answer = full.create(request).await.unwrap();
    assert_eq!(answer.expire_time, None);
    h.stranger().await.tokens("eve", PASSWORD).await.expect("no demand");
}

#[tokio::test]
async fn a_service_is_active_and_takes_no_password() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let service = v1::CreateUserRequest { kind: UserKind::Service.into(), ..bob() };
    let user = operator.create(service).await.unwrap().user.unwrap();
    assert_eq!((user.state(), user.flags.len()), (UserState::Active, 0));
    for (request, field) in [(with_temporary(), "temporary_password"), (with_password(None), "password")] {
        let request = v1::CreateUserRequest { kind: UserKind::Service.into(), ..request };
        let refusal = refused(operator.create(request).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations(), [format!("{field}: CONFLICT")]);
    }
}

#[tokio::test]
async fn a_repeated_call_with_the_same_key_answers_without_the_secret() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let request = v1::CreateUserRequest { idempotency_key: KEY.to_owned(), ..with_temporary() };
    let first = operator.create(request.clone()).await.unwrap();
    let again = operator.create(request.clone()).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((again.secret, again.expire_time), (None, first.expire_time));
    assert_eq!(again.user, first.user);
    h.stranger().await.change_step("bob", first.shown()).await.expect("the first password still works");

    let other = v1::CreateUserRequest { display_name: "Bob".to_owned(), ..request.clone() };
    refused(operator.create(other).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED");
    let admin = h.admin().await;
    refused(admin.client.create(request.clone()).await, Code::AlreadyExists, "USERNAME_TAKEN");

    h.clock.advance(Duration::from_secs(24 * 3600 + 1));
    refused(operator.create(request).await, Code::AlreadyExists, "USERNAME_TAKEN");
}

#[tokio::test]
async fn twenty_calls_at_once_with_the_same_key_make_one_user_and_one_password() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let request = v1::CreateUserRequest { idempotency_key: KEY.to_owned(), ..with_temporary() };
    let answers = at_once((0..20).map(|_| operator.create(request.clone()))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let shown: Vec<_> = answers.iter().filter(|answer| answer.secret.is_some()).collect();
    assert_eq!((shown.len(), answers.iter().filter(|answer| answer.replayed).count()), (1, 19));
    assert_eq!(count(&operator).await, 1);
    h.stranger().await.change_step("bob", shown[0].shown()).await.expect("the password that was shown");
    let created = operator.events().await.iter().filter(|event| event.r#type() == v1::EventType::UserCreated).count();
    assert_eq!(created, 1);
}

#[tokio::test]
async fn names_addresses_and_external_ids_are_unique() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let full = |username: &str, email: &str, external_id: &str| v1::CreateUserRequest {
        username: username.to_owned(),
        email: email.to_owned(),
        external_id: external_id.to_owned(),
        ..Default::default()
    };
    operator.create(full("bob", "Bob@example.com", "7")).await.unwrap();
    for (request, reason) in [
        (full("BOB", "", ""), "USERNAME_TAKEN"),
        (full("bob2", "bob@EXAMPLE.com", ""), "EMAIL_TAKEN"),
        (full("bob2", "", "7"), "EXTERNAL_ID_TAKEN"),
    ] {
        refused(operator.create(request).await, Code::AlreadyExists, reason);
    }
    operator.create(full("bob2", "", "")).await.expect("absent values are not compared");
    operator.create(full("bob3", "", "")).await.expect("absent values are not compared");
}

#[tokio::test]
async fn the_name_of_a_deleted_user_is_reserved_for_thirty_days() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let first = operator.create(bob()).await.unwrap().user.unwrap();
    operator.delete("bob", &first.etag).await.unwrap();
    let refusal = refused(operator.create(bob()).await, Code::AlreadyExists, "USERNAME_RESERVED");
    assert!(!refusal.metadata("availableTime").is_empty());
    h.create("eve", &[], PASSWORD).await;
    let rename =
        v1::UpdateUserRequest { user: Some(named("eve")), username: Some("bob".to_owned()), ..Default::default() };
    refused(operator.update(rename).await, Code::AlreadyExists, "USERNAME_RESERVED");

    h.clock.advance(Duration::from_mins(30 * 24 * 60 - 1));
    refused(operator.create(bob()).await, Code::AlreadyExists, "USERNAME_RESERVED");
    h.clock.advance(Duration::from_secs(61));
    let second = operator.create(bob()).await.unwrap().user.unwrap();
    assert_ne!(second.id, first.id);
}

#[tokio::test]
async fn validate_only_checks_everything_and_changes_nothing() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let request = v1::CreateUserRequest { validate_only: true, idempotency_key: KEY.to_owned(), ..with_temporary() };
    let answer = operator.create(request.clone()).await.unwrap();
    assert_eq!((answer.secret, answer.replayed), (None, false));
    assert_eq!((count(&operator).await, operator.events().await.len()), (0, 0));

    // The key is not used up either.
    let real = v1::CreateUserRequest { validate_only: false, ..request.clone() };
    assert!(!operator.create(real).await.unwrap().replayed);
    let taken = v1::CreateUserRequest { idempotency_key: String::new(), ..request };
    refused(operator.create(taken).await, Code::AlreadyExists, "USERNAME_TAKEN");
}

#[tokio::test]
async fn every_violation_is_told_at_once() {
    let h = Harness::start().await;
    let request = v1::CreateUserRequest {
        username: "bob@example.com".to_owned(),
        kind: 99,
        email: "nobody".to_owned(),
        display_name: "a\u{202e}b".to_owned(),
        locale: "!".to_owned(),
        external_id: "x".repeat(129),
        labels: BTreeMap::from([("UPPER".to_owned(), "x".to_owned())]),
        roles: vec!["emperor".to_owned()],
        credential: Some(Credential::Password(String::new())),
        note: "x".repeat(1025),
        idempotency_key: "retry-1".to_owned(),
        ..Default::default()
    };
    let refusal = refused(h.operator().await.create(request).await, Code::InvalidArgument, "FIELD_INVALID");
    let mut fields: Vec<String> = refusal.violations();
    fields.sort();
    let expected = [
        "display_name: FORBIDDEN_CHARACTER",
        "email: MALFORMED",
        "external_id: TOO_LONG",
        "idempotency_key: MALFORMED",
        "kind: UNKNOWN",
        "labels: MALFORMED",
        "locale: MALFORMED",
        "note: TOO_LONG",
        "password: REQUIRED",
        "roles[0]: UNKNOWN",
        "username: MALFORMED",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_password_that_breaks_a_rule_is_rejected_by_name() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let long = "a long c4nary song of many verses ".repeat(8);
    for (password, rules) in
        [("c4nary".to_owned(), &["password: TOO_SHORT", "password: TOO_WEAK"][..]), (long, &["password: TOO_LONG"])]
    {
        let request = v1::CreateUserRequest { credential: Some(Credential::Password(password)), ..bob() };
        let refusal = refused(operator.create(request).await, Code::InvalidArgument, "PASSWORD_REJECTED");
        assert_eq!(refusal.violations(), rules);
    }
    let text = format!("{OTHER_PASSWORD}\u{0}");
    let request = v1::CreateUserRequest { credential: Some(Credential::Password(text)), ..bob() };
    let refusal = refused(operator.create(request).await, Code::InvalidArgument, "PASSWORD_REJECTED");
    assert_eq!(refusal.violations(), ["password: NOT_TEXT"]);
}

#[tokio::test]
async fn giving_a_role_requires_all_its_scopes() {
    let h = Harness::start().await;
    let limited = h.token(&["users.write", "roles.write"]).await;
    let request = v1::CreateUserRequest { roles: vec!["admin".to_owned()], ..bob() };
    refused(limited.create(request).await, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
    refused(h.operator().await.get("bob").await, Code::NotFound, "USER_NOT_FOUND");
}
