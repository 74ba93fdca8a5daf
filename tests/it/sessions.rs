//! Sessions: listing, revoking, limits, refreshing.

use std::time::Duration;

use latchkey::proto::v1::revoke_session_request::Target;
use latchkey::proto::v1::{self, EventType};
use tonic::{Code, Status};

use crate::harness::actors::named;
use crate::harness::calls::told;
use crate::harness::{Client, Harness, PASSWORD, Person, at_once, refused};

async fn own_sessions(client: &Client) -> Vec<v1::Session> {
    let request = v1::ListSessionsRequest { page_size: 500, ..Default::default() };
    client.auth().list_sessions(request).await.expect("sessions").into_inner().sessions
}

async fn revoke(client: &Client, target: Option<Target>) -> Result<i32, Status> {
    let answer = client.auth().revoke_session(v1::RevokeSessionRequest { target }).await?;
    Ok(answer.into_inner().sessions_revoked)
}

async fn revoke_of(client: &Client, username: &str, session_ids: Vec<String>) -> v1::Effects {
    let request =
        v1::RevokeUserSessionsRequest { user: Some(named(username)), session_ids, note: "left a train".to_owned() };
    client.user_admin().revoke_user_sessions(request).await.expect("an answer").into_inner().effects.expect("effects")
}

fn ended(result: Result<impl std::fmt::Debug, Status>) {
    refused(result, Code::Unauthenticated, "SESSION_REVOKED");
}

/// Three sessions of bob.
async fn three(h: &Harness) -> [Person; 3] {
    h.create("bob", &[], PASSWORD).await;
    [h.signed_in("bob", PASSWORD).await, h.signed_in("bob", PASSWORD).await, h.signed_in("bob", PASSWORD).await]
}

