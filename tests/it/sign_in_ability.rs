//! One answer to "can this user sign in now?", compared with what a sign-in does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::proto::v1::sign_in_progress::Step;
use latchkey::proto::v1::{
    self, SignInAbilityKind as Kind, SignInAbilityReason as Reason, UserFilter, UserKind, UserOrder, UserState,
};

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::raw::methods;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, eventually};

pub const MINUTE: i64 = 60_000_000;
/// When, in minutes from the start, a short lock ends, a temporary password expires, a throttle ends, and a long lock ends.
pub const SHORT_LOCK: i64 = 60;
pub const EXPIRY: i64 = 75;
pub const THROTTLE: i64 = 90;
pub const LONG_LOCK: i64 = 180;

/// An account in one of all states, with the credential that it would sign in with.
pub struct Account {
    pub name: String,
    pub credential: Credential,
}

pub enum Credential {
    Password(String),
    ApiToken(Client),
}

impl Account {
    /// What really happens: `Yes`, `YesThen`, or `No` for every refusal.
    pub async fn tries(&self, stranger: &Client) -> Kind {
        match &self.credential {
            Credential::Password(password) => match stranger.sign_in(&self.name, password).await {
                Ok(Step::Tokens(_)) => Kind::Yes,
                Ok(_) => Kind::YesThen,
                Err(_) => Kind::No,
            },
            Credential::ApiToken(client) => client.who_am_i().await.map_or(Kind::No, |_| Kind::Yes),
        }
    }
}

pub async fn server() -> Harness {
    Harness::with(|config| {
        // The failures of the test itself must not throttle, and a job must not end the throttles that it makes.
        config.throttle.threshold = 1000;
        config.throttle.lockout_threshold = 1000;
        config.throttle.max = Duration::from_hours(24);
    })
    .await
}

/// Creates an account in every state that locks, throttles, passwords and their ends can make.
pub async fn every_state(h: &Harness) -> Vec<Account> {
    let (operator, now) = (h.operator().await, h.clock.now().as_micros());
    operator.expire_after(90, 0, &[]).await;
    let mut accounts = Vec::new();
    let locks = [None, Some(None), Some(Some(SHORT_LOCK)), Some(Some(LONG_LOCK)), Some(Some(-1))];
    for (lock_at, lock) in locks.into_iter().enumerate() {
        for throttle in ["free", "throttled", "refused"] {
            let unset = ["none", "ended", "service"];
            let passwords = ["lasting", "aged", "generated", "chosen", "generated.expired", "chosen.expired"];
            for password in unset.into_iter().chain(passwords) {
                for demanded in [false, true] {
                    if demanded && unset.contains(&password) {
                        continue;
                    }
                    let name = format!("{password}.lock{lock_at}.{throttle}.{demanded}");
                    let credential = created(h, &operator, &name, password).await;
                    let mut set = vec![format!("change_demanded = {demanded}")];
                    if let Some(end) = lock {
                        let end = end.map_or("NULL".to_owned(), |end| (now + end * MINUTE).to_string());
                        set.push(format!("lock_cause = 3, locked_at = {now}, lock_expires_at = {end}"));
                    }
                    if password == "ended" {
                        set.push(format!("password_hash = NULL, password_ended_at = {now}"));
                    }
                    if password == "aged" {
                        set.push(format!("password_changed_at = {}", now - 91 * 24 * 60 * MINUTE));
                    }
                    if !["lasting", "aged"].contains(&password) && !unset.contains(&password) {
                        let expiry = if password.ends_with("expired") { -1 } else { EXPIRY };
                        set.push(format!("password_expires_at = {}", now + expiry * MINUTE));
                    }
                    h.sql(&format!(r#"UPDATE "user" SET {} WHERE username = '{name}'"#, set.join(", "))).await;
                    match throttle {
                        "throttled" => throttle_until(h, &name, "u:", "", now + THROTTLE * MINUTE).await,
                        "refused" => throttle_until(h, &name, "u:", "", i64::MAX).await,
                        _ => {}
                    }
                    accounts.push(Account { name, credential });
                }
            }
        }
    }
    accounts
}

/// Throttles one budget of an account.
async fn throttle_until(h: &Harness, username: &str, before: &str, after: &str, until: i64) {
    let now = h.clock.now().as_micros();
    h.sql(&format!(
        r#"INSERT INTO throttle (id, account_id, failures, pending, lease_expires_at, waits_until, last_failure_at)
        SELECT '{before}' || id || '{after}', id, 5, 0, 0, {until}, {now} FROM "user" WHERE username = '{username}'
        ON CONFLICT (id) DO UPDATE SET failures = 5, waits_until = {until}, last_failure_at = {now}"#
    ))
    .await;
}

async fn created(h: &Harness, operator: &Client, name: &str, password: &str) -> Credential {
    let request = v1::CreateUserRequest { username: name.to_owned(), ..Default::default() };
    if password == "service" {
        let roles = vec!["viewer".to_owned()];
        operator.create(v1::CreateUserRequest { kind: UserKind::Service.into(), roles, ..request }).await.unwrap();
        let secret = operator.api_token(name, &["users.read"]).await;
        return Credential::ApiToken(h.stranger().await.bearing(&secret));
    }
    if password == "none" {
        operator.create(request).await.unwrap();
        return Credential::Password(PASSWORD.to_owned());
    }
    let credential = Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned()));
    let password_change_required = Some(password.starts_with("chosen"));
    operator.create(v1::CreateUserRequest { credential, password_change_required, ..request }).await.unwrap();
    if password.starts_with("generated") {
        return Credential::Password(operator.reset(name).await.unwrap().shown().to_owned());
    }
    Credential::Password(PASSWORD.to_owned())
}

