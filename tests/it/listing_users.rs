//! Listing accounts: filters, orders, search. Pagination is tested in `paging.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use latchkey::proto::v1::{self, LockCause, SignInAbilityKind, UserFilter, UserFlag, UserKind, UserOrder, UserState};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::factor::totp;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, refused};

/// Users of both kinds, in every state and with every flag.
async fn everybody() -> Harness {
    let h = Harness::with(|config| {
        config.throttle.threshold = 2;
        config.throttle.lockout_threshold = 4;
        // Longer than a test takes, even on a slow machine.
        config.throttle.initial = Duration::from_hours(1);
        config.throttle.max = Duration::from_hours(1);
    })
    .await;
    let operator = h.operator().await;
    for name in ["pending", "pending.locked"] {
        operator.create(v1::CreateUserRequest { username: name.to_owned(), ..Default::default() }).await.unwrap();
    }
    for (name, roles) in [("service", vec!["verifier"]), ("service.locked", vec![])] {
        let request = v1::CreateUserRequest {
            username: name.to_owned(),
            kind: UserKind::Service.into(),
            roles: roles.into_iter().map(str::to_owned).collect(),
            ..Default::default()
        };
        operator.create(request).await.unwrap();
    }
    for (name, roles) in [
        ("active", &["viewer"][..]),
        ("demanded", &["helpdesk", "auditor"]),
        ("demanded.locked", &[]),
        ("waits", &["operator"]),
        ("waits.locked", &[]),
        ("failed", &["viewer"]),
        ("lock.over", &[]),
        ("lock.ends", &["admin"]),
    ] {
        h.person(name, roles).await;
    }
    h.create("never", &["admin"], PASSWORD).await;
    for name in ["lock.compromise", "lock.compromise.over", "lock.deactivated"] {
        h.create(name, &[], PASSWORD).await;
    }
    for name in ["temporary", "temporary.over", "temporary.demanded", "temporary.waits", "temporary.locked"] {
        h.create(name, &[], PASSWORD).await;
        operator.reset(name).await.unwrap();
    }
    create_states(&h, &operator).await;
    create_addressed(&h, &operator).await;
    create_second_factors(&h, &operator).await;
    h
}

