//! Why a user can or cannot sign in. Changes nothing, and records nothing.

use std::net::IpAddr;
use std::time::Duration;

use crate::app::App;
use crate::app::second_factor::CLOCK_AHEAD;
use crate::domain::alike::{beginnings, nearest};
use crate::domain::audit::{EventType, RecordedEvent};
use crate::domain::caller::Caller;
use crate::domain::delivery::{Delivery, DeliveryFilter};
use crate::domain::diagnosis::{
    Diagnosis, Earlier, Facts, Finding, LATELY, Place, Verdict, WrongCodes, WrongPasswords,
};
use crate::domain::lockout::Throttle;
use crate::domain::login::Login;
use crate::domain::page::PageSize;
use crate::domain::profile::SearchText;
use crate::domain::reason::Reason;
use crate::domain::role::Scope;
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserKind, UserRef};
use crate::domain::user_filter::{UserFilter, UserOrder};
use crate::error::{Error, Resource, Result};
use crate::store::audit::{About, SEARCHED_EVENTS, event_recent};
use crate::store::deliveries::{delivery_failure, delivery_list};
use crate::store::links::link_disowned;
use crate::store::throttle::throttle_list;
use crate::store::users::{UserListing, reservation_owner, user_by_id, user_by_ref, user_list};

/// The events that are attempts to sign in.
const ATTEMPTS: &[EventType] = &[EventType::SignInSucceeded, EventType::SignInFailed, EventType::SecondFactorFailed];

/// Accounts that are compared with a mistyped name, for each of its beginnings.
const COMPARED: i32 = 100;

/// Addresses of past attempts whose blocks are looked for.
const ADDRESSES: usize = 10;

/// Messages that are returned at most, and for how long they are.
const MESSAGES: i32 = 20;
const A_WEEK: Duration = Duration::from_hours(7 * 24);

/// How long the answer of a reset waits for what remains.
const PATIENCE: Duration = Duration::from_secs(1);

/// A command to diagnose the sign-in of a user.
#[derive(Debug)]
pub struct DiagnoseSignIn {
    /// The user.
    pub user: UserRef,
    /// The address that the user signs in from.
    pub client_address: Option<IpAddr>,
    /// How many past attempts to return.
    pub max_attempts: usize,
}

/// Why a user can or cannot sign in.
#[derive(Debug)]
pub struct SignInDiagnosis {
    /// The verdict.
    pub verdict: Verdict,
    /// The account, unless there is none or its record is corrupt.
    pub user: Option<User>,
    /// The findings, the most severe first.
    pub findings: Vec<Finding>,
    /// Past attempts, newest first, if the caller may know of them.
    pub attempts: Vec<RecordedEvent>,
    /// Messages of the last week, newest first, if the caller may know of them.
    pub deliveries: Vec<Delivery>,
    /// Usernames that are like the given name, if no account has it.
    pub similar_usernames: Vec<String>,
    /// When this was true.
    pub at: Timestamp,
}

impl App {
    /// Diagnoses the sign-in of a user.
    pub async fn diagnose_sign_in(&self, caller: &Caller, command: DiagnoseSignIn) -> Result<SignInDiagnosis> {
        let mut diagnosed = match user_by_ref(self.store.reader(), &command.user).await {
            Ok(Some(user)) => self.diagnose_user(caller, user, command.client_address).await?,
            Ok(None) => self.diagnose_unknown(caller, &command.user).await?,
            Err(Error::Corrupt { resource: Resource::User, .. }) => {
                self.diagnosed(Diagnosis::of_corrupt_record(), None, Vec::new())
            }
            Err(error) => return Err(error),
        };
        diagnosed.attempts.truncate(command.max_attempts);
        Ok(diagnosed)
    }

    fn diagnosed(&self, found: Diagnosis, user: Option<User>, attempts: Vec<RecordedEvent>) -> SignInDiagnosis {
        let Diagnosis { verdict, findings } = found;
        SignInDiagnosis {
            verdict,
            user,
            findings,
            attempts,
            similar_usernames: Vec::new(),
            deliveries: Vec::new(),
            at: self.now(),
        }
    }

    async fn diagnose_user(
        &self,
        caller: &Caller,
        user: User,
        client_address: Option<IpAddr>,
    ) -> Result<SignInDiagnosis> {
        let (mut facts, attempts) = self.facts(caller, &user, client_address).await?;
        let user = self.spare_last_administrator(user).await?;
        // The findings and the account in the answer must agree.
        let user = User { stored_throttle: Throttle::over(facts.throttles.iter()), ..user };
        let found = Diagnosis::of_user(&user, &facts, self.now());
        let deliveries = std::mem::take(&mut facts.deliveries);
        Ok(SignInDiagnosis { deliveries, ..self.diagnosed(found, Some(user), attempts) })
    }