#[tokio::test]
async fn users_see_their_own_sessions_newest_first_and_in_pages() {
    let h = Harness::start().await;
    let [first, second, third] = three(&h).await;
    h.user("eve").await;
    let listed = own_sessions(&second.client).await;
    let ids: Vec<&str> = listed.iter().map(|session| session.id.as_str()).collect();
    assert_eq!(ids, [&third, &second, &first].map(|person| person.tokens.session_id.as_str()));
    assert_eq!(listed.iter().map(|session| session.current).collect::<Vec<_>>(), [false, true, false]);

    let mut paged = Vec::new();
    let mut request = v1::ListSessionsRequest { page_size: 1, ..Default::default() };
    loop {
        let page = second.client.auth().list_sessions(request.clone()).await.unwrap().into_inner();
        paged.extend(page.sessions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(paged, listed);
}

#[tokio::test]
async fn users_end_one_session_the_current_one_or_all_others() {
    let h = Harness::start().await;
    let [first, second, third] = three(&h).await;
    let one = Some(Target::SessionId(first.tokens.session_id.clone()));
    assert_eq!(revoke(&third.client, one.clone()).await.unwrap(), 1);
    assert_eq!(revoke(&third.client, one).await.unwrap(), 0, "it had ended");
    ended(first.client.who_am_i().await);
    ended(first.client.refresh(&first.tokens.refresh_token).await);

    assert_eq!(revoke(&third.client, Some(Target::AllOthers(true))).await.unwrap(), 1);
    ended(second.client.who_am_i().await);
    assert_eq!(revoke(&third.client, None).await.unwrap(), 1);
    ended(third.client.who_am_i().await);
    let events = h.operator().await.events().await;
    let revoked: Vec<_> = events.iter().filter(|event| event.r#type() == EventType::SessionRevoked).collect();
    assert_eq!(revoked.iter().map(|event| told(event)).collect::<Vec<_>>(), ["SESSION_REVOKED SUCCEEDED bob>bob"; 3]);
    assert_eq!(revoked[0].subject_id, first.tokens.session_id);
}

#[tokio::test]
async fn a_user_cannot_end_a_session_of_another_user() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let eve = h.user("eve").await;
    let of_bob = Some(Target::SessionId(bob.tokens.session_id.clone()));
    refused(revoke(&eve.client, of_bob).await, Code::NotFound, "SESSION_NOT_FOUND");
    let mut unknown = bob.tokens.session_id.clone();
    let last = if unknown.ends_with('0') { "1" } else { "0" };
    unknown.replace_range(unknown.len() - 1.., last);
    let answer = revoke(&eve.client, Some(Target::SessionId(unknown))).await;
    assert!(matches!(answer.unwrap_err().code(), Code::NotFound | Code::InvalidArgument));
    let refusal =
        refused(revoke(&eve.client, Some(Target::AllOthers(false))).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["all_others: OUT_OF_RANGE"]);
    bob.client.who_am_i().await.expect("the session lives");
}

#[tokio::test]
async fn of_sessions_that_end_those_are_counted_that_lived() {
    let h = Harness::start().await;
    let [first, ..] = three(&h).await;
    h.clock.advance(Duration::from_mins(50));
    h.stranger().await.refresh(&first.tokens.refresh_token).await.expect("it is in use");
    h.clock.advance(Duration::from_mins(20));
    // The other two were idle for more than an hour.
    assert_eq!(revoke_of(&h.operator().await, "bob", vec![]).await.sessions_revoked, 1);
}

#[tokio::test]
async fn operators_end_some_or_all_sessions_of_a_user() {
    let h = Harness::start().await;
    let [first, second, third] = three(&h).await;
    let eve = h.user("eve").await;
    let admin = h.admin().await;
    let ids = vec![first.tokens.session_id.clone(), eve.tokens.session_id.clone()];
    let effects = revoke_of(&admin.client, "bob", ids).await;
    assert!(effects.sessions_revoked == 1 && effects.access_expire_time.is_some());
    eve.client.who_am_i().await.expect("hers is none of his");
    assert_eq!(revoke_of(&admin.client, "bob", vec![]).await.sessions_revoked, 2);
    for person in [first, second, third] {
        ended(person.client.who_am_i().await);
    }
    let events = admin.client.events().await.len();
    let again = revoke_of(&admin.client, "bob", vec![]).await;
    assert_eq!((again.sessions_revoked, again.access_expire_time), (0, None));
    assert_eq!(admin.client.events().await.len(), events, "nothing happened");

    let evidence = admin.client.sessions_of("bob").await;
    assert!(evidence.len() == 3 && evidence.iter().all(|session| session.end_time.is_some()));
    let event = admin.client.events().await.pop().unwrap();
    assert_eq!((told(&event).as_str(), event.note.as_str()), ("SESSION_REVOKED SUCCEEDED root>bob", "left a train"));
}

#[tokio::test]
async fn a_session_that_is_not_used_ends_after_an_hour() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    h.clock.advance(Duration::from_secs(3600 - 30));
    let tokens = bob.client.refresh(&bob.tokens.refresh_token).await.expect("within the hour");
    h.clock.advance(Duration::from_secs(3600 - 30));
    let tokens = bob.client.refresh(&tokens.refresh_token).await.expect("an hour from the last use");
    h.clock.advance(Duration::from_secs(3601));
    ended(bob.client.refresh(&tokens.refresh_token).await);
    let session = &h.operator().await.sessions_of("bob").await[0];
    assert_eq!(session.end_time, None, "it was not ended before its time");
}

#[tokio::test]
async fn a_session_ends_after_half_a_day_however_often_it_is_used() {
    let h = Harness::start().await;
    let mut tokens = h.user("bob").await.tokens;
    let stranger = h.stranger().await;
    for _ in 0..14 {
        h.clock.advance(Duration::from_mins(50));
        tokens = stranger.refresh(&tokens.refresh_token).await.expect("another pair");
    }
    h.clock.advance(Duration::from_secs(20 * 60 - 30));
    tokens = stranger.refresh(&tokens.refresh_token).await.expect("the last pair");
    let end = h.operator().await.sessions_of("bob").await[0].expire_time;
    assert_eq!((tokens.refresh_expire_time, tokens.access_expire_time), (end, end), "no token outlives its session");
    h.clock.advance(Duration::from_secs(31));
    ended(stranger.refresh(&tokens.refresh_token).await);
    assert!(stranger.bearing(&tokens.access_token).who_am_i().await.is_err());
}

#[tokio::test]
async fn sessions_of_administrators_are_shorter() {
    let h = Harness::start().await;
    let stranger = h.stranger().await;
    let idle = h.admin().await.tokens;
    let mut tokens = h.signed_in("root", PASSWORD).await.tokens;
    h.clock.advance(Duration::from_secs(15 * 60 + 1));
    ended(stranger.refresh(&idle.refresh_token).await);
    ended(stranger.refresh(&tokens.refresh_token).await);

    tokens = h.signed_in("root", PASSWORD).await.tokens;
    for _ in 0..34 {
        h.clock.advance(Duration::from_mins(14));
        tokens = stranger.refresh(&tokens.refresh_token).await.expect("another pair");
    }
    h.clock.advance(Duration::from_mins(4));
    ended(stranger.refresh(&tokens.refresh_token).await);
}

#[tokio::test]
async fn the_eleventh_session_ends_the_oldest() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let mut people = Vec::new();
    for _ in 0..11 {
        people.push(h.signed_in("bob", PASSWORD).await);
    }
    ended(people[0].client.who_am_i().await);
    assert_eq!(own_sessions(&people[10].client).await.len(), 10);
    let events = h.operator().await.events().await;
    let evicted = events.iter().find(|event| event.r#type() == EventType::SessionRevoked).expect("an event");
    assert_eq!(
        (&evicted.subject_id, evicted.details["cause"].as_str()),
        (&people[0].tokens.session_id, "TOO_MANY_SESSIONS")
    );
}

#[tokio::test]
async fn a_refresh_token_is_replaced_and_its_loss_is_forgiven_for_ten_seconds() {
    let h = Harness::start().await;
    let first = h.user("bob").await.tokens;
    let stranger = h.stranger().await;
    let second = stranger.refresh(&first.refresh_token).await.unwrap();
    assert_ne!(second.refresh_token, first.refresh_token);
    assert_eq!(second.session_id, first.session_id);
    let again = stranger.refresh(&first.refresh_token).await.expect("the answer got lost");
    assert_eq!(again.refresh_token, second.refresh_token, "the same successor");

    let h = h.restart().await;
    let stranger = h.stranger().await;
    let third = stranger.refresh(&second.refresh_token).await.expect("it survives a restart");
    h.clock.advance(Duration::from_secs(10));
    refused(stranger.refresh(&second.refresh_token).await, Code::Unauthenticated, "REFRESH_REUSED");
    ended(stranger.refresh(&third.refresh_token).await);
    ended(stranger.bearing(&third.access_token).who_am_i().await);
    let event = h.operator().await.events().await.pop().unwrap();
    assert_eq!(told(&event), "REFRESH_REUSED FAILED REFRESH_REUSED >bob");
    assert_eq!(event.subject_id, first.session_id);
}

#[tokio::test]
async fn an_older_token_ends_the_session_at_once() {
    let h = Harness::start().await;
    let first = h.user("bob").await.tokens;
    let stranger = h.stranger().await;
    let second = stranger.refresh(&first.refresh_token).await.unwrap();
    let third = stranger.refresh(&second.refresh_token).await.unwrap();
    refused(stranger.refresh(&first.refresh_token).await, Code::Unauthenticated, "REFRESH_REUSED");
    ended(stranger.refresh(&third.refresh_token).await);
}

#[tokio::test]
async fn fifty_refreshes_at_once_of_one_token_have_one_successor() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let answers = at_once((0..50).map(|_| bob.client.refresh(&bob.tokens.refresh_token))).await;
    let mut successors: Vec<String> = answers.into_iter().map(|answer| answer.expect("a pair").refresh_token).collect();
    successors.sort();
    successors.dedup();
    assert_eq!(successors.len(), 1);
    bob.client.refresh(&successors[0]).await.expect("the successor works");
}

