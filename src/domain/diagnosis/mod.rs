//! Why a user can or cannot sign in, as findings for operators. One function computes all of them, and the verdict, from the
//! account ([`User::sign_in_ability`]) and from what else a sign-in depends on.

mod account;
mod mail;
mod password_sign_in;
mod second_factor;

use std::net::IpAddr;
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use self::account::of_account;
use self::mail::{dead_link, of_disowned, of_password_mail};
use self::password_sign_in::of_person;
use super::delivery::Delivery;
use super::lockout::{BudgetThrottle, Throttle};
use super::second_factor::Proofs;
use super::sign_in_ability::{AbilityKind, Remedy};
use super::sign_in_step::Step;
use super::time::Timestamp;
use super::user::{User, UserKind};

/// How long wrong passwords are worth mentioning.
pub const LATELY: Duration = Duration::from_hours(24);

/// The kind of a finding. The entries of the same name in `proto/latchkey/v1/user_admin.proto` document each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "documented in user_admin.proto, where operators read it")]
pub enum Code {
    LockedAsCompromised,
    LockedAsDeactivated,
    LockedByOperator,
    LockedForInactivity,
    LockedAfterFailures,
    Pending,
    ServiceAccount,
    RecordCorrupt,
    ResetOutstanding,
    TemporaryPasswordExpired,
    PasswordChangeRequired,
    /// The password is older than the policy allows.
    PasswordExpired,
    HashUnsupported,
    WrongPasswordLately,
    SecondFactorNotEnrolled,
    SecondFactorRejectedLately,
    SecondFactorClockSkew,
    RecoveryCodesExhausted,
    ThrottledAccount,
    ThrottledSource,
    DeliveryFailing,
    MailUnavailable,
    ServerNotReady,
    SignInsLimited,
    UserDeleted,
    NameChanged,
    ResetDisowned,
}

/// How much a finding matters. The later variant matters more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// May be in the way. The user can deal with it.
    Warning,
    /// Prevents a sign-in until it is removed or passes.
    Blocking,
}

/// Whether a user can sign in. The later variant is the worse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Can sign in.
    Can,
    /// Can sign in, and must then choose a new password or set up a second factor.
    CanAfterSteps,
    /// Cannot sign in now, but later without help.
    NotYet,
    /// Cannot sign in without help.
    Cannot,
    /// There is no such user.
    NoSuchUser,
}

/// One thing that bears on whether a user can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, in a sentence.
    pub summary: String,
    /// What helps, in a sentence. May be empty.
    pub remedy: String,
    /// The method that does it.
    pub method: Option<Remedy>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it passes by itself, when a temporary password expires, until when a deleted name is reserved, or when a message is
    /// tried again.
    pub until: Option<Timestamp>,
}

/// The place from which a sign-in is judged.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// Whether the user has signed in from there.
    pub is_familiar: bool,
}

/// A block of an address after failed sign-ins.
#[derive(Debug, Clone, Copy)]
pub struct SourceBlock {
    /// When the last failure was counted, which caused the block.
    pub since: Option<Timestamp>,
    /// When the block ends.
    pub until: Timestamp,
    /// The failures that are remembered.
    pub failures: u32,
    /// The names under which they were.
    pub names: u32,
}

/// Wrong passwords in the last [`LATELY`].
#[derive(Debug, Clone)]
pub struct WrongPasswords {
    /// How many are in the audit log.
    pub count: u32,
    /// When the last one was tried.
    pub last_at: Timestamp,
    /// The address of the last one. Empty if there is none.
    pub last_from: String,
}

/// Wrong codes of the second factor in the last [`LATELY`].
#[derive(Debug, Clone)]
pub struct WrongCodes {
    /// How many are in the audit log.
    pub count: u32,
    /// When the last one was tried.
    pub last_at: Timestamp,
    /// By how many seconds the clock is ahead that the last one was right for, if it was right for another time.
    pub clock_ahead: Option<i64>,
}

/// Whether the server can sign anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// The hashing queue is full.
    Saturated,
    /// The database accepts no changes.
    ReadOnly,
}

/// What a sign-in depends on besides the account itself.
#[derive(Debug)]
pub struct Facts {
    /// The place from which a sign-in is judged. `None` judges one from every place.
    pub place: Option<Place>,
    /// The throttles of all budgets of the account.
    pub throttles: Vec<BudgetThrottle>,
    /// Blocks of the place or, if none is given, of addresses in the audit log.
    pub blocks: Vec<(IpAddr, SourceBlock)>,
    /// Wrong passwords, if the caller may know of them.
    pub wrong_passwords: Option<WrongPasswords>,
    /// Wrong codes, if the caller may know of them.
    pub wrong_codes: Option<WrongCodes>,
    /// Whether this server can verify the stored hash.
    pub is_hash_usable: bool,
    /// When the user may sign in again, after too many sign-ins.
    pub sign_ins_limited_until: Option<Timestamp>,
    /// Whether the server can sign anybody in.
    pub readiness: Readiness,
    /// The messages of the last week, newest first, if the caller may know of them.
    pub deliveries: Vec<Delivery>,
    /// When the user last cancelled links as not asked for, if the caller may know of the messages.
    pub disowned_at: Option<Timestamp>,
    /// When the user said that they had not asked for the link by which the password of today was set, if the caller may know of
    /// the messages.
    pub password_disowned_at: Option<Timestamp>,
    /// What the relay, or the disk, answers to all messages, if none goes out.
    pub mail_failure: Option<String>,
}

