//! Why a user can or cannot sign in, as findings for operators. One function computes all of them, and the verdict, from the
//! account ([`User::sign_in_ability`]) and from what else a sign-in depends on.

use std::net::IpAddr;
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use super::delivery::{Delivery, DeliveryKind, DeliveryState};
use super::lockout::{BudgetThrottle, Lock, LockCause, Throttle};
use super::second_factor::Proofs;
use super::sign_in_ability::{AbilityKind, Remedy};
use super::sign_in_step::Step;
use super::time::Timestamp;
use super::user::{ChangeCause, User, UserKind};

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
        let mut findings = of_account(user, dead_link(user, facts, now), now);
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
    pub fn of_nobody(earlier: Option<Earlier>) -> Diagnosis {
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

/// Why the link in the newest mail, which should have let the user choose a password, does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeadLink {
    /// The user cancelled it by the second link of the mail.
    Disowned,
    /// It ended otherwise, such as by an operator.
    Ended,
}

impl DeadLink {
    /// Adds to the finding about a password that is missing.
    fn explain(self, mut finding: Finding) -> Finding {
        let (what, remedy) = match self {
            DeadLink::Disowned => (
                "The user cancelled the link in the newest mail, as not asked for.",
                "Speak with the user, who said that they did not ask for it, before you send another link.",
            ),
            DeadLink::Ended => (
                "The link in the newest mail was ended.",
                "Find out in the user's history why it was ended, before you send another link.",
            ),
        };
        finding.summary = format!("{} {what}", finding.summary);
        remedy.clone_into(&mut finding.remedy);
        finding
    }
}

/// `None` if a link works, or if the newest one was not ended. One to another address, or of before the password was ended, is
/// no surprise.
fn dead_link(user: &User, facts: &Facts, now: Timestamp) -> Option<DeadLink> {
    let sets_password =
        |sent: &&Delivery| matches!(sent.letter.kind(), DeliveryKind::Invite | DeliveryKind::PasswordReset);
    let newest = facts.deliveries.iter().find(sets_password)?;
    let is_at_address = user.email.as_ref().is_some_and(|email| email.as_str() == newest.address);
    let is_outdated = user.password_ended_at.is_some_and(|at| newest.created_at < at);
    let ended_at = newest.link_ended_at.filter(|_| is_at_address && !is_outdated)?;
    match user.pending_link(now) {
        Some(link) if link.purpose.sets_password() => None,
        _ if facts.disowned_at == Some(ended_at) => Some(DeadLink::Disowned),
        _ => Some(DeadLink::Ended),
    }
}

/// The findings about the account itself.
fn of_account(user: &User, dead_link: Option<DeadLink>, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = user.lock(now).map(of_lock).into_iter().collect();
    findings.extend(of_inactivity(user, now));
    if user.kind == UserKind::Service {
        let summary = "A service has no password, and signs in with API tokens.";
        let finding = Finding::new(Code::ServiceAccount, Severity::Warning, summary);
        findings.push(finding.helped("Give it an API token.", Some(Remedy::CreateApiToken)));
    }
    let explained = |finding: Finding| match dead_link {
        Some(link) => link.explain(finding),
        None => finding,
    };
    if user.is_pending() {
        let finding = Finding::new(Code::Pending, Severity::Blocking, "Created without a password.");
        let finding = finding.helped("Reset the password, to give the user a first one.", Some(Remedy::ResetPassword));
        findings.push(explained(Finding { since: Some(user.created_at), ..finding }));
    }
    if user.has_ended_password() {
        let summary = "The password was ended, and none has been set since.";
        let finding = Finding::new(Code::ResetOutstanding, Severity::Blocking, summary);
        let finding = finding.helped("Reset the password.", Some(Remedy::ResetPassword));
        findings.push(explained(Finding { since: user.password_ended_at, ..finding }));
    }
    let Some(password) = &user.password else { return findings };
    if password.is_expired(now) {
        let summary = "The temporary password has expired.";
        let finding = Finding::new(Code::TemporaryPasswordExpired, Severity::Blocking, summary);
        let finding = finding.helped("Reset the password again.", Some(Remedy::ResetPassword));
        findings.push(Finding { since: password.expires_at, ..finding });
    } else if let Some(cause) = user.change_cause(now) {
        let (summary, since) = match cause {
            ChangeCause::Temporary => {
                ("A temporary password was set, which the next sign-in must change.", Some(password.changed_at))
            }
            ChangeCause::Breached => ("The password was leaked, so the next sign-in must change it.", None),
            ChangeCause::Policy => {
                ("The password breaks a rule that is newer than it is, so the next sign-in must change it.", None)
            }
            ChangeCause::Operator => ("An operator requires a new password at the next sign-in.", None),
            ChangeCause::Expired => (
                "The password is older than the policy allows, so the next sign-in must change it.",
                user.password_expires_at(),
            ),
        };
        let code = match cause {
            ChangeCause::Expired => Code::PasswordExpired,
            _ => Code::PasswordChangeRequired,
        };
        let finding = Finding::new(code, Severity::Warning, summary);
        let finding =
            finding.helped("The user signs in and chooses a new password.", Some(Remedy::CompletePasswordChange));
        findings.push(Finding { since, until: password.expires_at, ..finding });
    }
    findings
}