fn ability(user: &v1::User) -> &v1::SignInAbility {
    user.sign_in_ability.as_ref().expect("an answer")
}

/// Returns whether the answer lets the user sign in.
fn is_able(kind: Kind) -> bool {
    matches!(kind, Kind::Yes | Kind::YesThen)
}

fn micros(stamp: Option<&prost_types::Timestamp>) -> Option<i64> {
    stamp.map(|stamp| stamp.seconds * 1_000_000 + i64::from(stamp.nanos) / 1000)
}

#[tokio::test]
async fn the_answer_says_what_a_sign_in_does_in_every_state_and_for_how_long() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let (operator, stranger, start) = (h.operator().await, h.stranger().await, h.clock.now().as_micros());
    let mut earlier: BTreeMap<&str, v1::SignInAbility> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for minutes in [0, SHORT_LOCK, EXPIRY, THROTTLE, LONG_LOCK] {
        let at = start + minutes * MINUTE;
        h.clock.advance(Duration::from_micros(u64::try_from(at - h.clock.now().as_micros()).unwrap_or(0)));
        for account in &accounts {
            let user = operator.user(&account.name).await;
            let answer = ability(&user);
            let place = format!("{} after {minutes} minutes: {answer:?}", account.name);
            seen.insert((answer.kind().as_str_name(), answer.reason().as_str_name()));
            let happens = account.tries(&stranger).await;
            assert_eq!(happens, if is_able(answer.kind()) { answer.kind() } else { Kind::No }, "{place}");
            let until = micros(answer.until_time.as_ref());
            assert!(until.is_none_or(|until| until > at), "{place}");
            assert_eq!(answer.kind() == Kind::Yes, answer.reason() == Reason::Unspecified, "{place}");
            assert_eq!(answer.next_method.is_empty(), is_able(answer.kind()), "{place}");
            if let Some(before) = earlier.insert(&account.name, answer.clone()) {
                let changed = micros(before.until_time.as_ref()).is_some_and(|until| until <= at);
                let expected = is_able(before.kind()) != changed;
                assert_eq!(is_able(answer.kind()), expected, "{place}, and before {before:?}");
            }
        }
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
}

