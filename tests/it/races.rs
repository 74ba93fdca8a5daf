//! Concurrent locks, sign-ins, refreshes, changes, resets, unlocks and deletions.
//!
//! `TEST_FULL=1` runs ten thousand rounds of each race; CI a thousand of the last, and 250 of the others. On
//! PostgreSQL, half of the calls go to a second server. `races_held.rs` tests the moments that are known to be
//! critical.

use std::sync::atomic::{AtomicBool, Ordering};

use latchkey::proto::v1::{self, LockCause, sign_in_progress::Step};
use tonic::{Code, Status};

use crate::harness::actors::named;
use crate::harness::calls::{Shown, tokens_of};
use crate::harness::child::Site;
use crate::harness::dice::Dice;
use crate::harness::history::What;
use crate::harness::log::run_quietly;
use crate::harness::traffic::World;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, refused, rounds};

const THIRD_PASSWORD: &str = "yet another c4nary here";

/// Yields to other tasks for a while.
async fn pause(turns: u64) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// A client that could be issued tokens.
#[derive(Clone, Copy)]
enum Attempt {
    SignIn,
    Refresh,
    Complete,
}

struct Round<'a> {
    name: &'a str,
    refresh_token: &'a str,
    ticket: &'a str,
    locked: &'a AtomicBool,
}

impl Round<'_> {
    /// Tries once after a pause. Returns the tokens issued; after the lock has returned, there must be none.
    async fn attempt(&self, client: &Client, attempt: Attempt, turns: u64) -> Option<v1::TokenSet> {
        pause(turns).await;
        let began_locked = self.locked.load(Ordering::SeqCst);
        let answer = match attempt {
            Attempt::SignIn => client.sign_in(self.name, PASSWORD).await.map(|step| match step {
                Step::Tokens(tokens) => Some(tokens),
                _ => None,
            }),
            Attempt::Refresh => client.refresh(self.refresh_token).await.map(Some),
            Attempt::Complete => {
                client.complete(self.ticket, OTHER_PASSWORD).await.map(|answer| Some(tokens_of(answer.progress)))
            }
        };
        match answer {
            Ok(issued) => {
                assert!(!began_locked, "something was issued after the lock had returned");
                issued
            }
            Err(status) => {
                check_reason(&status);
                None
            }
        }
    }
}

fn check_reason(status: &Status) {
    let reason = Refusal::of(status).reason;
    let allowed = ["CREDENTIALS_REJECTED", "SESSION_REVOKED", "TICKET_INVALID", "THROTTLED"];
    assert!(allowed.contains(&reason.as_str()), "{status:?}");
}

/// A client with a session and a ticket.
async fn prepare(h: &Harness, operator: &Client, stranger: &Client, name: &str) -> (String, String) {
    h.create(name, &[], PASSWORD).await;
    let tokens = stranger.tokens(name, PASSWORD).await.expect("tokens");
    operator.require_change(name).await.expect("a demand");
    let ticket = stranger.change_step(name, PASSWORD).await.expect("a step").ticket;
    operator.waive_change(name).await.expect("no demand");
    (tokens.refresh_token, ticket)
}

/// An anonymous client of a second server, or of the same one if there can be only one.
async fn second_server(h: &Harness) -> (Option<Harness>, Client) {
    let other = h.replica().await;
    let there = other.as_ref().unwrap_or(h).stranger().await;
    (other, there)
}

