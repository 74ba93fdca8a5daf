//! The model: one account, and what each call does to it. Time is counted in steps of the authenticator.

use proptest::prelude::*;
use proptest::strategy::{BoxedStrategy, Union};
use proptest_state_machine::ReferenceStateMachine;

/// Steps of 30 s that a ticket works.
const TICKET: u32 = 20;
/// Steps for which a sign-in is recent.
const RECENT: u32 = 30;
/// Sessions of a user at most.
const SESSIONS: usize = 10;
/// Links of a user that work at a time.
const LINKS: usize = 3;

/// Wrong passwords in a row after which sign-ins are throttled, for a step at first.
pub(super) const THRESHOLD: u32 = 3;
/// Steps of the longest wait, an hour, for passwords and for codes.
const LONGEST_WAIT: u32 = 120;

/// A code that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    None,
    Right,
    Wrong,
    /// The code that was accepted last.
    Replayed,
    Recovery,
}

/// A call, or a while. Numbers name tickets, sessions and links in the order in which they were issued.
#[derive(Debug, Clone)]
pub(super) enum Transition {
    SignIn { right: bool, code: Code },
    Verify { ticket: usize, code: Code },
    Complete { ticket: usize },
    EnrollInSession { session: usize, code: Code },
    EnrollByTicket { ticket: usize },
    Confirm { ticket: usize, right: bool },
    Disable { session: usize, code: Code },
    ChangePassword { session: usize, code: Code },
    Refresh { session: usize },
    Reset,
    SendLink,
    UseLink { link: usize, code: Code },
    Lock,
    Unlock,
    ResetFactor,
    Policy { required: bool },
    Wait { steps: u32 },
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    #[default]
    Done,
    Session {
        mfa: bool,
    },
    Step(Kind),
    Refused(&'static str),
}

/// The kind of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    SecondFactor,
    PasswordChange,
    Enrollment,
    /// With the session in which it was asked for.
    Confirmation(Option<usize>),
}

#[derive(Debug, Clone, Copy)]
struct Ticket {
    kind: Kind,
    has_factor: bool,
    tries: u32,
    issued: u32,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    has_factor: bool,
    authenticated: u32,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    tries: u32,
    ended: bool,
}

#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub(super) struct Account {
    now: u32,
    must_change: bool,
    has_factor: bool,
    recovery_codes: u32,
    wrong_passwords: u32,
    throttled_until: u32,
    wrong_codes: u32,
    waits_until: u32,
    is_locked: bool,
    is_required: bool,
    tickets: Vec<Ticket>,
    sessions: Vec<Session>,
    links: Vec<Link>,
    /// Whether the last call used up a code of the authenticator, which then waits for the next one.
    is_accepted: bool,
    /// The answer to the last call.
    pub(super) outcome: Outcome,
}

type Answer<T = Outcome> = Result<T, &'static str>;

impl Account {
    fn do_it(&mut self, transition: &Transition) -> Answer {
        match *transition {
            Transition::SignIn { right, code } => self.sign_in(right, code),
            Transition::Verify { ticket, code } => self.verify(ticket, code),
            Transition::Complete { ticket } => self.complete(ticket),
            Transition::EnrollInSession { session, code } => self.enroll_in_session(session, code),
            Transition::EnrollByTicket { ticket } => self.enroll_by_ticket(ticket),
            Transition::Confirm { ticket, right } => self.confirm(ticket, right),
            Transition::Disable { session, code } => self.disable(session, code),
            Transition::ChangePassword { session, code } => self.change_password(session, code),
            Transition::Refresh { session } => {
                let mfa = self.use_session(session)?.has_factor;
                Ok(Outcome::Session { mfa })
            }
            Transition::Reset => {
                self.unlocked()?;
                self.end_all();
                self.forget_wrong_passwords();
                self.must_change = true;
                Ok(Outcome::Done)
            }
            Transition::SendLink => self.send_link(),
            Transition::UseLink { link, code } => self.use_link(link, code),
            Transition::Lock => {
                self.end_all();
                self.is_locked = true;
                Ok(Outcome::Done)
            }
            Transition::Unlock => {
                self.is_locked = false;
                self.forget_wrong_codes();
                self.forget_wrong_passwords();
                Ok(Outcome::Done)
            }
            Transition::ResetFactor => {
                if self.has_factor {
                    self.end_all();
                    self.remove_factor();
                    self.must_change = true;
                }
                Ok(Outcome::Done)
            }
            Transition::Policy { required } => {
                self.is_required = required;
                Ok(Outcome::Done)
            }
            Transition::Wait { steps } => {
                self.now += steps;
                Ok(Outcome::Done)
            }
        }
    }