    /// Returns what still prevents a sign-in of a user whose password was reset. Empty if that cannot be read soon: the reset
    /// is done, and its answer must not be lost.
    pub(in crate::app) async fn remaining(&self, caller: &Caller, user: &User) -> Vec<Finding> {
        match tokio::time::timeout(PATIENCE, self.facts(caller, user, None)).await {
            Ok(Ok((facts, _))) => Diagnosis::of_user(user, &facts, self.now()).remaining(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// Reads what a sign-in depends on besides the account, and the attempts that the caller may know of.
    async fn facts(
        &self,
        caller: &Caller,
        user: &User,
        client_address: Option<IpAddr>,
    ) -> Result<(Facts, Vec<RecordedEvent>)> {
        let (reader, now) = (self.store.reader(), self.now());
        let attempts = if super::may_reset(caller, user) {
            event_recent(reader, &About::User(user.id), ATTEMPTS, SEARCHED_EVENTS).await?
        } else {
            Vec::new()
        };
        let throttles =
            if user.stored_throttle.is_some() { throttle_list(reader, user.id, now).await? } else { Vec::new() };
        let (place, addresses) = match client_address {
            Some(address) => {
                let is_familiar = self.is_familiar_address(user, address).await?;
                (Some(Place { address, is_familiar }), vec![address])
            }
            None => (None, addresses_of(&attempts)),
        };
        let blocks = if user.kind == UserKind::Person { self.blocks_of(&addresses).await? } else { Vec::new() };
        let facts = Facts {
            place,
            throttles,
            blocks,
            wrong_passwords: wrong_passwords(&attempts, now),
            wrong_codes: wrong_codes(&attempts, now),
            is_hash_usable: user.password.as_ref().is_none_or(|password| self.is_hash_usable(password)),
            sign_ins_limited_until: self.sign_ins_wait(user.id).map(|wait| now.saturating_add(wait)),
            readiness: self.readiness(),
            deliveries: self.recent_deliveries(caller, user, now).await?,
            disowned_at: self.disowned_at(caller, user).await?,
            password_disowned_at: self.password_disowned_at(caller, user).await?,
            mail_failure: self.mail_failure().await?,
        };
        Ok((facts, attempts))
    }

    /// Reads the messages to a user in the last week, if the caller may.
    async fn recent_deliveries(&self, caller: &Caller, user: &User, now: Timestamp) -> Result<Vec<Delivery>> {
        let Some(size) = PageSize::parse(MESSAGES).filter(|_| caller.scopes.contains(Scope::DeliveriesRead)) else {
            return Ok(Vec::new());
        };
        let filter = DeliveryFilter::default();
        let page = delivery_list(self.store.reader(), &filter, Some(user.id), None, size).await?;
        let since = now.saturating_sub(A_WEEK);
        Ok(page.rows.into_iter().filter(|sent| sent.created_at >= since).collect())
    }

    /// When the user last cancelled links by a mail, if the caller may know of the messages.
    async fn disowned_at(&self, caller: &Caller, user: &User) -> Result<Option<Timestamp>> {
        let needs_link = user.is_pending() || user.has_ended_password();
        if !needs_link || !caller.scopes.contains(Scope::DeliveriesRead) {
            return Ok(None);
        }
        let about = About::User(user.id);
        let cancelled = event_recent(self.store.reader(), &about, &[EventType::LinkCancelled], 1).await?;
        Ok(cancelled.first().map(|event| event.at))
    }

    /// When the user said that they had not asked for the link by which the password of today was set, if the caller may know of
    /// the messages.
    async fn password_disowned_at(&self, caller: &Caller, user: &User) -> Result<Option<Timestamp>> {
        match &user.password {
            Some(password) if caller.scopes.contains(Scope::DeliveriesRead) => {
                link_disowned(self.store.reader(), user.id, password.changed_at).await
            }
            _ => Ok(None),
        }
    }

    /// What all messages meet, if none goes out.
    async fn mail_failure(&self) -> Result<Option<String>> {
        if !self.sends_mail() {
            return Ok(None);
        }
        delivery_failure(self.store.reader()).await
    }

    async fn diagnose_unknown(&self, caller: &Caller, user: &UserRef) -> Result<SignInDiagnosis> {
        let login = match user {
            UserRef::Username(username) => Some(Login::Username(username.clone())),
            UserRef::Email(email) => Some(Login::Email(email.clone())),
            UserRef::Id(_) | UserRef::ExternalId(_) => None,
        };
        let earlier = self.earlier(user, login.as_ref()).await?;
        let Some(login) = login else {
            return Ok(self.diagnosed(Diagnosis::of_unknown_name(earlier), None, Vec::new()));
        };
        let attempts = if caller.scopes.contains(Scope::UsersReset) {
            let name = About::Name(self.unknown_name(login.key()));
            event_recent(self.store.reader(), &name, ATTEMPTS, SEARCHED_EVENTS).await?
        } else {
            Vec::new()
        };
        let similar_usernames = self.similar_usernames(caller, login.key()).await?;
        let found = self.diagnosed(Diagnosis::of_unknown_name(earlier), None, attempts);
        Ok(SignInDiagnosis { similar_usernames, ..found })
    }

    /// Looks for an account that had this id or name before: by the reservation of the name, otherwise by the audit log.
    async fn earlier(&self, user: &UserRef, login: Option<&Login>) -> Result<Option<Earlier>> {
        let reader = self.store.reader();
        let reserved = match login {
            Some(login) => reservation_owner(reader, login, self.now()).await?,
            None => None,
        };
        let of_events = match user {
            _ if reserved.is_some() => None,
            UserRef::Id(id) => Some(*id),
            UserRef::Username(username) => {
                let name = About::Name(username.to_string());
                let events = event_recent(reader, &name, EventType::ALL, 1).await?;
                events.first().and_then(|event| event.target.user_id.parse().ok())
            }
            UserRef::Email(_) | UserRef::ExternalId(_) => None,
        };
        let Some(id) = reserved.map(|(id, _)| id).or(of_events) else { return Ok(None) };
        match user_by_id(reader, id).await {
            Ok(Some(user)) => return Ok(Some(Earlier::Renamed { username: user.username.to_string() })),
            Ok(None) => {}
            Err(Error::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let deleted = event_recent(reader, &About::User(id), &[EventType::UserDeleted], 1).await?;
        let at = deleted.first().map(|event| event.at);
        let reserved_until = reserved.map(|(_, until)| until);
        Ok((at.is_some() || reserved_until.is_some()).then_some(Earlier::Deleted { at, reserved_until }))
    }

    /// Returns usernames like `typed`. None if the lists are overloaded: the rest of the diagnosis is worth more.
    async fn similar_usernames(&self, caller: &Caller, typed: &str) -> Result<Vec<String>> {
        let Some(size) = PageSize::parse(COMPARED) else { return Ok(Vec::new()) };
        let search = self.list(caller, &[], async |reader| {
            for beginning in beginnings(typed) {
                let Ok(text) = SearchText::parse(&beginning) else { continue };
                let filter = UserFilter { text, ..UserFilter::default() };
                let (order, now) = (UserOrder::Natural, self.now());
                // A search by text asks for no state.
                let listing = UserListing { filter: &filter, order, now, max_age: None };
                let names = nearest(typed, &user_list(reader, &listing, None, size).await?.rows);
                if !names.is_empty() {
                    return Ok(names);
                }
            }
            Ok(Vec::new())
        });
        match search.await {
            Err(Error::Exhausted { .. } | Error::QueryTooBroad { .. }) => Ok(Vec::new()),
            found => found,
        }
    }
}

/// The addresses that the attempts came from, those of the newest first.
fn addresses_of(attempts: &[RecordedEvent]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in attempts.iter().filter_map(|attempt| attempt.actor.client_address.parse().ok()) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES {
            addresses.push(address);
        }
    }
    addresses
}

fn wrong_passwords(attempts: &[RecordedEvent], now: Timestamp) -> Option<WrongPasswords> {
    let since = now.saturating_sub(LATELY);
    let mut wrong =
        attempts.iter().filter(|attempt| attempt.reason == Some(Reason::PasswordWrong) && attempt.at > since);
    let last = wrong.next()?;
    let count = u32::try_from(wrong.count()).unwrap_or(u32::MAX).saturating_add(1);
    Some(WrongPasswords { count, last_at: last.at, last_from: last.actor.client_address.clone() })
}

fn wrong_codes(attempts: &[RecordedEvent], now: Timestamp) -> Option<WrongCodes> {
    let since = now.saturating_sub(LATELY);
    let mut wrong =
        attempts.iter().filter(|attempt| attempt.kind == EventType::SecondFactorFailed && attempt.at > since);
    let last = wrong.next()?;
    let count = u32::try_from(wrong.count()).unwrap_or(u32::MAX).saturating_add(1);
    let clock_ahead = last.details.get(CLOCK_AHEAD).and_then(|seconds| seconds.parse().ok());
    Some(WrongCodes { count, last_at: last.at, clock_ahead })
}