/// What to do about an account that was locked because it was not used, or is about to be.
const IF_NEEDED: &str = "If the user still needs the account, unlock it.";

/// The next sign-in locks an account that was not used for longer than the policy allows.
fn of_inactivity(user: &User, now: Timestamp) -> Option<Finding> {
    // While a lock without an end stands, no sign-in comes so far; to remove it begins the time anew.
    let is_locked_for_good = user.lock(now).is_some_and(|lock| lock.expires_at.is_none());
    let since = user.inactive_from().filter(|at| *at <= now && !is_locked_for_good)?;
    let summary = "The account was not used for longer than the policy allows, so the next sign-in locks it.";
    let finding = Finding::new(Code::LockedForInactivity, Severity::Blocking, summary);
    Some(Finding { since: Some(since), ..finding.helped(IF_NEEDED, Some(Remedy::Unlock)) })
}

fn of_lock(lock: &Lock) -> Finding {
    let (code, what, remedy) = match lock.cause {
        LockCause::Compromise => (
            Code::LockedAsCompromised,
            "Locked as compromised",
            "Speak with the user by a way that an intruder does not control, then reset the password and unlock.",
        ),
        LockCause::Deactivated => {
            (Code::LockedAsDeactivated, "Deactivated", "If the user is back, unlock the account.")
        }
        LockCause::Operator => (Code::LockedByOperator, "Locked", "Unlock the account."),
        LockCause::Inactivity => (Code::LockedForInactivity, "Locked because it was not used", IF_NEEDED),
        LockCause::FailedSignIns => (
            Code::LockedAfterFailures,
            "Locked after too many wrong passwords from places where the user has signed in before",
            "Unlock the account.",
        ),
    };
    let by = match (lock.cause, lock.actor_name.as_str()) {
        (cause, _) if cause.is_automatic() => String::new(),
        (_, "") => " by an operator".to_owned(),
        (_, actor) => format!(" by {actor}"),
    };
    let why = if lock.note.is_empty() { ".".to_owned() } else { format!(": {}", lock.note) };
    let finding = Finding::new(code, Severity::Blocking, format!("{what}{by}{why}"));
    Finding { since: Some(lock.locked_at), until: lock.expires_at, ..finding.helped(remedy, Some(Remedy::Unlock)) }
}

/// The findings about sign-ins with a password.
fn of_person(user: &User, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = of_server(facts.readiness).into_iter().collect();
    if has_unusable_hash(user, facts) {
        let summary =
            "The stored password hash has a format that this server cannot verify, so every password is rejected.";
        let finding = Finding::new(Code::HashUnsupported, Severity::Blocking, summary);
        findings.push(finding.helped("Reset the password.", Some(Remedy::ResetPassword)));
    }
    findings.extend(facts.blocks.iter().map(|(address, block)| of_block(*address, block, facts.place.is_some())));
    findings.extend([false, true].into_iter().filter_map(|is_familiar| of_throttle(facts, is_familiar, now)));
    if let Some(until) = facts.sign_ins_limited_until {
        let summary = "The user has signed in too often with the right password. Further sign-ins are RATE_LIMITED.";
        let finding = Finding::new(Code::SignInsLimited, Severity::Blocking, summary);
        let finding = finding.helped("Keep the session and refresh its tokens, or use an API token.", None);
        findings.push(Finding { until: Some(until), ..finding });
    }
    findings.extend(facts.wrong_passwords.as_ref().map(|wrong| of_wrong_passwords(wrong, user)));
    findings.extend(of_second_factor(user, facts, now));
    findings.extend(of_newest_message(&facts.deliveries));
    findings.extend(facts.mail_failure.as_ref().map(|error| {
        let finding = Finding::new(Code::MailUnavailable, Severity::Warning, format!("No mail goes out: {error}."));
        finding.helped(MAIL_TEST, None)
    }));
    findings
}

