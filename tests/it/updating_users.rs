//! Changing accounts.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey::proto::v1;
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::told;
use crate::harness::{Harness, PASSWORD, at_once, refused};

fn of_bob() -> v1::UpdateUserRequest {
    v1::UpdateUserRequest { user: Some(named("bob")), ..Default::default() }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A server with a user that has a value in every field.
async fn with_bob() -> Harness {
    let h = Harness::start().await;
    let request = v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: "bob@example.com".to_owned(),
        display_name: "Bob".to_owned(),
        locale: "de".to_owned(),
        external_id: "7".to_owned(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        roles: texts(&["viewer"]),
        credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    h.operator().await.create(request).await.expect("bob");
    h
}

#[tokio::test]
async fn what_is_absent_stays_as_it_is() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let before = operator.user("bob").await;
    let request = v1::UpdateUserRequest { display_name: Some("Robert".to_owned()), ..of_bob() };
    let after = operator.update(request).await.unwrap().user.unwrap();
    assert_eq!(after, operator.user("bob").await);
    assert_ne!(after.etag, before.etag);
    let expected = v1::User {
        display_name: "Robert".to_owned(),
        etag: after.etag.clone(),
        update_time: after.update_time,
        ..before
    };
    assert_eq!(after, expected);
}

#[tokio::test]
async fn what_is_empty_is_cleared() {
    let h = with_bob().await;
    let empty = || Some(String::new());
    let request = v1::UpdateUserRequest {
        email: empty(),
        display_name: empty(),
        locale: empty(),
        external_id: empty(),
        ..of_bob()
    };
    let after = h.operator().await.update(request).await.unwrap().user.unwrap();
    assert_eq!([after.email, after.display_name, after.locale, after.external_id], ["", "", "", ""]);
    let request = v1::UpdateUserRequest { username: empty(), ..of_bob() };
    let refusal = refused(h.operator().await.update(request).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["username: REQUIRED"]);
}

#[tokio::test]
async fn a_new_name_signs_in_and_the_old_one_does_not() {
    let h = with_bob().await;
    let request = v1::UpdateUserRequest { username: Some("Robert".to_owned()), ..of_bob() };
    assert_eq!(h.operator().await.update(request).await.unwrap().user.unwrap().username, "robert");
    let stranger = h.stranger().await;
    stranger.tokens("robert", PASSWORD).await.expect("the new name");
    refused(stranger.sign_in("bob", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_name_and_an_address_that_an_account_gave_up_are_reserved_for_it_for_thirty_days() {
    let h = with_bob().await;
    let operator = h.operator().await;
    h.signed_in("bob", PASSWORD).await;
    let change = async |name: &str, username: &str, email: &str| {
        let user = Some(named(name));
        let (username, email) = (Some(username.to_owned()), Some(email.to_owned()));
        operator.update(v1::UpdateUserRequest { user, username, email, ..Default::default() }).await
    };
    let answer = change("bob", "robert", "robert@example.com").await.expect("another name");
    let effects = answer.effects.expect("effects");
    assert_eq!(effects.sessions_revoked, 0, "sessions stay");
    let carried = effects.access_expire_time.expect("a time until which access tokens carry the old name");
    let changed = answer.user.and_then(|user| user.update_time).expect("the time of the change");
    assert!(carried.seconds > changed.seconds, "{carried:?}");

    h.create("eve", &[], PASSWORD).await;
    let refusal = refused(change("eve", "BOB", "").await, Code::AlreadyExists, "USERNAME_RESERVED");
    assert!(!refusal.metadata("availableTime").is_empty());
    let refusal = refused(change("eve", "eve", "BOB@example.com").await, Code::AlreadyExists, "EMAIL_TAKEN");
    assert!(!refusal.metadata("availableTime").is_empty());
    let create = |username: &str, email: &str| v1::CreateUserRequest {
        username: username.to_owned(),
        email: email.to_owned(),
        ..Default::default()
    };
    refused(operator.create(create("bob", "")).await, Code::AlreadyExists, "USERNAME_RESERVED");
    refused(operator.create(create("dan", "bob@example.com")).await, Code::AlreadyExists, "EMAIL_TAKEN");

    // The account takes both back, which ends their reservation and begins that of the others.
    change("robert", "bob", "bob@example.com").await.expect("the old name");
    refused(change("eve", "bob", "").await, Code::AlreadyExists, "USERNAME_TAKEN");
    refused(change("eve", "robert", "").await, Code::AlreadyExists, "USERNAME_RESERVED");
    h.clock.advance(Duration::from_hours(30 * 24));
    change("eve", "robert", "robert@example.com").await.expect("a name that is no longer reserved");

    let bob = operator.user("bob").await;
    operator.delete("bob", &bob.etag).await.expect("a deletion");
    refused(operator.create(create("dan", "bob@example.com")).await, Code::AlreadyExists, "EMAIL_TAKEN");
}

#[tokio::test]
async fn an_administrator_gives_a_reserved_name_and_address_to_another_account() {
    let h = with_bob().await;
    let (helpdesk, admin) = (h.token(&["users.read", "users.write", "users.email"]).await, h.operator().await);
    let rename = |user: &str, username: &str, email: &str, take_reserved: bool| v1::UpdateUserRequest {
        user: Some(named(user)),
        username: Some(username.to_owned()),
        email: Some(email.to_owned()),
        take_reserved,
        ..Default::default()
    };
    admin.update(rename("bob", "robert", "robert@example.com", false)).await.expect("a mistyped name");
    let create = |take_reserved| v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: "bob@example.com".to_owned(),
        take_reserved,
        ..Default::default()
    };
    refused(admin.create(create(false)).await, Code::AlreadyExists, "USERNAME_RESERVED");
    refused(helpdesk.create(create(true)).await, Code::PermissionDenied, "SCOPE_MISSING");
    admin.create(create(true)).await.expect("an administrator takes it");
    let events = admin.events().await;
    assert!(events.iter().any(|event| event.details.get("take_reserved").is_some_and(|taken| taken == "true")));

    // The account that gave them up cannot take them back, even once they are free again.
    admin.update(rename("bob", "bobby", "", false)).await.expect("another name");
    refused(admin.update(rename("robert", "bob", "", false)).await, Code::AlreadyExists, "USERNAME_RESERVED");
    admin.update(rename("robert", "bob", "bob@example.com", true)).await.expect("an administrator gives it back");
    refused(admin.update(rename("bobby", "bob", "", true)).await, Code::AlreadyExists, "USERNAME_TAKEN");
}

#[tokio::test]
async fn a_change_says_until_when_it_reserves_what_it_gives_up_and_reserves_nothing_else() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let reserved_for = async |request: v1::UpdateUserRequest| {
        let answer = operator.update(request).await.expect("a change");
        let changed = answer.user.and_then(|user| user.update_time).expect("the time of the change");
        let end = answer.effects.and_then(|effects| effects.reserve_expire_time);
        end.map(|end| end.seconds - changed.seconds)
    };
    let month = Some(30 * 24 * 3600);
    let username = |name: &str| v1::UpdateUserRequest { username: Some(name.to_owned()), ..of_bob() };
    let email = |address: &str| v1::UpdateUserRequest { email: Some(address.to_owned()), ..of_bob() };
    assert_eq!(reserved_for(username("BOB")).await, None, "the same name");
    assert_eq!(reserved_for(email("Bob@Example.com")).await, None, "the same address");
    assert_eq!(reserved_for(email("robert@example.com")).await, month);
    assert_eq!(reserved_for(email("")).await, month);
    assert_eq!(reserved_for(email("bob@example.com")).await, None, "nothing was given up");
    assert_eq!(reserved_for(username("robert")).await, month);
    let answer = operator.delete("robert", &operator.user("robert").await.etag).await.expect("a deletion");
    assert!(answer.effects.is_some_and(|effects| effects.reserve_expire_time.is_some()));
}

#[tokio::test]
async fn labels_are_merged_and_an_empty_value_removes_one() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let request = v1::UpdateUserRequest { labels: labels(&[("a", ""), ("b", "3"), ("c", "4"), ("d", "")]), ..of_bob() };
    let after = operator.update(request).await.unwrap().user.unwrap();
    assert_eq!(after.labels, labels(&[("b", "3"), ("c", "4")]));

    let many: BTreeMap<String, String> = (0..31).map(|number| (format!("n{number}"), "x".to_owned())).collect();
    let request = v1::UpdateUserRequest { labels: many, ..of_bob() };
    let refusal = refused(operator.update(request).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["labels: TOO_MANY"]);
}

#[tokio::test]
async fn a_role_that_is_added_leaves_sessions_and_one_that_is_taken_ends_them() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let bob = h.signed_in("bob", PASSWORD).await;
    let request = v1::UpdateUserRequest { add_roles: texts(&["auditor", "viewer"]), ..of_bob() };
    let answer = operator.update(request).await.unwrap();
    assert_eq!(answer.user.unwrap().roles, ["auditor", "viewer"]);
    assert_eq!(answer.effects.unwrap().sessions_revoked, 0);
    bob.client.who_am_i().await.expect("the session lives");

    let request =
        v1::UpdateUserRequest { add_roles: texts(&["app"]), remove_roles: texts(&["viewer", "admin"]), ..of_bob() };
    let answer = operator.update(request).await.unwrap();
    assert_eq!(answer.user.unwrap().roles, ["app", "auditor"]);
    let effects = answer.effects.unwrap();
    assert!(effects.sessions_revoked == 1 && effects.access_expire_time.is_some());
    refused(bob.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    refused(bob.client.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");

    let both = v1::UpdateUserRequest { add_roles: texts(&["app"]), remove_roles: texts(&["app"]), ..of_bob() };
    let refusal = refused(operator.update(both).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["remove_roles: CONFLICT"]);
}

#[tokio::test]
async fn a_stale_etag_is_refused_and_told_the_current_one() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let stale = operator.user("bob").await.etag;
    let request = v1::UpdateUserRequest { locale: Some("fr".to_owned()), etag: stale.clone(), ..of_bob() };
    let current = operator.update(request.clone()).await.unwrap().user.unwrap().etag;
    let refusal = refused(operator.update(request.clone()).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(refusal.metadata("currentEtag"), current);
    let malformed = v1::UpdateUserRequest { etag: "7".to_owned(), ..request };
    let refusal = refused(operator.update(malformed).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["etag: MALFORMED"]);
}

#[tokio::test]
async fn of_ten_updates_with_the_same_etag_one_is_made() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let etag = operator.user("bob").await.etag;
    let updates = (0..10).map(|number| {
        let request =
            v1::UpdateUserRequest { display_name: Some(format!("Bob {number}")), etag: etag.clone(), ..of_bob() };
        operator.update(request)
    });
    let answers = at_once(updates).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refusal in answers.into_iter().filter(Result::is_err) {
        refused(refusal, Code::Aborted, "ETAG_MISMATCH");
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_event_and_moves_no_etag() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let before = operator.user("bob").await;
    let events = operator.events().await.len();
    let request = v1::UpdateUserRequest {
        username: Some("BOB".to_owned()),
        email: Some("bob@example.com".to_owned()),
        labels: labels(&[("a", "1")]),
        add_roles: texts(&["viewer"]),
        remove_roles: texts(&["admin"]),
        ..of_bob()
    };
    assert_eq!(operator.update(request).await.unwrap().user.unwrap(), before);
    assert_eq!(operator.user("bob").await, before);
    assert_eq!(operator.events().await.len(), events);
}

#[tokio::test]
async fn validate_only_shows_what_would_be_and_changes_nothing() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let bob = h.signed_in("bob", PASSWORD).await;
    let before = operator.user("bob").await;
    let events = operator.events().await.len();
    let request = v1::UpdateUserRequest {
        display_name: Some("Robert".to_owned()),
        remove_roles: texts(&["viewer"]),
        validate_only: true,
        ..of_bob()
    };
    let answer = operator.update(request).await.unwrap();
    assert_eq!(answer.user.unwrap().display_name, "Robert");
    assert_eq!(answer.effects.unwrap().sessions_revoked, 1);
    assert_eq!(operator.user("bob").await, before);
    assert_eq!(operator.events().await.len(), events);
    bob.client.who_am_i().await.expect("the session lives");
}

#[tokio::test]
async fn a_value_of_somebody_else_is_refused() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let eve = v1::CreateUserRequest {
        username: "eve".to_owned(),
        email: "eve@example.com".to_owned(),
        external_id: "8".to_owned(),
        ..Default::default()
    };
    operator.create(eve).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    for (request, reason) in [
        (v1::UpdateUserRequest { username: text("Eve"), ..of_bob() }, "USERNAME_TAKEN"),
        (v1::UpdateUserRequest { email: text("EVE@example.com"), ..of_bob() }, "EMAIL_TAKEN"),
        (v1::UpdateUserRequest { external_id: text("8"), ..of_bob() }, "EXTERNAL_ID_TAKEN"),
    ] {
        refused(operator.update(request).await, Code::AlreadyExists, reason);
    }
}

