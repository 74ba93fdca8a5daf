//! Findings about the account itself.

use super::mail::DeadLink;
use super::password_sign_in::made_familiar;
use super::{Code, Finding, Severity};
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::sign_in_ability::Remedy;
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, User, UserKind};

/// The findings about the account itself.
pub(super) fn of_account(user: &User, dead_link: Option<DeadLink>, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = user.lock(now).map(|lock| of_lock(user, lock)).into_iter().collect();
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

fn of_lock(user: &User, lock: &Lock) -> Finding {
    let after_failures = format!("Locked after too many wrong passwords from places where {}", made_familiar(user));
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
        LockCause::FailedSignIns => (Code::LockedAfterFailures, after_failures.as_str(), "Unlock the account."),
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