/// People with a second factor, one of whom tried wrong codes, and a policy that asks for one.
async fn create_second_factors(h: &Harness, operator: &Client) {
    for name in ["factor", "factor.waits", "factor.locked"] {
        let factor = h.enroll(&h.person(name, &["auditor"]).await).await;
        let near: Vec<String> = (-2..=2).map(|steps| factor.shows(h, steps)).collect();
        let wrong = (0..10).map(|number| format!("{number:06}")).find(|code| !near.contains(code)).unwrap();
        for _ in 0..if name == "factor.waits" { 5 } else { 0 } {
            let answer = h.stranger().await.sign_in_with(name, PASSWORD, totp(&wrong)).await;
            refused(answer, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
        }
    }
    operator.lock("factor.locked").await.unwrap();
    let names = ["auditor", "viewer"].map(str::to_owned).to_vec();
    let policy = v1::SignInPolicy { second_factor_roles: Some(v1::RoleNames { names }), ..Default::default() };
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    operator.user_admin().update_sign_in_policy(request).await.unwrap();
}

/// People with an address, with and without links, failed mail and a confirmation.
async fn create_addressed(h: &Harness, operator: &Client) {
    for name in ["address", "address.link", "address.link.over", "address.failed", "address.confirmed"] {
        let email = format!("{name}@example.com");
        let request = v1::CreateUserRequest { username: name.to_owned(), email, ..Default::default() };
        operator.create(request).await.unwrap();
    }
    let returns = |name: &str, seconds: i64| {
        let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        let method = Some(v1::reset_password_request::Method::ReturnLink(v1::ReturnLink { ttl }));
        v1::ResetPasswordRequest { user: Some(named(name)), method, ..Default::default() }
    };
    operator.reset_with(returns("address.link", 86_400)).await.unwrap();
    operator.reset_with(returns("address.link.over", 600)).await.unwrap();
    h.clock.advance(Duration::from_mins(10));
    let failed = v1::ResetPasswordRequest { user: Some(named("address.failed")), ..Default::default() };
    let failed = operator.reset_with(failed).await.unwrap().delivery.unwrap();
    operator.delivery_in(&failed.id, v1::DeliveryState::Accepted).await;
    h.sql(&format!("UPDATE delivery SET state = 5 WHERE id = '{}'", failed.id)).await;
    h.sql(r#"UPDATE "user" SET email_verified_at = 1 WHERE username = 'address.confirmed'"#).await;
}

async fn create_states(h: &Harness, operator: &Client) {
    let stranger = h.stranger().await;
    let lock = async |name: &str, seconds: Option<i64>| {
        let end = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let end = end.map(v1::lock_user_request::End::Duration);
        let request = v1::LockUserRequest { user: Some(named(name)), end, ..Default::default() };
        operator.user_admin().lock_user(request).await.unwrap();
    };
    let fail = async |name: &str| {
        refused(stranger.sign_in(name, OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    };
    for name in ["demanded", "demanded.locked", "temporary.demanded"] {
        operator.require_change(name).await.unwrap();
    }
    lock("lock.over", Some(60)).await;
    operator.contain("lock.compromise").await.unwrap();
    operator.contain("lock.compromise.over").await.unwrap();
    operator.unlock("lock.compromise.over").await.unwrap();
    operator.lock_for("lock.deactivated", LockCause::Deactivated).await.unwrap();
    operator
        .reset_with(v1::ResetPasswordRequest {
            user: Some(named("temporary.over")),
            method: Some(v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword {
                ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                ..Default::default()
            })),
            ..Default::default()
        })
        .await
        .unwrap();
    for _ in 0..2 {
        fail("failed").await;
    }
    for _ in 0..2 {
        h.clock.advance(Duration::from_hours(1));
        fail("failed").await;
    }
    lock("lock.ends", Some(86_400)).await;
    for name in ["pending.locked", "service.locked", "demanded.locked", "temporary.locked"] {
        lock(name, None).await;
    }
    for name in ["waits", "waits.locked", "temporary.waits"] {
        fail(name).await;
        fail(name).await;
    }
    lock("waits.locked", None).await;
}

/// All accounts, as `GetUser` returns them.
async fn all_users(operator: &Client) -> Vec<v1::User> {
    let all = operator.list(v1::ListUsersRequest { page_size: 500, ..Default::default() }).await.unwrap();
    let mut users = Vec::new();
    for user in all.users {
        users.push(operator.get(&user.username).await.unwrap());
    }
    users
}

/// The documented meaning of a filter, computed from the answers.
fn is_selected(user: &v1::User, filter: &UserFilter) -> bool {
    let cause = user.lock.as_ref().map(|lock| lock.cause);
    let one_of = |wanted: &[i32], is: i32| wanted.is_empty() || wanted.contains(&is);
    let ability = user.sign_in_ability.as_ref().expect("an answer").kind();
    let has_factor = user.second_factor_status.as_ref().is_some_and(|status| status.totp_enrolled);
    one_of(&filter.states, user.state)
        && one_of(&filter.kinds, user.kind)
        && (filter.lock_causes.is_empty() || cause.is_some_and(|cause| filter.lock_causes.contains(&cause)))
        && filter.flags.iter().all(|flag| user.flags.contains(flag))
        && !filter.without_flags.iter().any(|flag| user.flags.contains(flag))
        && (filter.roles.is_empty() || filter.roles.iter().any(|role| user.roles.contains(role)))
        && (filter.user_ids.is_empty() || filter.user_ids.contains(&user.id))
        && user.username.starts_with(&filter.text)
        && filter.second_factor_enrolled.is_none_or(|wanted| wanted == has_factor)
        && (!filter.needs_attention || ability != SignInAbilityKind::Yes)
        && one_of(&filter.sign_in_abilities, ability.into())
}

/// Every filter with one field set.
fn single_filters(users: &[v1::User]) -> Vec<UserFilter> {
    let states = [UserState::Pending, UserState::Active, UserState::Locked].map(i32::from);
    let kinds = [UserKind::Person, UserKind::Service].map(i32::from);
    let causes = [
        LockCause::Compromise,
        LockCause::Deactivated,
        LockCause::Operator,
        LockCause::Inactivity,
        LockCause::FailedSignIns,
    ]
    .map(i32::from);
    let flags: Vec<i32> = (1..=i32::from(UserFlag::NeverSignedIn)).filter(|n| UserFlag::try_from(*n).is_ok()).collect();
    assert_eq!(flags.len(), 9);
    let pairs: Vec<Vec<i32>> = flags
        .iter()
        .enumerate()
        .flat_map(|(at, flag)| flags[at..].iter().map(|other| BTreeSet::from([*flag, *other]).into_iter().collect()))
        .collect();
    let subsets = |of: &[i32]| -> Vec<Vec<i32>> {
        (1..1_usize << of.len())
            .map(|bits| of.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, is)| *is).collect())
            .collect()
    };
    let mut all = vec![UserFilter::default(), UserFilter { needs_attention: true, ..Default::default() }];
    let factors = [true, false].map(Some);
    all.extend(factors.map(|enrolled| UserFilter { second_factor_enrolled: enrolled, ..Default::default() }));
    all.extend(subsets(&states).into_iter().map(|states| UserFilter { states, ..Default::default() }));
    all.extend(subsets(&kinds).into_iter().map(|kinds| UserFilter { kinds, ..Default::default() }));
    all.extend(subsets(&causes).into_iter().map(|lock_causes| UserFilter { lock_causes, ..Default::default() }));
    all.extend(pairs.iter().cloned().map(|flags| UserFilter { flags, ..Default::default() }));
    all.extend(pairs.into_iter().map(|without_flags| UserFilter { without_flags, ..Default::default() }));
    let abilities =
        [SignInAbilityKind::Yes, SignInAbilityKind::YesThen, SignInAbilityKind::NotUntil, SignInAbilityKind::No];
    all.extend(
        subsets(&abilities.map(i32::from))
            .into_iter()
            .map(|sign_in_abilities| UserFilter { sign_in_abilities, ..Default::default() }),
    );
    for roles in [vec!["viewer"], vec!["admin", "auditor"], vec!["app"]] {
        let roles = roles.into_iter().map(str::to_owned).collect();
        all.push(UserFilter { roles, ..Default::default() });
    }
    let user_ids = users.iter().step_by(3).map(|user| user.id.clone()).collect();
    all.push(UserFilter { user_ids, ..Default::default() });
    for text in ["temporary", "lock.", "w"] {
        all.push(UserFilter { text: text.to_owned(), ..Default::default() });
    }
    all
}

/// Both filters combined.
fn both(a: &UserFilter, b: &UserFilter) -> UserFilter {
    let joined = |a: &[i32], b: &[i32]| [a, b].concat();
    UserFilter {
        text: if a.text.is_empty() { b.text.clone() } else { a.text.clone() },
        states: joined(&a.states, &b.states),
        kinds: joined(&a.kinds, &b.kinds),
        lock_causes: joined(&a.lock_causes, &b.lock_causes),
        flags: joined(&a.flags, &b.flags),
        without_flags: joined(&a.without_flags, &b.without_flags),
        roles: [a.roles.as_slice(), &b.roles].concat(),
        user_ids: [a.user_ids.as_slice(), &b.user_ids].concat(),
        second_factor_enrolled: a.second_factor_enrolled.or(b.second_factor_enrolled),
        needs_attention: a.needs_attention || b.needs_attention,
        sign_in_abilities: joined(&a.sign_in_abilities, &b.sign_in_abilities),
    }
}

async fn check_filter(operator: &Client, users: &[v1::User], filter: UserFilter) {
    let selected: Vec<&v1::User> = users.iter().filter(|user| is_selected(user, &filter)).collect();
    let expected: Vec<&str> = selected.iter().map(|user| user.username.as_str()).collect();
    let ids: BTreeSet<&str> = selected.iter().map(|user| user.id.as_str()).collect();
    for order in [UserOrder::Username, UserOrder::Unspecified, UserOrder::CreateTimeDesc] {
        let request = v1::ListUsersRequest {
            page_size: 500,
            filter: Some(filter.clone()),
            order: order.into(),
            include_total: true,
            ..Default::default()
        };
        let answer = operator.list(request).await.unwrap();
        let found: BTreeSet<&str> = answer.users.iter().map(|user| user.id.as_str()).collect();
        assert_eq!((answer.users.len(), &found), (expected.len(), &ids), "{filter:?}, expected {expected:?}");
        assert_eq!(answer.total_size, i32::try_from(expected.len()).ok(), "{filter:?}");
        if order == UserOrder::Username {
            let names: Vec<&str> = answer.users.iter().map(|user| user.username.as_str()).collect();
            assert_eq!(names, expected, "{filter:?}");
        }
    }
}

#[tokio::test]
async fn every_filter_selects_what_the_single_answers_say() {
    let h = everybody().await;
    let operator = h.operator().await;
    let users = all_users(&operator).await;
    assert_eq!(users.len(), 29);
    let filters = single_filters(&users);
    // Each field must select some users and leave out others, otherwise it proves nothing.
    let telling = filters.iter().filter(|filter| {
        let selected = users.iter().filter(|user| is_selected(user, filter)).count();
        selected > 0 && selected < users.len()
    });
    assert!(telling.count() >= 25, "too few filters tell anybody apart");
    for filter in &filters {
        check_filter(&operator, &users, filter.clone()).await;
    }
    // Some pairs: each filter with one at a varying distance.
    for (at, filter) in filters.iter().enumerate() {
        let other = &filters[(at * 7 + 11) % filters.len()];
        check_filter(&operator, &users, both(filter, other)).await;
    }
}

#[tokio::test]
async fn a_list_shows_users_as_a_single_read_does() {
    let h = everybody().await;
    let operator = h.operator().await;
    let listed = operator.list(v1::ListUsersRequest { page_size: 500, ..Default::default() }).await.unwrap().users;
    for user in listed {
        assert_eq!(user, operator.get(&user.username).await.unwrap());
    }
}

/// The names that a search finds, in order of the list.
async fn found(operator: &Client, text: &str) -> Vec<String> {
    let filter = UserFilter { text: text.to_owned(), ..Default::default() };
    let answer = operator.list(v1::ListUsersRequest { filter: Some(filter), ..Default::default() }).await.unwrap();
    answer.users.into_iter().map(|user| user.username).collect()
}

#[tokio::test]
async fn a_search_is_by_prefix_of_name_address_and_words_and_knows_no_wildcards() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for (username, email, display_name) in [
        ("ada", "countess@example.com", "Ada Ada Lovelace"),
        ("a_b", "", "Under Score"),
        ("axb", "", "100% Pure"),
        ("zoe", "Smith.Z@Example.com", "Zoe\u{308} O'Brien-Smith"),
        ("emile", "", "ÉMILE ΣΊΣΥΦΟΣ"),
        ("adam", "", ""),
    ] {
        let request = v1::CreateUserRequest {
            username: username.to_owned(),
            email: email.to_owned(),
            display_name: display_name.to_owned(),
            ..Default::default()
        };
        operator.create(request).await.unwrap();
    }
    for (text, expected) in [
        // Twice in the name and once in the username: once in the list.
        ("ada", vec!["ada", "adam"]),
        ("ADA", vec!["ada", "adam"]),
        ("a_", vec!["a_b"]),
        ("_", vec![]),
        ("%", vec![]),
        ("100%", vec!["axb"]),
        ("lovel", vec!["ada"]),
        ("ovelace", vec![]),
        ("countess@", vec!["ada"]),
        ("smith", vec!["zoe"]),
        ("SMITH.Z@example.c", vec!["zoe"]),
        ("o'brien-s", vec!["zoe"]),
        ("zoë", vec!["zoe"]),
        ("zoe\u{308}", vec!["zoe"]),
        ("émile", vec!["emile"]),
        ("e\u{301}mi", vec!["emile"]),
        ("σίσυφος", vec!["emile"]),
        ("\\", vec![]),
        ("'; DROP TABLE user; --", vec![]),
    ] {
        assert_eq!(found(&operator, text).await, expected, "{text}");
    }
}

