//! A server that is killed repeatedly while clients change accounts: at every failpoint in turn, and at random.
//!
//! Every call is recorded with its answer. At the end, the history, the audit log and the database must be consistent
//! (`harness/history.rs`). `TEST_FULL=1` kills five hundred times, CI once per failpoint and a few times at random.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::crash_steps;
use crate::harness::child::Site;
use crate::harness::dice::Dice;
use crate::harness::history::{Order, What};
use crate::harness::traffic::World;
use crate::harness::{Client, is_full};

/// The accounts that all clients use. Few, so that calls collide.
const ACCOUNTS: [&str; 3] = ["ann", "bob", "cat"];
const WORKERS: u64 = 5;

/// Failpoints of one method, and calls that reach them.
const METHODS: [(&str, What); 9] = [
    ("ResetPassword", What::Reset),
    ("LockUser", What::Lock),
    ("UnlockUser", What::Unlock),
    ("CreateUser", What::Create),
    ("DeleteUser", What::Delete),
    ("SignIn", What::SignIn),
    ("CompletePasswordChange", What::Complete),
    ("ChangePassword", What::Change),
    ("RefreshTokens", What::Refresh),
];

/// Failpoints in the store, and calls that reach them. Those that every change passes appear twice: with a reset, which
/// must not be half done, and with another call.
const STATEMENTS: [(&str, What); 23] = [
    ("store.user_insert", What::Create),
    ("store.user_save", What::Lock),
    ("store.user_save", What::Reset),
    ("store.user_delete", What::Delete),
    ("store.reservation_insert", What::Delete),
    ("store.user_signed_in", What::SignIn),
    ("store.user_signed_in_as_read", What::SignIn),
    ("store.session_insert", What::Complete),
    ("store.session_rotate", What::Refresh),
    ("store.session_end", What::Reset),
    ("store.place_used", What::SignIn),
    ("store.ticket_insert", What::SignIn),
    ("store.ticket_end_all", What::Reset),
    ("store.throttle_reserve", What::SignIn),
    ("store.throttle_succeeded", What::SignIn),
    ("store.throttle_failed", What::Guess),
    ("store.throttle_clear", What::Unlock),
    ("store.throttle_clear", What::Reset),
    ("store.idempotency_insert", What::Reset),
    ("store.event_insert", What::Complete),
    ("store.event_insert", What::Reset),
    ("store.flush", What::Lock),
    ("store.flush", What::Reset),
];

/// Failpoints of `crash_steps.rs`. Two are reached only once: keys are created at the first start, and a hash is renewed
/// after the server got stronger parameters. The third is the only statement of its call that matters. Then come those of a
/// containment, after which an account needs a reset, and those of links and messages, which `outbox.rs` has too.
const ELSEWHERE: [&str; 29] = [
    "store.key_insert",
    "store.user_rehash",
    "store.user_judged",
    "store.session_reauthenticate",
    "store.user_end_password",
    "store.api_token_revoke_all",
    "store.place_forget_all",
    "store.link_insert",
    "store.link_consume",
    "store.link_end_all",
    "store.delivery_insert",
    "store.delivery_claim",
    "store.delivery_mark",
    "store.delivery_cancel",
    "store.reset_request_save",
    "store.reset_request_delete",
    "store.policy_save",
    "store.recovery_code_use",
    "store.old_password_remember",
    "store.password_warning_save",
    "store.inactivity_warning_save",
    "store.recovery_codes_replace",
    "store.second_factor_remove",
    "store.second_factor_replace",
    "store.ticket_end",
    "store.ticket_wrong_code",
    "store.totp_accept",
    "store.totp_forget_wrong_codes",
    "store.totp_wrong_code",
];

fn places() -> Vec<(String, What)> {
    let of_method = |(method, what): (&str, What)| {
        let steps: &[&str] = if what == What::Refresh {
            &["begin", "commit", "committed"]
        } else {
            &["begin", "audit", "commit", "committed"]
        };
        steps.iter().map(|step| (format!("{method}.{step}"), what)).collect::<Vec<_>>()
    };
    let store = STATEMENTS.into_iter().map(|(name, what)| (name.to_owned(), what));
    METHODS.into_iter().flat_map(of_method).chain(store).collect()
}

#[test]
fn no_failpoint_is_forgotten() {
    let of_method = |name: &str| {
        let (method, step) = name.split_once('.').expect("a method or a part, and a place");
        METHODS.iter().any(|(known, _)| *known == method).then(|| format!(".{step}"))
    };
    let here = places().into_iter().map(|(name, _)| of_method(&name).unwrap_or(name));
    // Failpoints during a start, which no call reaches, are covered in `crash_steps.rs`.
    let (at_start, others): (BTreeSet<String>, _) =
        crash_steps::places().into_iter().partition(|name| name.starts_with("migrate."));
    let known: BTreeSet<String> = here.chain(ELSEWHERE.map(str::to_owned)).collect();
    assert_eq!(known, others, "a failpoint that has no row here, or a row without its failpoint");
    assert!(!at_start.is_empty());
}