    fn sign_in(&mut self, right: bool, code: Code) -> Answer {
        if self.throttled_until > self.now {
            return Err("THROTTLED");
        }
        if self.is_locked || !right {
            self.wrong_passwords += 1;
            self.throttled_until = self.now + wait_after(self.wrong_passwords, THRESHOLD);
            return Err("CREDENTIALS_REJECTED");
        }
        let has_factor = self.has_factor && code != Code::None;
        if has_factor {
            self.check(code)?;
        }
        if has_factor || !self.has_factor {
            self.forget_wrong_passwords();
        }
        Ok(self.advance(has_factor))
    }

    fn verify(&mut self, ticket: usize, code: Code) -> Answer {
        self.live_ticket(ticket, |kind| kind == Kind::SecondFactor, 5)?;
        match self.check(code) {
            Ok(()) => {
                self.end_ticket(ticket);
                self.forget_wrong_passwords();
                Ok(self.advance(true))
            }
            Err(refused) => {
                self.count_try(ticket, refused);
                Err(refused)
            }
        }
    }

    fn complete(&mut self, ticket: usize) -> Answer {
        let has_factor = self.live_ticket(ticket, |kind| kind == Kind::PasswordChange, 10)?.has_factor;
        self.end_all();
        self.forget_wrong_passwords();
        self.must_change = false;
        Ok(self.advance(has_factor))
    }

    fn enroll_in_session(&mut self, session: usize, code: Code) -> Answer {
        self.recent_session(session)?;
        let has_factor = self.demand(code)?;
        Ok(self.issue(Kind::Confirmation(Some(session)), has_factor))
    }

    fn enroll_by_ticket(&mut self, ticket: usize) -> Answer {
        let has_factor = self.live_ticket(ticket, |kind| kind == Kind::Enrollment, 10)?.has_factor;
        Ok(self.issue(Kind::Confirmation(None), has_factor))
    }

    fn confirm(&mut self, ticket: usize, right: bool) -> Answer {
        let found = self.live_ticket(ticket, |kind| matches!(kind, Kind::Confirmation(_)), 5)?;
        let Kind::Confirmation(session) = found.kind else { return Err("TICKET_INVALID") };
        if session.is_some_and(|session| self.sessions[session].ended) {
            return Err("TICKET_INVALID");
        }
        if !right {
            self.count_try(ticket, "SECOND_FACTOR_REJECTED");
            return Err("SECOND_FACTOR_REJECTED");
        }
        self.end_all_but(session);
        self.has_factor = true;
        self.recovery_codes = 10;
        self.forget_wrong_codes();
        self.is_accepted = true;
        match session {
            Some(session) => {
                let now = self.now;
                let session = &mut self.sessions[session];
                (session.has_factor, session.authenticated) = (true, now);
                Ok(Outcome::Done)
            }
            None => Ok(self.advance(true)),
        }
    }

    fn disable(&mut self, session: usize, code: Code) -> Answer {
        self.recent_session(session)?;
        if !self.has_factor {
            return Err("SECOND_FACTOR_MISSING");
        }
        if self.is_required {
            return Err("SECOND_FACTOR_MANDATORY");
        }
        self.check(code)?;
        self.end_all_but(Some(session));
        self.remove_factor();
        Ok(Outcome::Done)
    }

    fn change_password(&mut self, session: usize, code: Code) -> Answer {
        self.use_session(session)?;
        self.demand(code)?;
        self.end_all_but(Some(session));
        self.must_change = false;
        Ok(Outcome::Done)
    }

    fn send_link(&mut self) -> Answer {
        self.unlocked()?;
        self.links.push(Link { tries: 0, ended: false });
        let live = self.links.iter_mut().rev().filter(|link| !link.ended);
        live.skip(LINKS).for_each(|link| link.ended = true);
        Ok(Outcome::Done)
    }

    fn use_link(&mut self, link: usize, code: Code) -> Answer {
        if self.is_locked || self.links[link].ended {
            return Err("TICKET_INVALID");
        }
        if self.has_factor && code == Code::None {
            return Err("SECOND_FACTOR_REQUIRED");
        }
        self.links[link].tries += 1;
        self.demand(code)?;
        self.end_all();
        self.forget_wrong_passwords();
        self.must_change = false;
        Ok(Outcome::Done)
    }