#[tokio::test]
async fn a_search_follows_a_changed_name() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let request = v1::UpdateUserRequest {
        user: Some(named("bob")),
        display_name: Some("Robert Tables".to_owned()),
        ..Default::default()
    };
    operator.update(request).await.unwrap();
    assert_eq!(found(&operator, "tables").await, ["bob"]);
    let request =
        v1::UpdateUserRequest { user: Some(named("bob")), display_name: Some(String::new()), ..Default::default() };
    operator.update(request).await.unwrap();
    assert!(found(&operator, "tables").await.is_empty());
}

#[tokio::test]
async fn every_wrong_member_of_a_filter_is_named() {
    let h = Harness::start().await;
    let filter = UserFilter {
        text: "a".repeat(129),
        states: vec![0, 99],
        flags: vec![99],
        roles: vec!["emperor".to_owned()],
        user_ids: vec!["x".to_owned()],
        ..Default::default()
    };
    let request = v1::ListUsersRequest { page_size: -1, order: 99, filter: Some(filter), ..Default::default() };
    let refusal = refused(h.operator().await.list(request).await, Code::InvalidArgument, "FIELD_INVALID");
    let mut violations = refusal.violations();
    violations.sort();
    let expected = [
        "filter.flags[0]: UNKNOWN",
        "filter.roles[0]: UNKNOWN",
        "filter.states[0]: UNKNOWN",
        "filter.states[1]: UNKNOWN",
        "filter.text: TOO_LONG",
        "filter.user_ids[0]: MALFORMED",
        "order: UNKNOWN",
        "page_size: OUT_OF_RANGE",
    ];
    assert_eq!(violations, expected);
}

#[tokio::test]
async fn a_temporary_password_in_a_list_is_never_shown_again() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    h.create("bob", &[], PASSWORD).await;
    let shown = operator.reset("bob").await.unwrap();
    let listed = operator.list(v1::ListUsersRequest::default()).await.unwrap();
    assert!(!format!("{listed:?}").contains(shown.shown()));
}
