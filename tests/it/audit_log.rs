//! The audit log: what happened, who did it, to whom, and why it failed.

use std::time::Duration;

use latchkey::proto::v1::auth_client::AuthClient;
use latchkey::proto::v1::{self, EventFilter, EventOutcome, EventType};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::harness::actors::named;
use crate::harness::calls::{Shown, told};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, refused};

async fn filtered(client: &Client, filter: EventFilter) -> Vec<v1::Event> {
    let request = v1::ListEventsRequest { filter: Some(filter), page_size: 500, ..Default::default() };
    client.audit().list_events(request).await.expect("events").into_inner().events
}

/// Runs every call that changes something, once successfully and some also with errors.
async fn scenario(h: &Harness) {
    let operator = h.operator().await;
    let admin = h.admin().await;
    let root = &admin.client;
    for (username, roles) in [("bob", vec!["viewer".to_owned()]), ("eve", vec!["viewer".to_owned()])] {
        let credential = v1::create_user_request::Credential::TemporaryPassword(v1::TemporaryPassword::default());
        let request = v1::CreateUserRequest {
            username: username.to_owned(),
            roles,
            credential: Some(credential),
            ..Default::default()
        };
        let created = root.create(request).await.unwrap();
        let step = h.stranger().await.change_step(username, created.shown()).await.unwrap();
        h.stranger().await.complete(&step.ticket, PASSWORD).await.unwrap();
    }
    let stranger = h.stranger().await;
    refused(stranger.sign_in("bob", OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let bob = h.signed_in("bob", PASSWORD).await;
    bob.client.refresh(&bob.tokens.refresh_token).await.unwrap();
    bob.client.change_password(PASSWORD, OTHER_PASSWORD).await.unwrap();
    refused(bob.client.lock("eve").await, Code::PermissionDenied, "SCOPE_MISSING");

    let update = v1::UpdateUserRequest {
        user: Some(named("bob")),
        email: Some("bob@example.com".to_owned()),
        display_name: Some("Bob".to_owned()),
        add_roles: vec!["auditor".to_owned()],
        ..Default::default()
    };
    root.update(update).await.unwrap();
    root.require_change("bob").await.unwrap();
    root.waive_change("bob").await.unwrap();
    root.lock("bob").await.unwrap();
    root.unlock("bob").await.unwrap();
    root.reset("bob").await.unwrap();
    refused(root.lock("root").await, Code::PermissionDenied, "SELF_ACTION_FORBIDDEN");
    refused(root.lock("nobody").await, Code::NotFound, "USER_NOT_FOUND");
    refused(root.delete("eve", "\"99\"").await, Code::Aborted, "ETAG_MISMATCH");

    let revoke = v1::RevokeUserSessionsRequest { user: Some(named("eve")), ..Default::default() };
    root.user_admin().revoke_user_sessions(revoke).await.unwrap();
    let request = v1::CreateApiTokenRequest {
        user: Some(named("eve")),
        name: "a tool".to_owned(),
        scopes: vec!["users.read".to_owned()],
        ttl: None,
    };
    let token = root.user_admin().create_api_token(request).await.unwrap().into_inner().api_token.unwrap();
    let request = v1::RevokeApiTokenRequest { api_token_id: token.id, ..Default::default() };
    root.user_admin().revoke_api_token(request).await.unwrap();
    root.delete("eve", &root.user("eve").await.etag).await.unwrap();
    root.auth().revoke_session(v1::RevokeSessionRequest::default()).await.unwrap();
    operator.lock("root").await.unwrap();
}

#[tokio::test]
async fn every_change_and_every_refusal_has_its_event() {
    let h = Harness::start().await;
    scenario(&h).await;
    let operator = h.operator().await;
    let name = operator.events().await[0].actor.as_ref().expect("an actor").name.clone();
    let story: Vec<String> =
        operator.events().await.iter().map(|event| told(event).replace(&name, "OPERATOR")).collect();
    let expected = [
        "USER_CREATED SUCCEEDED OPERATOR>root",
        "SIGN_IN_SUCCEEDED SUCCEEDED >root",
        "USER_CREATED SUCCEEDED root>bob",
        "SIGN_IN_SUCCEEDED SUCCEEDED >bob",
        "PASSWORD_CHANGED SUCCEEDED >bob",
        "SIGN_IN_SUCCEEDED SUCCEEDED >bob",
        "USER_CREATED SUCCEEDED root>eve",
        "SIGN_IN_SUCCEEDED SUCCEEDED >eve",
        "PASSWORD_CHANGED SUCCEEDED >eve",
        "SIGN_IN_SUCCEEDED SUCCEEDED >eve",
        "SIGN_IN_FAILED FAILED PASSWORD_WRONG >bob",
        "SIGN_IN_SUCCEEDED SUCCEEDED >bob",
        "PASSWORD_CHANGED SUCCEEDED bob>bob",
        "ACCESS_DENIED DENIED SCOPE_MISSING bob>",
        "USER_UPDATED SUCCEEDED root>bob",
        "EMAIL_CHANGED SUCCEEDED root>bob",
        "ROLES_CHANGED SUCCEEDED root>bob",
        "PASSWORD_CHANGE_REQUIRED SUCCEEDED root>bob",
        "PASSWORD_CHANGE_WAIVED SUCCEEDED root>bob",
        "USER_LOCKED SUCCEEDED root>bob",
        "USER_UNLOCKED SUCCEEDED root>bob",
        "PASSWORD_RESET_BY_OPERATOR SUCCEEDED root>bob",
        "ACCESS_DENIED DENIED SELF_ACTION_FORBIDDEN root>root",
        "SESSION_REVOKED SUCCEEDED root>eve",
        "API_TOKEN_CREATED SUCCEEDED root>eve",
        "API_TOKEN_REVOKED SUCCEEDED root>eve",
        "USER_DELETED SUCCEEDED root>eve",
        "SESSION_REVOKED SUCCEEDED root>root",
        "USER_LOCKED SUCCEEDED OPERATOR>root",
    ];
    assert_eq!(in_order(&story), in_order(&expected.map(str::to_owned)));
}

/// Events of one transaction have the same time and no order: those of a completed password change and of an update.
fn in_order(story: &[String]) -> Vec<String> {
    let mut story = story.to_vec();
    let together = |kind: &str| {
        ["PASSWORD_CHANGED", "SIGN_IN_SUCCEEDED"].contains(&kind)
            || kind.ends_with("_CHANGED")
            || kind == "USER_UPDATED"
    };
    let mut from = 0;
    while from < story.len() {
        let run = story[from..].iter().take_while(|line| together(line.split(' ').next().unwrap_or_default())).count();
        story[from..from + run].sort();
        from += run.max(1);
    }
    story
}

#[tokio::test]
async fn an_event_names_session_method_request_note_and_client() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    h.create("bob", &[], PASSWORD).await;
    let request =
        v1::LockUserRequest { user: Some(named("bob")), note: "ticket 4711".to_owned(), ..Default::default() };
    let client = admin.client.with("x-request-id", "my-request.7");
    client.user_admin().lock_user(request).await.unwrap();
    let events =
        filtered(&admin.client, EventFilter { request_id: "my-request.7".to_owned(), ..Default::default() }).await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.client_request_id, "my-request.7");
    assert!(event.request_id.len() == 32 && event.request_id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{event:?}");
    let by_our_id = EventFilter { request_id: event.request_id.clone(), ..Default::default() };
    assert_eq!(filtered(&admin.client, by_our_id).await, events);
    let actor = event.actor.as_ref().unwrap();
    assert_eq!((event.note.as_str(), event.method.as_str()), ("ticket 4711", "latchkey.v1.UserAdmin/LockUser"));
    assert_eq!((&actor.session_id, actor.client_address.as_str()), (&admin.tokens.session_id, "127.0.0.1"));
    assert!(actor.user_agent.starts_with("tonic/"), "{}", actor.user_agent);
    assert_eq!(event.target_user_id, admin.client.user("bob").await.id);
    assert_eq!(event.details["sessionsRevoked"], "0");

    let one = v1::GetEventRequest { event_id: event.id.clone() };
    assert_eq!(admin.client.audit().get_event(one).await.unwrap().into_inner().event.as_ref(), Some(event));
}

#[tokio::test]
async fn a_long_user_agent_is_cut_in_events() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let endpoint = Endpoint::from_shared(h.url()).expect("a URL").user_agent("x".repeat(8000)).expect("a name");
    let mut auth = AuthClient::new(endpoint.connect().await.expect("a connection"));
    let request = v1::SignInRequest { login: "bob".to_owned(), password: PASSWORD.to_owned(), ..Default::default() };
    auth.sign_in(request).await.expect("bob signs in");
    let event = h.operator().await.events().await.pop().expect("an event");
    assert_eq!(event.actor.map(|actor| actor.user_agent), Some("x".repeat(128)));
}

