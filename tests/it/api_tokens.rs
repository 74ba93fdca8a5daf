//! API tokens: bearer credentials of programs.

use std::time::Duration;

use latchkey::proto::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::{Client, Harness, PASSWORD, refused};

const DAY: i64 = 24 * 3600;

fn make(whose: &str, scopes: &[&str], ttl_seconds: Option<i64>) -> v1::CreateApiTokenRequest {
    v1::CreateApiTokenRequest {
        user: Some(named(whose)),
        name: "nightly report".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ttl: ttl_seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    }
}

async fn create(client: &Client, request: v1::CreateApiTokenRequest) -> (v1::ApiToken, String) {
    let answer = client.user_admin().create_api_token(request).await.expect("an API token").into_inner();
    (answer.api_token.expect("a record"), answer.secret)
}

async fn list(client: &Client, whose: Option<&str>) -> Vec<v1::ApiToken> {
    let request = v1::ListApiTokensRequest { user: whose.map(named), ..Default::default() };
    client.user_admin().list_api_tokens(request).await.expect("a list").into_inner().api_tokens
}

async fn revoke(client: &Client, id: &str) -> bool {
    let request = v1::RevokeApiTokenRequest { api_token_id: id.to_owned(), note: "left".to_owned() };
    client.user_admin().revoke_api_token(request).await.expect("an answer").into_inner().changed
}

/// The effective scopes of a bearer.
async fn scopes(client: &Client) -> Result<Vec<String>, tonic::Status> {
    Ok(client.auth().who_am_i(v1::WhoAmIRequest {}).await?.into_inner().scopes)
}

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.expect("a time").seconds
}

#[tokio::test]
async fn a_token_is_shown_once_and_listed_without_its_secret() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    h.create("ann", &["helpdesk"], PASSWORD).await;
    let (token, secret) = create(&root, make("ann", &["users.read", "users.lock"], None)).await;
    assert!(secret.starts_with(&format!("lka_{}_", token.id)), "a token that is found leads to its record");
    assert_eq!(secret.len(), 4 + 26 + 1 + 43);
    assert_eq!((token.name.as_str(), token.user_id.as_str()), ("nightly report", root.user("ann").await.id.as_str()));
    assert_eq!(token.scopes, ["users.lock", "users.read"]);
    assert_eq!((token.last_used_time, token.revoke_time), (None, None));
    assert_eq!(seconds(token.expire_time) - seconds(token.create_time), 90 * DAY);

    let answer = root.call("UserAdmin/ListApiTokens", json!({})).await.expect("a list").to_string();
    assert!(!answer.contains(&secret[31..]) && !answer.contains("lka_"), "{answer}");
    assert_eq!(list(&root, Some("ann")).await, std::slice::from_ref(&token));
}

#[tokio::test]
async fn tokens_are_listed_newest_first_for_one_user_or_for_all() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    h.create("ann", &["viewer"], PASSWORD).await;
    let mut made = Vec::new();
    for whose in ["ann", "root", "ann", "root", "ann"] {
        made.push(create(&root, make(whose, &["users.read"], None)).await.0);
        h.clock.advance(Duration::from_secs(1));
    }
    made.reverse();
    assert_eq!(list(&root, None).await, made);
    let anns: Vec<_> = made.iter().filter(|token| token.user_id != made[1].user_id).cloned().collect();
    assert_eq!(list(&root, Some("ann")).await, anns);

    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListApiTokensRequest { page_size: 2, page_token, ..Default::default() };
        let page = root.user_admin().list_api_tokens(request).await.expect("a page").into_inner();
        assert!(page.api_tokens.len() <= 2);
        paged.extend(page.api_tokens);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(paged, made);
}

#[tokio::test]
async fn a_token_works_until_its_end() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    let (token, secret) = create(&root, make("root", &["users.read"], Some(3600))).await;
    assert_eq!(seconds(token.expire_time) - seconds(token.create_time), 3600);
    let program = h.stranger().await.bearing(&secret);
    h.clock.advance(Duration::from_secs(3590));
    assert_eq!(scopes(&program).await.expect("still good"), ["users.read"]);
    h.clock.advance(Duration::from_secs(11));
    refused(scopes(&program).await, Code::Unauthenticated, "TOKEN_EXPIRED");
}