#[test]
fn once_a_lock_has_returned_nothing_is_issued_and_nothing_lives() {
    run_quietly(async {
        let h = Harness::start().await;
        let (_other, there) = second_server(&h).await;
        let (operator, here) = (h.operator().await, h.stranger().await);
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut issued_before_the_lock = 0;
        for number in 0..rounds(250) {
            let name = format!("u{number}");
            let (refresh_token, ticket) = prepare(&h, &operator, &here, &name).await;
            let locked = AtomicBool::new(false);
            let round = Round { name: &name, refresh_token: &refresh_token, ticket: &ticket, locked: &locked };
            let turns = dice.roll(120);
            let lock = async {
                pause(turns).await;
                let cause = [LockCause::Operator, LockCause::Compromise, LockCause::Deactivated][number % 3];
                operator.lock_for(&name, cause).await.expect("a lock");
                locked.store(true, Ordering::SeqCst);
            };
            let with_reset = number % 4 == 0;
            let reset = async {
                if with_reset && let Err(status) = operator.reset(&name).await {
                    assert_eq!(Refusal::of(&status).reason, "USER_LOCKED");
                }
            };
            let attempts = [Attempt::SignIn, Attempt::Refresh, Attempt::Complete, Attempt::SignIn, Attempt::Refresh]
                .into_iter()
                .enumerate()
                .map(|(at, attempt)| round.attempt(if at % 2 == 0 { &here } else { &there }, attempt, dice.roll(160)))
                .collect::<Vec<_>>();
            let ((), (), issued) = tokio::join!(lock, reset, at_once(attempts));

            let live = operator.sessions_of(&name).await.into_iter().filter(|session| session.end_time.is_none());
            assert_eq!(live.count(), 0, "round {number}: a session outlived the lock");
            for tokens in issued.into_iter().flatten() {
                issued_before_the_lock += 1;
                let who = there.bearing(&tokens.access_token).who_am_i().await;
                refused(who, Code::Unauthenticated, "SESSION_REVOKED");
                check_reason(&here.refresh(&tokens.refresh_token).await.expect_err("a refusal"));
            }
            for attempt in [Attempt::SignIn, Attempt::Refresh, Attempt::Complete] {
                assert_eq!(round.attempt(&there, attempt, 0).await, None);
            }
        }
        assert!(issued_before_the_lock > 0, "no attempt was ever quicker than the lock: nothing was raced");
    });
}

