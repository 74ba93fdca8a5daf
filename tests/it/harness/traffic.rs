//! Many clients calling about few accounts, with a record of every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use latchkey::clock::{Clock, SystemClock};
use latchkey::proto::v1::{
    self, create_user_request::Credential, reset_password_request::Method, sign_in_progress::Step,
};
use tonic::{Code, Status};

use super::actors::named;
use super::calls::{Shown, tokens_of};
use super::database::TestDatabase;
use super::dice::Dice;
use super::history::{End, Entry, Gain, Order, Stored, What, judge};
use super::{Client, at_once, eventually, refused};

/// What clients know about an account, which may be outdated.
#[derive(Default)]
struct Known {
    passwords: Vec<String>,
    refresh_tokens: Vec<String>,
    access_tokens: Vec<String>,
    tickets: Vec<String>,
}

/// Accounts, what clients know about them, and the record of all calls.
#[derive(Default)]
pub struct World {
    heard: Mutex<BTreeMap<String, Known>>,
    history: Mutex<Vec<Entry>>,
    next: AtomicU64,
}

impl World {
    /// The next unique number.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.heard.lock().expect("no thread panicked")
    }

    /// Additional accounts that were created and not yet deleted.
    pub fn extra_accounts(&self) -> Vec<String> {
        self.heard().keys().filter(|name| name.starts_with("new")).cloned().collect()
    }

    /// Prepares a call of this kind with what is known about the account: usually the latest, sometimes outdated
    /// values.
    pub fn order(&self, dice: &mut Dice, what: What, user: &str) -> Order {
        use What::{Change, Complete, Create, Guess, Refresh, Reset, SignIn};
        let number = self.number();
        let heard = self.heard();
        let nothing = Known::default();
        let known = heard.get(user).unwrap_or(&nothing);
        let mut one_of = |of: &[String]| {
            let older = if dice.roll(5) == 0 { dice.pick(of) } else { None };
            older.or(of.last()).cloned().unwrap_or_else(|| format!("nothing c4nary {number}"))
        };
        let sent = match what {
            SignIn | Change => one_of(&known.passwords),
            Refresh => one_of(&known.refresh_tokens),
            Complete => one_of(&known.tickets),
            Guess => format!("the {number}th c4nary that is a guess"),
            _ => String::new(),
        };
        let chosen = matches!(what, Complete | Change) || (what == Reset && dice.roll(2) == 0);
        Order {
            what,
            user: user.to_owned(),
            // The key must be a UUID.
            key: if matches!(what, Reset | Create) {
                format!("00000000-0000-4000-8000-{number:012}")
            } else {
                String::new()
            },
            sent,
            new_password: if chosen { format!("the {number}th c4nary of them all") } else { String::new() },
        }
    }

    /// Makes the call and records it. Returns whether its outcome is known.
    pub async fn perform(&self, operator: &Client, stranger: &Client, order: Order) -> bool {
        let request_id = format!("call-{}", self.number());
        let access = self.heard().get(&order.user).and_then(|heard| heard.access_tokens.last().cloned());
        let (operator, stranger) =
            (operator.with("x-request-id", &request_id), stranger.with("x-request-id", &request_id));
        let bearer = access.map(|token| {
            let mut bearer = stranger.clone();
            bearer.metadata.bearer = Some(token);
            bearer
        });
        let began = SystemClock.now().as_micros();
        let answer = send(&operator, &stranger, bearer.as_ref(), &order).await;
        let ended = SystemClock.now().as_micros();
        let end = match answer {
            Ok(gain) => End::Done(gain),
            Err(status) => end_of(&status),
        };
        self.hear(&order, &end);
        let is_known = !matches!(end, End::Unknown);
        self.history.lock().expect("a history").push(Entry { request_id, order, began, ended, end });
        is_known
    }

    fn hear(&self, order: &Order, end: &End) {
        let mut heard = self.heard();
        let End::Done(gain) = end else { return };
        if order.what == What::Delete {
            heard.remove(&order.user);
            return;
        }
        let heard = heard.entry(order.user.clone()).or_default();
        let chosen = Some(order.new_password.clone()).filter(|chosen| !chosen.is_empty());
        heard.passwords.extend(gain.password.clone().or(chosen));
        heard.access_tokens.extend(gain.access.clone());
        heard.refresh_tokens.extend(gain.refresh.clone());
        heard.tickets.extend(gain.ticket.clone());
    }
}

fn end_of(status: &Status) -> End {
    let details = tonic_types::StatusExt::get_error_details(status);
    match details.error_info() {
        Some(info) if status.code() != Code::Unavailable => {
            assert_ne!(status.code(), Code::Internal, "{status:?}");
            End::Refused(info.reason.clone())
        }
        // An error of the transport, or an unavailable database.
        _ => End::Unknown,
    }
}

fn gain_of(tokens: v1::TokenSet) -> Gain {
    Gain {
        session: Some(tokens.session_id),
        access: Some(tokens.access_token),
        refresh: Some(tokens.refresh_token),
        ..Gain::default()
    }
}