#[tokio::test]
async fn a_refresh_token_with_any_letter_changed_is_no_token() {
    let h = Harness::start().await;
    let token = h.user("bob").await.tokens.refresh_token;
    let stranger = h.stranger().await;
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).unwrap();
        refused(stranger.refresh(&forged).await, Code::Unauthenticated, "TOKEN_INVALID");
    }
    refused(stranger.refresh("x").await, Code::Unauthenticated, "TOKEN_INVALID");
    let refusal = refused(stranger.refresh("").await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["refresh_token: REQUIRED"]);
    stranger.refresh(&token).await.expect("the session is unharmed");
}

#[tokio::test]
async fn a_refresh_carries_the_roles_of_today() {
    let h = Harness::start().await;
    let bob = h.person("bob", &["viewer"]).await;
    let request =
        v1::UpdateUserRequest { user: Some(named("bob")), add_roles: vec!["auditor".to_owned()], ..Default::default() };
    h.operator().await.update(request).await.unwrap();
    assert!(!bob.tokens.scopes.contains(&"audit.read".to_owned()));
    let refreshed = bob.client.refresh(&bob.tokens.refresh_token).await.unwrap();
    assert!(refreshed.scopes.contains(&"audit.read".to_owned()));
}

#[tokio::test]
async fn a_refresh_asks_for_no_more_than_its_sign_in_did() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let request = v1::SignInRequest {
        login: "bob".to_owned(),
        password: PASSWORD.to_owned(),
        audiences: texts(&["wiki", "billing"]),
        ..Default::default()
    };
    let answer = stranger.auth().sign_in(request).await.unwrap().into_inner();
    let mut refresh_token = crate::harness::calls::tokens_of(answer.progress).refresh_token;
    for (audiences, expected) in [(vec!["wiki"], vec!["wiki"]), (vec![], vec!["wiki", "billing"])] {
        let request = v1::RefreshTokensRequest { refresh_token, audiences: texts(&audiences), ..Default::default() };
        let tokens = stranger.auth().refresh_tokens(request).await.unwrap().into_inner().tokens.unwrap();
        let payload = tokens.access_token.split('.').nth(1).unwrap();
        let claims = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["aud"], serde_json::json!(expected));
        refresh_token = tokens.refresh_token;
    }
    for (wrong, violation) in
        [(vec!["latchkey"], "audiences[0]: UNKNOWN"), (vec!["wiki", "shop"], "audiences[1]: UNKNOWN")]
    {
        let refresh_token = refresh_token.clone();
        let request = v1::RefreshTokensRequest { refresh_token, audiences: texts(&wrong), ..Default::default() };
        let refusal = refused(stranger.auth().refresh_tokens(request).await, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations(), [violation]);
    }
    stranger.refresh(&refresh_token).await.expect("a refused wish uses nothing up");
}