fn of_server(readiness: Readiness) -> Option<Finding> {
    let (summary, remedy) = match readiness {
        Readiness::Ready => return None,
        Readiness::Saturated => ("The hashing queue is full, so sign-ins are HASHING_SATURATED.", "Try again."),
        Readiness::ReadOnly => (
            "The database accepts no changes, so no user can sign in.",
            "Free the disk, or let the database accept changes.",
        ),
    };
    Some(Finding::new(Code::ServerNotReady, Severity::Blocking, summary).helped(remedy, None))
}

/// `is_place` is whether a sign-in from there is judged.
fn of_block(address: IpAddr, block: &SourceBlock, is_place: bool) -> Finding {
    let failures = counted(block.failures, "failed sign-in");
    let names = counted(block.names, "name");
    let summary =
        format!("{address} is blocked after {failures} under {names}. All sign-ins from there are RATE_LIMITED.");
    let severity = if is_place { Severity::Blocking } else { Severity::Warning };
    let finding = Finding::new(Code::ThrottledSource, severity, summary);
    let finding = finding.helped("Wait, or sign in from another network.", None);
    Finding { since: block.since, until: Some(block.until), ..finding }
}

fn of_throttle(facts: &Facts, is_familiar: bool, now: Timestamp) -> Option<Finding> {
    let of_places = facts.throttles.iter().filter(|throttle| throttle.is_familiar == is_familiar);
    let throttle = Throttle::over(of_places).filter(|throttle| throttle.until.is_none_or(|until| until > now))?;
    let here = facts.place.filter(|place| place.is_familiar == is_familiar);
    let places = match (here, is_familiar) {
        (Some(place), true) => format!("{}, where the user has signed in before,", place.address),
        (Some(place), false) => format!("{}, where the user has not signed in before,", place.address),
        (None, true) => "places where the user has signed in before".to_owned(),
        (None, false) => "places where the user has not signed in before".to_owned(),
    };
    let what = if throttle.until.is_some() { "throttled" } else { "refused" };
    let failures = counted(throttle.failures, "wrong password");
    let summary = format!("Sign-ins from {places} are {what} after {failures}.");
    let remedy = match (is_familiar, throttle.until) {
        (false, Some(_)) => "Wait, sign in from a place where the user has signed in before, or unlock the account.",
        (false, None) => "Sign in from a place where the user has signed in before, or unlock the account.",
        (true, _) => "Wait, or unlock the account.",
    };
    let severity = if facts.place.is_none() || here.is_some() { Severity::Blocking } else { Severity::Info };
    let finding = Finding::new(Code::ThrottledAccount, severity, summary).helped(remedy, Some(Remedy::Unlock));
    Some(Finding { until: throttle.until, ..finding })
}

fn of_wrong_passwords(wrong: &WrongPasswords, user: &User) -> Finding {
    let from = if wrong.last_from.is_empty() { String::new() } else { format!(", the last from {}", wrong.last_from) };
    let summary = format!("{} in 24 hours{from}.", counted(wrong.count, "wrong password"));
    // A sign-in, or another password since, has answered them.
    let answers = [user.last_sign_in_at, user.password.as_ref().map(|password| password.changed_at)];
    let are_the_last = answers.into_iter().flatten().all(|at| at < wrong.last_at);
    let severity = if are_the_last { Severity::Warning } else { Severity::Info };
    let finding = Finding::new(Code::WrongPasswordLately, severity, summary);
    let finding = finding.helped("If the user has forgotten the password, reset it.", Some(Remedy::ResetPassword));
    Finding { since: Some(wrong.last_at), ..finding }
}

fn of_missing_factor(user: &User, now: Timestamp) -> Option<Finding> {
    let from = user.second_factor_from()?;
    let (severity, summary) = if from <= now {
        (Severity::Warning, "The policy asks for a second factor, which the next sign-in sets up.")
    } else {
        (Severity::Info, "The policy will ask for a second factor, and none is set up.")
    };
    let finding = Finding::new(Code::SecondFactorNotEnrolled, severity, summary);
    let finding = finding.helped("The user sets up an authenticator: `latchkey mfa enroll`.", None);
    Some(Finding { until: Some(from).filter(|from| *from > now), ..finding })
}

