//! P5: pages of users, compared with the first page of all users.

use std::path::Path;
use std::time::Instant;

use latchkey::proto::v1::user_admin_client::UserAdminClient;
use latchkey::proto::v1::{ListUsersRequest, SignInAbilityKind, UserFilter, UserFlag, UserKind, UserOrder, UserState};
use tonic::transport::Channel;

use crate::database::Filled;
use crate::measure::{Goal, Row, median};
use crate::server::{LATCHKEYD, Server};
use crate::{Outcome, tell};

/// Users on a page.
const PAGE: i32 = 100;
/// The largest page size, for paging to the end.
const LARGE_PAGE: i32 = 500;
/// Calls in a turn; their median counts.
const CALLS: usize = 10;

type Client = UserAdminClient<Channel>;

/// A page that is compared with the first page of all users.
struct Page {
    work: String,
    request: ListUsersRequest,
    goal: Option<Goal>,
}

/// Measures pages in turn with the first page of all users.
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
    Ok(pages
        .into_iter()
        .zip(&measured)
        .map(|(page, rounds)| Row::of("P5", page.work, "ms", rounds, page.goal))
        .collect())
}

/// The time of the first page of all users, in milliseconds.
pub(crate) async fn first_page_ms(server: &Server) -> Outcome<f64> {
    let mut client = UserAdminClient::new(server.connect_locally().await?);
    let first = ListUsersRequest { page_size: PAGE, ..ListUsersRequest::default() };
    milliseconds(&mut client, &first).await?;
    milliseconds(&mut client, &first).await
}

/// The pages to measure: the first and, where there is a goal, the last page of every filter.
async fn pages(client: &mut Client, filled: &Filled, first: &ListUsersRequest) -> Outcome<Vec<Page>> {
    let goal = Some(Goal::AtMost(1.5));
    let mut pages = Vec::new();
    for filter in filters(&filled.seed.username(filled.users / 2)) {
        let Listing { work, filter, order, has_goal } = filter;
        let goal = goal.filter(|_| has_goal);
        let request = ListUsersRequest { filter: Some(filter), order: order.into(), ..first.clone() };
        // Pages without a goal can be slow: paging to the end would take hours.
        if has_goal {
            tell(&format!("paging to the end: {work}\n"));
            let last = last_page(client, &request).await?;
            if !last.page_token.is_empty() {
                pages.push(Page { work: format!("{work}, last page"), request: last, goal });
            }
        }
        pages.push(Page { work: format!("{work}, first page"), request, goal });
    }
    Ok(pages)
}

struct Listing {
    work: &'static str,
    filter: UserFilter,
    order: UserOrder,
    has_goal: bool,
}

fn filters(somebody: &str) -> Vec<Listing> {
    let text = |text: &str| UserFilter { text: text.to_owned(), ..UserFilter::default() };
    let state = |state: UserState| UserFilter { states: vec![state.into()], ..UserFilter::default() };
    let flag = |flag: UserFlag| UserFilter { flags: vec![flag.into()], ..UserFilter::default() };
    let without = |flag: UserFlag| UserFilter { without_flags: vec![flag.into()], ..UserFilter::default() };
    let role = UserFilter { roles: vec!["viewer".to_owned()], ..UserFilter::default() };
    let services = UserFilter { kinds: vec![UserKind::Service.into()], ..UserFilter::default() };
    let attention = UserFilter { needs_attention: true, ..UserFilter::default() };
    let unable = [SignInAbilityKind::NotUntil, SignInAbilityKind::No].map(i32::from).to_vec();
    let unable = UserFilter { sign_in_abilities: unable, ..UserFilter::default() };
    let both = |prefix: &str, filter: UserFilter| UserFilter { text: prefix.to_owned(), ..filter };
    let locked_and_flag = UserFilter { states: vec![UserState::Locked.into()], ..flag(UserFlag::MustChange) };
    let (natural, newest) = (UserOrder::Unspecified, UserOrder::CreateTimeDesc);
    let rows = [
        ("all", UserFilter::default(), natural, true),
        ("newest first", UserFilter::default(), newest, true),
        ("prefix, broad", text("a"), natural, true),
        ("prefix, a name", text("lovelace"), natural, true),
        ("prefix, one user", text(somebody), natural, true),
        ("prefix, nobody", text("nobody-has-this"), natural, true),
        ("active", state(UserState::Active), natural, true),
        ("locked", state(UserState::Locked), natural, true),
        ("pending", state(UserState::Pending), natural, true),
        ("must change", flag(UserFlag::MustChange), natural, true),
        ("temporary password", flag(UserFlag::TemporaryPassword), natural, true),
        ("never signed in", flag(UserFlag::NeverSignedIn), natural, true),
        ("has signed in", without(UserFlag::NeverSignedIn), natural, false),
        ("services", services, natural, true),
        ("throttled", flag(UserFlag::Throttled), natural, false),
        ("role", role.clone(), natural, false),
        ("needs attention", attention.clone(), natural, true),
        ("cannot sign in", unable, natural, true),
        ("locked, must change", locked_and_flag, natural, false),
        ("locked, prefix broad", both("a", state(UserState::Locked)), natural, false),
        ("locked, prefix one user", both(somebody, state(UserState::Locked)), natural, false),
        ("throttled, prefix broad", both("a", flag(UserFlag::Throttled)), natural, false),
        ("never signed in, prefix broad", both("a", flag(UserFlag::NeverSignedIn)), natural, false),
        ("role, prefix broad", both("a", role.clone()), natural, false),
        ("needs attention, prefix broad", both("a", attention), natural, false),
        ("newest first, locked", state(UserState::Locked), newest, false),
        ("newest first, role", role, newest, false),
        ("newest first, prefix one user", text(somebody), newest, false),
        ("newest first, prefix broad", text("a"), newest, false),
        ("by name, prefix broad", text("a"), UserOrder::Username, false),
        ("by name, prefix one user", text(somebody), UserOrder::Username, false),
    ];
    rows.into_iter().map(|(work, filter, order, has_goal)| Listing { work, filter, order, has_goal }).collect()
}

/// The request of the last page. Pages to the end in large pages, then in small ones from the last large page on.
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
