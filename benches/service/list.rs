//! P5: pages of users, against the first page of all.

use std::path::Path;
use std::time::Instant;

use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{ListUsersRequest, UserFilter, UserFlag, UserKind, UserOrder, UserState};
use tonic::transport::Channel;

use crate::database::Filled;
use crate::measure::{Goal, Row, median};
use crate::server::{LATCHKEYD, Server};
use crate::{Outcome, tell};

/// Users on a page.
const PAGE: i32 = 100;
/// The most that a page may have: for getting to the end.
const LARGE_PAGE: i32 = 500;
/// Calls of a turn, of which the median counts.
const CALLS: usize = 20;

type Client = UserAdminClient<Channel>;

/// A page that is compared with the first of all.
struct Page {
    work: String,
    request: ListUsersRequest,
}

/// Measures pages in turn with the first page of all.
pub(crate) async fn measure(rounds: u32, filled: &Filled) -> Outcome<Vec<Row>> {
    let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
    let mut client = UserAdminClient::new(server.connect_locally().await?);
    let first = ListUsersRequest { page_size: PAGE, ..ListUsersRequest::default() };
    let pages = pages(&mut client, filled, &first).await?;
    let mut measured: Vec<Vec<(f64, f64)>> = vec![Vec::new(); pages.len()];
    for _ in 0..rounds {
        for (page, rounds) in pages.iter().zip(&mut measured) {
            let limit = milliseconds(&mut client, &first).await?;
            let ours = milliseconds(&mut client, &page.request).await?;
            rounds.push((ours, limit));
        }
    }
    server.stop().await?;
    let goal = Some(Goal::AtMost(1.5));
    Ok(pages.into_iter().zip(&measured).map(|(page, rounds)| Row::of("P5", page.work, "ms", rounds, goal)).collect())
}

/// The last page of all, and first and last page of every filter.
async fn pages(client: &mut Client, filled: &Filled, first: &ListUsersRequest) -> Outcome<Vec<Page>> {
    let mut pages = vec![Page { work: "last page".to_owned(), request: last_page(client, first).await? }];
    for (work, filter, order) in filters(&filled.seed.username(filled.users / 2)) {
        let request = ListUsersRequest { filter: Some(filter), order: order.into(), ..first.clone() };
        tell(&format!("paging to the end: {work}\n"));
        let last = last_page(client, &request).await?;
        let has_more = !last.page_token.is_empty();
        pages.push(Page { work: format!("{work}, first page"), request });
        if has_more {
            pages.push(Page { work: format!("{work}, last page"), request: last });
        }
    }
    Ok(pages)
}

fn filters(somebody: &str) -> Vec<(&'static str, UserFilter, UserOrder)> {
    let text = |text: &str| UserFilter { text: text.to_owned(), ..UserFilter::default() };
    let state = |state: UserState| UserFilter { states: vec![state.into()], ..UserFilter::default() };
    let flag = |flag: UserFlag| UserFilter { flags: vec![flag.into()], ..UserFilter::default() };
    let without = |flag: UserFlag| UserFilter { without_flags: vec![flag.into()], ..UserFilter::default() };
    let role = UserFilter { roles: vec!["viewer".to_owned()], ..UserFilter::default() };
    let services = UserFilter { kinds: vec![UserKind::Service.into()], ..UserFilter::default() };
    let attention = UserFilter { needs_attention: true, ..UserFilter::default() };
    let with_text = |prefix: &str, filter: UserFilter| UserFilter { text: prefix.to_owned(), ..filter };
    let natural = [
        ("prefix, broad", text("a")),
        ("prefix, a name", text("lovelace")),
        ("prefix, one user", text(somebody)),
        ("prefix, nobody", text("nobody-has-this")),
        ("active", state(UserState::Active)),
        ("locked", state(UserState::Locked)),
        ("pending", state(UserState::Pending)),
        ("must change", flag(UserFlag::MustChange)),
        ("temporary password", flag(UserFlag::TemporaryPassword)),
        ("throttled", flag(UserFlag::Throttled)),
        ("never signed in", flag(UserFlag::NeverSignedIn)),
        ("has signed in", without(UserFlag::NeverSignedIn)),
        ("role", role.clone()),
        ("services", services),
        ("needs attention", attention.clone()),
        ("locked, prefix broad", with_text("a", state(UserState::Locked))),
        ("locked, prefix one user", with_text(somebody, state(UserState::Locked))),
        ("throttled, prefix broad", with_text("a", flag(UserFlag::Throttled))),
        ("never signed in, prefix broad", with_text("a", flag(UserFlag::NeverSignedIn))),
        ("role, prefix broad", with_text("a", role.clone())),
        ("needs attention, prefix broad", with_text("a", attention)),
        ("locked, must change", UserFilter { states: vec![UserState::Locked.into()], ..flag(UserFlag::MustChange) }),
    ];
    let mut filters: Vec<_> =
        natural.into_iter().map(|(work, filter)| (work, filter, UserOrder::Unspecified)).collect();
    let by_time = UserOrder::CreateTimeDesc;
    filters.push(("newest first", UserFilter::default(), by_time));
    filters.push(("newest first, locked", state(UserState::Locked), by_time));
    filters.push(("newest first, role", role, by_time));
    filters.push(("newest first, prefix one user", text(somebody), by_time));
    filters.push(("newest first, prefix broad", text("a"), by_time));
    filters.push(("by name, prefix broad", text("a"), UserOrder::Username));
    filters.push(("by name, prefix one user", text(somebody), UserOrder::Username));
    filters
}

/// The request of the last page: by large pages to the end, and by small ones from the last large one.
async fn last_page(client: &mut Client, first: &ListUsersRequest) -> Outcome<ListUsersRequest> {
    let mut last = first.clone();
    for size in [LARGE_PAGE, PAGE] {
        last.page_size = size;
        loop {
            let answer = client.list_users(last.clone()).await?.into_inner();
            if answer.next_page_token.is_empty() {
                break;
            }
            last.page_token = answer.next_page_token;
        }
    }
    Ok(last)
}

async fn milliseconds(client: &mut Client, request: &ListUsersRequest) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let request = request.clone();
        let began = Instant::now();
        client.list_users(request).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(times.into_iter()))
}