    /// What is left of a sign-in: the one function that the server must agree with.
    fn advance(&mut self, has_factor: bool) -> Outcome {
        if self.has_factor && !has_factor {
            self.issue(Kind::SecondFactor, false)
        } else if self.must_change {
            self.issue(Kind::PasswordChange, has_factor)
        } else if self.is_required && !self.has_factor {
            self.issue(Kind::Enrollment, has_factor)
        } else {
            let live = self.sessions.iter_mut().rev().filter(|session| !session.ended);
            live.skip(SESSIONS - 1).for_each(|session| session.ended = true);
            self.sessions.push(Session { has_factor, authenticated: self.now, ended: false });
            Outcome::Session { mfa: has_factor }
        }
    }

    fn issue(&mut self, kind: Kind, has_factor: bool) -> Outcome {
        let is_same = |other: &Kind| std::mem::discriminant(other) == std::mem::discriminant(&kind);
        let kept = if kind == Kind::SecondFactor { 7 } else { 0 };
        let older = self.tickets.iter_mut().rev().filter(|ticket| !ticket.ended && is_same(&ticket.kind));
        older.skip(kept).for_each(|ticket| ticket.ended = true);
        self.tickets.push(Ticket { kind, has_factor, tries: 0, issued: self.now, ended: false });
        Outcome::Step(kind)
    }

    fn live_ticket(&self, ticket: usize, is_wanted: impl Fn(Kind) -> bool, tries: u32) -> Answer<Ticket> {
        let found = self.tickets[ticket];
        let is_live = !found.ended && self.now - found.issued < TICKET && found.tries < tries && is_wanted(found.kind);
        if is_live && !self.is_locked { Ok(found) } else { Err("TICKET_INVALID") }
    }

    fn count_try(&mut self, ticket: usize, refused: &str) {
        if refused == "SECOND_FACTOR_REJECTED" {
            self.tickets[ticket].tries += 1;
        }
    }

    fn end_ticket(&mut self, ticket: usize) {
        self.tickets[ticket].ended = true;
    }

    /// Uses the session after a refresh.
    fn use_session(&self, session: usize) -> Answer<Session> {
        let found = self.sessions[session];
        let lacks_factor = !found.has_factor && (self.has_factor || self.is_required);
        if found.ended || lacks_factor { Err("SESSION_REVOKED") } else { Ok(found) }
    }

    fn recent_session(&self, session: usize) -> Answer<()> {
        let found = self.use_session(session)?;
        if self.now - found.authenticated < RECENT { Ok(()) } else { Err("REAUTHENTICATION_REQUIRED") }
    }

    /// Returns whether a factor was proved.
    fn demand(&mut self, code: Code) -> Answer<bool> {
        match (self.has_factor, code) {
            (false, _) => Ok(false),
            (true, Code::None) => Err("SECOND_FACTOR_REQUIRED"),
            (true, code) => self.check(code).map(|()| true),
        }
    }

    fn check(&mut self, code: Code) -> Answer<()> {
        if self.waits_until > self.now {
            return Err("THROTTLED");
        }
        match code {
            Code::Right => self.is_accepted = true,
            Code::Recovery if self.recovery_codes > 0 => self.recovery_codes -= 1,
            _ => {
                self.wrong_codes += 1;
                self.waits_until = self.now + wait_after(self.wrong_codes, 5);
                return Err("SECOND_FACTOR_REJECTED");
            }
        }
        self.forget_wrong_codes();
        Ok(())
    }

    fn forget_wrong_codes(&mut self) {
        (self.wrong_codes, self.waits_until) = (0, 0);
    }

    fn forget_wrong_passwords(&mut self) {
        (self.wrong_passwords, self.throttled_until) = (0, 0);
    }

    fn remove_factor(&mut self) {
        self.has_factor = false;
        self.forget_wrong_codes();
    }

    fn unlocked(&self) -> Answer<()> {
        if self.is_locked { Err("USER_LOCKED") } else { Ok(()) }
    }

    fn end_all(&mut self) {
        self.end_all_but(None);
    }

    fn end_all_but(&mut self, session: Option<usize>) {
        self.tickets.iter_mut().for_each(|ticket| ticket.ended = true);
        self.links.iter_mut().for_each(|link| link.ended = true);
        let others = self.sessions.iter_mut().enumerate().filter(|(at, _)| Some(*at) != session);
        others.for_each(|(_, other)| other.ended = true);
    }
}

/// The wait after this many failures in a row: each doubles it.
fn wait_after(failures: u32, threshold: u32) -> u32 {
    failures.checked_sub(threshold).map_or(0, |more| (1 << more.min(31)).min(LONGEST_WAIT))
}