#[tokio::test]
async fn every_fault_of_a_new_token_is_named() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    let too_long = make("root", &["users.read"], Some(400 * DAY + 1));
    let mut all_wrong = make("root", &["users.read", "nonsense"], Some(-1));
    all_wrong.user = None;
    all_wrong.name.clear();
    for (request, count) in [(make("root", &[], None), 1), (too_long, 1), (all_wrong, 4)] {
        let answer = root.user_admin().create_api_token(request).await;
        let refusal = refused(answer, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(refusal.violations().len(), count, "{refusal:?}");
    }
    create(&root, make("root", &["users.read"], Some(400 * DAY))).await;
    let unknown = root.user_admin().create_api_token(make("nobody", &["users.read"], None)).await;
    refused(unknown, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn an_api_token_for_a_scope_that_its_owner_lacks_is_refused_and_the_roles_are_named() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    h.create("ann", &["verifier"], PASSWORD).await;
    let request = make("ann", &["tokens.introspect", "users.lock", "audit.read"], None);
    let answer = root.user_admin().create_api_token(request).await;
    let refusal = refused(answer, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["scopes: CONFLICT", "scopes: CONFLICT"]);
    let told = format!("{refusal:?}");
    assert!(told.contains("no role of the user grants audit.read; these roles do: admin, auditor"), "{told}");
    assert!(
        told.contains("no role of the user grants users.lock; these roles do: admin, helpdesk, operator"),
        "{told}"
    );
    assert_eq!(list(&root, Some("ann")).await, []);

    let roles = json!({"user": {"username": "ann"}, "addRoles": ["helpdesk", "auditor"]});
    root.call("UserAdmin/UpdateUser", roles).await.expect("more roles");
    create(&root, make("ann", &["tokens.introspect", "users.lock", "audit.read"], None)).await;
}

#[tokio::test]
async fn the_last_use_is_known_to_the_hour() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    let operator = h.operator().await;
    let (_, secret) = create(&root, make("root", &["users.read"], None)).await;
    let program = h.stranger().await.bearing(&secret);
    let mut seen = Vec::new();
    for minutes in [0, 59, 2] {
        h.clock.advance(Duration::from_mins(minutes));
        scopes(&program).await.expect("good");
        seen.push(seconds(list(&operator, Some("root")).await[0].last_used_time));
    }
    assert_eq!(seen[0], seen[1], "within the hour nothing is written");
    assert!(seen[2] - seen[0] >= 61 * 60, "{seen:?}");
}

#[tokio::test]
async fn a_revoked_token_is_over_at_once_and_stays_listed() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    let (token, secret) = create(&root, make("root", &["users.read"], None)).await;
    let (_, other) = create(&root, make("root", &["users.read"], None)).await;
    assert!(revoke(&root, &token.id).await);
    assert!(!revoke(&root, &token.id).await, "a second time there is nothing to do");
    refused(scopes(&h.stranger().await.bearing(&secret)).await, Code::Unauthenticated, "SESSION_REVOKED");
    scopes(&h.stranger().await.bearing(&other)).await.expect("another one goes on");
    let listed = list(&root, Some("root")).await;
    assert!(listed.iter().any(|known| known.id == token.id && known.revoke_time.is_some()), "{listed:?}");

    let unknown = v1::RevokeApiTokenRequest { api_token_id: "0".repeat(26), ..Default::default() };
    refused(root.user_admin().revoke_api_token(unknown).await, Code::NotFound, "API_TOKEN_NOT_FOUND");
}

#[tokio::test]
async fn a_change_of_roles_says_how_many_live_api_tokens_lose_scopes() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("ann", &["helpdesk", "auditor"], PASSWORD).await;
    for scopes in [&["users.lock"][..], &["users.lock", "audit.read"], &["users.read"]] {
        operator.api_token("ann", scopes).await;
    }
    let (ended, _) = create(&operator, make("ann", &["users.lock"], None)).await;
    revoke(&operator, &ended.id).await;
    let narrowed = async |add: &[&str], remove: &[&str]| {
        let request = json!({"user": {"username": "ann"}, "addRoles": add, "removeRoles": remove});
        let answer = operator.call("UserAdmin/UpdateUser", request).await.expect("other roles");
        answer["effects"]["apiTokensNarrowed"].as_i64().unwrap_or_default()
    };
    assert_eq!(narrowed(&["viewer"], &[]).await, 0, "nothing is lost");
    assert_eq!(narrowed(&[], &["viewer"]).await, 0, "another role grants the same");
    assert_eq!(narrowed(&[], &["helpdesk"]).await, 2);
    assert_eq!(narrowed(&[], &["auditor"]).await, 2, "users.read and audit.read");
}