#[tokio::test]
async fn the_answer_is_yes_only_if_a_sign_in_works_from_every_place_and_under_every_name() {
    let h = server().await;
    let (operator, home) = (h.operator().await, h.stranger_at("127.0.0.2").await);
    let budgets =
        [("u:", ""), ("un:", ":username"), ("un:", ":email"), ("f:", ""), ("fn:", ":username"), ("fn:", ":email")];
    let until = h.clock.now().as_micros() + THROTTLE * MINUTE;
    let mut names = Vec::new();
    for (number, (before, after)) in budgets.into_iter().enumerate() {
        let name = format!("user{number}");
        let credential = Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned()));
        let (username, email) = (name.clone(), format!("{name}@example.org"));
        let password_change_required = Some(false);
        let create =
            v1::CreateUserRequest { username, email, credential, password_change_required, ..Default::default() };
        operator.create(create).await.unwrap();
        home.tokens(&name, PASSWORD).await.expect("a familiar place");
        throttle_until(&h, &name, before, after, until).await;
        let user = operator.user(&name).await;
        let throttle = user.throttle.as_ref().expect("a throttle");
        assert_eq!(throttle.includes_familiar_places, before.starts_with('f'), "{before}{after}");
        assert_eq!((ability(&user).kind(), ability(&user).reason()), (Kind::NotUntil, Reason::Throttled));
        let mut refused = 0;
        for (attempt, login) in [name.clone(), format!("{name}@example.org")].into_iter().enumerate() {
            // Each from a place of its own, because a success makes it familiar.
            let away = h.stranger_at(&format!("127.0.{}.{attempt}", number + 1)).await;
            let place = if before.starts_with('f') { &home } else { &away };
            refused += usize::from(place.sign_in(&login, PASSWORD).await.is_err());
        }
        assert!(refused > 0, "{before}{after}");
        names.push(name);
    }
    h.clock.advance(Duration::from_hours(2));
    for name in names {
        assert_eq!(ability(&operator.user(&name).await).kind(), Kind::Yes);
        for place in ["127.0.0.2", "127.0.9.1"] {
            h.stranger_at(place).await.tokens(&name, PASSWORD).await.expect("tokens");
        }
        let email = format!("{name}@example.org");
        h.stranger_at("127.0.9.2").await.tokens(&email, PASSWORD).await.expect("tokens");
    }
}

#[tokio::test]
async fn the_next_method_leads_to_a_sign_in() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let known: BTreeSet<String> =
        methods().iter().map(|of| format!("{}/{}", of.parent_service().full_name(), of.name())).collect();
    for account in accounts {
        let mut credential = account.credential;
        for _ in 0..2 {
            let method = ability(&operator.user(&account.name).await).next_method.clone();
            assert!(method.is_empty() || known.contains(&method), "{method}");
            match method.rsplit('/').next() {
                Some("UnlockUser") => drop(operator.unlock(&account.name).await.unwrap()),
                Some("ResetPassword") => {
                    let method =
                        v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default());
                    let (user, method) = (Some(named(&account.name)), Some(method));
                    let request = v1::ResetPasswordRequest { user, method, unlock: true, ..Default::default() };
                    credential = Credential::Password(operator.reset_with(request).await.unwrap().shown().to_owned());
                }
                _ => break,
            }
        }
        let answer = ability(&operator.user(&account.name).await).clone();
        let account = Account { name: account.name, credential };
        assert!(is_able(answer.kind()), "{}: {answer:?}", account.name);
        assert_eq!(account.tries(&stranger).await, answer.kind(), "{}", account.name);
    }
}