#[tokio::test]
async fn each_kind_of_change_has_its_event_with_the_names_of_the_fields() {
    let h = with_bob().await;
    let operator = h.operator().await;
    let before = operator.events().await.len();
    let request = v1::UpdateUserRequest {
        display_name: Some("Robert".to_owned()),
        locale: Some("fr".to_owned()),
        email: Some("robert@example.com".to_owned()),
        add_roles: texts(&["app"]),
        remove_roles: texts(&["viewer"]),
        note: "married".to_owned(),
        ..of_bob()
    };
    operator.update(request).await.unwrap();
    let mut events = operator.events().await.split_off(before);
    events.sort_by_key(told);
    let operator_name = operator.who_am_i().await.map(|who| who.principal_id).expect("an operator");
    let story: Vec<(String, String)> =
        events.iter().map(|event| (event.r#type().as_str_name().to_owned(), event.changed_fields.join(" "))).collect();
    let expected = [
        ("EVENT_TYPE_EMAIL_CHANGED", "email"),
        ("EVENT_TYPE_ROLES_CHANGED", "roles"),
        ("EVENT_TYPE_USER_UPDATED", "display_name locale"),
    ];
    let expected: Vec<_> = expected.map(|(kind, fields)| (kind.to_owned(), fields.to_owned())).to_vec();
    assert_eq!(story, expected);
    assert_eq!((&events[1].details["added"], &events[1].details["removed"]), (&"app".to_owned(), &"viewer".to_owned()));
    for event in &events {
        assert_eq!(event.note, "married");
        assert_eq!(event.actor.as_ref().unwrap().principal_id, operator_name);
        assert!(!format!("{event:?}").contains("robert@"), "values stay out of the log");
    }
}