#[tokio::test]
async fn a_token_may_do_what_both_it_and_its_user_may() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("ann", &["admin"], PASSWORD).await;
    let secret = operator.api_token("ann", &["users.lock", "users.delete", "audit.read"]).await;
    let program = h.stranger().await.bearing(&secret);
    let change = |change: Value| {
        let mut request = json!({"user": {"username": "ann"}});
        for (key, value) in change.as_object().expect("members") {
            request[key] = value.clone();
        }
        request
    };
    let helpdesk = change(json!({"addRoles": ["helpdesk"], "removeRoles": ["admin"]}));
    operator.call("UserAdmin/UpdateUser", helpdesk).await.expect("other roles");
    assert_eq!(scopes(&program).await.expect("good"), ["users.lock"]);
    for (request, expected) in [
        (json!({"addRoles": ["auditor"]}), vec!["audit.read", "users.lock"]),
        (json!({"removeRoles": ["helpdesk"]}), vec!["audit.read"]),
        (json!({"removeRoles": ["auditor"]}), vec![]),
        (json!({"addRoles": ["admin"]}), vec!["audit.read", "users.delete", "users.lock"]),
    ] {
        operator.call("UserAdmin/UpdateUser", change(request)).await.expect("other roles");
        assert_eq!(scopes(&program).await.expect("good"), expected, "at once, with the same token");
    }
}

#[tokio::test]
async fn a_lock_suspends_tokens_a_reset_leaves_them_and_a_deletion_ends_them() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("ann", &["helpdesk"], PASSWORD).await;
    let program = h.stranger().await.bearing(&operator.api_token("ann", &["users.read"]).await);

    operator.lock("ann").await.expect("a lock");
    refused(scopes(&program).await, Code::Unauthenticated, "SESSION_REVOKED");
    operator.unlock("ann").await.expect("an unlock");
    scopes(&program).await.expect("good again");

    operator.reset("ann").await.expect("a reset");
    scopes(&program).await.expect("a program does not sign in");
    let require =
        v1::RequirePasswordChangeRequest { user: Some(named("ann")), revoke_sessions: true, ..Default::default() };
    operator.user_admin().require_password_change(require).await.expect("a demand");
    scopes(&program).await.expect("a token is no session");

    let request =
        v1::DeleteUserRequest { user: Some(named("ann")), etag: operator.user("ann").await.etag, ..Default::default() };
    let deleted = operator.user_admin().delete_user(request).await.expect("a deletion").into_inner();
    assert_eq!(deleted.effects.map(|effects| effects.api_tokens_revoked), Some(1));
    refused(scopes(&program).await, Code::Unauthenticated, "TOKEN_INVALID");
    assert_eq!(list(&operator, None).await, []);
}

#[tokio::test]
async fn a_token_neither_makes_another_nor_signs_a_user_in() {
    let h = Harness::start().await;
    h.create("root", &["admin"], PASSWORD).await;
    let operator = h.operator().await;
    let secret = operator.api_token("root", &["tokens.write", "users.read"]).await;
    let program = h.stranger().await.bearing(&secret);
    let answer = program.user_admin().create_api_token(make("root", &["users.read"], None)).await;
    refused(answer, Code::PermissionDenied, "API_TOKEN_FORBIDDEN");
    assert_eq!(list(&operator, None).await.len(), 1);
    let stranger = h.stranger().await;
    refused(stranger.sign_in("root", &secret).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    refused(stranger.refresh(&secret).await, Code::Unauthenticated, "TOKEN_INVALID");
}

#[tokio::test]
async fn a_program_is_itself_in_answers_and_events() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let program = h.token(&["users.lock"]).await;
    let who = program.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("an answer").into_inner();
    assert_eq!(who.kind(), v1::who_am_i_response::Kind::ApiToken);
    assert_eq!(who.user.as_ref().map(|user| user.username.as_str()), Some("service"));
    assert_eq!((who.principal_id, who.session), (who.user.expect("a user").id, None));

    program.lock("bob").await.expect("a lock");
    let events = h.operator().await.events().await;
    let actor = events.last().and_then(|event| event.actor.clone()).expect("an actor");
    assert_eq!((actor.name.as_str(), actor.session_id.as_str()), ("service", ""));
    assert_eq!(actor.api_token_id, who.api_token_id);
    assert!(!actor.api_token_id.is_empty());
}