/// Chooses a call: one third of them reach the current failpoint.
fn order(world: &World, dice: &mut Dice, wanted: Option<What>) -> Order {
    use What::{Change, Complete, Create, Delete, Lock, Refresh, Reset, SignIn, Unlock};
    let mix = [
        &[Reset, Lock, Unlock, Unlock, Unlock][..],
        &[SignIn, SignIn, SignIn, SignIn, Complete, Complete, Complete, Refresh, Refresh, Change, Change],
    ]
    .concat();
    let rare = if dice.roll(2) == 0 { Create } else { Delete };
    let what = wanted.filter(|_| dice.roll(3) == 0);
    let what = what.or_else(|| dice.pick(&mix).copied().filter(|_| dice.roll(12) != 0)).unwrap_or(rare);
    let user = match what {
        Create => format!("new{}", world.number()),
        Delete => dice.pick(&world.extra_accounts()).map_or("new0", String::as_str).to_owned(),
        _ => dice.pick(&ACCOUNTS).copied().unwrap_or_default().to_owned(),
    };
    world.order(dice, what, &user)
}

/// Runs one client until an answer is lost. It begins by repeating the call with an unknown outcome, with the same key.
/// Returns the call whose outcome is unknown at the end.
async fn work(
    world: Arc<World>,
    (operator, stranger): (Client, Client),
    mut dice: Dice,
    wanted: Option<What>,
    mut open: Option<Order>,
) -> Option<Order> {
    loop {
        let order = open.take().unwrap_or_else(|| order(&world, &mut dice, wanted));
        if !world.perform(&operator, &stranger, order.clone()).await {
            return Some(order).filter(|order| !order.key.is_empty());
        }
    }
}

/// Repeats the call until its outcome is known. On a slow machine, a timeout makes it unknown as well.
async fn settle(world: &World, operator: &Client, stranger: &Client, order: Order) {
    for _ in 0..10 {
        if world.perform(operator, stranger, order.clone()).await {
            return;
        }
    }
    panic!("nothing stays unknown");
}

/// Runs a server until it is killed. Returns whether the failpoint killed it.
async fn life(
    site: &Site,
    world: &Arc<World>,
    dice: &mut Dice,
    place: Option<&(String, What)>,
    open: &mut Vec<Option<Order>>,
) -> bool {
    // A start itself flushes once, which must not kill the server.
    let at_start = u64::from(place.is_some_and(|(name, _)| name == "store.flush"));
    let faults = match (place, dice.roll(3) + at_start) {
        (None, _) => String::new(),
        (Some((name, _)), 0) => format!("{name}=return(kill)"),
        (Some((name, _)), skipped) => format!("{name}={skipped}*off->return(kill)"),
    };
    let mut server = site.start(&faults).await;
    let clients = (server.operator().await, server.stranger().await);
    let wanted = place.map(|(_, what)| *what);
    let workers = (0..WORKERS).map(|_| {
        let (own, open) = (Dice(dice.roll(u64::MAX) | 1), open.pop().flatten());
        tokio::spawn(work(Arc::clone(world), clients.clone(), own, wanted, open))
    });
    let workers: Vec<_> = workers.collect();
    let time = if place.is_some() { 1500 } else { 20 + dice.roll(200) };
    let hit = server.dies_within(Duration::from_millis(time)).await;
    if !hit {
        server.kill();
    }
    for worker in workers {
        open.push(worker.await.expect("a worker"));
    }
    hit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_holds_and_nothing_is_half_done_however_often_the_server_is_killed() {
    let mut site = Site::new().await;
    site.tolerate_failures();
    let world = Arc::new(World::default());
    let first = site.start("").await;
    let (operator, stranger) = (first.operator().await, first.stranger().await);
    let mut dice = Dice(0x5eed_1e55);
    for name in ACCOUNTS {
        let order = world.order(&mut dice, What::Create, name);
        settle(&world, &operator, &stranger, order).await;
    }
    drop(first);

    let places = places();
    let kills = if is_full() { 500 } else { places.len() * 6 / 5 + 1 };
    let mut missed: BTreeSet<&(String, What)> = places.iter().collect();
    let mut open: Vec<Option<Order>> = Vec::new();
    for number in 0..kills {
        // Every sixth time at random, otherwise at each failpoint in turn.
        let place = (number % 6 != 5).then(|| &places[(number - number / 6) % places.len()]);
        if life(&site, &world, &mut dice, place, &mut open).await
            && let Some(place) = place
        {
            missed.remove(place);
        }
    }
    // By chance, no call may have reached it.
    for _ in 0..5 {
        let again: Vec<_> = missed.iter().copied().collect();
        for place in again {
            if life(&site, &world, &mut dice, Some(place), &mut open).await {
                missed.remove(place);
            }
        }
    }

    let last = site.start("").await;
    let (operator, stranger) = (last.operator().await, last.stranger().await);
    for order in open.into_iter().flatten() {
        settle(&world, &operator, &stranger, order).await;
    }
    world.check(&site.database, &operator, &stranger, &METHODS.map(|(_, what)| what)).await;
    if !site.database.is_shared() {
        assert_eq!(site.database.query("PRAGMA integrity_check").await, ["ok"]);
    }
    assert_eq!(missed, BTreeSet::new(), "no call led to these places");
}