/// The findings about the second factor.
fn of_second_factor(user: &User, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let Some(factor) = &user.second_factor else { return of_missing_factor(user, now).into_iter().collect() };
    let mut findings = Vec::new();
    if let Some(until) = factor.refused_until(now) {
        let failures = counted(factor.failures, "wrong code");
        let summary = format!("Codes of the second factor are refused after {failures} in a row.");
        let finding = Finding::new(Code::SecondFactorRejectedLately, Severity::Blocking, summary);
        let finding = finding.helped("Wait, or unlock the account.", Some(Remedy::Unlock));
        findings.push(Finding { until: Some(until), ..finding });
    } else if let Some(wrong) = &facts.wrong_codes {
        let summary = format!("{} of the second factor in 24 hours.", counted(wrong.count, "wrong code"));
        let severity = if factor.failures > 0 { Severity::Warning } else { Severity::Info };
        let finding = Finding::new(Code::SecondFactorRejectedLately, severity, summary);
        let remedy = "If the user has lost the authenticator, use a recovery code, or remove the second factor.";
        let finding = finding.helped(remedy, Some(Remedy::ResetSecondFactor));
        findings.push(Finding { since: Some(wrong.last_at), ..finding });
    }
    if let Some((at, ahead)) = facts.wrong_codes.as_ref().and_then(|wrong| Some((wrong.last_at, wrong.clock_ahead?))) {
        let which = if ahead > 0 { "ahead" } else { "behind" };
        let summary = format!("The last wrong code is right for a clock that is {} s {which}.", ahead.unsigned_abs());
        let finding = Finding::new(Code::SecondFactorClockSkew, Severity::Warning, summary);
        let finding = finding.helped("Set the clock of the user's device: let it take the time of the network.", None);
        findings.push(Finding { since: Some(at), ..finding });
    }
    if factor.recovery_codes_left == 0 {
        let summary = "No recovery code is left. If the authenticator is lost, an operator must help.";
        let finding = Finding::new(Code::RecoveryCodesExhausted, Severity::Info, summary);
        findings.push(finding.helped("The user makes new ones: `latchkey mfa codes`.", None));
    }
    findings
}

/// The finding about the newest message with a link or a password, if it does not reach the user.
fn of_newest_message(deliveries: &[Delivery]) -> Option<Finding> {
    let newest = deliveries.iter().find(|sent| sent.letter.kind() != DeliveryKind::Notice)?;
    let became = match newest.state {
        DeliveryState::Failed => "was refused",
        DeliveryState::Expired => "did not go out before its link ended",
        DeliveryState::Retrying => "was not accepted yet",
        // A link that was used or ended has arrived, or does not matter any more.
        DeliveryState::Unknown if newest.link_ended_at.is_none() => "may have gone out",
        _ => return None,
    };
    let what = match newest.letter.kind() {
        DeliveryKind::Invite => "invitation",
        DeliveryKind::TemporaryPassword => "mail with the temporary password",
        DeliveryKind::EmailVerification => "mail that confirms the address",
        DeliveryKind::PasswordReset | DeliveryKind::Notice => "mail with the link",
    };
    let words = if newest.last_words.is_empty() { String::new() } else { format!(": {}", newest.last_words) };
    let summary = format!("The {what} to {} {became}{words}.", newest.address);
    let finding = Finding::new(Code::DeliveryFailing, Severity::Warning, summary);
    let again = Some(Remedy::ResendDelivery);
    let finding = match (newest.state, newest.relay_failed) {
        (DeliveryState::Unknown, _) => finding.helped("Ask the user whether it came; if not, send it again.", again),
        (DeliveryState::Retrying, true) => finding.helped(format!("{MAIL_TEST} It is tried again by itself."), None),
        (DeliveryState::Retrying, false) => finding.helped("Wait: it is tried again by itself.", None),
        (_, true) => finding.helped(format!("{MAIL_TEST} Then send the message again."), None),
        (DeliveryState::Failed, false) => {
            finding.helped("Correct the address if it is wrong, then send the message again.", again)
        }
        (_, false) => finding.helped("Send the message again.", again),
    };
    Some(Finding { since: Some(newest.updated_at), until: newest.next_attempt_at, ..finding })
}

/// What helps if mail fails to all users.
const MAIL_TEST: &str = "Run `latchkeyd mail test` on the server, which explains the failure.";

fn counted(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