/// The model as proptest drives it.
pub(super) struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Account;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Account> {
        Just(Account::default()).boxed()
    }

    fn transitions(account: &Account) -> BoxedStrategy<Transition> {
        let sent = || {
            prop_oneof![
                4 => Just(Code::Right),
                1 => Just(Code::Wrong),
                1 => Just(Code::Replayed),
                1 => Just(Code::Recovery),
            ]
        };
        let any_code = || prop_oneof![1 => Just(Code::None), 4 => sent()];
        let mut all: Vec<(u32, BoxedStrategy<Transition>)> = vec![
            (
                8,
                (prop::bool::weighted(0.7), any_code())
                    .prop_map(|(right, code)| Transition::SignIn { right, code })
                    .boxed(),
            ),
            (2, Just(Transition::Reset).boxed()),
            (2, Just(Transition::SendLink).boxed()),
            (1, Just(Transition::Lock).boxed()),
            (3, Just(Transition::Unlock).boxed()),
            (1, Just(Transition::ResetFactor).boxed()),
            (2, prop::bool::ANY.prop_map(|required| Transition::Policy { required }).boxed()),
            (2, (1_u32..25).prop_map(|steps| Transition::Wait { steps }).boxed()),
        ];
        // The newest tickets matter more.
        let newest = |number: usize| (0..number.min(3)).prop_map(move |back| number - 1 - back);
        if !account.tickets.is_empty() {
            let ticket = || newest(account.tickets.len());
            all.extend([
                (1, (ticket(), sent()).prop_map(|(ticket, code)| Transition::Verify { ticket, code }).boxed()),
                (1, ticket().prop_map(|ticket| Transition::Complete { ticket }).boxed()),
                (1, ticket().prop_map(|ticket| Transition::EnrollByTicket { ticket }).boxed()),
                (
                    1,
                    (ticket(), prop::bool::weighted(0.8))
                        .prop_map(|(ticket, right)| Transition::Confirm { ticket, right })
                        .boxed(),
                ),
            ]);
        }
        // Most calls go on with the newest ticket of their kind. Otherwise few sequences would get far.
        let latest = |is: fn(Kind) -> bool| account.tickets.iter().rposition(|ticket| !ticket.ended && is(ticket.kind));
        if let Some(ticket) = latest(|kind| kind == Kind::SecondFactor) {
            all.push((12, sent().prop_map(move |code| Transition::Verify { ticket, code }).boxed()));
        }
        if let Some(ticket) = latest(|kind| kind == Kind::PasswordChange) {
            all.push((8, Just(Transition::Complete { ticket }).boxed()));
        }
        if let Some(ticket) = latest(|kind| kind == Kind::Enrollment) {
            all.push((12, Just(Transition::EnrollByTicket { ticket }).boxed()));
        }
        if let Some(ticket) = latest(|kind| matches!(kind, Kind::Confirmation(_))) {
            let confirm = prop::bool::weighted(0.8).prop_map(move |right| Transition::Confirm { ticket, right });
            all.push((20, confirm.boxed()));
        }
        if !account.sessions.is_empty() {
            let session = || newest(account.sessions.len());
            all.extend([
                (
                    6,
                    (session(), any_code())
                        .prop_map(|(session, code)| Transition::EnrollInSession { session, code })
                        .boxed(),
                ),
                (2, (session(), sent()).prop_map(|(session, code)| Transition::Disable { session, code }).boxed()),
                (
                    3,
                    (session(), any_code())
                        .prop_map(|(session, code)| Transition::ChangePassword { session, code })
                        .boxed(),
                ),
                (3, session().prop_map(|session| Transition::Refresh { session }).boxed()),
            ]);
        }
        if !account.links.is_empty() {
            let uses = (newest(account.links.len()), any_code());
            all.push((4, uses.prop_map(|(link, code)| Transition::UseLink { link, code }).boxed()));
        }
        Union::new_weighted(all).boxed()
    }

    fn apply(mut account: Account, transition: &Transition) -> Account {
        account.is_accepted = false;
        account.outcome = account.do_it(transition).unwrap_or_else(Outcome::Refused);
        account.now += u32::from(account.is_accepted);
        account
    }

    fn preconditions(account: &Account, transition: &Transition) -> bool {
        match *transition {
            Transition::Verify { ticket, .. }
            | Transition::Complete { ticket }
            | Transition::EnrollByTicket { ticket }
            | Transition::Confirm { ticket, .. } => ticket < account.tickets.len(),
            Transition::EnrollInSession { session, .. }
            | Transition::Disable { session, .. }
            | Transition::ChangePassword { session, .. }
            | Transition::Refresh { session } => session < account.sessions.len(),
            // The hashes for one link are limited.
            Transition::UseLink { link, .. } => account.links.get(link).is_some_and(|link| link.tries < 8),
            _ => true,
        }
    }
}