#[test]
fn of_two_who_answer_one_step_at_once_one_wins() {
    run_quietly(async {
        let h = Harness::start().await;
        let (_other, there) = second_server(&h).await;
        let (operator, here) = (h.operator().await, h.stranger().await);
        for number in 0..rounds(250) {
            let name = format!("u{number}");
            h.create(&name, &[], PASSWORD).await;
            let reset = operator.reset(&name).await.expect("a reset");
            let step = here.change_step(&name, reset.shown()).await.expect("a step");
            let passwords = [OTHER_PASSWORD, THIRD_PASSWORD];
            let (first, second) =
                tokio::join!(here.complete(&step.ticket, passwords[0]), there.complete(&step.ticket, passwords[1]));
            let won: Vec<bool> = [&first, &second].map(Result::is_ok).to_vec();
            assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {number}: {first:?} {second:?}");
            for (answer, password) in [first, second].into_iter().zip(passwords) {
                if answer.is_ok() {
                    here.tokens(&name, password).await.expect("the winner's password");
                } else {
                    refused(answer, Code::Unauthenticated, "TICKET_INVALID");
                    refused(here.sign_in(&name, password).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
                }
            }
            refused(here.sign_in(&name, reset.shown()).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        }
    });
}

#[test]
fn a_reset_wins_over_a_change_by_the_user_at_the_same_moment() {
    run_quietly(async {
        let h = Harness::start().await;
        let (_other, there) = second_server(&h).await;
        let (operator, stranger) = (h.operator().await, h.stranger().await);
        let mut dice = Dice(42);
        for number in 0..rounds(250) {
            let name = format!("u{number}");
            let person = there.bearing(&h.user(&name).await.tokens.access_token);
            let (turns, later) = (dice.roll(60), dice.roll(60));
            let (reset, changed) = tokio::join!(
                async {
                    pause(turns).await;
                    operator.reset(&name).await.expect("a reset")
                },
                async {
                    pause(later).await;
                    person.change_password(PASSWORD, OTHER_PASSWORD).await
                }
            );
            if let Err(status) = &changed {
                check_reason(status);
            }
            for password in [PASSWORD, OTHER_PASSWORD] {
                refused(stranger.sign_in(&name, password).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
            }
            stranger.change_step(&name, reset.shown()).await.expect("the temporary password");
        }
    });
}

#[test]
fn nothing_is_left_of_a_user_who_is_deleted_while_signing_in() {
    run_quietly(async {
        let h = Harness::start().await;
        let (_other, there) = second_server(&h).await;
        let (operator, here) = (h.operator().await, h.stranger().await);
        let mut dice = Dice(7);
        for number in 0..rounds(250) {
            let name = format!("u{number}");
            h.create(&name, &[], PASSWORD).await;
            let user = operator.user(&name).await;
            let turns = dice.roll(60);
            let delete = async {
                pause(turns).await;
                operator.delete(&name, &user.etag).await.expect("a deletion");
            };
            let ((), issued) =
                tokio::join!(delete, at_once([&there, &here, &there].map(|at| at.sign_in(&name, PASSWORD))));
            for answer in issued {
                match answer {
                    Ok(Step::Tokens(tokens)) => {
                        let who = here.bearing(&tokens.access_token).who_am_i().await;
                        refused(who, Code::Unauthenticated, "SESSION_REVOKED");
                    }
                    Ok(step) => panic!("{step:?}"),
                    Err(status) => check_reason(&status),
                }
            }
        }
        for table in ["session", "throttle"] {
            assert_eq!(h.query(&format!("SELECT COUNT(*) FROM {table} WHERE user_id IS NOT NULL")).await, ["0"]);
        }
        let request = v1::GetUserRequest { user: Some(named("u0")) };
        refused(operator.user_admin().get_user(request).await, Code::NotFound, "USER_NOT_FOUND");
    });
}

/// Allowed reasons for refusing one of many calls about one account: the account, password or token is outdated or does
/// not exist yet, or there were too many wrong attempts. A busy machine may also hash more slowly than calls arrive.
const OF_A_RACE: [&str; 11] = [
    "CREDENTIALS_MISSING",
    "CREDENTIALS_REJECTED",
    "ETAG_MISMATCH",
    "HASHING_SATURATED",
    "REFRESH_REUSED",
    "SESSION_REVOKED",
    "THROTTLED",
    "TICKET_INVALID",
    "TOKEN_INVALID",
    "USER_LOCKED",
    "USER_NOT_FOUND",
];

/// Four concurrent calls about one account, round after round. Each round begins with the state left by the previous
/// one.
async fn lane(world: &World, at: [(&Client, &Client); 2], lane: u64, rounds: usize) {
    use What::{Change, Complete, Lock, Refresh, Reset, SignIn, Unlock};
    let mix = [
        &[SignIn, SignIn, SignIn, SignIn, Complete, Complete, Complete, Refresh, Refresh, Refresh, Change, Change],
        &[Lock, Unlock, Unlock, Reset][..],
    ]
    .concat();
    let mut dice = Dice(0x0dd5_eed5 + lane);
    let mut name = String::new();
    for _ in 0..rounds {
        if at[0].0.get(&name).await.is_err() {
            name = format!("u{}", world.number());
            let create = world.order(&mut dice, What::Create, &name);
            world.perform(at[0].0, at[0].1, create).await;
        }
        let calls: Vec<_> = (0..4)
            .map(|number| {
                let what = dice.pick(&mix).copied().filter(|_| dice.roll(150) != 0).unwrap_or(What::Delete);
                (world.order(&mut dice, what, &name), at[number % 2], dice.roll(60))
            })
            .collect();
        let calls = calls.into_iter().map(|(order, (operator, stranger), turns)| async move {
            pause(turns).await;
            world.perform(operator, stranger, order).await
        });
        // If the machine was too slow for a call, its outcome is unknown to the checker.
        at_once(calls).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_meets_at_one_account_comes_out_as_if_it_had_come_one_after_the_other() {
    use What::{Change, Complete, Create, Delete, Lock, Refresh, Reset, SignIn, Unlock};
    const LANES: u64 = 4;
    // Separate processes, as in production, which also do not log at the level of this test process.
    let mut site = Site::new().await;
    site.tolerate_failures();
    let first = site.start("").await;
    let second = if site.database.is_shared() { Some(site.start_as("replica", "").await) } else { None };
    let there = second.as_ref().unwrap_or(&first);
    let here = (first.operator().await, first.stranger().await);
    let there = (there.operator().await, there.stranger().await);
    let world = World::default();
    let at = [(&here.0, &here.1), (&there.0, &there.1)];
    at_once((0..LANES).map(|number| lane(&world, at, number, rounds(1000) / 4))).await;
    world.check_ends(&OF_A_RACE);
    let all = [Create, Delete, Lock, Unlock, Reset, Complete, Change, SignIn, Refresh];
    world.check(&site.database, &here.0, &here.1, &all).await;
}