#[tokio::test]
async fn an_event_that_does_not_exist_is_not_found() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let id = operator.events().await[0].id.clone();
    let last = if id.ends_with('0') { "1" } else { "0" };
    let unknown = format!("{}{last}", &id[..id.len() - 1]);
    let get =
        async |event_id: &str| operator.audit().get_event(v1::GetEventRequest { event_id: event_id.to_owned() }).await;
    refused(get(&unknown).await, Code::NotFound, "EVENT_NOT_FOUND");
    for (wrong, violation) in [("", "event_id: REQUIRED"), ("x", "event_id: MALFORMED")] {
        assert_eq!(refused(get(wrong).await, Code::InvalidArgument, "FIELD_INVALID").violations(), [violation]);
    }
}

#[tokio::test]
async fn filters_select_what_they_say() {
    let h = Harness::start().await;
    scenario(&h).await;
    let operator = h.operator().await;
    let all = filtered(&operator, EventFilter::default()).await;
    let bob = all.iter().find(|event| event.target_username == "bob").unwrap().target_user_id.clone();
    let root = all.iter().find(|event| event.target_username == "root").unwrap().target_user_id.clone();
    let actor_id = |event: &v1::Event| event.actor.as_ref().map(|actor| actor.principal_id.clone()).unwrap_or_default();
    let check = async |filter: EventFilter, holds: &dyn Fn(&v1::Event) -> bool| {
        let found = filtered(&operator, filter.clone()).await;
        let expected: Vec<_> = all.iter().filter(|event| holds(event)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "proves nothing: {filter:?}");
        assert_eq!(found, expected, "{filter:?}");
    };
    let kinds = [EventType::UserLocked, EventType::UserUnlocked].map(i32::from);
    check(EventFilter { types: kinds.to_vec(), ..Default::default() }, &|event| kinds.contains(&event.r#type)).await;
    let denied = i32::from(EventOutcome::Denied);
    check(EventFilter { outcomes: vec![denied], ..Default::default() }, &|event| event.outcome == denied).await;
    for actors in [vec!["root".to_owned()], vec![root.clone()]] {
        check(EventFilter { actors, ..Default::default() }, &|event| actor_id(event) == root).await;
    }
    for targets in [vec!["bob".to_owned()], vec![bob.clone()]] {
        check(EventFilter { targets, ..Default::default() }, &|event| event.target_user_id == bob).await;
    }
    let (actors, targets) = (vec!["root".to_owned()], vec!["bob".to_owned(), "eve".to_owned()]);
    let both = EventFilter { actors, targets, ..Default::default() };
    check(both, &|event| actor_id(event) == root && ["bob", "eve"].contains(&event.target_username.as_str())).await;

    let half = all[all.len() / 2].time.unwrap();
    let key = |event: &v1::Event| event.time.map(|time| (time.seconds, time.nanos));
    let half_key = Some((half.seconds, half.nanos));
    let range =
        |start_time, end_time| EventFilter { time: Some(v1::TimeRange { start_time, end_time }), ..Default::default() };
    check(range(Some(half), None), &|event| key(event) >= half_key).await;
    check(range(None, Some(half)), &|event| key(event) < half_key).await;
}

#[tokio::test]
async fn a_name_in_a_filter_is_folded_and_follows_its_account_and_an_unknown_one_is_refused() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let rename = async |from: &str, to: &str| {
        let username = Some(to.to_owned());
        let request = v1::UpdateUserRequest { user: Some(named(from)), username, ..Default::default() };
        operator.update(request).await.expect("another name").user.expect("a user")
    };
    let list = async |actors: &[&str], targets: &[&str]| {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let filter = EventFilter { actors: texts(actors), targets: texts(targets), ..Default::default() };
        let request = v1::ListEventsRequest { filter: Some(filter), ..Default::default() };
        operator.audit().list_events(request).await.map(|answer| answer.into_inner().events)
    };
    let names = |events: Vec<v1::Event>| -> Vec<String> {
        events.into_iter().rev().map(|event| event.target_username).collect()
    };
    let admin = h.admin().await.client;
    h.create("mccase", &[], PASSWORD).await;
    admin.lock("mccase").await.expect("a lock");
    assert_eq!(names(list(&["ROOT"], &["McCase"]).await.expect("events")), ["mccase"]);

    // The account that has a name now has its whole story, and none of an account that had the name before.
    rename("mccase", "renata").await;
    rename("renata", "rebecca").await;
    h.clock.advance(Duration::from_hours(31 * 24));
    h.create("renata", &[], PASSWORD).await;
    assert_eq!(names(list(&[], &["renata"]).await.expect("events")), ["renata"]);
    let told = names(list(&[], &["rebecca"]).await.expect("events"));
    assert_eq!(told, ["mccase", "mccase", "mccase", "renata"]);

    // A name that no account has now is found as it was recorded.
    let before = names(list(&[], &["MCCASE"]).await.expect("events"));
    assert!(before.len() == 3 && before.iter().all(|name| name == "mccase"), "{before:?}");
    let gone = operator.user("rebecca").await;
    operator.delete("rebecca", &gone.etag).await.expect("a deletion");
    assert_eq!(names(list(&[], &["rebecca"]).await.expect("events")), ["rebecca"]);
    assert_eq!(list(&[], &[&gone.id]).await.expect("events").len(), 5);
    assert!(list(&["renata"], &[]).await.expect("an account without actions").is_empty());

    let refusal =
        refused(list(&["unknown", "root"], &["root", "unknown"]).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["filter.actors[0]: UNKNOWN", "filter.targets[1]: UNKNOWN"]);
}

#[tokio::test]
async fn wrong_filters_are_named() {
    let h = Harness::start().await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let filter = EventFilter {
        time: Some(v1::TimeRange { start_time: at(10), end_time: at(5) }),
        types: vec![0, 9999],
        outcomes: vec![9],
        actors: vec!["x".repeat(255)],
        request_id: "x".repeat(129),
        ..Default::default()
    };
    let request = v1::ListEventsRequest { filter: Some(filter), page_size: -1, ..Default::default() };
    let answer = h.operator().await.audit().list_events(request).await;
    let mut violations = refused(answer, Code::InvalidArgument, "FIELD_INVALID").violations();
    violations.sort();
    let expected = [
        "filter.actors[0]: TOO_LONG",
        "filter.outcomes[0]: UNKNOWN",
        "filter.request_id: TOO_LONG",
        "filter.time.end_time: CONFLICT",
        "filter.types[0]: UNKNOWN",
        "filter.types[1]: UNKNOWN",
        "page_size: OUT_OF_RANGE",
    ];
    assert_eq!(violations, expected);
}

#[tokio::test]
async fn pages_are_complete_and_newest_first_while_events_come_in() {
    let h = Harness::start().await;
    scenario(&h).await;
    let operator = h.operator().await;
    let all = filtered(&operator, EventFilter::default()).await;
    assert!(all.is_sorted_by_key(|event| std::cmp::Reverse(event.time.map(|time| (time.seconds, time.nanos)))));
    for page_size in [1, 2, 7] {
        let mut paged = Vec::new();
        let mut request = v1::ListEventsRequest { page_size, ..Default::default() };
        loop {
            let page = operator.audit().list_events(request.clone()).await.unwrap().into_inner();
            paged.extend(page.events);
            operator.unlock("bob").await.unwrap();
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let old: Vec<_> = paged.into_iter().filter(|event| all.contains(event)).collect();
        assert_eq!(old, all, "{page_size}");
    }
}

#[tokio::test]
async fn an_unknown_name_is_stored_as_a_keyed_digest() {
    let h = Harness::start().await;
    let stranger = h.stranger().await;
    for login in ["hunter2-c4nary", "HUNTER2-c4nary", "other-c4nary"] {
        let _ = stranger.sign_in(login, PASSWORD).await;
    }
    let events = h.operator().await.events().await;
    let names: Vec<&str> = events.iter().map(|event| event.target_username.as_str()).collect();
    assert!(names.iter().all(|name| name.starts_with("hmac:")), "{names:?}");
    assert!(names[0] == names[1] && names[0] != names[2], "the same for the same name: {names:?}");
    assert!(events.iter().all(|event| event.target_user_id.is_empty()));
    let plain = h.query("SELECT COUNT(*) FROM audit_event WHERE target_username LIKE '%c4nary%'").await;
    assert_eq!(plain, ["0"]);
}

#[tokio::test]
async fn events_outlive_the_user_and_keep_the_name_of_the_time() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let rename =
        v1::UpdateUserRequest { user: Some(named("bob")), username: Some("robert".to_owned()), ..Default::default() };
    let user = operator.update(rename).await.unwrap().user.unwrap();
    operator.delete("robert", &user.etag).await.unwrap();
    h.clock.advance(Duration::from_hours(24));
    let events = filtered(&operator, EventFilter { targets: vec![user.id], ..Default::default() }).await;
    let names: Vec<&str> = events.iter().rev().map(|event| event.target_username.as_str()).collect();
    assert_eq!(names, ["bob", "bob", "robert"]);
}

#[tokio::test]
async fn events_of_several_types_are_listed_in_one_order_page_by_page() {
    let h = Harness::start().await;
    scenario(&h).await;
    let operator = h.operator().await;
    let types = [EventType::UserLocked, EventType::SignInSucceeded, EventType::UserCreated, EventType::UserLocked];
    let is_one = |event: &v1::Event| types.contains(&event.r#type());
    let expected: Vec<String> =
        filtered(&operator, EventFilter::default()).await.into_iter().filter(is_one).map(|event| event.id).collect();
    let mut found = Vec::new();
    let mut request = v1::ListEventsRequest {
        filter: Some(EventFilter { types: types.map(i32::from).to_vec(), ..Default::default() }),
        page_size: 2,
        ..Default::default()
    };
    loop {
        let page = operator.audit().list_events(request.clone()).await.expect("a page").into_inner();
        found.extend(page.events.into_iter().map(|event| event.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert!(expected.len() > 5);
    assert_eq!(found, expected);
}