async fn send(operator: &Client, stranger: &Client, bearer: Option<&Client>, order: &Order) -> Result<Gain, Status> {
    let name = order.user.as_str();
    let nothing = |()| Gain::default();
    match order.what {
        What::Create => {
            let request = v1::CreateUserRequest {
                username: name.to_owned(),
                credential: Some(Credential::TemporaryPassword(v1::TemporaryPassword::default())),
                idempotency_key: order.key.clone(),
                ..Default::default()
            };
            let answer = operator.create(request).await?;
            let password = answer.secret.is_some().then(|| answer.shown().to_owned());
            Ok(Gain { replayed: answer.replayed, password, ..Gain::default() })
        }
        What::Delete => {
            let etag = operator.get(name).await?.etag;
            operator.delete(name, &etag).await.map(|_| Gain::default())
        }
        What::Lock => operator.lock(name).await.map(drop).map(nothing),
        What::Unlock => operator.unlock(name).await.map(drop).map(nothing),
        What::Reset => {
            let method = if order.new_password.is_empty() {
                Method::TemporaryPassword(v1::TemporaryPassword::default())
            } else {
                Method::SetPassword(v1::SetPassword { password: order.new_password.clone() })
            };
            let request = v1::ResetPasswordRequest {
                user: Some(named(name)),
                method: Some(method),
                idempotency_key: order.key.clone(),
                ..Default::default()
            };
            let answer = operator.reset_with(request).await?;
            let password = answer.secret.is_some().then(|| answer.shown().to_owned());
            Ok(Gain { replayed: answer.replayed, password, ..Gain::default() })
        }
        What::Complete => {
            stranger.complete(&order.sent, &order.new_password).await.map(|answer| gain_of(tokens_of(answer.progress)))
        }
        What::Change => {
            let changed = bearer.unwrap_or(stranger).change_password(&order.sent, &order.new_password).await;
            changed.map(drop).map(nothing)
        }
        What::SignIn | What::Guess => match stranger.sign_in(name, &order.sent).await? {
            Step::Tokens(tokens) => Ok(gain_of(tokens)),
            Step::PasswordChange(step) => Ok(Gain { ticket: Some(step.ticket), ..Gain::default() }),
            step => panic!("a step that no user owes: {step:?}"),
        },
        What::Refresh => stranger.refresh(&order.sent).await.map(gain_of),
    }
}

async fn stored(database: &TestDatabase) -> Stored {
    let rows = async |statement: &str| database.query(statement).await.into_iter().collect::<BTreeSet<_>>();
    Stored {
        users: rows(
            r#"SELECT username || ' ' || version || ' ' || CASE WHEN lock_cause IS NULL THEN 0 ELSE 1 END FROM "user""#,
        )
        .await,
        sessions: rows(
            r#"SELECT username || ' ' || session.id FROM session
            JOIN "user" ON "user".id = user_id WHERE ended_at IS NULL"#,
        )
        .await,
        tickets: rows(r#"SELECT username FROM sign_in_ticket JOIN "user" ON "user".id = user_id"#).await,
        keys: rows("SELECT idempotency_key FROM idempotency_key").await,
    }
}

impl World {
    /// For servers that are not killed: checks that nearly every call has a known outcome, and that refusals have one
    /// of these reasons. Otherwise a database that was often unavailable would make an empty history pass.
    pub fn check_ends(&self, reasons: &[&str]) {
        let history = self.history.lock().expect("a history");
        let unknown = history.iter().filter(|entry| matches!(entry.end, End::Unknown)).count();
        assert!(unknown * 20 < history.len(), "{unknown} of {} calls have no outcome", history.len());
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in history.iter() {
            if let End::Refused(reason) = &entry.end {
                assert!(reasons.contains(&reason.as_str()), "{entry:?}");
                *counts.entry(reason).or_default() += 1;
            }
        }
        eprintln!("refused: {counts:?}");
    }

    /// Checks the history after all calls have ended. `all` are the kinds of call that must have succeeded.
    pub async fn check(&self, database: &TestDatabase, operator: &Client, stranger: &Client, all: &[What]) {
        let history = self.history.lock().expect("a history").clone();
        let events = operator.events().await;
        let mut judge = judge(&history, &events, &stored(database).await);
        let mut counts: BTreeMap<What, [usize; 3]> = BTreeMap::new();
        for entry in &history {
            let at = match entry.end {
                End::Done(_) => 0,
                End::Refused(_) => 1,
                End::Unknown => 2,
            };
            counts.entry(entry.order.what).or_default()[at] += 1;
        }
        eprintln!("done, refused, unknown: {counts:?}");
        judge.faults.truncate(5);
        assert!(judge.faults.is_empty(), "{}", judge.faults.join("\n\n"));
        for what in all {
            assert!(counts.get(what).is_some_and(|[done, ..]| *done > 0), "never done: {what:?}");
        }
        for (name, account) in judge.accounts.iter().filter(|(_, account)| !account.deleted) {
            if account.locked {
                operator.unlock(name).await.expect("an unlock");
            }
            if let Some(password) = &account.password {
                tried(stranger, name, password).await.expect("the password of the last change that was acknowledged");
            }
            let former = account.former_passwords.iter().rev().filter(|old| account.password.as_ref() != Some(old));
            for answer in at_once(former.take(3).map(|old| tried(stranger, name, old))).await {
                refused(answer, Code::Unauthenticated, "CREDENTIALS_REJECTED");
            }
        }
    }
}

/// Tries a password until the attempt is processed. Attempts cut off by kills keep the account's hashing slots until
/// they lapse.
async fn tried(stranger: &Client, name: &str, password: &str) -> Result<Step, Status> {
    let answer = eventually("a turn", || async {
        let answer = stranger.sign_in(name, password).await;
        Some(answer).filter(|answer| !matches!(answer, Err(status) if status.code() == Code::ResourceExhausted))
    });
    answer.await
}