/// What is known of an account that had a name before.
#[derive(Debug, Clone)]
pub enum Earlier {
    /// It was deleted.
    Deleted {
        /// When, if the audit log has it.
        at: Option<Timestamp>,
        /// Until when the name stays reserved.
        reserved_until: Option<Timestamp>,
    },
    /// It has another name or address now.
    Renamed {
        /// Its username.
        username: String,
    },
}

/// What was found.
#[derive(Debug)]
pub struct Diagnosis {
    /// The verdict.
    pub verdict: Verdict,
    /// The findings, the most severe first.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Judges a sign-in of a user. A finding is blocking if and only if the verdict is that the user cannot sign in now.
    pub fn of_user(user: &User, facts: &Facts, now: Timestamp) -> Diagnosis {
        let mut findings = Vec::new();
        if user.kind == UserKind::Person {
            findings.extend(facts.password_disowned_at.map(of_disowned));
            findings.extend(of_password_mail(user, &facts.deliveries, now));
        }
        findings.extend(of_account(user, dead_link(user, facts, now), now));
        if user.kind == UserKind::Person {
            findings.extend(of_person(user, facts, now));
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Diagnosis { verdict: verdict(user, facts, now), findings }
    }

    /// The diagnosis of a corrupt record. Sign-ins to it are rejected.
    pub fn of_corrupt_record() -> Diagnosis {
        let finding =
            Finding::new(Code::RecordCorrupt, Severity::Blocking, "The record of the account cannot be read.").helped(
                "Restore it from a backup, or delete the account and create it again.",
                Some(Remedy::DeleteUser),
            );
        Diagnosis { verdict: Verdict::Cannot, findings: vec![finding] }
    }

    /// The diagnosis of a name that no account has.
    pub fn of_unknown_name(earlier: Option<Earlier>) -> Diagnosis {
        let finding = earlier.map(|earlier| match earlier {
            Earlier::Deleted { at, reserved_until } => {
                let summary = match reserved_until {
                    Some(_) => "The account was deleted. Its name is still reserved.",
                    None => "The account was deleted.",
                };
                let finding = Finding::new(Code::UserDeleted, Severity::Warning, summary);
                let finding = finding.helped("Create the account again.", Some(Remedy::CreateUser));
                Finding { since: at, until: reserved_until, ..finding }
            }
            Earlier::Renamed { username } => {
                let summary = format!("The account with this name is now {username}.");
                Finding::new(Code::NameChanged, Severity::Warning, summary)
                    .helped(format!("Tell the user to sign in as {username}."), None)
            }
        });
        Diagnosis { verdict: Verdict::NoSuchUser, findings: finding.into_iter().collect() }
    }

    /// What still prevents a sign-in: what is blocking, and addresses of the user that are blocked.
    pub fn remaining(self) -> Vec<Finding> {
        let stands =
            |finding: &Finding| finding.severity == Severity::Blocking || finding.code == Code::ThrottledSource;
        self.findings.into_iter().filter(stands).collect()
    }
}

impl Finding {
    fn new(code: Code, severity: Severity, summary: impl Into<String>) -> Finding {
        let (summary, remedy) = (summary.into(), String::new());
        Finding { code, severity, summary, remedy, method: None, since: None, until: None }
    }

    fn helped(self, remedy: impl Into<String>, method: Option<Remedy>) -> Finding {
        Finding { remedy: remedy.into(), method, ..self }
    }
}

/// The account as a sign-in from the place sees it: with the throttles that apply there.
fn seen_from(user: &User, facts: &Facts) -> User {
    let applies =
        |throttle: &&BudgetThrottle| facts.place.is_none_or(|place| place.is_familiar == throttle.is_familiar);
    User { stored_throttle: Throttle::over(facts.throttles.iter().filter(applies)), ..user.clone() }
}

fn verdict(user: &User, facts: &Facts, now: Timestamp) -> Verdict {
    let seen = seen_from(user, facts);
    let own = by_account(&seen, now);
    if user.kind == UserKind::Service {
        return own;
    }
    if facts.readiness == Readiness::ReadOnly || has_unusable_hash(user, facts) {
        return Verdict::Cannot;
    }
    let block = facts.blocks.iter().filter(|_| facts.place.is_some()).map(|(_, block)| block.until).max();
    // When these limits end, the temporary password may have expired.
    let codes = user.second_factor.and_then(|factor| factor.refused_until(now));
    let limits = block.max(facts.sign_ins_limited_until).max(codes).map(|end| by_account(&seen, end));
    let waits = limits.is_some() || facts.readiness != Readiness::Ready;
    own.max(limits.unwrap_or(own)).max(if waits { Verdict::NotYet } else { own })
}

/// The verdict at a time that the account alone leads to.
fn by_account(user: &User, at: Timestamp) -> Verdict {
    match user.sign_in_ability(at).kind {
        _ if user.is_inactive(at) => Verdict::Cannot,
        AbilityKind::Yes if user.next_step(Proofs::PASSWORD, at) == Step::Enrollment => Verdict::CanAfterSteps,
        AbilityKind::Yes => Verdict::Can,
        AbilityKind::YesThen => Verdict::CanAfterSteps,
        AbilityKind::NotUntil => Verdict::NotYet,
        AbilityKind::No => Verdict::Cannot,
    }
}

fn has_unusable_hash(user: &User, facts: &Facts) -> bool {
    user.password.is_some() && !facts.is_hash_usable
}

fn counted(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
