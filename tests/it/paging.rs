//! Pagination and page tokens.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use latchkey::proto::v1::{self, UserFilter, UserOrder, UserState};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::harness::{Client, Harness, PASSWORD, refused};

async fn fill(operator: &Client, names: impl Iterator<Item = String>) {
    for username in names {
        let display_name = "Stable Person".to_owned();
        operator.create(v1::CreateUserRequest { username, display_name, ..Default::default() }).await.unwrap();
    }
}

/// Reads all pages and returns how often each name appeared. After each page, `turns` lets others act once.
async fn read_through(operator: &Client, first: v1::ListUsersRequest, turns: &Semaphore) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    let mut request = first;
    loop {
        let page = operator.list(request.clone()).await.expect("a page");
        turns.add_permits(1);
        assert!(page.users.len() <= usize::try_from(request.page_size).unwrap());
        for user in page.users {
            *seen.entry(user.username).or_insert(0) += 1;
        }
        if page.next_page_token.is_empty() {
            return seen;
        }
        request.page_token = page.next_page_token;
    }
}

/// Creates and deletes accounts whose names sort between the others, one for each page: pages never end if accounts come faster
/// than they are read.
async fn churn(operator: &Client, turns: &Semaphore) -> usize {
    let (mut rounds, mut alive) = (0, VecDeque::new());
    while let Ok(turn) = turns.acquire().await {
        turn.forget();
        let username = format!("s{:02}-churn-{rounds}", rounds % 14);
        let display_name = "Stable Not".to_owned();
        let request = v1::CreateUserRequest { username: username.clone(), display_name, ..Default::default() };
        let user = operator.create(request).await.unwrap().user.unwrap();
        alive.push_back((username, user.etag));
        // Every other account stays for a while.
        if rounds % 2 == 0 || alive.len() > 7 {
            let (username, etag) = alive.pop_front().unwrap();
            operator.delete(&username, &etag).await.unwrap();
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test]
async fn paging_shows_every_stable_user_once_while_others_come_and_go() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let stable: Vec<String> = (0..14).map(|number| format!("s{number:02}")).collect();
    fill(&operator, stable.iter().cloned()).await;
    let turns = Semaphore::new(0);
    let reading = async {
        for page_size in [7, 2, 1] {
            for order in [UserOrder::Username, UserOrder::CreateTimeDesc, UserOrder::Unspecified] {
                for text in ["", "stable"] {
                    let filter = UserFilter { text: text.to_owned(), ..Default::default() };
                    let (filter, order) = (Some(filter), order.into());
                    let request = v1::ListUsersRequest { page_size, filter, order, ..Default::default() };
                    let seen = read_through(&operator, request, &turns).await;
                    for name in &stable {
                        assert_eq!(seen.get(name), Some(&1), "{name}, {page_size}, {order}, {text}");
                    }
                    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
                }
            }
        }
        turns.close();
    };
    let (rounds, ()) = tokio::join!(churn(&operator, &turns), reading);
    assert!(rounds > 10, "no user came or went");
}

#[tokio::test]
async fn pages_of_a_filter_by_attention_are_complete() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for name in ["a1", "a2", "b1", "b2", "c1", "c2", "d1"] {
        let request = v1::CreateUserRequest {
            username: name.to_owned(),
            display_name: "Stable Person".to_owned(),
            credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        operator.create(request).await.unwrap();
    }
    for name in ["a2", "b2", "c2", "d1"] {
        operator.lock(name).await.unwrap();
    }
    for order in [UserOrder::Username, UserOrder::CreateTimeDesc, UserOrder::Unspecified] {
        for text in ["", "person"] {
            let filter = UserFilter { needs_attention: true, text: text.to_owned(), ..Default::default() };
            let request = v1::ListUsersRequest {
                page_size: 1,
                filter: Some(filter),
                order: order.into(),
                include_total: true,
                ..Default::default()
            };
            assert_eq!(operator.list(request.clone()).await.unwrap().total_size, Some(4));
            let seen = read_through(&operator, request, &Semaphore::new(0)).await;
            assert_eq!(seen.keys().collect::<Vec<_>>(), ["a2", "b2", "c2", "d1"], "{order:?} {text}");
        }
    }
}

#[tokio::test]
async fn pages_of_a_prefix_show_everybody_once_however_often_they_match() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (username, email, display_name) in [
        ("ada", "ada.adams@example.com", "Ada Adams"),
        ("adam", "adam@example.com", "Adamo Ad"),
        ("bob", "adele@example.com", "Bob Ada-Adele"),
        ("adz", "", ""),
    ] {
        let (username, email, display_name) = (username.to_owned(), email.to_owned(), display_name.to_owned());
        let request = v1::CreateUserRequest { username, email, display_name, ..Default::default() };
        operator.create(request).await.unwrap();
    }
    for (text, expected) in [
        ("a", vec!["ada", "adam", "adz", "bob"]),
        ("ad", vec!["ada", "adam", "adz", "bob"]),
        ("ada", vec!["ada", "adam", "bob"]),
        ("ada.", vec!["ada"]),
        ("adam", vec!["ada", "adam"]),
        ("adele", vec!["bob"]),
    ] {
        let filter = UserFilter { text: text.to_owned(), ..Default::default() };
        let request = v1::ListUsersRequest { page_size: 1, filter: Some(filter), ..Default::default() };
        let seen = read_through(&operator, request, &Semaphore::new(0)).await;
        let once: BTreeMap<String, usize> = expected.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(seen, once, "{text}");
    }
}