/// Place of an account in the list of those who need attention: the group, then the key in it.
fn rank(user: &v1::User) -> (usize, i64, String) {
    let lock_end = user.lock.as_ref().map(|lock| micros(lock.expire_time.as_ref()));
    let expiry = user.password_status.as_ref().and_then(|status| micros(status.temporary_expire_time.as_ref()));
    let (id, name) = (user.id.clone(), user.username.clone());
    match (ability(user).reason(), lock_end) {
        (Reason::Locked, Some(None)) => (1, 0, name),
        (Reason::TemporaryPasswordExpired, _) => (2, expiry.unwrap(), id),
        (Reason::PasswordEnded, _) => (3, 0, name),
        (Reason::Pending, _) => (4, 0, name),
        // The ids run backwards too.
        (Reason::Locked, Some(Some(end))) => (5, -end, id.bytes().map(|byte| char::from(255 - byte)).collect()),
        (Reason::Throttled, _) => (6, 0, name),
        (Reason::PasswordTemporary, _) => (7, expiry.unwrap(), id),
        (Reason::ChangeRequired, _) => (8, 0, name),
        (Reason::PasswordExpired, _) => {
            (9, user.password_status.as_ref().and_then(|status| micros(status.change_time.as_ref())).unwrap(), id)
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// Reads all pages.
async fn all_pages(operator: &Client, page_size: i32, filter: &UserFilter, order: UserOrder) -> Vec<v1::User> {
    let (filter, order) = (Some(filter.clone()), order.into());
    let mut request = v1::ListUsersRequest { page_size, filter, order, ..Default::default() };
    let mut users = Vec::new();
    loop {
        let page = operator.list(request.clone()).await.unwrap();
        users.extend(page.users);
        if page.next_page_token.is_empty() {
            return users;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_list_by_the_answer_shows_all_and_only_those_it_is_true_of() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let operator = h.operator().await;
    h.clock.advance(Duration::from_secs(1));
    let mut users = Vec::new();
    for account in &accounts {
        users.push(operator.user(&account.name).await);
    }
    let kinds = [Kind::Yes, Kind::YesThen, Kind::NotUntil, Kind::No];
    for bits in 0..32_u32 {
        let wanted: Vec<i32> = (0..4).filter(|at| bits >> at & 1 == 1).map(|at| kinds[at].into()).collect();
        let needs_attention = bits >> 4 == 1;
        let mut filter = UserFilter { sign_in_abilities: wanted.clone(), needs_attention, ..Default::default() };
        let is_one = |user: &&v1::User| {
            (wanted.is_empty() || wanted.contains(&ability(user).kind))
                && (!needs_attention || ability(user).kind() != Kind::Yes)
        };
        let expected: BTreeSet<&str> = users.iter().filter(is_one).map(|user| user.username.as_str()).collect();
        let answer = operator
            .list(v1::ListUsersRequest { filter: Some(filter.clone()), include_total: true, ..Default::default() })
            .await
            .unwrap();
        assert_eq!(answer.total_size, i32::try_from(expected.len()).ok(), "{filter:?}");
        for order in [UserOrder::Unspecified, UserOrder::Username, UserOrder::CreateTimeDesc] {
            let listed = all_pages(&operator, 7, &filter, order).await;
            let names: BTreeSet<&str> = listed.iter().map(|user| user.username.as_str()).collect();
            assert_eq!((listed.len(), &names), (expected.len(), &expected), "{filter:?} {order:?}");
            let is_by_concern = needs_attention || !wanted.is_empty() && !wanted.contains(&Kind::Yes.into());
            if is_by_concern && order == UserOrder::Unspecified {
                assert!(listed.is_sorted_by_key(rank), "{filter:?}");
            }
        }
        filter.text = "chosen".to_owned();
        let expected = expected.into_iter().filter(|name| name.starts_with("chosen")).count();
        assert_eq!(all_pages(&operator, 7, &filter, UserOrder::Unspecified).await.len(), expected, "{filter:?}");
        filter.states = vec![UserState::Locked.into()];
        assert!(all_pages(&operator, 500, &filter, UserOrder::Unspecified).await.len() <= expected, "{filter:?}");
    }
}

#[tokio::test]
async fn later_pages_miss_no_account_because_time_passes() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let (operator, start) = (h.operator().await, h.clock.now().as_micros());
    let filter = UserFilter { needs_attention: true, ..Default::default() };
    let expected: BTreeSet<String> = all_pages(&operator, 500, &filter, UserOrder::Unspecified)
        .await
        .into_iter()
        .map(|user| user.username)
        .collect();
    assert!(expected.len() > 60 && expected.len() < accounts.len());
    let mut request = v1::ListUsersRequest { page_size: 3, filter: Some(filter), ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = operator.list(request.clone()).await.unwrap();
        seen.extend(page.users.into_iter().map(|user| user.username));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        // Within the hour that a page token is good for; locks and throttles end, and passwords expire meanwhile.
        h.clock.advance(Duration::from_mins(9));
    }
    assert!(h.clock.now().as_micros() > start + LONG_LOCK * MINUTE, "too few pages");
    let seen: BTreeSet<String> = seen.into_iter().collect();
    assert!(seen.is_subset(&expected), "{:?}", seen.difference(&expected));
    // A job deletes throttles that have ended. An account that is missing for that can sign in.
    for name in expected.difference(&seen) {
        let ability = operator.user(name).await.sign_in_ability.expect("an answer");
        assert_eq!(ability.kind(), v1::SignInAbilityKind::Yes, "{name}");
    }
}

/// The reasons of the last failed sign-ins, as `reader` sees them.
async fn failures(reader: &Client, username: &str) -> Vec<&'static str> {
    let request = v1::GetUserRequest { user: Some(named(username)) };
    let answer = reader.user_admin().get_user(request).await.expect("a user").into_inner();
    assert!(answer.recent_failures.is_sorted_by_key(|failure| std::cmp::Reverse(micros(failure.time.as_ref()))));
    assert!(answer.recent_failures.iter().all(|failure| failure.client_address == "127.0.0.1"));
    answer.recent_failures.iter().map(|failure| failure.reason().as_str_name()).collect()
}

#[tokio::test]
async fn the_last_failures_are_shown_only_to_callers_who_may_reset_the_password() {
    let h = server().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let helpdesk = h.person("helpdesk", &["helpdesk"]).await.client;
    let viewer = h.person("viewer", &["viewer"]).await.client;
    h.create("bob", &[], PASSWORD).await;
    h.create("root", &["admin"], PASSWORD).await;
    assert!(failures(&helpdesk, "bob").await.is_empty());
    for name in ["bob", "root"] {
        for _ in 0..6 {
            stranger.sign_in(name, OTHER_PASSWORD).await.unwrap_err();
        }
    }
    operator.lock("bob").await.unwrap();
    stranger.sign_in("bob", PASSWORD).await.unwrap_err();
    let wrong = "ERROR_REASON_PASSWORD_WRONG";
    assert_eq!(failures(&helpdesk, "bob").await, ["ERROR_REASON_USER_LOCKED", wrong, wrong, wrong, wrong]);
    assert!(failures(&viewer, "bob").await.is_empty(), "without users.reset");
    assert!(failures(&helpdesk, "root").await.is_empty(), "an administrator outranks the help desk");
    assert_eq!(failures(&operator, "root").await.len(), 5);
    let listed = operator.list(v1::ListUsersRequest::default()).await.unwrap();
    assert!(!format!("{listed:?}").contains("PASSWORD_WRONG"));
    for _ in 0..50 {
        operator.unlock("bob").await.unwrap();
        operator.lock("bob").await.unwrap();
    }
    assert!(failures(&helpdesk, "bob").await.is_empty(), "only the last hundred events are searched");
}

#[tokio::test]
async fn a_throttle_ends_when_failures_are_not_counted_any_more() {
    let mut h = Harness::with(|config| config.throttle.initial = Duration::from_hours(1)).await;
    h.create("bob", &[], PASSWORD).await;
    let stranger = h.stranger().await;
    for _ in 0..h.config.throttle.threshold {
        stranger.sign_in("bob", OTHER_PASSWORD).await.unwrap_err();
    }
    assert_eq!(ability(&h.operator().await.user("bob").await).kind(), Kind::NotUntil);
    h.halt().await;
    (h.config.throttle.threshold, h.config.throttle.lockout_threshold) = (0, 0);
    let h = h.resume().await;
    let operator = h.operator().await;
    eventually("the end of the throttle", || async {
        (ability(&operator.user("bob").await).kind() == Kind::Yes).then_some(())
    })
    .await;
    h.stranger().await.tokens("bob", PASSWORD).await.expect("a sign-in");
}