/// Five users, and the token of a second page.
async fn second_page(h: &Harness) -> (Client, v1::ListUsersRequest) {
    let operator = h.operator().await;
    fill(&operator, (0..5).map(|number| format!("s{number}"))).await;
    let request = v1::ListUsersRequest { page_size: 2, ..Default::default() };
    let page = operator.list(request.clone()).await.unwrap();
    (operator, v1::ListUsersRequest { page_token: page.next_page_token, ..request })
}

#[tokio::test]
async fn a_page_token_with_any_letter_changed_is_refused() {
    let h = Harness::start().await;
    let (operator, request) = second_page(&h).await;
    operator.list(request.clone()).await.expect("the token as it was");
    for at in 0..request.page_token.len() {
        let mut bytes = request.page_token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let page_token = String::from_utf8(bytes).unwrap();
        let forged = v1::ListUsersRequest { page_token, ..request.clone() };
        refused(operator.list(forged).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    for page_token in ["x".to_owned(), "A".repeat(1024), request.page_token[1..].to_owned()] {
        let forged = v1::ListUsersRequest { page_token, ..request.clone() };
        refused(operator.list(forged).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let long = v1::ListUsersRequest { page_token: "A".repeat(1025), ..request };
    let refusal = refused(operator.list(long).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["page_token: TOO_LONG"]);
}

#[tokio::test]
async fn a_page_token_is_good_for_its_caller_and_method_alone() {
    let h = Harness::start().await;
    let admin = h.admin().await;
    let (operator, request) = second_page(&h).await;
    refused(admin.client.list(request.clone()).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    let request = v1::ListEventsRequest { page_token: request.page_token, ..Default::default() };
    refused(operator.audit().list_events(request).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
}

#[tokio::test]
async fn a_page_token_is_bound_to_filter_and_order_but_not_to_the_size() {
    let h = Harness::start().await;
    let (operator, request) = second_page(&h).await;
    let filter = UserFilter { states: vec![UserState::Pending.into()], ..Default::default() };
    let changed = v1::ListUsersRequest { filter: Some(filter), ..request.clone() };
    refused(operator.list(changed).await, Code::InvalidArgument, "PAGE_TOKEN_MISMATCH");
    let changed = v1::ListUsersRequest { order: UserOrder::CreateTimeDesc.into(), ..request.clone() };
    refused(operator.list(changed).await, Code::InvalidArgument, "PAGE_TOKEN_MISMATCH");
    let larger = operator.list(v1::ListUsersRequest { page_size: 500, ..request }).await.unwrap();
    let names: Vec<&str> = larger.users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!((names, larger.next_page_token.as_str()), (vec!["s2", "s3", "s4"], ""));
}

#[tokio::test]
async fn a_page_token_is_good_for_an_hour_and_survives_a_restart() {
    let h = Harness::start().await;
    let (_, request) = second_page(&h).await;
    h.clock.advance(Duration::from_secs(3590));
    let h = h.restart().await;
    let operator = h.operator().await;
    operator.list(request.clone()).await.expect("within the hour");
    h.clock.advance(Duration::from_secs(11));
    refused(operator.list(request).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
}

#[tokio::test]
async fn a_count_is_given_only_where_it_is_asked_for() {
    let h = Harness::start().await;
    let (operator, request) = second_page(&h).await;
    assert_eq!(operator.list(request.clone()).await.unwrap().total_size, None);
    let counted = operator.list(v1::ListUsersRequest { include_total: true, ..request }).await.unwrap();
    assert_eq!((counted.users.len(), counted.total_size), (2, Some(5)));
}

#[tokio::test]
async fn a_page_that_would_not_fit_into_an_answer_is_shorter() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let labels: BTreeMap<_, _> = (0..32).map(|number| (format!("{number:063}"), "x".repeat(256))).collect();
    for number in 0..230 {
        let request =
            v1::CreateUserRequest { username: format!("u{number}"), labels: labels.clone(), ..Default::default() };
        operator.create(request).await.expect("a user with all the labels there can be");
    }
    let mut seen = 0;
    let mut request = v1::ListUsersRequest { page_size: 500, ..Default::default() };
    loop {
        let page = operator.list(request.clone()).await.expect("an answer of less than 4 MiB");
        assert!(page.users.len() < 230);
        seen += page.users.len();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, 230);
}
